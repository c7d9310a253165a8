//! A lock between the threads of a process, which a fork(2) may find taken.

use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::sys;

/// The word is the PID of the process that has it, or 0. A child that finds its parent's there knows
/// that whoever took it lives elsewhere.
pub(crate) struct Lock(AtomicU32);

/// The lock is let go when this goes out of scope.
pub(crate) struct Guard<'a>(&'a Lock);

impl Lock {
    pub(crate) const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    pub(crate) fn lock(&self) -> Guard<'_> {
        let own = sys::getpid();
        loop {
            let owner = self.0.load(Relaxed);
            if owner == own {
                sys::wait(&self.0, owner);
            } else if self.0.compare_exchange(owner, own, Acquire, Relaxed).is_ok() {
                return Guard(self);
            }
        }
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.0.store(0, Release);
        sys::wake(&self.0.0);
    }
}
