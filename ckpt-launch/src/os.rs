//! The few things that the safe interfaces don't offer: all of this crate's `unsafe`.
//!
//! What the payload must find as we found it (signal mask, ignored signals) is recorded here, and
//! put back in the child between fork and exec.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::SigSet;

/// Whether SIGPIPE was ignored when the program began. Rust's runtime ignores it before `main`, so
/// it must be looked at earlier.
static SIGPIPE_WAS_IGNORED: AtomicBool = AtomicBool::new(false);

extern "C" fn look_at_sigpipe() {
    SIGPIPE_WAS_IGNORED.store(is_ignored(libc::SIGPIPE), Ordering::Relaxed);
}

// SAFETY: the loader calls each entry of .init_array once, before main, with C's calling
// convention; the function ignores the arguments and does one sigaction and one store.
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK_AT_SIGPIPE: extern "C" fn() = look_at_sigpipe;

/// The first descriptor that is none of the standard three.
pub const THIRD: i32 = 3;

/// The signal state that we were started with, and that the payload gets.
#[derive(Debug, Clone, Copy)]
pub struct Inherited {
    mask: SigSet,
    sigchld_ignored: bool,
    sigpipe_ignored: bool,
}

impl Inherited {
    /// What was inherited, given the mask as it was; ends an inherited "ignore" of SIGCHLD, under
    /// which children could not be waited for.
    pub fn with_mask(mask: SigSet) -> Self {
        let sigchld_ignored = is_ignored(libc::SIGCHLD);
        if sigchld_ignored {
            // SAFETY: setting a disposition to the default has no memory effects.
            unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
        }
        let sigpipe_ignored = SIGPIPE_WAS_IGNORED.load(Ordering::Relaxed);
        Self { mask, sigchld_ignored, sigpipe_ignored }
    }

    /// Makes `command` start with this state.
    pub fn hand_down(self, command: &mut Command) {
        let disposition = |ignored| if ignored { libc::SIG_IGN } else { libc::SIG_DFL };
        // SAFETY: the closure runs between fork and exec and does nothing but system calls that
        // are async-signal-safe, on a copy of plain data.
        unsafe {
            command.pre_exec(move || {
                libc::signal(libc::SIGCHLD, disposition(self.sigchld_ignored));
                libc::signal(libc::SIGPIPE, disposition(self.sigpipe_ignored));
                self.mask.thread_set_mask().map_err(io::Error::from)
            });
        }
    }
}

/// Leaves a descriptor open, under its number, in the program that `command` runs.
pub fn hand_on(command: &mut Command, fd: BorrowedFd<'_>) {
    let number = fd.as_raw_fd();
    // SAFETY: the closure runs between fork and exec and makes one system call on a number.
    unsafe {
        command.pre_exec(move || match libc::fcntl(number, libc::F_SETFD, 0) {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        });
    }
}

/// Has the program that `command` runs find our stdin at the descriptor [`THIRD`], and nothing at
/// its own.
///
/// # Errors
///
/// We have none.
pub fn hand_on_stdin(command: &mut Command) -> io::Result<()> {
    // From here on number 3 is taken: by the copy, or by what was there before. So the pipe by which
    // `spawn` hears of a failed exec is another.
    let copy = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), THIRD)?;
    command.stdin(Stdio::null());
    // SAFETY: the closure runs between fork and exec and makes one system call on two numbers. `copy`
    // is open as long as the closure is there.
    unsafe {
        command.pre_exec(move || {
            let result = match copy.as_raw_fd() {
                THIRD => libc::fcntl(THIRD, libc::F_SETFD, 0),
                copy => libc::dup2(copy, THIRD),
            };
            if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
        });
    }
    Ok(())
}

/// Takes over a descriptor that whoever started this program left open for it.
///
/// # Errors
///
/// There is none with this number, or it is one of the standard three.
pub fn take_over(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD reads one flag of a number that may or may not be a descriptor.
    if number <= 2 || unsafe { libc::fcntl(number, libc::F_GETFD) } == -1 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: it is open, and ours alone: its number came by the command line for this purpose.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    Ok(fd)
}

/// Whether this process ignores `signal`.
pub fn is_ignored(signal: i32) -> bool {
    // SAFETY: sigaction is plain data, for which all zeroes are valid; with a null new action the
    // call only writes the current one to `old`.
    unsafe {
        let mut old: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &mut old) == 0
            && old.sa_sigaction == libc::SIG_IGN
    }
}

/// The set of `signals`, real-time ones included, for which nix has no name.
pub fn signal_set(signals: impl Iterator<Item = i32>) -> SigSet {
    let mut set = SigSet::empty();
    for signal in signals {
        // SAFETY: `raw` is a valid set; sigaddset changes it or fails on a bad number.
        unsafe {
            let mut raw = *set.as_ref();
            libc::sigaddset(&mut raw, signal);
            set = SigSet::from_sigset_t_unchecked(raw);
        }
    }
    set
}

/// kill(2) with any signal number, real-time ones included.
///
/// # Errors
///
/// Those of kill(2).
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    if pid <= 0 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: a system call on two integers.
    match unsafe { libc::kill(pid, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
