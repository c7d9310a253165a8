//! What the engine tells its caller while it works. The library never prints.

use std::time::Duration;

/// A step of a checkpoint or a restart, as it happens.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// All tasks of the job are stopped.
    Frozen {
        /// Processes in the job.
        processes: usize,
        /// Tasks (threads) in the job.
        tasks: usize,
    },
    /// Bytes of memory handled so far, of all that will be (plaintext bytes).
    Bytes {
        /// Bytes done.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// The job runs again.
    Released {
        /// How long it was stopped.
        frozen: Duration,
    },
    /// The way that was chosen where there are several ("PIDs: own user and PID namespace").
    Chosen(String),
    /// Something the user should know, though the work goes on.
    Warning(String),
}

/// Receives [`Event`]s. Called from worker threads too, so keep it short.
pub trait Observer: Sync {
    /// Takes one event.
    fn event(&self, event: Event);
}

/// An observer that ignores everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _: Event) {}
}
