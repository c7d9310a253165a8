//! Talking with slurmctld by `scontrol`: few calls, each bounded in time. One that is not answered is
//! made again as long as the caller has patience.

use std::cell::Cell;
use std::process::Command;
use std::time::{Duration, Instant};

use ckpt_core::{Error, ErrorKind, Result};

use super::info::Info;
use super::time::SlurmTime;
use crate::run::{Said, run};

/// How long one call may take, at the least and at most; scontrol itself gives up a slurmctld that is
/// silent after ten.
const CALL: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(20));
/// Between two attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// What slurmctld says when it is asked to requeue a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It will run again.
    Done,
    /// It is requeued already.
    Already,
    /// It must not be (`--no-requeue`, the cluster's settings).
    Forbidden(String),
}

/// One job's line to slurmctld.
#[derive(Debug, Clone)]
pub struct Scontrol {
    job: String,
    slowest: Cell<Duration>,
}

impl Scontrol {
    /// For this job.
    pub fn new(job: &str) -> Self {
        Self { job: job.to_owned(), slowest: Cell::default() }
    }

    /// How long the slowest answer has taken.
    pub fn slowest(&self) -> Duration {
        self.slowest.get()
    }

    /// What slurmctld says of the job.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Busy`] if it does not answer while there is patience.
    pub fn job(&self, patience: Duration) -> Result<Info> {
        let said = self.ask(&["show", "job", "-o", &self.job], patience)?;
        said.text.lines().find_map(Info::parse).ok_or_else(|| failed("show job", &self.job, &said))
    }

    /// The longest time limit of a partition.
    ///
    /// # Errors
    ///
    /// As [`Self::job`].
    pub fn longest_limit(&self, partition: &str, patience: Duration) -> Result<SlurmTime> {
        let said = self.ask(&["show", "partition", "-o", partition], patience)?;
        let value = said.text.split(" MaxTime=").nth(1).and_then(|rest| rest.split(' ').next());
        value.unwrap_or_default().parse()
    }

    /// The batch script.
    ///
    /// # Errors
    ///
    /// As [`Self::job`], or there is none.
    pub fn script(&self, patience: Duration) -> Result<String> {
        Ok(self.ask(&["write", "batch_script", &self.job, "-"], patience)?.text)
    }

    /// Has the job requeued, once.
    ///
    /// # Errors
    ///
    /// slurmctld does not answer, or says something else.
    pub fn requeue(&self) -> Result<Answer> {
        let said = self.call(&["requeue", &self.job], CALL.1)?;
        let text = said.text.trim();
        match said.status.success() {
            true => Ok(Answer::Done),
            false if text.contains("pending execution") => Ok(Answer::Already),
            false if text.contains("disabled") => Ok(Answer::Forbidden(text.to_owned())),
            false => Err(failed("requeue", &self.job, &said)),
        }
    }

    /// Sets fields of the job, `Name=value` each, in one call.
    ///
    /// # Errors
    ///
    /// As [`Self::job`], or it is not allowed.
    pub fn update(&self, fields: &[String], patience: Duration) -> Result<()> {
        let job = format!("JobId={}", self.job);
        let mut words = vec!["update", &job];
        words.extend(fields.iter().map(String::as_str));
        self.ask(&words, patience).map(drop)
    }

    /// Calls until there is an answer; an answer that says no is one.
    fn ask(&self, words: &[&str], patience: Duration) -> Result<Said> {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let said = self.call(words, left).and_then(|said| match said.status.success() {
                true => Ok(said),
                false => Err(failed(&words[..2].join(" "), &self.job, &said)),
            });
            match said {
                Err(error) if error.kind() == ErrorKind::Busy && Instant::now() < deadline => {
                    tracing::info!(%error, "slurmctld is asked again");
                    std::thread::sleep(PAUSE.min(deadline - Instant::now()));
                }
                said => return said,
            }
        }
    }

    fn call(&self, words: &[&str], patience: Duration) -> Result<Said> {
        let begun = Instant::now();
        let mut command = Command::new("scontrol");
        // Its times have no zone.
        command.args(words).env("TZ", "UTC").env("LC_ALL", "C").env_remove("SLURM_TIME_FORMAT");
        let said = run(&mut command, begun + patience.clamp(CALL.0, CALL.1));
        if said.is_ok() {
            self.slowest.set(self.slowest.get().max(begun.elapsed()));
        }
        said.map_err(|error| match error.kind() {
            ErrorKind::NotFound => error.help("in a container: run ckpt-launch outside of it"),
            _ => error,
        })
    }
}

/// The error for an answer that was no. What passes by itself is [`ErrorKind::Busy`].
fn failed(what: &str, job: &str, said: &Said) -> Error {
    let text = said.text.trim().replace('\n', "; ");
    let passing = [
        "Unable to contact",
        "timed out",
        "Connection refused",
        "connect failure",
        "Zero Bytes were transmitted",
        "temporarily unable",
        "try again",
        "backup",
        "authentication",
        "munge",
        "onfiguration source",
        "fetch config",
        "resolve",
    ];
    let passes = passing.iter().any(|word| text.contains(word));
    let kind = match passes {
        true => ErrorKind::Busy,
        false if text.contains("Invalid job id") => ErrorKind::NotFound,
        false if text.contains("ermission denied") => ErrorKind::Permission,
        false => ErrorKind::Os,
    };
    Error::new(kind, format!("scontrol {what} of job {job} failed: {text}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn kinds_of_failure() {
        for (text, kind) in [
            (
                "slurm_load_jobs error: Unable to contact slurm controller (connect failure)",
                ErrorKind::Busy,
            ),
            ("slurm_load_jobs error: Protocol authentication error", ErrorKind::Busy),
            ("slurm_load_jobs error: Invalid job id specified", ErrorKind::NotFound),
            ("Access/permission denied for job 7", ErrorKind::Permission),
            ("Requested time limit is invalid", ErrorKind::Os),
        ] {
            let status = std::process::ExitStatus::from_raw(256);
            let said = Said { status, text: text.to_owned() };
            assert_eq!(failed("show job", "7", &said).kind(), kind, "{text}");
        }
    }
}
