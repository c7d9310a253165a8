//! The words between the two halves of a launcher: JSON objects, one a line, over a unix stream socket
//! that the outside half listens at.
//!
//! ```text
//! inside:  {"say":"arrived","identity":"…"}
//! outside: {"say":"welcome",…}            what it is part of
//! inside:  {"say":"runs",…}               the payload was started, or is back
//! outside: {"say":"checkpoint",…}
//! inside:  {"say":"reached","step":"frozen"} …   outside: {"say":"go"}   or {"say":"give_up",…}
//! inside:  {"say":"taken",…} or {"say":"failed",…}
//! inside:  {"say":"asked"}                somebody wants a checkpoint: the outside half decides
//! inside:  {"say":"ended",…}              the exit status is the payload's
//! ```
//!
//! What a reader doesn't know it skips. When one half hangs up, the other knows that it is gone.

use ckpt_core::job::Container;
use serde::{Deserialize, Serialize};

use crate::control::protocol::Event;
use crate::coordinator::wire::{Process, Stage};

/// From the outside half to the inside one.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum ToInside {
    /// The first word.
    Welcome(Box<Welcome>),
    /// Take a checkpoint.
    Checkpoint {
        /// Its number is at least this one.
        generation: u64,
        /// The job ends with it.
        stop: bool,
    },
    /// The step that was reached may be passed.
    Go,
    /// The checkpoint is given up, or the request for one refused.
    GiveUp {
        /// The exit status that goes with it.
        code: u8,
        /// Why.
        message: String,
    },
    /// A signal for the payload.
    Signal {
        /// Its number.
        number: i32,
    },
    /// Kill all of the job.
    Kill,
    /// Say which processes there are.
    Census,
    /// Of a later version.
    #[serde(other)]
    Unknown,
}

/// What the inside half is part of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Welcome {
    /// The job's id, for one that is begun.
    pub job: String,
    /// The container.
    #[serde(with = "AsContainer")]
    pub container: Container,
    /// Whether the job is to end when the outside half is gone.
    pub ends_with_us: bool,
    /// The descriptor that is to be the payload's stdin; 0 if that is in its place.
    #[serde(default)]
    pub stdin: i32,
}

/// From the inside half to the outside one.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum ToOutside {
    /// The first word.
    Arrived {
        /// What the runtime says, inside, of the container image; empty if nothing.
        identity: String,
    },
    /// The job runs.
    Runs {
        /// Its id.
        job: String,
        /// Its short name.
        name: String,
        /// The generation that it came from; 0 if it was begun.
        generation: u64,
    },
    /// A step of the checkpoint is reached.
    Reached {
        /// Which.
        step: Stage,
        /// At [`Stage::Published`], where the image is, and its number.
        #[serde(default)]
        image: Option<(String, u64)>,
    },
    /// The checkpoint is durable.
    Taken {
        /// As [`Event::Checkpoint`].
        event: Event,
    },
    /// What was to be done could not be, or the job could not be started.
    Failed {
        /// The exit status that goes with it.
        code: u8,
        /// Why.
        message: String,
    },
    /// Somebody inside wants a checkpoint.
    Asked,
    /// The answer to [`ToInside::Census`].
    Census {
        /// The job's processes.
        processes: Vec<Process>,
        /// Bytes of memory that they have of their own, about.
        resident: u64,
    },
    /// The job has ended.
    Ended {
        /// The exit status, or nothing if a signal killed it.
        status: Option<i32>,
        /// The signal.
        signal: Option<i32>,
    },
    /// Of a later version.
    #[serde(other)]
    Unknown,
}

/// [`Container`] with names: the engine's crate knows no JSON.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Container")]
struct AsContainer {
    runtime: String,
    image: String,
    identity: String,
    arguments: Vec<String>,
    folders: Vec<String>,
}
