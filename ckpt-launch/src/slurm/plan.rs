//! What scripts with traps of their own ask: how much time is left of a job, and that it be requeued.
//! The total is in the job's comment, as sites do it; what was used is what was really used.

use std::time::Duration;

use ckpt_core::{Error, ErrorKind, Result};
use clap::Args;

use super::clock::{self, Limits};
use super::here::Here;
use super::info::Info;
use super::requeue::{self, Outcome};
use super::scontrol::Scontrol;
use super::time::SlurmTime;
use super::warning::Warning;
use crate::voice::Voice;
use crate::words::unix_now;

/// How long slurmctld is waited for.
const ANSWER: Duration = Duration::from_secs(10);
const REQUEUE: Duration = Duration::from_secs(120);
/// Seconds from a warning to the end if nobody knows better.
const USUAL_OVERHEAD: u64 = 60;

/// What a script says of its rounds.
#[derive(Debug, Clone, Args)]
pub struct Wishes {
    /// The longest time limit of a round [default: that of this one]
    #[arg(long, value_name = "TIME", default_value = "", hide_default_value = true)]
    pub max: SlurmTime,
    /// Seconds before the end at which the script is warned [default: what its --signal says, else 60]
    #[arg(long, value_name = "SECONDS")]
    pub overhead: Option<u64>,
}

/// How a job stands, in seconds.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    total: Option<u64>,
    limit: SlurmTime,
    used: u64,
    /// What of the total is left now; `Some(None)` if it is used up.
    left: Option<Option<u64>>,
    /// Minutes of the next round.
    next: Option<u64>,
    /// From the warning to the end.
    overhead: u64,
}

impl Plan {
    fn of(info: &Info, most: SlurmTime, max: SlurmTime, overhead: u64, now: u64) -> Self {
        let total = info.comment_as_time().and_then(SlurmTime::seconds);
        let used = info.start.map_or(0, |start| now.saturating_sub(start));
        let left = total.map(|total| clock::left(total, used));
        let asked = max.as_limit().seconds().or(info.limit.seconds());
        let limits = Limits { asked, most, least: info.least };
        let lead = Duration::from_secs(overhead);
        let next = clock::next_limit(&limits, left.flatten(), lead);
        Self { total, limit: info.limit, used, left, next, overhead }
    }
}

fn look(wishes: &Wishes) -> Result<(Here, Scontrol, Info, Plan)> {
    let here = Here::find(&|name| std::env::var_os(name))?;
    let scontrol = Scontrol::new(&here.name);
    let info = scontrol.job(ANSWER)?;
    let most = scontrol.longest_limit(&info.partition, ANSWER).unwrap_or_default();
    let overhead = wishes.overhead.unwrap_or_else(|| {
        let script = scontrol.script(ANSWER).unwrap_or_default();
        Warning::in_script(&script).map_or(USUAL_OVERHEAD, |warning| warning.ahead)
    });
    let plan = Plan::of(&info, most, wishes.max, overhead, unix_now());
    Ok((here, scontrol, info, plan))
}

/// The plan as assignments that a shell evaluates; what is not known is empty.
///
/// # Errors
///
/// This is no Slurm job, or slurmctld does not answer.
pub fn assignments(wishes: &Wishes) -> Result<String> {
    let (_, _, _, plan) = look(wishes)?;
    let text = |number: Option<u64>| number.map_or_else(String::new, |n| n.to_string());
    let left = plan.left.map(Option::unwrap_or_default);
    let max = wishes.max.as_limit().seconds().or(plan.limit.seconds());
    let lines = [
        ("ckpt_overhead", plan.overhead.to_string()),
        ("max_timelimit", text(max)),
        ("TOTAL_TIME", text(plan.total)),
        ("timeAlloc", text(plan.limit.seconds())),
        ("used", plan.used.to_string()),
        ("remainingTimeSec", text(left)),
        ("remainingTime", left.map_or_else(String::new, |left| SlurmTime::Limit(left).hms())),
        ("requestTime", text(plan.next)),
    ];
    Ok(lines.map(|(name, value)| format!("{name}={value}\n")).concat())
}

/// Has the job requeued, if it is to go on; says how.
///
/// # Errors
///
/// [`ErrorKind::Gone`] if it was cancelled, [`ErrorKind::Unsupported`] if its total is used up; else
/// as [`requeue::requeue`].
pub fn requeue(wishes: &Wishes, voice: &Voice) -> Result<String> {
    let (here, scontrol, info, plan) = look(wishes)?;
    let left = match plan.left {
        Some(None) => {
            let what = "the total time is used up: the job is not requeued";
            return Err(Error::new(ErrorKind::Unsupported, what)
                .help("its checkpoint is kept; a larger --comment gives it more time"));
        }
        left => left.flatten(),
    };
    let next = requeue::Next {
        minutes: plan.next.filter(|&minutes| Some(minutes) != info.limit.minutes_up()),
        comment: left.map(|left| SlurmTime::Limit(left).hms()),
    };
    let tell = || next.clone();
    match requeue::requeue(&scontrol, here.restarts, &tell, REQUEUE, voice)?.0 {
        Outcome::Again => Ok(match &next.comment {
            Some(left) => format!("job {} is requeued, {left} left", here.job),
            None => format!("job {} is requeued", here.job),
        }),
        Outcome::Cancelled => {
            let what = format!("job {} was cancelled: it is not requeued", here.job);
            Err(Error::new(ErrorKind::Gone, what))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_is_what_was_really_used() {
        let info = Info {
            limit: SlurmTime::Limit(3600),
            start: Some(1000),
            comment: Some("02:00:00".into()),
            ..Info::default()
        };
        let plan = |now| Plan::of(&info, SlurmTime::Unset, SlurmTime::Unset, 60, now);
        assert_eq!(plan(1600).left, Some(Some(6600)));
        assert_eq!(plan(1600).next, Some(60));
        assert_eq!(plan(1000 + 7000).next, Some(5));
        assert_eq!(plan(1000 + 7200).left, Some(None));
        let endless = Info { comment: None, ..info };
        let plan = Plan::of(&endless, SlurmTime::Limit(1800), SlurmTime::Unset, 60, 9999);
        assert_eq!((plan.left, plan.next), (None, Some(30)));
    }
}
