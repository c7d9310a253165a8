//! A program that is started beside ours and is nobody's child: a process in between starts it and ends.
//!
//! Ours has threads, locks and handlers that we know nothing of. So nothing of it runs between clone(2) and
//! execve(2): both processes share our memory until then and have stacks of their own, the calling thread
//! waits (`CLONE_VFORK`), all signals are blocked, and no fork handler (pthread_atfork(3)) is called. Neither
//! end sends a signal (SIGCHLD), and the one in between is waited for here.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use memmap2::MmapMut;

/// Bytes of a stack; two are needed.
const STACK: usize = 64 << 10;
/// Sharing memory, with the calling thread waiting, and no signal at the end.
const BESIDE: c_int = libc::CLONE_VM | libc::CLONE_VFORK;

unsafe extern "C" {
    static environ: *const *const c_char;
}

/// What the two processes need to know, and what comes of it.
struct Launch {
    program: *const c_char,
    arguments: *const *const c_char,
    kept: *const c_int,
    kept_len: usize,
    mask: libc::sigset_t,
    stack: *mut c_void,
    /// The program's PID, once it has been made.
    pid: c_int,
    /// Why there is none.
    errno: c_int,
}

/// Starts the program at this path with our environment, our stdin, stdout and stderr, and `kept`
/// descriptors under their numbers; all others are closed. Gives its PID.
pub(crate) fn start(
    program: &CStr,
    arguments: &[CString],
    kept: &[BorrowedFd<'_>],
) -> io::Result<i32> {
    let mut pointers: Vec<*const c_char> = arguments.iter().map(|word| word.as_ptr()).collect();
    pointers.push(ptr::null());
    let kept: Vec<c_int> = kept.iter().map(AsRawFd::as_raw_fd).collect();
    let mut stacks = MmapMut::map_anon(2 * STACK)?;
    let inner: *mut c_void = stacks[..STACK].as_mut_ptr_range().end.cast();
    let outer: *mut c_void = stacks[STACK..].as_mut_ptr_range().end.cast();
    let mut launch = Launch {
        program: program.as_ptr(),
        arguments: pointers.as_ptr(),
        kept: kept.as_ptr(),
        kept_len: kept.len(),
        mask: all_blocked()?,
        stack: inner,
        pid: -1,
        errno: 0,
    };
    let between = {
        let launch: *mut Launch = &raw mut launch;
        // SAFETY: `outer` is the upper end of a stack that lives until this returns, and the child is gone by
        // then (CLONE_VFORK). It runs `between` alone, on `launch`, which nobody else touches meanwhile.
        unsafe { libc::clone(between, outer, BESIDE, launch.cast()) }
    };
    let failed = io::Error::last_os_error();
    // SAFETY: the mask is the one that `all_blocked` was given.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const launch.mask, ptr::null_mut()) };
    if between < 0 {
        return Err(failed);
    }
    // SAFETY: a child of ours; no status is asked for.
    while unsafe { libc::waitpid(between, ptr::null_mut(), libc::__WALL) } < 0
        && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
    {}
    match launch.errno {
        0 => Ok(launch.pid),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Blocks all signals in this thread; gives the mask that it had.
fn all_blocked() -> io::Result<libc::sigset_t> {
    let (mut all, mut before) = (empty_set(), empty_set());
    // SAFETY: both are sets of ours.
    let result = unsafe {
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before)
    };
    if result == 0 { Ok(before) } else { Err(io::Error::from_raw_os_error(result)) }
}

fn empty_set() -> libc::sigset_t {
    // SAFETY: all zeros are a signal set.
    unsafe { std::mem::zeroed() }
}

/// The process in between.
extern "C" fn between(launch: *mut c_void) -> c_int {
    let launch: *mut Launch = launch.cast();
    // SAFETY: `start` has handed us its `launch` and waits until we are gone. The stack is the other one.
    unsafe {
        let pid = libc::clone(begin, (*launch).stack, BESIDE, launch.cast());
        if pid < 0 {
            (*launch).errno = *libc::__errno_location();
        }
        (*launch).pid = pid;
    }
    0
}

/// The program's process, until it is the program.
extern "C" fn begin(launch: *mut c_void) -> c_int {
    let launch: *mut Launch = launch.cast();
    // SAFETY: as in `between`, which waits for us. The descriptors are a table of our own (no CLONE_FILES), so
    // nobody else's are closed. Only system calls are made, which any process may make at any time.
    unsafe {
        close_behind_us();
        for number in 0..(*launch).kept_len {
            libc::fcntl(*(*launch).kept.add(number), libc::F_SETFD, 0);
        }
        forget_handlers();
        libc::sigprocmask(libc::SIG_SETMASK, &raw const (*launch).mask, ptr::null_mut());
        libc::execve((*launch).program, (*launch).arguments, environ);
        (*launch).errno = *libc::__errno_location();
        libc::_exit(127)
    }
}

/// Gives every signal that the program handles its usual effect: its handlers must not run here.
fn forget_handlers() {
    for signal in 1..=64 {
        // SAFETY: a table of this process' own (no CLONE_SIGHAND); zeros are a valid sigaction, and mean SIG_DFL.
        unsafe {
            let (mut now, usual) = (std::mem::zeroed::<libc::sigaction>(), std::mem::zeroed());
            let known = libc::sigaction(signal, ptr::null(), &raw mut now) == 0;
            if known && now.sa_sigaction != libc::SIG_IGN && now.sa_sigaction != libc::SIG_DFL {
                libc::sigaction(signal, &raw const usual, ptr::null_mut());
            }
        }
    }
}

/// Has all descriptors but the first three closed by execve(2).
fn close_behind_us() {
    let flags = libc::CLOSE_RANGE_CLOEXEC as c_int;
    // SAFETY: numbers only; the descriptor table is this process' own.
    unsafe {
        if libc::syscall(libc::SYS_close_range, 3, u32::MAX, flags) == 0 {
            return;
        }
        // Before Linux 5.11.
        let end = libc::sysconf(libc::_SC_OPEN_MAX).clamp(64, 1 << 16) as c_int;
        for fd in 3..end {
            libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsFd;

    use super::*;

    fn words(words: &[&str]) -> Vec<CString> {
        words.iter().map(|word| CString::new(*word).unwrap()).collect()
    }

    /// It is no child of ours, has its arguments, and no descriptors but those that are kept.
    #[test]
    fn nobodys_child() {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let script =
            format!("ls /proc/$$/fd | wc -l >&{0}; echo \"$0 $1 $PPID\" >&{0}", write.as_raw_fd());
        let arguments = words(&["sh", "-c", &script, "zero", "one"]);
        let pid = start(c"/bin/sh", &arguments, &[write.as_fd()]).unwrap();
        drop(write);
        let mut said = String::new();
        std::fs::File::from(read).read_to_string(&mut said).unwrap();
        let said: Vec<&str> = said.split_whitespace().collect();
        assert_eq!(said[0], "4", "{said:?}");
        assert_eq!(said[1..3], ["zero", "one"]);
        assert_ne!(said[3], std::process::id().to_string());
        // SAFETY: no status is asked for.
        let waited = unsafe { libc::waitpid(pid, ptr::null_mut(), libc::__WALL) };
        assert_eq!(waited, -1);
    }

    #[test]
    fn what_is_not_there() {
        let error = start(c"/nowhere/at all", &words(&["x"]), &[]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
