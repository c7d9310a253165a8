//! The helper of a program that takes a checkpoint of itself ([`ckpt_core::program`]): `ckpt itself`, which only
//! that one calls.
//!
//! Where a launcher watches over the program it is asked for the checkpoint, which is then one of the whole
//! job. We are in the job then, and may come out of its image with it.

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ckpt_core::capture;
use ckpt_core::image::Level;
use ckpt_core::job::{History, Job, JobId};
use ckpt_core::program::Taken;
use ckpt_core::program::helper::{self, Reply};
use ckpt_core::progress::{self, Observer};
use ckpt_core::{Error, ErrorKind, Result};
use clap::Args;

use crate::control::client::{Connection, Outcome};
use crate::control::protocol::Event;
use crate::os;

/// What the program says of itself.
#[derive(Debug, Clone, Args)]
#[allow(missing_docs)]
pub struct Itself {
    #[arg(long)]
    of: i32,
    #[arg(long)]
    begun: u64,
    #[arg(long)]
    leave: RawFd,
    #[arg(long)]
    answers: RawFd,
    #[arg(long)]
    id: JobId,
    #[arg(long)]
    name: String,
    #[arg(long)]
    checkpoints: u32,
    #[arg(long)]
    restarts: u32,
    #[arg(long)]
    ckptdir: PathBuf,
    #[arg(long, allow_negative_numbers = true)]
    level: Level,
    #[arg(long)]
    keep: usize,
    #[arg(long)]
    increments: usize,
    #[arg(long)]
    cpus: usize,
}

/// Takes the checkpoint and answers.
///
/// # Errors
///
/// The program is gone.
pub fn run(args: &Itself) -> Result<()> {
    let take_over = |fd| {
        os::take_over(fd).map_err(|e| Error::os(format!("cannot take over descriptor {fd}"), e))
    };
    let (leave, answers) = (take_over(args.leave)?, take_over(args.answers)?);
    let mut job = Job::of_itself(args.id, args.name.clone(), args.of, args.begun);
    job.history = History { checkpoints: args.checkpoints, restarts: args.restarts };
    let taken = helper::wait_for_leave(leave, &job).and_then(|()| taken(args, job));
    let told = taken.as_ref().map_or_else(Reply::failed, Clone::clone).tell(answers);
    ended(taken, told)
}

/// What is left to say when the program has been told, or is gone.
fn ended(taken: Result<Reply>, told: Result<()>) -> Result<()> {
    match taken {
        // Who is gone is not told why.
        Err(error) if told.is_err() => Err(error),
        // It finds that out by itself, and may not have waited for us.
        Ok(Reply::CameBack) => Ok(()),
        _ => told,
    }
}

fn taken(args: &Itself, job: Job) -> Result<Reply> {
    match launcher(args)? {
        Some(connection) => by_launcher(connection),
        None => by_ourselves(args, job),
    }
}

/// Whoever watches over the program: the launcher in its environment, or the restorer that has brought it
/// back from an image of its own.
fn launcher(args: &Itself) -> Result<Option<Connection>> {
    let variable = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
    let launched = variable("CKPT_DIR").zip(variable("CKPT_JOB_ID"));
    let launched = launched.and_then(|(dir, id)| Some((dir.into(), id.parse().ok()?)));
    for (dir, id) in launched.into_iter().chain([(args.ckptdir.clone(), args.id)]) {
        if dir.exists() {
            match Connection::find(&dir, Some(id)) {
                Ok(connection) => return Ok(Some(connection)),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(None)
}

fn by_launcher(connection: Connection) -> Result<Reply> {
    let warnings = Warnings::default();
    let outcome = connection.checkpoint(false, &mut |event| {
        if let Event::Warning { message } = event {
            warnings.add(message);
        }
    })?;
    let seconds = |s| Duration::try_from_secs_f64(s).unwrap_or_default();
    match outcome {
        Outcome::CameBack(_) => Ok(Reply::CameBack),
        Outcome::Taken(Event::Checkpoint {
            generation,
            path,
            frozen_s,
            total_s,
            bytes_stored,
            ..
        }) => Ok(Reply::Taken(Taken {
            generation,
            path: path.into(),
            frozen: seconds(frozen_s),
            total: seconds(total_s),
            bytes_stored,
            warnings: warnings.taken(),
        })),
        Outcome::Taken(_) => {
            Err(Error::new(ErrorKind::Internal, "the launcher told of no checkpoint"))
        }
    }
}

fn by_ourselves(args: &Itself, mut job: Job) -> Result<Reply> {
    let options = capture::Options {
        dir: args.ckptdir.clone(),
        level: args.level,
        keep: args.keep,
        increments: args.increments,
        workers: args.cpus,
        // The next one is another helper's, which could not ask.
        watch: false,
        ..capture::Options::default()
    };
    let warnings = Warnings::default();
    let report = capture::checkpoint(&mut job, &options, &warnings)?;
    Ok(Reply::Taken(Taken {
        generation: report.generation,
        path: report.path,
        frozen: report.frozen,
        total: report.total,
        bytes_stored: report.bytes_stored,
        warnings: warnings.taken(),
    }))
}

/// What the program may want to know.
#[derive(Debug, Default)]
struct Warnings(Mutex<Vec<String>>);

impl Warnings {
    fn add(&self, message: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(message.to_owned());
    }

    fn taken(self) -> Vec<String> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Warnings {
    fn event(&self, event: progress::Event) {
        if let progress::Event::Warning(message) = event {
            self.add(&message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_came_back_need_not_listen() {
        let broken = || Err(Error::new(ErrorKind::Gone, "it is gone"));
        let failed = || Error::new(ErrorKind::Busy, "no checkpoint");
        assert!(ended(Ok(Reply::CameBack), broken()).is_ok());
        assert_eq!(
            ended(Ok(Reply::failed(&failed())), broken()).unwrap_err().kind(),
            ErrorKind::Gone
        );
        assert_eq!(ended(Err(failed()), broken()).unwrap_err().kind(), ErrorKind::Busy);
        // It has been told.
        assert!(ended(Err(failed()), Ok(())).is_ok());
    }
}
