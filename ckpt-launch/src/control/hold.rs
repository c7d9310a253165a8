//! How the job puts off checkpoints.
//!
//! A process that must not be checkpointed just now holds a shared flock(2) on a file of the job's;
//! the supervisor takes an exclusive one before each checkpoint and keeps it until that is over. So
//! a hold ends with the process that has it, and an image never contains a process that has one.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

use ckpt_core::{Error, ErrorKind, Result};
use rustix::fs::{Mode, OFlags};

/// How long a checkpoint waits. The supervisor does nothing else meanwhile.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The file.
#[derive(Debug)]
pub struct Hold(File);

/// While this lives, no process can put off checkpoints: it waits.
#[derive(Debug)]
pub struct Held<'a>(&'a File);

impl Hold {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    ///
    /// When the directory doesn't take it.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)
            .map(|fd| Self(fd.into()))
            .map_err(|e| Error::os(format!("cannot write to {}", path.display()), e))
    }

    /// Waits until no process of the job holds it, and keeps it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Busy`] when one still does after `patience`.
    pub fn take(&self, patience: Duration) -> Result<Held<'_>> {
        let deadline = Instant::now() + patience;
        loop {
            match self.0.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(TryLockError::WouldBlock) => {
                    let what = format!(
                        "the program has disabled checkpoints (dmtcp_disable_ckpt), and has not \
                         enabled them for {} s",
                        patience.as_secs_f64()
                    );
                    return Err(Error::new(ErrorKind::Busy, what));
                }
                // Then processes can't lock it either.
                Err(TryLockError::Error(error)) => {
                    tracing::warn!(%error, "this file system has no locks");
                    break;
                }
            }
        }
        Ok(Held(&self.0))
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // It fails only where there was no lock.
        let _ = self.0.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_for_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hold");
        let hold = Hold::open(&path).unwrap();
        drop(hold.take(Duration::ZERO).unwrap());
        let other = File::open(&path).unwrap();
        other.lock_shared().unwrap();
        let error = hold.take(Duration::from_millis(20)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(50));
                drop(other);
            });
            let held = hold.take(Duration::from_secs(60)).unwrap();
            assert!(File::open(&path).unwrap().try_lock_shared().is_err());
            drop(held);
        });
        File::open(&path).unwrap().try_lock_shared().unwrap();
    }
}
