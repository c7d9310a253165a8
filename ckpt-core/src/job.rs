//! The job: everything that one `ckpt-launch` started, as the engine is told of it.

use std::fmt;
use std::str::FromStr;

use crate::capture::watch::Watches;
use crate::error::{Error, ErrorKind};
use crate::kinds::call::Standing;
use crate::merge::Merged;
use crate::os::proc::Family;

/// A job's identity: 64 random bits, drawn at launch and kept over all restarts.
/// Written as 16 lower-case hex digits.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, bincode::Encode, bincode::Decode,
)]
pub struct JobId(pub u64);

impl JobId {
    /// A new identity from the kernel's random numbers (getrandom(2)).
    pub fn random() -> Self {
        let mut bytes = [0u8; 8];
        // Eight bytes never fail once the pool is ready; before that the clock has to do.
        if rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) != Ok(8) {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            bytes = (now.unwrap_or_default().as_nanos() as u64 ^ u64::from(std::process::id()))
                .to_le_bytes();
        }
        Self(u64::from_le_bytes(bytes))
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for JobId {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        match u64::from_str_radix(s, 16) {
            Ok(id) if s.len() == 16 => Ok(Self(id)),
            _ => {
                Err(Error::new(ErrorKind::Usage, format!("{s:?} is not a job id (16 hex digits)")))
            }
        }
    }
}

/// How the job got to where it is. It is part of an image: what happened after that one was taken is
/// no part of a job restored from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, bincode::Encode, bincode::Decode)]
pub struct History {
    /// How often it was checkpointed.
    pub checkpoints: u32,
    /// How often it was restored.
    pub restarts: u32,
}

/// The container that a job runs in, so that a restart enters the same one again. It is part of an
/// image; the engine itself makes nothing of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, bincode::Encode, bincode::Decode)]
pub struct Container {
    /// The runtime's name: "podman", "apptainer" …
    pub runtime: String,
    /// The container image, as the runtime knows it.
    pub image: String,
    /// What no other container image has, as far as the runtime has such a thing; else empty.
    pub identity: String,
    /// Further arguments for the runtime.
    pub arguments: Vec<String>,
    /// Folders of the host that are in it, under the same names.
    pub folders: Vec<String>,
}

/// A running job, as launcher or restorer know it.
#[derive(Debug, Clone)]
pub struct Job {
    /// Its identity.
    pub id: JobId,
    /// A short name for files and messages: the file name of the payload's program.
    pub name: String,
    /// PID, as seen from here, of the process whose descendants are the job: the launcher itself,
    /// or the stand-in that the restorer put in its place. It is not part of the job. Of a job without
    /// one ([`Job::of_itself`]): a process that is like it in what a parent hands down.
    pub parent: i32,
    /// PID, as seen from here, of the job's first process: its end is the job's.
    pub root: i32,
    /// The newest generation on disk; 0 before the first checkpoint.
    pub generation: u64,
    /// What it has been through.
    pub history: History,
    /// The container around it.
    pub container: Option<Container>,
    /// Nobody launched it: it is its first process and the descendants of that. The time at which that was
    /// started, by which it is known from another of the same number.
    pub(crate) of_itself: Option<u64>,
    /// System calls that stood at the last freeze or rebuild.
    pub(crate) standing: Standing,
    /// Processes whose writing is watched.
    pub(crate) watches: Watches,
    /// Bytes that were copied in the last pause.
    pub(crate) held: u64,
}

impl Job {
    /// A job that has just been started: its identity and name, the PID of the process whose
    /// descendants it is, and that of its first process.
    pub fn new(id: JobId, name: String, parent: i32, root: i32) -> Self {
        Self {
            id,
            name,
            parent,
            root,
            generation: 0,
            history: History::default(),
            container: None,
            of_itself: None,
            standing: Standing::default(),
            watches: Watches::default(),
            held: 0,
        }
    }

    /// A job that was started without us: the process `root` and its descendants. The calling process
    /// must have been started by it, with its stdin, stdout and stderr, and is no part of it. `begun` is the
    /// time at which `root` was started, in clock ticks since boot (field 22 of `/proc/PID/stat`, proc_pid_stat(5)):
    /// it is not our child, and its number may be another's any time, not least its own at a restart.
    pub fn of_itself(id: JobId, name: String, root: i32, begun: u64) -> Self {
        let parent = std::process::id().cast_signed();
        Self { of_itself: Some(begun), ..Self::new(id, name, parent, root) }
    }

    /// Its processes.
    pub(crate) fn family(&self) -> Family {
        match self.of_itself {
            Some(begun) => Family::Of(self.root, begun),
            None => Family::Below(self.parent),
        }
    }

    /// Tells that one of its images has given way to another with the same contents.
    pub fn merged(&mut self, merged: &Merged) {
        self.watches.replaced(merged.from, merged.to);
    }
}
