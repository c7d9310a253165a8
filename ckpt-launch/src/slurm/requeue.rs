//! Has a job requeued, whatever slurmctld is doing just now, and tells it what the next round is to be.
//!
//! A job that its user has cancelled would rise again from a requeue, and a time limit that is set
//! before it would be the running job's: so the cause comes first, and the limit last.

use std::time::{Duration, Instant};

use ckpt_core::{Error, ErrorKind, Result};

use super::cause::Cause;
use super::scontrol::{Answer, Scontrol};
use crate::voice::Voice;

/// How long slurmctld may take for one answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Between attempts.
const PAUSE: Duration = Duration::from_secs(3);
/// How often a refusal that makes no sense to us is tried again.
const TRIES: u32 = 20;

/// What the next round is to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Next {
    /// Its time limit in minutes, if it is another one.
    pub minutes: Option<u64>,
    /// The job's comment.
    pub comment: Option<String>,
}

/// How it came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The job will run again.
    Again,
    /// It was cancelled, and stays so.
    Cancelled,
}

/// Requeues the job that had been requeued `restarts` times when this round began, then tells it what
/// `next` says; gives what it was told. A slurmctld that is away is waited for.
///
/// # Errors
///
/// [`ErrorKind::Permission`] if the job must not be requeued, others if slurmctld says something else
/// or nothing.
pub fn requeue(
    scontrol: &Scontrol,
    restarts: u32,
    next: &dyn Fn() -> Next,
    patience: Duration,
    voice: &Voice,
) -> Result<(Outcome, Next)> {
    let deadline = Instant::now() + patience;
    let (mut said, mut tries) = (false, 0);
    loop {
        let error = match once(scontrol, restarts) {
            Ok(Outcome::Cancelled) => return Ok((Outcome::Cancelled, Next::default())),
            Ok(Outcome::Again) => break,
            Err(error) => error,
        };
        let is_away = error.kind() == ErrorKind::Busy;
        tries += u32::from(!is_away);
        let is_final = matches!(error.kind(), ErrorKind::Permission | ErrorKind::NotFound);
        if is_final || tries > TRIES || Instant::now() >= deadline {
            return Err(error);
        }
        if !std::mem::replace(&mut said, true) {
            voice.warn(format_args!("{error}; the requeue is tried until it works"));
        }
        std::thread::sleep(PAUSE);
    }
    let next = next();
    match tell(scontrol, &next) {
        Ok(()) => Ok((Outcome::Again, next)),
        Err(error) => {
            let what = "the next round has the limit and comment of this one";
            voice.warn(format_args!("{what}: {error}"));
            Ok((Outcome::Again, Next::default()))
        }
    }
}

fn once(scontrol: &Scontrol, restarts: u32) -> Result<Outcome> {
    match Cause::of(&scontrol.job(ANSWER)?, restarts) {
        Cause::Cancelled => Ok(Outcome::Cancelled),
        Cause::Requeued => Ok(Outcome::Again),
        Cause::Warning | Cause::Limit => match scontrol.requeue()? {
            Answer::Done | Answer::Already => Ok(Outcome::Again),
            Answer::Forbidden(why) => {
                let what = format!("the job must not be requeued: {why}");
                Err(Error::new(ErrorKind::Permission, what).help("add `#SBATCH --requeue`"))
            }
        },
    }
}

/// Sets limit and comment of a job that is requeued.
fn tell(scontrol: &Scontrol, next: &Next) -> Result<()> {
    let minutes = next.minutes.map(|minutes| format!("TimeLimit={minutes}"));
    let comment = next.comment.as_ref().map(|comment| format!("Comment={comment}"));
    let fields: Vec<String> = minutes.into_iter().chain(comment).collect();
    if fields.is_empty() { Ok(()) } else { scontrol.update(&fields, ANSWER) }
}
