//! Process numbers where none can be chosen: the kernel hands them out in turn, so one that is free
//! comes by, once in a turn through all.
//!
//! A turn may be four million numbers long (`kernel.pid_max`). Most are therefore used up by a
//! clone(2) that fails *after* it was given a number: no process is made, scheduled and waited for.
//! Which number was given last is to be read in `/proc/loadavg`; the last few before the wanted one
//! are gone one by one.

use std::fs;
use std::io;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use libc::{c_int, pid_t};

use super::spawn::{self, Fork};

/// Numbers below this one are handed out once, and not again in later turns (`RESERVED_PIDS`).
pub(crate) const RESERVED: pid_t = 300;
/// How long the search for one number may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// In a gap that is no longer, the numbers in use are counted.
const COUNTED: i64 = 8192;
/// From so many free numbers before the wanted one on it goes on one by one: others fork, too.
const NEAR: i64 = 25;
/// Numbers that are used up before a look at the time, and at what others did.
const BATCH: i64 = 32_768;

/// A number that is chosen may still belong to a task that has ended: since Linux 6.15 the kernel lets go of
/// it after everybody else has seen the task go.
pub(crate) struct Leaving(Instant);

impl Leaving {
    /// Longer than a busy machine keeps a task from running.
    const PATIENCE: Duration = Duration::from_secs(2);

    pub(crate) fn new() -> Self {
        Self(Instant::now() + Self::PATIENCE)
    }

    /// Whether a new task was refused its number and should be tried again: it waits a little then.
    pub(crate) fn may_go(&self, errno: i32) -> bool {
        let may = errno == libc::EEXIST && Instant::now() < self.0;
        if may {
            std::thread::sleep(Duration::from_micros(200));
        }
        may
    }
}

/// One more than the highest number there is.
pub(crate) fn pid_max() -> pid_t {
    let text = fs::read_to_string("/proc/sys/kernel/pid_max").unwrap_or_default();
    text.trim().parse().unwrap_or(4 << 20)
}

/// Whether a task or a process group has this number.
pub(crate) fn in_use(number: pid_t) -> bool {
    // procfs may hide other users' processes; signal 0 tells of them all the same.
    let there = |number: pid_t| {
        // SAFETY: signal 0 is sent to nobody.
        let result = unsafe { libc::kill(number, 0) };
        result == 0 || io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)
    };
    there(number) || number > 1 && there(-number)
}

/// How many numbers are handed out between `last` and `wanted` if none of them is in use.
pub(crate) fn gap(last: pid_t, wanted: pid_t, max: pid_t) -> i64 {
    let (last, wanted, max) = (i64::from(last), i64::from(wanted), i64::from(max));
    match wanted - last - 1 {
        ahead @ 0.. => ahead,
        _ => (max - last - 1).max(0) + (wanted - i64::from(RESERVED)).max(0),
    }
}

/// Forks until the number `wanted` comes by. `ETIMEDOUT` when it does not, `ERANGE` when it never
/// can.
pub(crate) fn fork_until(wanted: pid_t) -> io::Result<Fork> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        steer_to(wanted, deadline)?;
        match spawn::fork(0, None)? {
            // The kernel itself is asked: glibc's idea of our number is the parent's.
            Fork::Child if spawn::own_pid() == wanted => return Ok(Fork::Child),
            Fork::Child => spawn::exit(0),
            Fork::Parent(pid) if pid == wanted => return Ok(Fork::Parent(pid)),
            Fork::Parent(pid) => {
                tracing::debug!(pid, wanted, "another number came");
                spawn::reap(pid)?;
            }
        }
    }
}

/// Forks, but for none of the numbers that somebody else is to get.
pub(crate) fn fork_beside(taken: impl Fn(pid_t) -> bool) -> io::Result<Fork> {
    loop {
        match spawn::fork(0, None)? {
            Fork::Child if taken(spawn::own_pid()) => spawn::exit(0),
            Fork::Parent(pid) if taken(pid) => drop(spawn::reap(pid)?),
            fork => return Ok(fork),
        }
    }
}

/// Uses up numbers until the next one should be `wanted`.
pub(crate) fn steer_to(wanted: pid_t, deadline: Instant) -> io::Result<()> {
    let max = pid_max();
    let mut quick = true;
    loop {
        let last = last()?;
        let never = wanted >= max || wanted < RESERVED && last >= wanted;
        if never {
            return Err(io::Error::from_raw_os_error(libc::ERANGE));
        }
        let gap = gap(last, wanted, max);
        // Around the end of a turn nothing is counted: it is soon over.
        let counted = gap <= COUNTED && wanted > last;
        let free = match counted {
            true => (last + 1..wanted).filter(|&number| !in_use(number)).count() as i64,
            false => gap,
        };
        // Numbers in use are passed over.
        if counted && free == 0 {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
        }
        tracing::trace!(last, wanted, gap, free, "on the way to a number");
        let many = match free {
            NEAR.. => (free * 7 / 8).min(BATCH),
            // To ask is to use one up.
            _ if teller() == Teller::Ourselves => 0,
            _ => 1,
        };
        quick = quick && (many == 0 || advance(many, max)?);
        (0..if quick { 0 } else { many.min(256) }).try_for_each(|_| burn().map(drop))?;
    }
}

/// A number that comes again after so many others is nobody's surprise: with the kernel's usual
/// `kernel.pid_max` on a small machine it could not be later.
const SOON: i64 = 32_768;

/// Lets the numbers after `last` be the next ones in a PID namespace that is new and ours.
pub(crate) fn begin_after(last: pid_t) {
    // pid_namespaces(7). In a container that may be read-only.
    if fs::write("/proc/sys/kernel/ns_last_pid", last.to_string()).is_err()
        && let Err(error) = go_on_after(last)
    {
        tracing::info!(%error, "process numbers begin at 1 again");
    }
}

/// Uses up numbers until `last` has come by, if it would come soon.
pub(crate) fn go_on_after(last: pid_t) -> io::Result<()> {
    let max = pid_max();
    let soon = SOON.min(i64::from(max - RESERVED) / 2);
    let mut quick = true;
    if last >= max {
        return Ok(());
    }
    loop {
        // Once it has come by, it is a whole turn away.
        let ahead = gap(self::last()?, last, max) + 1;
        if ahead > soon {
            return Ok(());
        }
        quick = quick && advance(ahead, max)?;
        if !quick {
            burn()?;
        }
    }
}

/// Uses up so many numbers the quick way; `false` if that does not work here.
fn advance(many: i64, max: pid_t) -> io::Result<bool> {
    let before = last()?;
    let quickly = Quick::new()?.burn(many);
    let moved = i64::from(last()?) - i64::from(before);
    let turn = i64::from(max - RESERVED).max(1);
    Ok(quickly && moved.rem_euclid(turn) >= many.min(turn / 2))
}

/// How long one number takes here, in a walk through many.
pub(crate) fn pace() -> io::Result<Duration> {
    const SAMPLE: i64 = 256;
    let max = pid_max();
    let begun = Instant::now();
    if !advance(SAMPLE, max)? {
        let begun = Instant::now();
        (0..SAMPLE / 4).try_for_each(|_| burn().map(drop))?;
        return Ok(begun.elapsed() / (SAMPLE / 4) as u32);
    }
    Ok(begun.elapsed() / SAMPLE as u32)
}

/// Makes a process that ends at once, and returns its number.
fn burn() -> io::Result<pid_t> {
    let pid = clone_and_exit((libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD) as u64, 0)?;
    spawn::reap(pid)?;
    Ok(pid)
}

/// Who says which number was given last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Teller {
    /// `/proc/loadavg`.
    Kernel,
    /// A new process, with the next one: a container may have a `/proc/loadavg` of its own.
    Ourselves,
}

fn teller() -> Teller {
    static IS: OnceLock<Teller> = OnceLock::new();
    // Once might be chance.
    let is_true = || (0..2).all(|_| tells_truly());
    *IS.get_or_init(|| if is_true() { Teller::Kernel } else { Teller::Ourselves })
}

/// Whether a new number comes between what is told before and what is told then. Others may use up
/// thousands meanwhile.
fn tells_truly() -> bool {
    let (Some(before), Ok(number), Some(after)) = (told(), burn(), told()) else { return false };
    let max = pid_max();
    let since = gap(before, number, max);
    let until = if number == after { 0 } else { gap(number, after, max) };
    since + until < i64::from(max / 2)
}

/// The number that was given last in our PID namespace.
pub(crate) fn last() -> io::Result<pid_t> {
    match teller() {
        Teller::Kernel => told().map_or_else(burn, Ok),
        Teller::Ourselves => burn(),
    }
}

/// What `/proc/loadavg` says: "… 1/88 4711".
fn told() -> Option<pid_t> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    text.split_ascii_whitespace().nth(4)?.parse().ok()
}

/// A state in which clone(2) fails when it has a number: it wants a descriptor for a pidfd, and none
/// is allowed; or it gets one, at half the speed, and no address to write its number to.
struct Quick {
    /// The limit as it was. A second thread would find no descriptors either, nor could it poll(2).
    before: Option<libc::rlimit>,
    flags: c_int,
}

impl Quick {
    fn new() -> io::Result<Self> {
        let before = if has_threads() { None } else { Some(allow_no_descriptors()?) };
        // As little as possible is copied.
        let flags = libc::CLONE_VM
            | libc::CLONE_VFORK
            | libc::CLONE_FS
            | libc::CLONE_FILES
            | libc::CLONE_SIGHAND
            | libc::CLONE_SYSVSEM
            | libc::CLONE_IO
            | libc::CLONE_PIDFD;
        Ok(Self { before, flags: flags | libc::CLONE_THREAD })
    }

    /// Uses up so many numbers; `false` if clone(2) does not fail as it should.
    fn burn(&mut self, many: i64) -> bool {
        const NOWHERE: u64 = -4096i64 as u64;
        for _ in 0..many {
            match clone_and_exit(self.flags as u64, NOWHERE) {
                Err(e) if matches!(e.raw_os_error(), Some(libc::EMFILE | libc::EFAULT)) => {}
                // Before Linux 6.9 no thread could have a pidfd.
                Err(e)
                    if e.raw_os_error() == Some(libc::EINVAL)
                        && self.flags & libc::CLONE_THREAD != 0 =>
                {
                    self.flags &= !libc::CLONE_THREAD;
                }
                Ok(pid) => {
                    // A thread is nobody's to wait for.
                    let _ = spawn::reap(pid);
                    return false;
                }
                Err(_) => return false,
            }
        }
        true
    }
}

impl Drop for Quick {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            // SAFETY: the kernel reads one live structure.
            unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const before) };
        }
    }
}

/// Whether this process may have a second thread.
fn has_threads() -> bool {
    fs::read_dir("/proc/self/task").map_or(true, |tasks| tasks.count() != 1)
}

/// Gives the limit as it was (setrlimit(2)).
fn allow_no_descriptors() -> io::Result<libc::rlimit> {
    let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel fills one live structure, and reads another.
    let result = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut before);
        let none = libc::rlimit { rlim_cur: 0, ..before };
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const none)
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(before) }
}

/// clone(2) of a task that ends at once; the flags hold `CLONE_VM` and `CLONE_VFORK`.
fn clone_and_exit(flags: u64, parent_tid: u64) -> io::Result<pid_t> {
    let pid: i64;
    // SAFETY: the child shares our memory and stack while we wait for it (CLONE_VFORK); it makes
    // one system call, exit, and touches neither. `parent_tid` is 0 without a flag that uses it, or
    // no address of ours. rcx and r11 are named as lost, the stack is not used.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor edi, edi",
            "mov eax, 60",
            "syscall",
            "2:",
            inlateout("rax") libc::SYS_clone => pid,
            inlateout("rdi") flags => _,
            in("rsi") 0, in("rdx") parent_tid, in("r10") 0, in("r8") 0,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    if pid < 0 {
        return Err(io::Error::from_raw_os_error(-pid as i32));
    }
    Ok(pid as pid_t)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use rustix::event::{PollFd, PollFlags};

    use super::*;

    #[test]
    fn gaps() {
        assert_eq!(gap(1000, 1001, 32768), 0);
        assert_eq!(gap(1000, 1005, 32768), 4);
        assert_eq!(gap(32767, 300, 32768), 0);
        assert_eq!(gap(32000, 1000, 32768), 767 + 700);
        assert_eq!(gap(1000, 1000, 32768), 31767 + 700);
    }

    #[test]
    fn burnt_numbers_are_reaped() {
        let first = burn().unwrap();
        assert!(first > 0 && burn().unwrap() != first);
        assert_eq!(spawn::reap(first).unwrap_err().raw_os_error(), Some(libc::ECHILD));
    }

    /// A number that nobody is seen to have, but that is not free: that of a session without its leader.
    #[test]
    fn who_leaves_is_waited_for() {
        if !spawn::may_choose_tids() || spawn::become_subreaper().is_err() {
            return;
        }
        let (told, tell) = rustix::pipe::pipe().unwrap();
        let (over, end) = rustix::pipe::pipe().unwrap();
        let number = match spawn::fork(0, None).unwrap() {
            Fork::Child => {
                let _ = spawn::new_session();
                if let Ok(Fork::Child) = spawn::fork(0, None) {
                    drop(end);
                    let _ = spawn::join_group(0);
                    let _ = rustix::io::write(&tell, &spawn::own_pid().to_ne_bytes());
                    let _ = rustix::io::read(&over, &mut [0]);
                }
                spawn::exit(0)
            }
            Fork::Parent(pid) => pid,
        };
        spawn::reap(number).unwrap();
        let mut member = [0; 4];
        assert_eq!(rustix::io::read(&told, &mut member), Ok(4));
        assert!(!in_use(number));
        let (mut end, mut refused) = (Some(end), 0);
        let leaving = Leaving::new();
        let made = loop {
            match spawn::fork(0, Some(number)) {
                Ok(Fork::Child) => spawn::exit(0),
                Err(error) if leaving.may_go(error.raw_os_error().unwrap()) => refused += 1,
                made => break made,
            }
            if end.take().is_some() {
                spawn::reap(pid_t::from_ne_bytes(member)).unwrap();
            }
        };
        assert_eq!(made.unwrap(), Fork::Parent(number));
        spawn::reap(number).unwrap();
        assert!(refused > 0 && !leaving.may_go(libc::EPERM));
    }

    #[test]
    fn other_threads_are_not_disturbed() {
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|threads| {
            let other = threads.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let fd = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?;
                    let mut fds = [PollFd::new(&fd, PollFlags::OUT)];
                    rustix::event::poll(&mut fds, None)?;
                }
                Ok::<_, rustix::io::Errno>(())
            });
            let before = last().unwrap();
            for _ in 0..20 {
                assert!(advance(64, pid_max()).unwrap());
            }
            assert!(gap(before, last().unwrap(), pid_max()) >= 20 * 64 - 1);
            over.store(true, Ordering::Relaxed);
            assert_eq!(other.join().unwrap(), Ok(()));
        });
    }

    #[test]
    fn what_is_in_use() {
        assert!(in_use(std::process::id() as i32) && in_use(1));
        assert!(!in_use(pid_max() + 1));
    }
}
