//! Where the checkpoint of one launcher waits for those of others, so that all of them together are
//! one generation: all frozen, all captured, all durable, and only then published.
//!
//! The engine knows no network: whoever has several launchers brings a [`Gate`], and answers there
//! when everybody has come so far, or that somebody failed.

use std::path::Path;

use crate::error::Result;

/// A point that all have to reach before any goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Every task of the job stands still.
    Frozen,
    /// All that must be read of the job has been read; next it runs again.
    Captured,
    /// The image is complete and durable, but has not got its name yet.
    Durable,
}

/// Holds a checkpoint at its steps.
pub trait Gate: Sync {
    /// Waits until all are at `step`. Called from the thread that holds the job frozen: what this
    /// takes at [`Step::Frozen`] and [`Step::Captured`] the job stands still.
    ///
    /// # Errors
    ///
    /// Somebody failed, or cannot be heard any more: this checkpoint is given up, its job runs on
    /// and leaves no image.
    fn pass(&self, step: Step) -> Result<()>;

    /// The image is published, under this name: waits until those of all are.
    ///
    /// # Errors
    ///
    /// Not all have this generation. The image stays; a job that was to be stopped with it
    /// ([`super::Options::stop`]) runs on.
    fn published(&self, generation: u64, image: &Path) -> Result<()> {
        let _ = (generation, image);
        Ok(())
    }
}

/// A job by itself waits for nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl Gate for Alone {
    fn pass(&self, _: Step) -> Result<()> {
        Ok(())
    }
}
