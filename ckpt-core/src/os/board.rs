//! The board on which a family of processes and their maker agree on the next step: a page of shared
//! memory and two futexes (futex(2)).

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Shared memory on which a family of processes meets: a step counter, arrivals, and the first
/// failure.
#[derive(Debug)]
pub(crate) struct Board {
    place: &'static Slots,
}

#[derive(Debug)]
#[repr(C)]
struct Slots {
    step: AtomicU32,
    arrived: AtomicU32,
    errno: AtomicI32,
    who: AtomicU32,
    doing: AtomicU32,
    turn: AtomicU32,
}

impl Board {
    pub(crate) fn new() -> io::Result<Self> {
        let length = 4096;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping at an address of the kernel's choice disturbs nothing.
        let at = unsafe { libc::mmap(ptr::null_mut(), length, protection, flags, -1, 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the page is zero, which is a value of every slot, suitably aligned, and never
        // unmapped (one page for each restart of a job, in a process made for one restart).
        Ok(Self { place: unsafe { &*at.cast::<Slots>() } })
    }

    /// Child: says that this step is done.
    pub(crate) fn arrive(&self) {
        self.place.arrived.fetch_add(1, Ordering::SeqCst);
        wake(&self.place.arrived);
    }

    /// Child: says what failed: the position of the process in the plan, what it was doing.
    pub(crate) fn fail(&self, who: u32, doing: u32, error: &io::Error) {
        self.place.who.store(who, Ordering::SeqCst);
        self.place.doing.store(doing, Ordering::SeqCst);
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        self.place.errno.store(errno, Ordering::SeqCst);
        self.arrive();
    }

    /// Child: waits until the maker has gone to `step`.
    pub(crate) fn wait_for(&self, step: u32) {
        loop {
            let now = self.place.step.load(Ordering::SeqCst);
            if now >= step {
                return;
            }
            sleep_on(&self.place.step, now, Duration::from_secs(60));
        }
    }

    /// Child: waits until it is the one whose turn it is.
    pub(crate) fn await_turn(&self, turn: u32) {
        loop {
            let now = self.place.turn.load(Ordering::SeqCst);
            if now == turn {
                return;
            }
            sleep_on(&self.place.turn, now, Duration::from_secs(60));
        }
    }

    /// Child: lets the next one have its turn.
    pub(crate) fn end_turn(&self) {
        self.place.turn.fetch_add(1, Ordering::SeqCst);
        wake(&self.place.turn);
    }

    /// Maker: whose turn it is.
    pub(crate) fn turn(&self) -> u32 {
        self.place.turn.load(Ordering::SeqCst)
    }

    /// Maker: starts the next step.
    pub(crate) fn begin(&self, step: u32) {
        self.place.arrived.store(0, Ordering::SeqCst);
        self.place.step.store(step, Ordering::SeqCst);
        wake(&self.place.step);
    }

    /// Maker: waits until so many have arrived.
    ///
    /// # Errors
    ///
    /// The first failure: who, what, and the error; or `ETIMEDOUT`.
    pub(crate) fn gather(
        &self,
        count: u32,
        timeout: Duration,
    ) -> Result<(), (u32, u32, io::Error)> {
        let deadline = Instant::now() + timeout;
        loop {
            let now = self.place.arrived.load(Ordering::SeqCst);
            let errno = self.place.errno.load(Ordering::SeqCst);
            let who = self.place.who.load(Ordering::SeqCst);
            let doing = self.place.doing.load(Ordering::SeqCst);
            if errno != 0 {
                return Err((who, doing, io::Error::from_raw_os_error(errno)));
            }
            if now >= count {
                return Ok(());
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return Err((u32::MAX, 0, io::Error::from_raw_os_error(libc::ETIMEDOUT)));
            };
            sleep_on(&self.place.arrived, now, left);
        }
    }
}

fn wake(word: &AtomicU32) {
    let everybody = i32::MAX;
    // SAFETY: the word is live and shared; waking reads nothing.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, everybody) };
}

fn sleep_on(word: &AtomicU32, value: u32, timeout: Duration) {
    let time = libc::timespec {
        tv_sec: timeout.as_secs() as i64,
        tv_nsec: i64::from(timeout.subsec_nanos()),
    };
    // SAFETY: the word and the time are live; a wake-up for no reason is expected by the callers.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, value, &raw const time)
    };
}
