//! Brings the file to the disk while it grows, in a thread of its own.
//!
//! Stretch after stretch the kernel begins to write what is there, and when it is written lets it go from
//! the page cache: the disk has work from the start, the page cache is not flooded, and it is known how far
//! the disk has come.

use std::fs::File;
use std::io;
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rustix::fs::Advice;

use crate::os::writeback;

/// Bytes that are sent to the disk together.
const STRETCH: u64 = 8 << 20;

/// The way of one file to the disk. Short ones go without.
#[derive(Debug, Default)]
pub(super) struct Outflow {
    worker: Mutex<Worker>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
enum Worker {
    /// No stretch was full yet.
    #[default]
    None,
    Works(Sender<u64>, JoinHandle<io::Result<()>>),
    /// No thread is to be had. All is written in the end, by fsync(2).
    Cannot,
}

#[derive(Debug, Default)]
struct Shared {
    /// What is below is known.
    begun: AtomicBool,
    /// All before it is on the disk, but for blocks that came late.
    on_disk: AtomicU64,
    stop: AtomicBool,
}

impl Outflow {
    /// The bytes from `from` to `to` are written.
    pub(super) fn grown(&self, file: &File, from: u64, to: u64) {
        let end = to / STRETCH * STRETCH;
        if end <= from {
            return;
        }
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*worker, Worker::None) {
            *worker = self.begin(file).unwrap_or(Worker::Cannot);
        }
        if let Worker::Works(ends, _) = &*worker {
            // It is gone when something failed, which it tells in the end.
            let _ = ends.send(end);
        }
    }

    fn begin(&self, file: &File) -> io::Result<Worker> {
        let (file, shared) = (file.try_clone()?, Arc::clone(&self.shared));
        let (sender, ends) = channel();
        let thread = std::thread::Builder::new().name("ckpt-outflow".into());
        Ok(Worker::Works(sender, thread.spawn(move || bring(&file, &ends, &shared))?))
    }

    /// Bytes of the file that are on the disk, as far as that is known.
    pub(super) fn on_disk(&self) -> Option<u64> {
        let begun = self.shared.begun.load(Ordering::Relaxed);
        begun.then(|| self.shared.on_disk.load(Ordering::Relaxed))
    }

    /// Ends it: what is left is fsync(2)'s.
    ///
    /// An error is one of the disk's that fsync(2) would not tell any more.
    pub(super) fn close(&mut self) -> io::Result<()> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let worker = self.worker.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Worker::Works(ends, thread) = std::mem::take(worker) else { return Ok(()) };
        drop(ends);
        thread.join().unwrap_or_else(|_| Err(io::Error::other("its thread has panicked")))
    }
}

impl Drop for Outflow {
    fn drop(&mut self) {
        // The file goes, too.
        let _ = self.close();
    }
}

/// Begins what is ready as soon as it is heard of, and waits for one stretch after the other.
fn bring(file: &File, ends: &Receiver<u64>, shared: &Shared) -> io::Result<()> {
    let (mut begun, mut done) = (0, 0);
    loop {
        let end = if done < begun { ends.try_recv().ok() } else { ends.recv().ok() };
        if shared.stop.load(Ordering::Relaxed) || (end.is_none() && done == begun) {
            return Ok(());
        }
        match end {
            Some(end) if end > begun => {
                match writeback::begin(file, begun..end) {
                    Ok(()) => {}
                    // Where there is no such thing, fsync(2) does it all.
                    Err(error) if is_unknown(&error) => return Ok(()),
                    Err(error) => return Err(error),
                }
                begun = end;
                shared.begun.store(true, Ordering::Relaxed);
            }
            Some(_) => {}
            None => {
                let next = (done + STRETCH).min(begun);
                writeback::wait(file, done..next)?;
                let_go(file, done.saturating_sub(STRETCH), next);
                done = next;
                shared.on_disk.store(done, Ordering::Relaxed);
            }
        }
    }
}

fn is_unknown(error: &io::Error) -> bool {
    let unknown = [libc::ENOSYS, libc::EINVAL, libc::ESPIPE, libc::EOPNOTSUPP, libc::EPERM];
    error.raw_os_error().is_some_and(|errno| unknown.contains(&errno))
}

/// From the page cache, what is there already (posix_fadvise(2)).
fn let_go(file: &File, from: u64, to: u64) {
    let _ = rustix::fs::fadvise(file, from, NonZero::new(to - from), Advice::DontNeed);
}
