//! New processes: fork with a chosen number, namespaces, privileges.
//!
//! The children made here run our own code between fork and execve(2), as copies of a process
//! with a single thread; no lock can be held by a thread that is not there.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;

use libc::{c_int, pid_t};

/// Capabilities that allow choosing a tid: `CAP_CHECKPOINT_RESTORE`, and `CAP_SYS_ADMIN` on
/// kernels before 5.9.
const TID_CAPABILITIES: [u32; 2] = [40, SYS_ADMIN];
const SYS_ADMIN: u32 = 21;
const SETGID: u32 = 6;
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// `struct clone_args` of linux/sched.h, as far as it is needed.
#[repr(C)]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
}

/// The two sides of a fork.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fork {
    /// We are the new process.
    Child,
    /// We made this process.
    Parent(pid_t),
}

/// fork(2) with namespaces (`CLONE_NEW*`), and with a chosen number in the innermost PID
/// namespace (clone3(2)).
pub(crate) fn fork(namespaces: c_int, tid: Option<pid_t>) -> io::Result<Fork> {
    let flags = namespaces as u64;
    let signal = libc::SIGCHLD as u64;
    let result = match tid {
        // Container runtimes' profiles may know no clone3(2).
        // SAFETY: no CLONE_VM and no stack: the child is a copy, as after fork(2). The caller's
        // process has a single thread (module head), so the copy's locks and heap are consistent.
        None => unsafe { libc::syscall(libc::SYS_clone, flags | signal, 0u64, 0u64, 0u64, 0u64) },
        Some(tid) => {
            let arguments = CloneArguments {
                flags,
                exit_signal: signal,
                set_tid: &raw const tid as u64,
                set_tid_size: 1,
                ..CloneArguments::default()
            };
            let size = size_of::<CloneArguments>();
            // SAFETY: as above. `arguments` and `tid` are live for the call.
            unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size) }
        }
    };
    match result {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid as pid_t)),
    }
}

/// Has a process of its own try something, in namespaces of its own; gives what came of it. The
/// caller has a single thread (module head).
pub(crate) fn try_in_child(
    namespaces: c_int,
    work: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    match fork(namespaces, None)? {
        Fork::Child => {
            // An error number fits into an exit status.
            let errno = work().map_or_else(|e| e.raw_os_error().unwrap_or(libc::EIO), |()| 0);
            exit(errno.min(255))
        }
        Fork::Parent(pid) => match reap(pid)? {
            status if libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0 => Ok(()),
            status if libc::WIFEXITED(status) => {
                Err(io::Error::from_raw_os_error(libc::WEXITSTATUS(status)))
            }
            _ => Err(io::Error::from_raw_os_error(libc::EINTR)),
        },
    }
}

/// Waits for a child to end and takes its status (wait(2)).
pub(crate) fn reap(pid: pid_t) -> io::Result<c_int> {
    let mut status = 0;
    // SAFETY: the kernel writes one int to the live variable.
    while unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) } == -1 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(status)
}

/// Waits for any child: its number and wait status. `ECHILD` when there is none.
pub(crate) fn reap_any() -> io::Result<(pid_t, c_int)> {
    let mut status = 0;
    loop {
        // SAFETY: the kernel writes one int to the live variable.
        match unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL) } {
            -1 => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
            pid => return Ok((pid, status)),
        }
    }
}

/// Our number as the kernel knows it.
pub(crate) fn own_pid() -> pid_t {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::syscall(libc::SYS_getpid) as pid_t }
}

/// Ends this process without running anybody's exit handlers.
pub(crate) fn exit(status: c_int) -> ! {
    // SAFETY: _exit takes a number and does not return.
    unsafe { libc::_exit(status) }
}

/// Ends this process as one that ended with this wait status, for its parent to find.
pub(crate) fn end_with(status: c_int) -> ! {
    if libc::WIFSIGNALED(status) {
        let signal = libc::WTERMSIG(status);
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: numbers, and one live structure that is only read. No core file is wanted (a
        // process that is not dumpable would hide its status); the dispositions are at default.
        unsafe {
            libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
            libc::syscall(libc::SYS_kill, own_pid(), signal);
        }
    }
    exit(libc::WEXITSTATUS(status))
}

/// A system call that takes numbers only; prctl(2) wants zeros where it has no argument.
fn call(number: i64, arguments: [u64; 4]) -> io::Result<i64> {
    let [a, b, c, d] = arguments;
    // SAFETY: the callers below use calls whose arguments are all plain numbers.
    match unsafe { libc::syscall(number, a, b, c, d, 0, 0) } {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value),
    }
}

/// setsid(2).
pub(crate) fn new_session() -> io::Result<()> {
    call(libc::SYS_setsid, [0; 4]).map(drop)
}

/// setpgid(2) of ourselves; 0 makes us a leader.
pub(crate) fn join_group(group: pid_t) -> io::Result<()> {
    call(libc::SYS_setpgid, [0, group as u64, 0, 0]).map(drop)
}

/// unshare(2).
pub(crate) fn unshare(namespaces: c_int) -> io::Result<()> {
    call(libc::SYS_unshare, [namespaces as u64, 0, 0, 0]).map(drop)
}

/// Makes this process the one that orphans below it fall to.
pub(crate) fn become_subreaper() -> io::Result<()> {
    call(libc::SYS_prctl, [libc::PR_SET_CHILD_SUBREAPER as u64, 1, 0, 0]).map(drop)
}

/// Name of this process in `ps`.
pub(crate) fn set_name(name: &std::ffi::CStr) {
    // SAFETY: the name is a C string that outlives the call.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// personality(2), if it differs from what it is.
pub(crate) fn set_personality(wanted: u32) -> io::Result<()> {
    let own = std::fs::read_to_string("/proc/self/personality").unwrap_or_default();
    if u32::from_str_radix(own.trim(), 16) == Ok(wanted) {
        return Ok(());
    }
    call(libc::SYS_personality, [wanted.into(), 0, 0, 0]).map(drop)
}

/// Closes every descriptor in `first..=last`.
pub(crate) fn close_range(first: u32, last: u32) {
    if first <= last {
        let _ = call(libc::SYS_close_range, [first.into(), last.into(), 0, 0]);
    }
}

/// dup2(2) to a number that is not known to be anybody's; it is not closed on exec.
pub(crate) fn duplicate(fd: &OwnedFd, number: i32) -> io::Result<()> {
    if fd.as_raw_fd() == number {
        // dup2 would leave it as it is.
        return call(libc::SYS_fcntl, [number as u64, libc::F_SETFD as u64, 0, 0]).map(drop);
    }
    call(libc::SYS_dup2, [fd.as_raw_fd() as u64, number as u64, 0, 0]).map(drop)
}

/// Sends a signal; a process that is gone needs none. What is no process' number would be a whole group's,
/// or everybody's.
pub(crate) fn kill(pid: pid_t, signal: c_int) {
    if pid <= 0 {
        return;
    }
    let _ = call(libc::SYS_kill, [pid as u64, signal as u64, 0, 0]);
}

/// Sets every signal to its default, or (`ignore`) every one that can be to be ignored, and
/// unblocks all.
pub(crate) fn reset_signals(ignore: bool) {
    for signal in 1..=64 {
        if ignore && signal == libc::SIGCHLD {
            continue;
        }
        let handler = if ignore { libc::SIG_IGN } else { libc::SIG_DFL };
        // The kernel's `struct sigaction`: handler, flags, restorer, mask. The C library would keep
        // its own signals from us, which posix_spawn(3) lets its children ignore.
        let action = [handler as u64, 0, 0, 0];
        // SAFETY: the two standard dispositions need no code of ours; SIGKILL and SIGSTOP are
        // refused, which is as well.
        unsafe {
            let (action, old) = (action.as_ptr(), 0usize);
            libc::syscall(libc::SYS_rt_sigaction, signal, action, old, 8usize);
        }
    }
    let none = 0u64;
    // SAFETY: the set is a live word of the size that is given.
    unsafe {
        let set = &raw const none;
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, set, 0usize, 8usize);
    }
}

/// The capabilities for choosing tids survive the next execve(2) ("ambient", capabilities(7)),
/// as far as we have them.
pub(crate) fn keep_tid_capabilities() {
    let Ok([effective, permitted, mut inheritable]) = capabilities() else { return };
    for capability in TID_CAPABILITIES {
        inheritable |= permitted & 1 << capability;
    }
    if set_capabilities([effective, permitted, inheritable]).is_err() {
        return;
    }
    for capability in TID_CAPABILITIES {
        let raise = libc::PR_CAP_AMBIENT_RAISE as u64;
        // One that we do not have cannot be raised; then the other serves, or nothing does.
        let arguments = [libc::PR_CAP_AMBIENT as u64, raise, capability.into(), 0];
        let _ = call(libc::SYS_prctl, arguments);
    }
}

/// Whether this process may choose tids in its PID namespace, judged by its capabilities.
pub(crate) fn may_choose_tids() -> bool {
    TID_CAPABILITIES.into_iter().any(has)
}

/// Whether this process may make namespaces without a user namespace of its own around them
/// (`CAP_SYS_ADMIN`).
pub(crate) fn may_make_namespaces() -> bool {
    has(SYS_ADMIN)
}

/// Whether this process may set its groups (`CAP_SETGID`).
pub(crate) fn may_set_groups() -> bool {
    has(SETGID)
}

fn has(capability: u32) -> bool {
    capabilities().is_ok_and(|[effective, ..]| effective & 1 << capability != 0)
}

/// Effective, permitted, inheritable (capget(2)).
fn capabilities() -> io::Result<[u64; 3]> {
    let header = [CAPABILITY_VERSION, 0];
    let mut data = [0u32; 6];
    // SAFETY: version 3 has a header of two words and data of two times three.
    match unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), data.as_mut_ptr()) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok([0, 1, 2].map(|set| u64::from(data[set]) | u64::from(data[set + 3]) << 32)),
    }
}

fn set_capabilities(sets: [u64; 3]) -> io::Result<()> {
    let header = [CAPABILITY_VERSION, 0];
    let data = capability_data(sets);
    // SAFETY: as in `capabilities`; both are only read.
    match unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// The kernel's form of three capability sets (effective, permitted, inheritable).
fn capability_data(sets: [u64; 3]) -> [u32; 6] {
    let [a, b, c] = sets;
    [a as u32, b as u32, c as u32, (a >> 32) as u32, (b >> 32) as u32, (c >> 32) as u32]
}

/// Header and data of capset(2) as bytes, for a remote call: data begins at byte 8.
pub(crate) fn capset_bytes(sets: [u64; 3]) -> Vec<u8> {
    let words = [CAPABILITY_VERSION, 0].into_iter().chain(capability_data(sets));
    words.flat_map(u32::to_le_bytes).collect()
}

/// execve(2) with one argument and no environment; returns only if that failed.
pub(crate) fn execute(program: &CString) -> io::Error {
    let arguments = [program.as_ptr(), ptr::null()];
    let environment = [ptr::null()];
    // SAFETY: three live C strings or null-terminated lists of them.
    unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

/// mount(2) of a new procfs over /proc.
pub(crate) fn mount_proc() -> io::Result<()> {
    let (source, target) = (c"proc", c"/proc");
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    // SAFETY: C strings that are live; propagation is cut first, so that nothing leaks out.
    let result = unsafe {
        let private = libc::MS_REC | libc::MS_PRIVATE;
        libc::mount(ptr::null(), c"/".as_ptr(), ptr::null(), private, ptr::null());
        libc::mount(source.as_ptr(), target.as_ptr(), source.as_ptr(), flags, ptr::null())
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
