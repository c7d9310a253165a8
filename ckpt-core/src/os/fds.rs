//! File descriptors of other processes: copies of them, and which of them are one open file
//! description (OFD).

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use libc::pid_t;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags};

use crate::error::{Error, Result};

const KCMP_FILE: i32 = 0;
const F_GETSIG: i32 = 11;
const F_SETSIG: i32 = 10;

/// A handle on another process that hands out copies of its descriptors (pidfd_getfd(2)).
#[derive(Debug)]
pub(crate) struct Donor {
    pid: pid_t,
    pidfd: OwnedFd,
}

impl Donor {
    pub(crate) fn open(pid: pid_t) -> Result<Self> {
        let handle = Pid::from_raw(pid).ok_or(rustix::io::Errno::SRCH);
        match handle.and_then(|p| rustix::process::pidfd_open(p, PidfdFlags::empty())) {
            Ok(pidfd) => Ok(Self { pid, pidfd }),
            Err(e) => Err(Error::os(format!("cannot open a handle on process {pid}"), e)),
        }
    }

    /// A descriptor of ours for the same open file description.
    pub(crate) fn copy(&self, fd: i32) -> Result<OwnedFd> {
        rustix::process::pidfd_getfd(&self.pidfd, fd, PidfdGetfdFlags::empty()).map_err(|e| {
            Error::os(format!("cannot copy file descriptor {fd} of process {}", self.pid), e)
        })
    }
}

/// Whether two descriptors are one open file description, by kcmp(2).
fn same_by_kcmp(a: (pid_t, i32), b: (pid_t, i32)) -> io::Result<bool> {
    // SAFETY: kcmp takes numbers only.
    match unsafe { libc::syscall(libc::SYS_kcmp, a.0, b.0, KCMP_FILE, a.1, b.1) } {
        -1 => Err(io::Error::last_os_error()),
        order => Ok(order == 0),
    }
}

/// Whether kcmp(2) is allowed here.
pub(crate) fn may_compare() -> io::Result<()> {
    let own = std::process::id() as i32;
    same_by_kcmp((own, 0), (own, 0)).map(drop).or_else(|e| match e.raw_os_error() {
        // Descriptor 0 may be closed.
        Some(libc::EBADF) => Ok(()),
        _ => Err(e),
    })
}

/// The same where kcmp(2) is refused (container runtimes' seccomp profiles): the signal number
/// of `F_SETSIG` belongs to the OFD, so a mark set through one descriptor shows up in the other
/// if, and only if, they are one. It is put back at once.
fn same_by_mark(a: &OwnedFd, b: &OwnedFd) -> io::Result<bool> {
    let get = |fd: &OwnedFd| fcntl(fd, F_GETSIG, 0);
    let old = get(a)?;
    let mark = if get(b)? == libc::SIGURG { libc::SIGWINCH } else { libc::SIGURG };
    fcntl(a, F_SETSIG, mark)?;
    let seen = get(b);
    fcntl(a, F_SETSIG, old)?;
    Ok(seen? == mark)
}

fn fcntl(fd: &OwnedFd, command: i32, argument: i32) -> io::Result<i32> {
    // SAFETY: these commands take and return plain numbers.
    match unsafe { libc::fcntl(fd.as_raw_fd(), command, argument) } {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value),
    }
}

/// Whether two descriptors are one open file description, the best way there is.
pub(crate) fn same_file(a: (pid_t, i32), b: (pid_t, i32)) -> Result<bool> {
    static WARNED: std::sync::Once = std::sync::Once::new();
    match same_by_kcmp(a, b) {
        Ok(same) => return Ok(same),
        Err(error) => WARNED.call_once(|| {
            tracing::info!(%error, "kcmp is refused here; open files are compared by a mark");
        }),
    }
    let copy = |(pid, fd): (pid_t, i32)| Donor::open(pid)?.copy(fd);
    let (one, other) = (copy(a)?, copy(b)?);
    match same_by_mark(&one, &other) {
        Ok(same) => Ok(same),
        // An O_PATH descriptor takes no mark, and has no state to share.
        Err(e) if e.raw_os_error() == Some(libc::EBADF) => Ok(false),
        Err(e) => Err(Error::os(format!("cannot compare descriptors {a:?} and {b:?}"), e)),
    }
}

/// Whether a task has a descriptor table or directories apart from its process' leader. Where
/// kcmp(2) is refused it is taken for an ordinary thread.
pub(crate) fn shares_less(pid: pid_t, tid: pid_t) -> bool {
    const KCMP_FILES: i32 = 2;
    const KCMP_FS: i32 = 3;
    [KCMP_FILES, KCMP_FS].into_iter().any(|kind| {
        // SAFETY: kcmp takes numbers only.
        tid != pid && unsafe { libc::syscall(libc::SYS_kcmp, pid, tid, kind, 0, 0) } > 0
    })
}

/// Whether two processes share their memory, descriptor table or directories.
pub(crate) fn shares_with(one: pid_t, other: pid_t) -> bool {
    const KCMP_VM: i32 = 1;
    const KCMP_FILES: i32 = 2;
    const KCMP_FS: i32 = 3;
    [KCMP_VM, KCMP_FILES, KCMP_FS].into_iter().any(|kind| {
        // SAFETY: kcmp takes numbers only.
        unsafe { libc::syscall(libc::SYS_kcmp, one, other, kind, 0, 0) == 0 }
    })
}

/// Whether a process' descriptor `fd` leads to the file of an entry of its epoll set `set`: the
/// `nth` of those that were added by the number `added`. Where kcmp(2) is refused the inode must do.
pub(crate) fn is_watched(
    pid: pid_t,
    fd: i32,
    (set, added, nth): (i32, i32, u32),
    inode: u64,
) -> bool {
    const KCMP_EPOLL_TFD: i32 = 7;
    let slot = [set as u32, added as u32, nth];
    // SAFETY: `slot` is the kernel's structure of three words, and live; the rest are numbers.
    let order =
        unsafe { libc::syscall(libc::SYS_kcmp, pid, pid, KCMP_EPOLL_TFD, fd, &raw const slot) };
    if order >= 0 {
        return order == 0;
    }
    let error = io::Error::last_os_error().raw_os_error();
    let absent = matches!(error, Some(libc::EBADF | libc::ENOENT | libc::ESRCH));
    let same = |meta: std::fs::Metadata| meta.ino() == inode;
    !absent && std::fs::metadata(format!("/proc/{pid}/fd/{fd}")).is_ok_and(same)
}

/// tee(2): copies what is in a pipe to another, and leaves it where it is.
pub(crate) fn tee(from: &OwnedFd, to: &OwnedFd, length: usize) -> io::Result<usize> {
    // SAFETY: tee takes descriptors and numbers only.
    let copied =
        unsafe { libc::tee(from.as_raw_fd(), to.as_raw_fd(), length, libc::SPLICE_F_NONBLOCK) };
    if copied < 0 { Err(io::Error::last_os_error()) } else { Ok(copied as usize) }
}

/// Sends copies of descriptors over a unix socket (`SCM_RIGHTS`, unix(7)), with one byte.
pub(crate) fn send(socket: &OwnedFd, sent: &[impl AsFd]) -> io::Result<()> {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    let borrowed: Vec<_> = sent.iter().map(AsFd::as_fd).collect();
    let mut space = vec![std::mem::MaybeUninit::uninit(); 64 + 4 * sent.len()];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    let byte = [io::IoSlice::new(b"f")];
    sendmsg(socket, &byte, &mut ancillary, SendFlags::empty())?;
    Ok(())
}

/// Takes an open file description lock; `flock` is the kernel's structure, as words.
pub(crate) fn lock_description(fd: &OwnedFd, mut flock: [u64; 4]) -> io::Result<()> {
    // SAFETY: the structure is live, of the kernel's size, and may be written to.
    match unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_SETLK, flock.as_mut_ptr()) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// An eventfd(2) with this counter.
pub(crate) fn eventfd(count: u32, semaphore: bool) -> io::Result<OwnedFd> {
    let flags = if semaphore { libc::EFD_SEMAPHORE } else { 0 };
    // SAFETY: numbers only; the result is checked before it is owned.
    owned(unsafe { libc::eventfd(count, flags | libc::EFD_CLOEXEC) })
}

/// A signalfd(2) for this mask.
pub(crate) fn signalfd(mask: u64) -> io::Result<OwnedFd> {
    let size = size_of::<u64>();
    let flags = libc::O_CLOEXEC;
    // SAFETY: the mask is a live word of the size that is given.
    let fd = unsafe { libc::syscall(libc::SYS_signalfd4, -1, &raw const mask, size, flags) };
    owned(fd as i32)
}

/// A timerfd on this clock (timerfd_create(2)).
pub(crate) fn timerfd(clock: i32) -> io::Result<OwnedFd> {
    // SAFETY: numbers only; the result is checked before it is owned.
    owned(unsafe { libc::timerfd_create(clock, libc::TFD_CLOEXEC) })
}

/// Arms a timerfd: `(seconds, nanoseconds)` until it fires, and its interval.
pub(crate) fn arm_timerfd(
    fd: &OwnedFd,
    flags: i32,
    value: (i64, i64),
    interval: (i64, i64),
) -> io::Result<()> {
    let spec = |(tv_sec, tv_nsec)| libc::timespec { tv_sec, tv_nsec };
    let setting = libc::itimerspec { it_interval: spec(interval), it_value: spec(value) };
    // SAFETY: `setting` is live, and no old setting is asked for.
    let result = unsafe {
        libc::timerfd_settime(fd.as_raw_fd(), flags, &raw const setting, std::ptr::null_mut())
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// An ioctl(2) whose argument points to one word that the kernel reads.
pub(crate) fn ioctl_word(fd: &OwnedFd, request: u64, word: u64) -> io::Result<()> {
    // SAFETY: the word is live; the requests used here read eight bytes.
    match unsafe { libc::ioctl(fd.as_raw_fd(), request, &raw const word) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn owned(fd: i32) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
