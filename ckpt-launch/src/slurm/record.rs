//! What is remembered of a Slurm job from round to round: `slurm.json` in its checkpoint directory.
//! Its time limit and total, and of each round when it ran and how it ended, from which follows how
//! much of the total is used, and how often nodes fail.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ckpt_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use super::info::Info;
use super::time::SlurmTime;

/// The file's name.
const NAME: &str = "slurm.json";
/// Of how many checkpoints the duration is kept.
const DURATIONS: usize = 5;

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The cluster.
    pub cluster: String,
    /// The job's number.
    pub job: String,
    /// The command, as far as it is text.
    #[serde(default)]
    pub command: Vec<String>,
    /// The time limit that was asked for, seconds.
    #[serde(default)]
    pub limit: Option<u64>,
    /// The comment that we have set for this round.
    #[serde(default)]
    pub set: Option<String>,
    /// What the job may take over all rounds, seconds.
    #[serde(default)]
    pub total: Option<u64>,
    /// The rounds, the last one being ours.
    pub rounds: Vec<Round>,
    /// How long the last checkpoints took until they were durable, seconds.
    #[serde(default)]
    pub durations: Vec<f64>,
}

/// One round.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// How often the job had been requeued before.
    pub restarts: u32,
    /// Where it ran.
    pub host: String,
    /// When it began, seconds since 1970.
    pub began: u64,
    /// When it was last known to run.
    pub seen: u64,
    /// The newest generation.
    pub generation: u64,
    /// How it ended; nothing if that was not seen: the node failed, or it runs.
    #[serde(default)]
    pub end: Option<String>,
    /// The payload's exit status, if it has ended by itself.
    #[serde(default)]
    pub status: Option<u8>,
}

impl Record {
    /// Reads it; nothing if there is none.
    ///
    /// # Errors
    ///
    /// It is there and cannot be read.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        let path = path(dir);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::os(format!("cannot read {}", path.display()), error)),
        };
        serde_json::from_slice(&text).map(Some).map_err(|e| {
            Error::new(ErrorKind::Damaged, format!("{} makes no sense", path.display())).source(e)
        })
    }

    /// Gives one that makes no sense another name.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn set_aside(dir: &Path) -> Result<()> {
        let path = path(dir);
        std::fs::rename(&path, path.with_extension("json.bad"))
            .map_err(|e| Error::os(format!("cannot rename {}", path.display()), e))
    }

    /// Learns from slurmctld what was asked for; `total` is what the command line says. A comment that
    /// somebody has changed since the last round says what is left from now on.
    pub fn learn(&mut self, info: &Info, total: SlurmTime) {
        // The largest: a round's limit may have been cut down to fit in, or by its end.
        self.limit = self.limit.max(info.limit.seconds());
        let comment = info.comment_as_time().and_then(SlurmTime::seconds);
        let is_ours = self.set.is_none() || self.set == info.comment;
        match (self.total, comment) {
            (None, _) => self.total = total.seconds().or(comment),
            (Some(_), Some(left)) if !is_ours => self.total = Some(self.used_before() + left),
            _ => {}
        }
    }

    /// Writes it, in one step.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = path(dir);
        let failed = |e| Error::os(format!("cannot write {}", path.display()), e);
        let mut text = serde_json::to_vec_pretty(self).unwrap_or_default();
        text.push(b'\n');
        let mut spare = tempfile::NamedTempFile::new_in(dir).map_err(failed)?;
        let written = spare.write_all(&text).and_then(|()| spare.as_file().sync_data());
        written.map_err(failed)?;
        spare.persist(&path).map(drop).map_err(|e| failed(e.error))
    }

    /// The payload's exit status, if it has ended.
    pub fn finished(&self) -> Option<u8> {
        self.rounds.iter().find_map(|round| round.status)
    }

    /// Seconds that the rounds before this one have really taken.
    pub fn used_before(&self) -> u64 {
        let before = self.rounds.split_last().map_or(&[][..], |(_, before)| before);
        before.iter().map(Round::seconds).sum()
    }

    /// Seconds that all rounds have taken.
    pub fn used(&self) -> u64 {
        self.rounds.iter().map(Round::seconds).sum()
    }

    /// Notes how long a checkpoint took.
    pub fn took(&mut self, time: Duration) {
        self.durations.push(time.as_secs_f64());
        let many = self.durations.len().saturating_sub(DURATIONS);
        self.durations.drain(..many);
    }

    /// The longest of the last checkpoints.
    pub fn longest(&self) -> Option<Duration> {
        let longest = self.durations.iter().copied().reduce(f64::max)?;
        Duration::try_from_secs_f64(longest).ok()
    }

    /// The mean time between failures as it has shown itself, begun at `guess`: one failure would be
    /// no proof, and none neither.
    pub fn failures(&self, guess: Duration) -> Duration {
        let before = self.rounds.split_last().map_or(&[][..], |(_, before)| before);
        let failed = before.iter().filter(|round| round.end.is_none()).count();
        let ran: u64 = self.rounds.iter().map(Round::seconds).sum();
        (guess + Duration::from_secs(ran)) / (1 + u32::try_from(failed).unwrap_or(u32::MAX - 1))
    }
}

impl Round {
    fn seconds(&self) -> u64 {
        self.seen.saturating_sub(self.began)
    }
}

fn path(dir: &Path) -> PathBuf {
    dir.join(NAME)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(began: u64, seen: u64, end: Option<&str>) -> Round {
        Round { began, seen, end: end.map(Into::into), ..Round::default() }
    }

    #[test]
    fn comes_back() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Record::read(dir.path()).unwrap(), None);
        let mut record = Record { job: "7".into(), total: Some(5), ..Record::default() };
        record.rounds.push(round(1, 2, Some("requeued")));
        record.write(dir.path()).unwrap();
        assert_eq!(Record::read(dir.path()).unwrap(), Some(record));
        std::fs::write(dir.path().join(NAME), "{").unwrap();
        assert_eq!(Record::read(dir.path()).unwrap_err().kind(), ErrorKind::Damaged);
    }

    #[test]
    fn users_may_change_their_minds() {
        let info = |limit, comment: &str| Info {
            limit: SlurmTime::Limit(limit),
            comment: Some(comment.into()),
            ..Info::default()
        };
        let mut record = Record::default();
        record.learn(&info(7200, "10:00:00"), SlurmTime::Unset);
        assert_eq!((record.limit, record.total), (Some(7200), Some(36000)));
        record.rounds = vec![round(0, 6000, Some("requeued")), round(0, 0, None)];
        record.set = Some("08:20:00".into());
        record.learn(&info(3600, "08:20:00"), SlurmTime::Unset);
        assert_eq!((record.limit, record.total), (Some(7200), Some(36000)), "it was we");
        record.learn(&info(9000, "00:30:00"), SlurmTime::Unset);
        assert_eq!((record.limit, record.total), (Some(9000), Some(7800)));
    }

    #[test]
    fn what_was_used_and_what_failed() {
        let mut record = Record::default();
        assert_eq!((record.used_before(), record.longest()), (0, None));
        record.rounds =
            vec![round(10, 110, Some("requeued")), round(200, 260, None), round(300, 340, None)];
        assert_eq!(record.used_before(), 160);
        let guess = Duration::from_secs(1000);
        assert_eq!(record.failures(guess), Duration::from_secs(600));
        (1..9).for_each(|n| record.took(Duration::from_secs(10 - n)));
        assert_eq!(record.longest(), Some(Duration::from_secs(6)));
    }
}
