//! The words between coordinator, launchers and commands; the head of [`super`] explains them.

use ckpt_core::capture::Step;
use serde::{Deserialize, Serialize};

/// The protocol's version.
pub const VERSION: u32 = 1;

/// The coordinator's first line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Greeting {
    /// Its [`VERSION`].
    pub ckpt: u32,
    /// Random, for the proof.
    pub nonce: String,
}

/// The answer to a [`Greeting`], over TCP.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Proof {
    /// Random, for the coordinator's own proof; empty there.
    #[serde(default)]
    pub nonce: String,
    /// See [`super::secret`].
    pub proof: String,
}

/// From launchers and commands to the coordinator.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum Up {
    /// A launcher and its job.
    Join(Joining),
    /// The answer to [`Down::Census`].
    Census {
        /// The job's processes.
        processes: Vec<Process>,
    },
    /// A step of a round is reached.
    Reached {
        /// Which round.
        round: u64,
        /// Which step.
        step: Stage,
        /// At [`Stage::Published`], where the image is.
        #[serde(default)]
        image: Option<String>,
    },
    /// The round has failed here.
    Failed {
        /// Which round.
        round: u64,
        /// The exit status that goes with it.
        code: u8,
        /// Why.
        message: String,
    },
    /// A command, or a launcher on behalf of one.
    Ask {
        /// What is wanted.
        command: Command,
    },
    /// The job has ended.
    Leave,
    /// Of a later version.
    #[serde(other)]
    Unknown,
}

/// What a launcher says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joining {
    /// The job's id, 16 hex digits.
    pub job: String,
    /// Its short name.
    pub name: String,
    /// The launcher's host.
    pub host: String,
    /// PID of the job's first process on that host.
    pub pid: i32,
    /// The newest generation on disk.
    pub generation: u64,
    /// The computation that it belonged to, when it comes back to a new coordinator.
    #[serde(default)]
    pub computation: Option<String>,
}

/// A process of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Command name.
    pub name: String,
    /// PID on its host.
    pub pid: i32,
    /// PID that it sees itself.
    pub inner: i32,
}

/// How far a peer is in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// [`Step::Frozen`].
    Frozen,
    /// [`Step::Captured`].
    Captured,
    /// [`Step::Durable`].
    Durable,
    /// The image has its name.
    Published,
    /// It has the name by which scripts know it, too, in place of the generation before. That waits
    /// until all are published: what scripts find is of one generation.
    Named,
}

impl From<Step> for Stage {
    fn from(step: Step) -> Self {
        match step {
            Step::Frozen => Self::Frozen,
            Step::Captured => Self::Captured,
            Step::Durable => Self::Durable,
        }
    }
}

/// What can be asked of the coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// How many processes there are, and whether they run.
    Status,
    /// Which processes there are.
    List,
    /// A checkpoint; answered at once.
    Checkpoint,
    /// A checkpoint; answered when all images are durable.
    CheckpointAndWait,
    /// A checkpoint, then the end of all jobs; answered at once.
    CheckpointAndKill,
    /// Another interval, in seconds; 0 for none.
    Interval(u64),
    /// The end of all jobs.
    Kill,
    /// The end of all jobs and of the coordinator.
    Quit,
}

/// From the coordinator.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum Down {
    /// To a launcher that has joined.
    Welcome {
        /// Its number.
        peer: u64,
        /// The computation that it is part of now.
        computation: String,
        /// The coordinator's interval, seconds.
        interval: u64,
    },
    /// Asks for the processes.
    Census,
    /// Begins a round.
    Checkpoint {
        /// Its number.
        round: u64,
        /// The generation that it makes.
        generation: u64,
        /// The jobs end with it: none does anything that is not in its image.
        #[serde(default)]
        stop: bool,
    },
    /// All have reached this step: on to the next.
    Go {
        /// The round.
        round: u64,
        /// The step.
        step: Stage,
    },
    /// The round is given up.
    Abort {
        /// Which.
        round: u64,
        /// Why.
        why: String,
    },
    /// The coordinator lives; sent while peers wait in a round.
    Ping,
    /// The job is to end.
    Kill {
        /// After a checkpoint that is durable.
        checkpointed: bool,
    },
    /// The answer to a command.
    Answer(Answer),
    /// Of a later version.
    #[serde(other)]
    Unknown,
}

/// The coordinator's answer to a [`Command`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// It can be done, or was done. If not, either nothing runs or a checkpoint is going on.
    pub done: bool,
    /// Why not, if it was tried.
    #[serde(default)]
    pub failure: Option<Failure>,
    /// Processes of all peers.
    pub processes: usize,
    /// There are peers, and no checkpoint is going on.
    pub running: bool,
    /// Seconds; 0 for none.
    pub interval: u64,
    /// The newest generation that all peers have.
    pub generation: u64,
    /// The processes, for [`Command::List`].
    #[serde(default)]
    pub workers: Vec<Worker>,
}

/// Why a round failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The exit status that goes with it.
    pub code: u8,
    /// In words.
    pub message: String,
}

/// A process in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// Number of its launcher.
    pub peer: u64,
    /// Its host.
    pub host: String,
    /// The process.
    pub process: Process,
    /// What it is doing; `None` is running.
    pub stage: Option<Stage>,
    /// Its launcher's job.
    pub job: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_versions_words_are_passed_over() {
        let later = r#"{"say":"from_the_future","x":1}"#;
        assert!(matches!(serde_json::from_str(later), Ok(Down::Unknown)));
        assert!(matches!(serde_json::from_str(later), Ok(Up::Unknown)));
        let text = serde_json::to_string(&Up::Ask { command: Command::Interval(5) }).unwrap();
        assert_eq!(text, r#"{"say":"ask","command":{"interval":5}}"#);
    }
}
