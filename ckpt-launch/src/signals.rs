//! The signals that come to the supervisor, as values in its loop.
//!
//! All that can be passed on are blocked and read from a signalfd, so that none interrupts
//! anything and those that come during a checkpoint wait for its end. Not taken: the faults, those
//! that we inherited as ignored (nohup), and the terminal's stop signals, whose default action,
//! together with the payload's, is what Ctrl-Z means.

use std::os::fd::{AsFd, BorrowedFd};

use ckpt_core::{Error, Result};
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::os::{self, Inherited};

/// The signals that keep their usual effect on us.
const NOT_TAKEN: [i32; 11] = [
    libc::SIGKILL,
    libc::SIGSTOP,
    libc::SIGTTIN,
    libc::SIGTTOU,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGSYS,
    libc::SIGPIPE,
];

/// A signal that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrived {
    /// Its number.
    pub number: i32,
    /// The process that sent it, if it was a process of this PID namespace.
    pub sender: Option<i32>,
    /// The kernel sent it, that is the terminal: its whole foreground process group got it.
    pub from_kernel: bool,
}

/// The signals of this process.
#[derive(Debug)]
pub struct Signals {
    fd: SignalFd,
    inherited: Inherited,
}

impl Signals {
    /// Takes the signals over from their default actions; the terminal's Ctrl-Z too if asked to.
    /// To be called before the process has a second thread or a child.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn take(ctrl_z_too: bool) -> Result<Self> {
        let wanted = |&n: &i32| {
            n == libc::SIGCHLD
                || !(NOT_TAKEN.contains(&n)
                    || n == libc::SIGTSTP && !ctrl_z_too
                    || os::is_ignored(n))
        };
        // 32 and 33 are the C library's own.
        let set = os::signal_set((1..=31).chain(34..=64).filter(wanted));
        let mut mask = SigSet::empty();
        let fail = |e: nix::Error| Error::os("cannot take over the signals", e);
        nix::sys::signal::sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), Some(&mut mask))
            .map_err(fail)?;
        let inherited = Inherited::with_mask(mask);
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map_err(fail)?;
        Ok(Self { fd, inherited })
    }

    /// The next signal, if there is one.
    pub fn next(&self) -> Option<Arrived> {
        let info = self.fd.read_signal().ok().flatten()?;
        Some(Arrived {
            number: i32::try_from(info.ssi_signo).ok()?,
            sender: i32::try_from(info.ssi_pid).ok().filter(|&pid| pid > 0),
            from_kernel: info.ssi_code == libc::SI_KERNEL,
        })
    }

    /// Does what Ctrl-Z does by default, and returns when we are continued. The kernel's own
    /// default action is used, since it knows when there is nobody to continue us.
    pub fn stop_ourselves(&self) {
        let ctrl_z = os::signal_set(std::iter::once(libc::SIGTSTP));
        let own = std::process::id().cast_signed();
        // A signal to ourselves is delivered before the call that unblocks it returns.
        if os::kill(own, libc::SIGTSTP).is_ok() && ctrl_z.thread_unblock().is_ok() {
            let _ = ctrl_z.thread_block();
        }
    }

    /// The state that a payload is to be started with.
    pub fn inherited(&self) -> Inherited {
        self.inherited
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether a signal that we hold back has come.
pub fn is_pending(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (signal - 1)) != 0)
}

/// The name of a signal, "SIGTERM" or "signal 42".
pub fn name(number: i32) -> String {
    nix::sys::signal::Signal::try_from(number)
        .map_or_else(|_| format!("signal {number}"), |s| s.as_str().to_owned())
}
