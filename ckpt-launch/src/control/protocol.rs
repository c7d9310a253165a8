//! The words of the protocol; the head of [`super`] explains them.

use ckpt_core::{Error, ErrorKind, capture};
use serde::{Deserialize, Serialize};

/// The protocol's version.
pub const VERSION: u32 = 1;

/// A line longer than this is not ours.
pub const MAX_LINE: usize = 64 * 1024;

/// What a client asks for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    /// The client's [`VERSION`].
    pub version: u32,
    /// What is wanted.
    pub request: Verb,
    /// Where the reply goes; on the connection if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<ReplyBy>,
}

/// The requests there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Take a checkpoint.
    Checkpoint,
    /// Take one that is complete by itself.
    FullCheckpoint,
    /// Say how the job is doing.
    Status,
    /// Kill all of the job.
    Kill,
}

/// Ways of a reply other than the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplyBy {
    /// The descriptor that came with the request.
    Fd,
}

/// What a supervisor tells: clients over the socket, scripts by `--json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Event {
    /// The first line on a connection.
    Hello { version: u32, job: String, name: String, incarnation: String, generation: u64 },
    /// A job was started.
    Launched { job: String, name: String, pid: i32, dir: String },
    /// A job was brought back.
    Restored {
        job: String,
        name: String,
        pid: i32,
        generation: u64,
        path: String,
        bytes: u64,
        total_s: f64,
        /// Bytes of memory that come while it runs.
        #[serde(default)]
        bytes_later: u64,
    },
    /// All of the memory of a job that was brought back lazily is there.
    Filled { bytes: u64, total_s: f64 },
    /// The job ended; `code` is the exit status.
    Ended { code: u8, signal: Option<i32> },
    /// All tasks are stopped.
    Frozen { processes: usize, tasks: usize },
    /// Bytes of memory handled so far.
    Bytes { done: u64, total: u64 },
    /// The job runs again.
    Released { frozen_s: f64 },
    /// The way that was chosen where there are several.
    Chosen { what: String },
    /// Something to know, though the work goes on.
    Warning { message: String },
    /// A checkpoint is durable.
    Checkpoint {
        generation: u64,
        path: String,
        frozen_s: f64,
        total_s: f64,
        processes: usize,
        tasks: usize,
        bytes_read: u64,
        bytes_stored: u64,
        bytes_skipped: u64,
        /// Of these, bytes that earlier generations have.
        #[serde(default)]
        bytes_unchanged: u64,
        /// How many earlier generations the image needs.
        #[serde(default)]
        needs: usize,
    },
    /// How the job is doing.
    Status(Box<Status>),
    /// All of the job was killed.
    Killed { processes: usize },
    /// What was asked for could not be done; `code` is the exit status that goes with it.
    Failed { code: u8, kind: String, message: String },
    /// Of a later version.
    #[serde(other)]
    Unknown,
}

/// The state of a running job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Status {
    pub job: String,
    pub name: String,
    pub pid: i32,
    /// "running", "stopped" or "ended".
    pub state: String,
    pub supervisor: u32,
    pub dir: String,
    /// Seconds since 1970 at which it was launched, or restored the last time.
    pub since: u64,
    pub generation: u64,
    pub restored_from: Option<u64>,
    /// How often the job was checkpointed, and restored, to get to where it is.
    #[serde(default)]
    pub checkpoints: u32,
    #[serde(default)]
    pub restarts: u32,
    /// How many processes it has, zombies left out.
    #[serde(default)]
    pub processes: usize,
    pub last: Option<Last>,
    pub last_failure: Option<String>,
    pub interval_s: Option<f64>,
    /// Seconds until the next checkpoint is due.
    pub next_s: Option<f64>,
}

/// The newest checkpoint of a running job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Last {
    pub generation: u64,
    /// Seconds since 1970.
    pub at: u64,
    pub path: String,
    pub bytes_stored: u64,
    /// Not known of the image that the job was restored from.
    pub frozen_s: Option<f64>,
    pub total_s: Option<f64>,
}

impl Event {
    /// The event as a line, newline included.
    pub fn line(&self) -> String {
        // Plain data with string keys: it can't fail, and an empty line is skipped by readers.
        let mut line = serde_json::to_string(self).unwrap_or_default();
        line.push('\n');
        line
    }

    /// The event for a finished checkpoint.
    pub fn checkpoint(report: &capture::Report) -> Self {
        Self::Checkpoint {
            generation: report.generation,
            path: report.path.to_string_lossy().into_owned(),
            frozen_s: report.frozen.as_secs_f64(),
            total_s: report.total.as_secs_f64(),
            processes: report.processes,
            tasks: report.tasks,
            bytes_read: report.bytes_read,
            bytes_stored: report.bytes_stored,
            bytes_skipped: report.bytes_skipped,
            bytes_unchanged: report.bytes_unchanged,
            needs: report.needs,
        }
    }

    /// The event for a checkpoint of which the report is no longer at hand.
    pub fn of_last(last: &Last) -> Self {
        Self::Checkpoint {
            generation: last.generation,
            path: last.path.clone(),
            frozen_s: last.frozen_s.unwrap_or_default(),
            total_s: last.total_s.unwrap_or_default(),
            processes: 0,
            tasks: 0,
            bytes_read: 0,
            bytes_stored: last.bytes_stored,
            bytes_skipped: 0,
            bytes_unchanged: 0,
            needs: 0,
        }
    }

    /// The event for a failure.
    pub fn failed(error: &Error) -> Self {
        let kind = error.kind();
        Self::Failed {
            code: kind.exit_code(),
            kind: format!("{kind:?}"),
            message: error.to_string(),
        }
    }

    /// Whether this ends a reply.
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Checkpoint { .. } | Self::Status(_) | Self::Killed { .. } | Self::Failed { .. }
        )
    }
}

/// The kind of failure behind an exit status that came over the wire.
pub fn kind_of(code: u8) -> ErrorKind {
    use ErrorKind::*;
    [Usage, Damaged, NotFound, Unsupported, Os, Io, Busy, Permission]
        .into_iter()
        .find(|kind| kind.exit_code() == code)
        .unwrap_or(Internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_back() {
        let event = Event::failed(&Error::new(ErrorKind::Io, "cannot write"));
        assert_eq!(serde_json::from_str::<Event>(&event.line()).ok(), Some(event));
        let later = r#"{"event":"from_the_future","x":1}"#;
        assert_eq!(serde_json::from_str::<Event>(later).ok(), Some(Event::Unknown));
        let request: Request =
            serde_json::from_str(r#"{"version":1,"request":"kill","more":0}"#).unwrap();
        assert_eq!((request.request, request.reply), (Verb::Kill, None));
        assert_eq!(kind_of(74), ErrorKind::Io);
        assert_eq!(kind_of(3), ErrorKind::Internal);
    }
}
