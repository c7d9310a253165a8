//! Critical sections: no checkpoint is taken while a thread is in one.
//!
//! Between the threads of this program that is a counter. A launcher's checkpoints are held back by a shared
//! flock(2) on a file that it locks for itself before a checkpoint; so no image is ever taken of a process
//! that has that lock.

use std::cell::Cell;
use std::fs::File;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

use rustix::fs::{FlockOperation, Mode, OFlags};

use super::identity::Identity;
use crate::error::{Error, ErrorKind, Result};

#[derive(Debug)]
struct State {
    /// Critical sections that there are.
    sections: usize,
    /// The thread that is taking a checkpoint.
    taking: Option<ThreadId>,
    /// The launcher's lock, while there are sections.
    held: Option<File>,
    /// Whose state this is: a child gets a copy of its parent's.
    pid: u32,
}

static STATE: Mutex<State> = Mutex::new(State { sections: 0, taking: None, held: None, pid: 0 });
static CHANGED: Condvar = Condvar::new();

thread_local! {
    /// Sections of this thread, and the process in which it began them.
    static OWN: Cell<(u32, usize)> = const { Cell::new((0, 0)) };
}

fn own_sections() -> usize {
    let (pid, sections) = OWN.get();
    if pid == std::process::id() { sections } else { 0 }
}

fn state() -> MutexGuard<'static, State> {
    let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    let pid = std::process::id();
    if state.pid != pid {
        // Closed, not unlocked: the lock is the parent's.
        *state = State { sections: 0, taking: None, held: None, pid };
    }
    state
}

fn wait_while(until: impl FnMut(&mut State) -> bool) -> MutexGuard<'static, State> {
    CHANGED.wait_while(state(), until).unwrap_or_else(PoisonError::into_inner)
}

/// No checkpoint is taken while this lives, in whichever thread it ends.
#[derive(Debug)]
pub(crate) struct Section {
    pid: u32,
}

impl Section {
    /// Waits until a checkpoint that has begun is over, unless it waits for this thread: who is in a section
    /// already, or takes the checkpoint itself and runs a hook now.
    pub(crate) fn enter() -> Self {
        let (own, me) = (own_sections(), std::thread::current().id());
        let mut state = wait_while(|state| own == 0 && state.taking.is_some_and(|it| it != me));
        if state.sections == 0 {
            state.held = hold();
        }
        state.sections += 1;
        Self { pid: state.pid }
    }
}

impl Drop for Section {
    fn drop(&mut self) {
        let mut state = state();
        if self.pid != state.pid {
            return;
        }
        state.sections -= 1;
        if state.sections == 0
            && let Some(file) = state.held.take()
        {
            // Not by closing alone: a child that was forked meanwhile has the same open file.
            let _ = rustix::fs::flock(&file, FlockOperation::Unlock);
        }
        drop(state);
        CHANGED.notify_all();
    }
}

/// A critical section of the thread that made it; it ends when this is dropped.
#[derive(Debug)]
#[must_use = "the critical section ends when this is dropped"]
pub struct Deferral {
    /// It stays with its thread.
    thread: PhantomData<*const ()>,
    section: Section,
}

/// Begins a critical section: as long as what it returns lives, no checkpoint is taken of this program, be it
/// by [`checkpoint_self`](crate::checkpoint_self) in another thread or by a launcher (who waits for some time, and then
/// gives the checkpoint up). Waits until a checkpoint that has begun is over. Sections may be nested. A
/// child made by fork(2) in one is not in it.
///
/// ```
/// let section = ckpt_core::defer();
/// // … talk to a device …
/// drop(section);
/// ```
pub fn defer() -> Deferral {
    let section = Section::enter();
    OWN.set((section.pid, own_sections() + 1));
    Deferral { thread: PhantomData, section }
}

impl Drop for Deferral {
    fn drop(&mut self) {
        // That of a parent ends there.
        if self.section.pid == std::process::id() {
            OWN.set((self.section.pid, own_sections() - 1));
        }
    }
}

/// The right to take a checkpoint.
pub(super) struct Turn;

impl Turn {
    /// Waits for other threads' sections and checkpoints.
    pub(super) fn take() -> Result<Self> {
        let me = std::thread::current().id();
        let again = |what| {
            Err(Error::new(ErrorKind::Usage, format!("a checkpoint was asked for in {what}")))
        };
        if state().taking == Some(me) {
            return again("a hook of another one");
        }
        if own_sections() > 0 {
            return again("a critical section of the same thread");
        }
        let mut state = wait_while(|state| state.taking.is_some());
        state.taking = Some(me);
        drop(state);
        let turn = Self;
        turn.settle()?;
        Ok(turn)
    }

    /// Waits for sections that are left, hooks' among them.
    pub(super) fn settle(&self) -> Result<()> {
        if own_sections() > 0 {
            let what = "a hook has begun a critical section that it has not ended";
            return Err(Error::new(ErrorKind::Usage, what));
        }
        drop(wait_while(|state| state.sections > 0));
        Ok(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        state().taking = None;
        CHANGED.notify_all();
    }
}

/// The launcher's lock, if there is a launcher. Waits until its checkpoint is over.
fn hold() -> Option<File> {
    let (dir, job) = whose()?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let path = dir.join(format!(".ckpt-{job}.hold"));
    let file = match rustix::fs::open(&path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        // Nobody watches over us.
        Err(rustix::io::Errno::NOENT) => return None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "a launcher's checkpoint is not held back");
            return None;
        }
    };
    loop {
        match rustix::fs::flock(&file, FlockOperation::LockShared) {
            Ok(()) => return Some(file),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
    }
}

/// The job that we are in: directory and id.
pub(super) fn whose() -> Option<(PathBuf, String)> {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let launched = variable("CKPT_DIR").zip(variable("CKPT_JOB_ID"));
    let launched = launched.map(|(dir, job)| (Path::new(&dir).to_path_buf(), job));
    launched.or_else(|| Identity::known().map(|own| (own.dir, own.id.to_string())))
}

/// Whether a launcher or a restorer watches over us, as far as its files tell.
pub(super) fn is_watched() -> bool {
    whose().is_some_and(|(dir, job)| dir.join(format!(".ckpt-{job}.lock")).exists())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn checkpoints_and_sections_take_turns() {
        let outer = defer();
        let inner = defer();
        assert_eq!(Turn::take().err().map(|error| error.kind()), Some(ErrorKind::Usage));
        let (said, hear) = channel();
        let thread = std::thread::spawn(move || {
            let turn = Turn::take().unwrap();
            said.send("checkpoint").unwrap();
            drop(turn);
        });
        drop(outer);
        // One that begins within another does not wait for who waits for it.
        while state().taking.is_none() {
            std::thread::yield_now();
        }
        let another = defer();
        drop(inner);
        assert!(hear.try_recv().is_err());
        drop(another);
        assert_eq!(hear.recv(), Ok("checkpoint"));
        thread.join().unwrap();
        drop(defer());
    }
}
