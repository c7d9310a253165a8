//! Checkpoints that a program takes of itself, as a whole: all threads, all memory, open files, children.
//!
//! ```text
//! checkpoint_self ─▶ hooks ─▶ helper process ─▶ freezes us, captures, releases ─▶ answer ─▶ hooks
//!                                              └▶ image ─▶ ckpt-restore ─▶ no answer: Restarted
//! ```
//!
//! [`checkpoint_self`] returns once now, and once in each life that is restored from the image, as
//! setjmp(3) does. The work is done from outside, by the `ckpt` program as a helper: it is no child of ours,
//! and what it is given is in [`helper`]. In a job that `ckpt-launch` or `ckpt-restore` watches over it asks
//! there, and the checkpoint is one of the whole job.
//!
//! A critical section holds checkpoints back ([`defer`]); a [`hook()`] runs before and after.
//! [`Policy`] tells when it is time.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use ckpt_core::program::{Options, Outcome, Policy};
//!
//! let options = Options::new("checkpoints");
//! let mut policy = Policy::new().every(Duration::from_secs(600));
//! for step in 0..1_000_000u64 {
//!     // … compute …
//!     if policy.should_checkpoint().is_some() {
//!         match ckpt_core::checkpoint_self(&options)? {
//!             Outcome::Resumed(taken) => policy.took(taken.total),
//!             Outcome::Restarted => eprintln!("step {step}: here we are again"),
//!         }
//!     }
//! }
//! # Ok::<(), ckpt_core::Error>(())
//! ```

mod guard;
pub mod helper;
mod hooks;
mod identity;
mod policy;
mod slurm;

use std::path::PathBuf;
use std::time::Duration;

pub(crate) use guard::Section;
pub use guard::{Deferral, defer};
pub use hooks::{Hook, Moment, hook};
pub use policy::{Policy, Reason};

use self::helper::Reply;
use self::identity::Identity;
use crate::capture::INCREMENTS;
use crate::error::{Error, ErrorKind, Result};
use crate::image::Level;

/// How a program takes checkpoints of itself.
#[derive(Debug, Clone)]
pub struct Options {
    /// The checkpoint directory; made (mode 0700) if it is missing. In a job that is watched over it is
    /// the launcher's instead, and so are the others but [`Self::helper`].
    pub dir: PathBuf,
    /// What images are named after; by default the program's file name.
    pub name: Option<String>,
    /// How hard blocks are compressed.
    pub level: Level,
    /// How many generations are kept in `dir`, the new one included; at least 1.
    pub keep: usize,
    /// How many earlier generations an image may need, at most.
    pub increments: usize,
    /// Threads that read and compress; 0 means one a core.
    pub workers: usize,
    /// The `ckpt` program; by default `$CKPT_HELPER`, else the one in `$PATH`.
    pub helper: Option<PathBuf>,
}

impl Options {
    /// The usual ones, for images in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            name: None,
            level: Level::default(),
            keep: 2,
            increments: INCREMENTS,
            workers: 0,
            helper: None,
        }
    }
}

/// In which life we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The same as before; there is an image now.
    Resumed(Taken),
    /// One that was restored from it, perhaps on another host.
    Restarted,
}

/// What a checkpoint did.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Taken {
    /// Generation of the image, from 1.
    pub generation: u64,
    /// Where it is.
    pub path: PathBuf,
    /// How long we were stopped.
    pub frozen: Duration,
    /// From the request until the image was durable.
    pub total: Duration,
    /// Bytes of the image file.
    pub bytes_stored: u64,
    /// What may come back otherwise than it was.
    pub warnings: Vec<String>,
}

/// Takes a checkpoint of this program, all its threads and its children, and returns when the image is
/// durable. In the program that `ckpt-restore` brings back from it, returns [`Outcome::Restarted`]. Other
/// threads run on but for milliseconds. Waits for critical sections of other threads to end
/// ([`defer`]); one call waits for another.
///
/// Not supported: what `ckpt-launch` does not support either (open sockets, for example), children that
/// have outlived their parent, pipes that came from our parent with numbers above 2, and being process 1 of a
/// container. Where Yama restricts ptrace(2) to descendants (`kernel.yama.ptrace_scope` is 1), a program that has
/// children needs a launcher.
///
/// # Errors
///
/// [`ErrorKind::Usage`] in a critical section of this thread or in a hook; [`ErrorKind::NotFound`] if there is no helper;
/// [`ErrorKind::Unsupported`] if something of ours cannot be saved; otherwise as
/// [`capture::checkpoint`](crate::capture::checkpoint). The program runs on as before.
pub fn checkpoint_self(options: &Options) -> Result<Outcome> {
    let turn = guard::Turn::take()?;
    hooks::run(Moment::Before);
    let outcome = turn.settle().and_then(|()| taken(options));
    hooks::run(match &outcome {
        Ok(Outcome::Restarted) => Moment::Restarted,
        _ => Moment::Resumed,
    });
    drop(turn);
    outcome
}

fn taken(options: &Options) -> Result<Outcome> {
    let dir = std::path::absolute(&options.dir)
        .map_err(|e| Error::os("cannot tell which directory is meant", e))?;
    let identity = Identity::own(&dir);
    match helper::ask(options, &identity)? {
        Some(Reply::Taken(taken)) => {
            identity::checkpointed();
            Ok(Outcome::Resumed(taken))
        }
        Some(Reply::CameBack) | None => {
            identity::restarted();
            Ok(Outcome::Restarted)
        }
        Some(Reply::Failed { code, what, help }) => {
            let error = Error::new(ErrorKind::of_exit_code(code), what);
            Err(help.into_iter().fold(error, Error::help))
        }
    }
}
