//! Putting checkpoints off: a shared flock(2) on a file that the supervisor locks for itself before
//! a checkpoint.
//!
//! Whoever asks for it waits until a checkpoint that has begun is over. So no image is ever taken
//! of a process that has the lock, and a restored job has none to get back.

use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::lock::Lock;
use crate::place;
use crate::sys::{self, Fd, LOCK_SH, LOCK_UN, Result};

/// Numbers that programs hardly count on.
const OUT_OF_THE_WAY: usize = 800;

static LOCK: Lock = Lock::new();
/// How often it was asked for, and not given back.
static COUNT: AtomicU32 = AtomicU32::new(0);
/// The process that asked: its children get a copy of all this, and no hold.
static OWNER: AtomicU32 = AtomicU32::new(0);
/// The descriptor, and the inode by which it is known as ours: programs close what they don't know.
static FD: AtomicI32 = AtomicI32::new(-1);
static INODE: AtomicU64 = AtomicU64::new(0);

/// No checkpoint as long as this lives.
pub(crate) fn take() -> Result<Fd> {
    let file = place::open(b".hold\0")?;
    file.flock(LOCK_SH)?;
    Ok(file)
}

/// No checkpoint until [`enable`] was called as often.
pub(crate) fn disable() -> Result<()> {
    let _guard = LOCK.lock();
    forget_the_parents();
    if COUNT.load(Relaxed) == 0 {
        let file = take()?.move_up(OUT_OF_THE_WAY);
        INODE.store(file.inode()?, Relaxed);
        FD.store(file.leak(), Relaxed);
    }
    COUNT.fetch_add(1, Relaxed);
    Ok(())
}

/// The opposite; false if nothing was disabled.
pub(crate) fn enable() -> bool {
    let _guard = LOCK.lock();
    forget_the_parents();
    let count = COUNT.load(Relaxed);
    if count == 0 {
        return false;
    }
    COUNT.store(count - 1, Relaxed);
    if count == 1
        && let Some(file) = kept()
    {
        // Not by closing alone: a child that was forked meanwhile has the same open file.
        let _ = file.flock(LOCK_UN);
    }
    true
}

/// The lock is held: the file, no longer kept.
fn kept() -> Option<Fd> {
    let number = FD.swap(-1, Relaxed);
    let ours = number >= 0 && sys::inode(number) == Ok(INODE.load(Relaxed));
    ours.then(|| Fd::from_call(number as usize))
}

fn forget_the_parents() {
    let own = sys::getpid();
    if OWNER.swap(own, Relaxed) != own {
        COUNT.store(0, Relaxed);
        // Closed, not unlocked: the lock is the parent's.
        drop(kept());
    }
}
