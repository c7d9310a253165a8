//! Checkpoint and restart of running process trees, from outside and without privilege.
//!
//! ```text
//! live tree ──freeze──▶ capture ──▶ snapshot (plain data) + page stream ──▶ image on disk
//! live tree ◀─release── rebuild ◀── snapshot (plain data) + page stream ◀── image on disk
//! ```
//!
//! [`capture::checkpoint`] takes a [`job::Job`] to an image, [`rebuild::rebuild`] brings it back,
//! [`image`] is the bytes on disk and knows nothing of processes. For programs that take checkpoints of
//! themselves there are [`program`], of all that they are, and [`regions`], of arrays that they name.

pub mod capture;
pub mod deferred;
pub mod error;
pub mod image;
pub mod job;
pub mod kinds;
pub mod merge;
mod os;
pub mod probe;
pub mod program;
pub mod progress;
pub mod rebuild;
pub mod regions;
pub mod snapshot;

pub use error::{Error, ErrorKind, Result};
pub use program::{checkpoint_self, defer};
