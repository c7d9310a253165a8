//! Who may write to a Slurm job's checkpoint directory. When a node is lost, Slurm starts the job
//! anew elsewhere, and the old incarnation may run on, unseen: two of them would spoil each other's
//! images and outputs.
//!
//! The file `fence` says which incarnation has the directory; a new one writes itself into it. The
//! old one looks at it every [`LOOK`] and before an image is published, and stops itself. Whoever
//! has the directory also holds an exclusive flock(2) on the file, where the file system has locks:
//! the new one waits for it, so that the old one has ended before it begins.

use std::fs::{File, TryLockError};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use ckpt_core::capture::{Gate, Step};
use ckpt_core::job::JobId;
use ckpt_core::{Error, ErrorKind, Result};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::control::place::host;
use crate::signals;

/// How often an incarnation looks whether it is still the newest.
pub const LOOK: Duration = Duration::from_secs(5);
/// How long a new one waits for the old one's end: several looks, on a file system that is slow to
/// tell hosts of each other.
const PATIENCE: Duration = Duration::from_secs(120);

const MOMENT: Duration = Duration::from_millis(200);
/// How long whoever has the lock may take to say who it is.
const WORD: Duration = Duration::from_secs(2);

/// Which incarnation has the directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// How often the job had been requeued.
    pub restarts: u32,
    /// Differs for any two.
    pub incarnation: String,
    /// Where it runs.
    pub host: String,
}

/// The right to a directory.
#[derive(Debug)]
pub struct Fence {
    file: File,
    claim: Claim,
}

impl Fence {
    /// Claims the directory for the incarnation after `restarts` requeues, and waits until the one
    /// before has ended; `waiting` is told whose end that is. Nothing if another command of the same
    /// round has it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Busy`]: a newer incarnation has it, the older one does not end, or the job is ended
    /// meanwhile.
    pub fn claim(
        dir: &Path,
        restarts: u32,
        waiting: &mut dyn FnMut(&Claim),
    ) -> Result<Option<Self>> {
        let path = dir.join("fence");
        let fail = |e| Error::os(format!("cannot write {}", path.display()), e);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR);
        let file = File::from(file.map_err(|e| fail(e.into()))?);
        let is_held = is_held(&file);
        let before = if is_held { held_by(&file) } else { read(&file) };
        match before.as_ref().map(|before| before.restarts) {
            Some(newer) if newer > restarts => {
                return before.map_or(Ok(None), |newer| Err(superseded(&newer)));
            }
            Some(same) if is_held && same == restarts => return Ok(None),
            // Whoever holds it has not said yet who it is: one that came a moment before.
            None if is_held => return Ok(None),
            _ => {}
        }
        let claim = Claim { restarts, incarnation: JobId::random().to_string(), host: host() };
        let text = serde_json::to_vec(&claim).unwrap_or_default();
        // Never empty in between: whoever reads half of it reads once more.
        file.write_all_at(&text, 0).map_err(fail)?;
        file.set_len(text.len() as u64).and_then(|()| file.sync_data()).map_err(fail)?;
        wait(&file, before.as_ref().filter(|before| before.restarts < restarts), waiting)?;
        Ok(Some(Self { file, claim }))
    }

    /// Fails if another incarnation has the directory now.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Busy`], naming it.
    pub fn check(&self) -> Result<()> {
        match read(&self.file) {
            Some(other) if other.incarnation != self.claim.incarnation => Err(superseded(&other)),
            // What cannot be read says nothing: it is looked at again soon.
            _ => Ok(()),
        }
    }
}

/// A checkpoint that passes gates of its own, and the fence before it is published.
pub struct Fenced<'a> {
    /// The fence, if there is one.
    pub fence: Option<&'a Fence>,
    /// Its own gate.
    pub gate: &'a dyn Gate,
}

impl Gate for Fenced<'_> {
    fn pass(&self, step: Step) -> Result<()> {
        self.gate.pass(step)?;
        match self.fence.filter(|_| step == Step::Durable) {
            Some(fence) => fence.check(),
            None => Ok(()),
        }
    }

    fn published(&self, generation: u64, image: &Path) -> Result<()> {
        self.gate.published(generation, image)
    }
}

fn superseded(by: &Claim) -> Error {
    let what = format!(
        "a newer incarnation of this Slurm job (restart {}, on {}) has taken over",
        by.restarts, by.host
    );
    Error::new(ErrorKind::Busy, what).help("this one stops")
}

fn read(file: &File) -> Option<Claim> {
    let mut bytes = vec![0; 4096];
    let got = file.read_at(&mut bytes, 0).ok()?;
    serde_json::from_slice(&bytes[..got]).ok()
}

/// Whether somebody else has the lock; else we have it. A process that is just being made may have
/// copies of others' descriptors for a moment.
fn is_held(file: &File) -> bool {
    let deadline = Instant::now() + MOMENT;
    while matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
        if Instant::now() >= deadline {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

/// Who holds it, as soon as that is written.
fn held_by(file: &File) -> Option<Claim> {
    let deadline = Instant::now() + WORD;
    loop {
        match read(file) {
            None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
            claim => return claim,
        }
    }
}

/// Takes the lock; whoever has it looks at the file, and lets go.
fn wait(file: &File, before: Option<&Claim>, waiting: &mut dyn FnMut(&Claim)) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if signals::is_pending(libc::SIGTERM) => {
                let what = "Slurm has ended the job before the incarnation before has ended";
                return Err(Error::new(ErrorKind::Busy, what));
            }
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                if let Some(before) = before.filter(|_| !std::mem::replace(&mut told, true)) {
                    waiting(before);
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(TryLockError::WouldBlock) => {
                let who = before.map_or_else(String::new, |it| {
                    format!(" (restart {}, on {})", it.restarts, it.host)
                });
                let what = format!("the incarnation before{who} does not end");
                return Err(Error::new(ErrorKind::Busy, what)
                    .help("end it on its host, then requeue the job"));
            }
            Err(TryLockError::Error(error)) => {
                tracing::warn!(%error, "this file system has no locks");
                // An older one that lives stops itself within that time.
                if before.is_some() {
                    std::thread::sleep(3 * LOOK);
                }
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newer_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let old =
            Fence::claim(dir.path(), 1, &mut |_| panic!("nobody was there")).unwrap().unwrap();
        assert!(Fence::claim(dir.path(), 1, &mut |_| ()).unwrap().is_none(), "another command");
        old.check().unwrap();
        let whose = std::sync::Mutex::new(None);
        let new = std::thread::scope(|scope| {
            let newer = scope.spawn(|| {
                let mut waits = |it: &Claim| *whose.lock().unwrap() = Some(it.restarts);
                Fence::claim(dir.path(), 2, &mut waits).unwrap().unwrap()
            });
            while old.check().is_ok() {
                std::thread::yield_now();
            }
            assert_eq!(old.check().unwrap_err().kind(), ErrorKind::Busy);
            let fenced = Fenced { fence: Some(&old), gate: &ckpt_core::capture::Alone };
            fenced.pass(Step::Captured).unwrap();
            assert!(fenced.pass(Step::Durable).is_err(), "nothing may be published");
            assert!(!newer.is_finished());
            while whose.lock().unwrap().is_none() {
                std::thread::yield_now();
            }
            drop(old);
            newer.join().unwrap()
        });
        assert_eq!(*whose.lock().unwrap(), Some(1));
        new.check().unwrap();
        let late = Fence::claim(dir.path(), 1, &mut |_| ()).unwrap_err();
        assert_eq!(late.kind(), ErrorKind::Busy);
        drop(new);
        // The same round once more, when the first try has ended.
        Fence::claim(dir.path(), 2, &mut |_| ()).unwrap().unwrap().check().unwrap();
    }
}
