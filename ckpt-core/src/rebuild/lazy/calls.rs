//! What a system call touches of the memory of whoever makes it, as far as that is known for sure. Of what
//! is not listed here everything is assumed.

use libc::{
    FUTEX_CMP_REQUEUE, FUTEX_REQUEUE, FUTEX_WAIT, FUTEX_WAIT_BITSET, FUTEX_WAKE, FUTEX_WAKE_BITSET,
    FUTEX_WAKE_OP, MAP_FIXED, MAP_FIXED_NOREPLACE,
};

use crate::os::ptrace::Call;

/// What is done to memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// So many bytes from an address on are read or written.
    Touch(u64, u64),
    /// A path is read there.
    Path(u64),
    /// So many `struct iovec` are read there, and what they tell of is read or written.
    Vectors(u64, u64),
    /// So many bytes from an address on are mapped, unmapped or protected otherwise.
    Remap(u64, u64),
    /// The program break is moved there.
    Break(u64),
}

/// One use by a call of a fixed kind; the first number is the argument that is the address.
#[derive(Clone, Copy)]
enum Rule {
    /// So many bytes.
    Bytes(usize, u64),
    /// As many as another argument says.
    Buffer(usize, usize),
    /// As many items of this size as another argument says.
    Items(usize, usize, u64),
    Path(usize),
    Vectors(usize, usize),
    Remap(usize, usize),
}

use Rule::{Buffer, Bytes, Items, Path, Remap, Vectors};

/// Bytes of `struct timespec`, `struct stat`, `struct rusage`, `struct epoll_event`.
const TIME: u64 = 16;
const STAT: u64 = 144;
const RUSAGE: u64 = 144;
const EPOLL_EVENT: u64 = 12;
/// At the stack pointer rt_sigreturn(2) finds what the kernel has put there: at most an XSAVE area of
/// 11 008 bytes and some more.
const FRAME: u64 = 16 << 10;

/// Calls whose arguments are all that there is to know.
const CALLS: &[(i64, &[Rule])] = &[
    (libc::SYS_read, &[Buffer(1, 2)]),
    (libc::SYS_write, &[Buffer(1, 2)]),
    (libc::SYS_pread64, &[Buffer(1, 2)]),
    (libc::SYS_pwrite64, &[Buffer(1, 2)]),
    (libc::SYS_readv, &[Vectors(1, 2)]),
    (libc::SYS_writev, &[Vectors(1, 2)]),
    (libc::SYS_lseek, &[]),
    (libc::SYS_close, &[]),
    (libc::SYS_dup, &[]),
    (libc::SYS_dup2, &[]),
    (libc::SYS_dup3, &[]),
    (libc::SYS_pipe2, &[Bytes(0, 8)]),
    (libc::SYS_fsync, &[]),
    (libc::SYS_fdatasync, &[]),
    (libc::SYS_ftruncate, &[]),
    (libc::SYS_fallocate, &[]),
    (libc::SYS_flock, &[]),
    (libc::SYS_fstat, &[Bytes(1, STAT)]),
    (libc::SYS_stat, &[Path(0), Bytes(1, STAT)]),
    (libc::SYS_lstat, &[Path(0), Bytes(1, STAT)]),
    (libc::SYS_newfstatat, &[Path(1), Bytes(2, STAT)]),
    (libc::SYS_statx, &[Path(1), Bytes(4, 256)]),
    (libc::SYS_open, &[Path(0)]),
    (libc::SYS_creat, &[Path(0)]),
    (libc::SYS_access, &[Path(0)]),
    (libc::SYS_faccessat, &[Path(1)]),
    (libc::SYS_faccessat2, &[Path(1)]),
    (libc::SYS_readlink, &[Path(0), Buffer(1, 2)]),
    (libc::SYS_readlinkat, &[Path(1), Buffer(2, 3)]),
    (libc::SYS_unlink, &[Path(0)]),
    (libc::SYS_unlinkat, &[Path(1)]),
    (libc::SYS_rename, &[Path(0), Path(1)]),
    (libc::SYS_renameat, &[Path(1), Path(3)]),
    (libc::SYS_renameat2, &[Path(1), Path(3)]),
    (libc::SYS_mkdir, &[Path(0)]),
    (libc::SYS_mkdirat, &[Path(1)]),
    (libc::SYS_rmdir, &[Path(0)]),
    (libc::SYS_chdir, &[Path(0)]),
    (libc::SYS_getcwd, &[Buffer(0, 1)]),
    (libc::SYS_getdents64, &[Buffer(1, 2)]),
    (libc::SYS_umask, &[]),
    (libc::SYS_munmap, &[Remap(0, 1)]),
    (libc::SYS_mprotect, &[Remap(0, 1)]),
    (libc::SYS_madvise, &[Remap(0, 1)]),
    (libc::SYS_getpid, &[]),
    (libc::SYS_gettid, &[]),
    (libc::SYS_getppid, &[]),
    (libc::SYS_getpgrp, &[]),
    (libc::SYS_getuid, &[]),
    (libc::SYS_geteuid, &[]),
    (libc::SYS_getgid, &[]),
    (libc::SYS_getegid, &[]),
    (libc::SYS_uname, &[Bytes(0, 6 * 65)]),
    (libc::SYS_sysinfo, &[Bytes(0, 112)]),
    (libc::SYS_getrusage, &[Bytes(1, RUSAGE)]),
    (libc::SYS_times, &[Bytes(0, 32)]),
    (libc::SYS_getrlimit, &[Bytes(1, 16)]),
    (libc::SYS_prlimit64, &[Bytes(2, 16), Bytes(3, 16)]),
    (libc::SYS_getrandom, &[Buffer(0, 1)]),
    (libc::SYS_time, &[Bytes(0, 8)]),
    (libc::SYS_gettimeofday, &[Bytes(0, TIME), Bytes(1, 8)]),
    (libc::SYS_clock_gettime, &[Bytes(1, TIME)]),
    (libc::SYS_clock_getres, &[Bytes(1, TIME)]),
    (libc::SYS_nanosleep, &[Bytes(0, TIME), Bytes(1, TIME)]),
    (libc::SYS_clock_nanosleep, &[Bytes(2, TIME), Bytes(3, TIME)]),
    // What it goes on with has been filled before the job ran.
    (libc::SYS_restart_syscall, &[]),
    (libc::SYS_pause, &[]),
    (libc::SYS_alarm, &[]),
    (libc::SYS_sched_yield, &[]),
    (libc::SYS_getcpu, &[Bytes(0, 4), Bytes(1, 4)]),
    (libc::SYS_sched_getaffinity, &[Buffer(2, 1)]),
    (libc::SYS_sched_setaffinity, &[Buffer(2, 1)]),
    (libc::SYS_membarrier, &[]),
    (libc::SYS_kill, &[]),
    (libc::SYS_tgkill, &[]),
    (libc::SYS_rt_sigprocmask, &[Bytes(1, 8), Bytes(2, 8)]),
    (libc::SYS_rt_sigaction, &[Bytes(1, 32), Bytes(2, 32)]),
    (libc::SYS_rt_sigpending, &[Bytes(0, 8)]),
    (libc::SYS_rt_sigsuspend, &[Bytes(0, 8)]),
    (libc::SYS_rt_sigtimedwait, &[Bytes(0, 8), Bytes(1, 128), Bytes(2, TIME)]),
    (libc::SYS_wait4, &[Bytes(1, 4), Bytes(3, RUSAGE)]),
    (libc::SYS_waitid, &[Bytes(2, 128), Bytes(4, RUSAGE)]),
    (libc::SYS_poll, &[Items(0, 1, 8)]),
    (libc::SYS_ppoll, &[Items(0, 1, 8), Bytes(2, TIME), Bytes(3, 8)]),
    (libc::SYS_epoll_wait, &[Items(1, 2, EPOLL_EVENT)]),
    (libc::SYS_epoll_pwait, &[Items(1, 2, EPOLL_EVENT), Bytes(4, 8)]),
    (libc::SYS_epoll_ctl, &[Bytes(3, EPOLL_EVENT)]),
    (libc::SYS_eventfd2, &[]),
    (libc::SYS_sendto, &[Buffer(1, 2), Bytes(4, 128)]),
    (libc::SYS_recvfrom, &[Buffer(1, 2), Bytes(4, 128), Bytes(5, 4)]),
];

/// All that a call does to the memory; `None` if that is not known.
pub(super) fn uses(call: &Call) -> Option<Vec<Use>> {
    let [first, second, third, fourth, fifth, _] = call.arguments;
    let command = second as u32;
    match call.number {
        libc::SYS_futex => {
            let timed = matches!(futex(second), FUTEX_WAIT | FUTEX_WAIT_BITSET);
            let touched = Use::Touch(first, 4);
            match futex(second) {
                _ if timed => Some(vec![touched, Use::Touch(fourth, TIME)]),
                FUTEX_WAKE | FUTEX_WAKE_BITSET => Some(vec![touched]),
                FUTEX_REQUEUE | FUTEX_CMP_REQUEUE | FUTEX_WAKE_OP => {
                    Some(vec![touched, Use::Touch(fifth, 4)])
                }
                _ => None,
            }
        }
        libc::SYS_mmap if fourth as i32 & MAP_FIXED_NOREPLACE == MAP_FIXED_NOREPLACE => {
            Some(vec![])
        }
        libc::SYS_mmap if fourth as i32 & MAP_FIXED != 0 => Some(vec![Use::Remap(first, second)]),
        libc::SYS_mmap => Some(vec![]),
        // Relative to another folder, it may be a process'.
        libc::SYS_openat if first as i32 != libc::AT_FDCWD => None,
        libc::SYS_openat => Some(vec![Use::Path(second)]),
        libc::SYS_brk if first == 0 => Some(vec![]),
        libc::SYS_brk => Some(vec![Use::Break(first)]),
        libc::SYS_ioctl => match libc::Ioctl::from(command) {
            libc::TCGETS => Some(vec![Use::Touch(third, 64)]),
            libc::TIOCGWINSZ | libc::FIONREAD | libc::FIONBIO => Some(vec![Use::Touch(third, 8)]),
            libc::FIOCLEX | libc::FIONCLEX => Some(vec![]),
            _ => None,
        },
        libc::SYS_fcntl => match command as i32 {
            libc::F_DUPFD
            | libc::F_DUPFD_CLOEXEC
            | libc::F_GETFD
            | libc::F_SETFD
            | libc::F_GETFL
            | libc::F_SETFL => Some(vec![]),
            libc::F_GETLK | libc::F_SETLK | libc::F_SETLKW => Some(vec![Use::Touch(third, 32)]),
            _ => None,
        },
        libc::SYS_select => {
            let set = first.div_ceil(64) * 8;
            let sets = [second, third, fourth].map(|at| Use::Touch(at, set));
            Some(sets.into_iter().chain([Use::Touch(fifth, TIME)]).collect())
        }
        libc::SYS_rt_sigreturn => Some(vec![Use::Touch(call.stack.saturating_sub(8), FRAME)]),
        number => {
            let (_, rules) = CALLS.iter().find(|(known, _)| *known == number)?;
            Some(rules.iter().map(|rule| rule.of(&call.arguments)).collect())
        }
    }
    .map(|mut uses| {
        uses.retain(|it| !matches!(it, Use::Touch(0, _) | Use::Path(0) | Use::Vectors(0, _)));
        uses
    })
}

/// A futex operation without its flags.
fn futex(operation: u64) -> i32 {
    operation as i32 & !(libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME)
}

impl Rule {
    fn of(self, arguments: &[u64; 6]) -> Use {
        let value = |index: usize| arguments[index];
        match self {
            Bytes(at, length) => Use::Touch(value(at), length),
            Buffer(at, length) => Use::Touch(value(at), value(length)),
            // The kernel takes the count for an `int` or `unsigned int`.
            Items(at, count, size) => {
                Use::Touch(value(at), u64::from(value(count) as u32).saturating_mul(size))
            }
            Path(at) => Use::Path(value(at)),
            Vectors(at, count) => Use::Vectors(value(at), value(count)),
            Remap(at, length) => Use::Remap(value(at), value(length)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(number: i64, arguments: [u64; 6]) -> Option<Vec<Use>> {
        uses(&Call { number, arguments, stack: 0x7000 })
    }

    #[test]
    fn what_is_known() {
        let read = call(libc::SYS_read, [3, 0x1000, 100, 0, 0, 0]);
        assert_eq!(read, Some(vec![Use::Touch(0x1000, 100)]));
        let sleep = call(libc::SYS_nanosleep, [0x1000, 0, 0, 0, 0, 0]);
        assert_eq!(sleep, Some(vec![Use::Touch(0x1000, 16)]), "nobody wants the rest");
        let wait = (libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG) as u64;
        let wait = call(libc::SYS_futex, [0x1000, wait, 2, 0x2000, 0, 0]);
        assert_eq!(wait, Some(vec![Use::Touch(0x1000, 4), Use::Touch(0x2000, 16)]));
        let poll = call(libc::SYS_poll, [0x1000, 2, u64::MAX, 0, 0, 0]);
        assert_eq!(poll, Some(vec![Use::Touch(0x1000, 16)]));
        assert_eq!(call(libc::SYS_getpid, [1; 6]), Some(vec![]));
    }

    #[test]
    fn what_is_mapped_otherwise() {
        let fixed = (MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
        let anywhere = fixed & !(MAP_FIXED as u64);
        assert_eq!(call(libc::SYS_mmap, [0x1000, 50, 3, anywhere, 0, 0]), Some(vec![]));
        let over = call(libc::SYS_mmap, [0x1000, 50, 3, fixed, 0, 0]);
        assert_eq!(over, Some(vec![Use::Remap(0x1000, 50)]));
        assert_eq!(call(libc::SYS_brk, [0x1000; 6]), Some(vec![Use::Break(0x1000)]));
    }

    #[test]
    fn whatever_copies_memory_waits() {
        let all = [
            libc::SYS_fork,
            libc::SYS_vfork,
            libc::SYS_clone,
            libc::SYS_clone3,
            libc::SYS_execve,
            libc::SYS_mremap,
            libc::SYS_exit,
            libc::SYS_exit_group,
            libc::SYS_process_vm_readv,
            libc::SYS_ptrace,
            libc::SYS_shmat,
            libc::SYS_io_uring_enter,
            libc::SYS_vmsplice,
            libc::SYS_mlockall,
            libc::SYS_userfaultfd,
        ];
        all.iter().for_each(|&number| assert_eq!(call(number, [1; 6]), None, "{number}"));
        let lock_pi = libc::FUTEX_LOCK_PI as u64;
        assert_eq!(call(libc::SYS_futex, [0x1000, lock_pi, 0, 0, 0, 0]), None);
    }
}
