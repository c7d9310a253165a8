//! System calls that stand interrupted at a freeze.
//!
//! Most the kernel begins again by itself when the task goes on. Two groups need help: calls with
//! a relative time limit, whose rest only the kernel knows (`ERESTART_RESTARTBLOCK`,
//! restart_syscall(2)), and calls that report `EINTR` whenever a tracer stops them.

use std::collections::HashMap;

use super::bytes_of;
use super::task::Task;
use crate::error::Result;
use crate::os::mem::Memory;
use crate::os::remote::Remote;
use crate::os::tracee::Stopped;
use crate::os::{clock, proc, ptrace, sched};

/// `ERESTART_RESTARTBLOCK` of linux/errno.h.
const RESTART_BLOCK: i64 = 516;
/// A task that was let go stands in its call again after this time, nanoseconds.
const SETTLED: u64 = 50_000_000;
/// A call without a time limit.
const FOREVER: u64 = u64::MAX;

/// A call that goes on by restart_syscall(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Interrupted {
    /// The call's number. Once begun again, the registers show that of restart_syscall only.
    pub number: i64,
    /// Time left, nanoseconds; `u64::MAX` for no limit.
    pub remaining: u64,
}

/// Calls known to stand, by tid as seen from here: what the registers no longer tell at the next
/// freeze.
#[derive(Debug, Clone, Default)]
pub(crate) struct Standing {
    calls: HashMap<i32, Known>,
    /// When the last freeze or rebuild let the tasks go, on our monotonic clock, nanoseconds.
    released: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    number: i64,
    /// Where the call was made, and with which arguments.
    place: [u64; 6],
    /// End on our monotonic clock, nanoseconds.
    end: u64,
}

/// When and where a task ran last, noted while it runs or sleeps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Seen {
    ran: f64,
    switches: u64,
    cpu: i32,
}

impl Seen {
    /// Looks at a task; `None` where the kernel does not show it (`CONFIG_SCHED_DEBUG`).
    pub(crate) fn look(pid: i32, tid: i32) -> Option<Self> {
        let text = proc::read(pid, &format!("task/{tid}/sched")).ok()?;
        Self::in_words(&String::from_utf8_lossy(&text), proc::stat(tid).ok()?.processor?)
    }

    fn in_words(text: &str, cpu: i32) -> Option<Self> {
        let field = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            line.rsplit(':').next()?.trim().parse::<f64>().ok()
        };
        // A sleeper that was moved to another CPU has not run there: it shows zero.
        let ran = field("se.exec_start").filter(|ran| *ran > 0.0)?;
        Some(Self { ran, switches: field("nr_switches")? as u64, cpu })
    }

    /// How long the task, which now stands frozen, has slept, nanoseconds: zero unless it is sure
    /// that it slept all the time since it was seen. Each CPU has a scheduler clock of its own, so
    /// the time there is read from this very thread, once it has been moved there.
    fn slept(self, pid: i32, tid: i32) -> u64 {
        let Some(now) = Self::look(pid, tid) else { return 0 };
        // One switch more is the freeze itself.
        if now.switches != self.switches + 1 {
            return 0;
        }
        let own = std::process::id() as i32;
        let read = || Self::look(own, rustix::thread::gettid().as_raw_nonzero().get());
        match sched::on_cpu(self.cpu as usize, read) {
            Ok(Some(here)) if here.cpu == self.cpu => ((here.ran - self.ran).max(0.0) * 1e6) as u64,
            _ => 0,
        }
    }
}

fn place(registers: &libc::user_regs_struct) -> [u64; 6] {
    let r = registers;
    [r.rip, r.rsp, r.rdi, r.rsi, r.rdx, r.r10]
}

impl Interrupted {
    /// The call in which a stopped task stands, if it has a time limit. `before` is what was seen
    /// of the task shortly before the freeze, `cut_short` what [`undo_interruption`] said of it.
    pub(crate) fn capture(
        pid: i32,
        stopped: &Stopped,
        memory: &Memory,
        (before, cut_short): (Option<Seen>, Option<i64>),
        standing: &mut Standing,
    ) -> Result<Option<Self>> {
        if let Some(number) = cut_short {
            return keep_limit(pid, stopped, number, memory, before, standing);
        }
        let registers = stopped.registers()?;
        let tid = stopped.tid();
        if registers.rax as i64 != -RESTART_BLOCK {
            standing.calls.remove(&tid);
            return Ok(None);
        }
        let now = clock::monotonic();
        let place = place(&registers);
        let known = standing.calls.get(&tid).filter(|known| known.place == place);
        let found = match (registers.orig_rax as i64, known) {
            // An absolute time: the call is simply begun again.
            (libc::SYS_futex | libc::SYS_restart_syscall, _) if waits_absolutely(&registers) => {
                Some(Self { number: libc::SYS_futex, remaining: FOREVER })
            }
            (libc::SYS_restart_syscall, Some(known)) => {
                let remaining =
                    if known.end == FOREVER { FOREVER } else { known.end.saturating_sub(now) };
                Some(Self { number: known.number, remaining })
            }
            (libc::SYS_restart_syscall, None) => number_in_code(registers.rip, memory)
                .and_then(|number| Self::at_most(number, &registers, memory)),
            (number, _) => {
                let whole = Self::at_most(number, &registers, memory);
                let slept = before.map_or(0, |seen| seen.slept(pid, tid));
                whole.map(|call| call.less(&registers, memory, slept))
            }
        };
        if let Some(call) = found {
            standing.note(tid, place, call, now);
        }
        Ok(found)
    }

    /// The call with its full time.
    fn at_most(number: i64, registers: &libc::user_regs_struct, memory: &Memory) -> Option<Self> {
        let remaining = match number {
            libc::SYS_nanosleep => timespec(memory, registers.rdi)?,
            libc::SYS_clock_nanosleep => timespec(memory, registers.rdx)?,
            libc::SYS_futex => timespec(memory, registers.r10)?,
            libc::SYS_poll => match registers.rdx as i32 {
                ms @ 0.. => ms as u64 * 1_000_000,
                _ => FOREVER,
            },
            _ => return None,
        };
        Some(Self { number, remaining })
    }

    /// Less what has passed: the kernel wrote the rest of a sleep down if the caller wanted it.
    fn less(self, registers: &libc::user_regs_struct, memory: &Memory, slept: u64) -> Self {
        let rest = match self.number {
            libc::SYS_nanosleep => registers.rsi,
            libc::SYS_clock_nanosleep => registers.r10,
            _ => 0,
        };
        let remaining = match timespec(memory, rest).filter(|_| rest != 0) {
            Some(exact) => exact,
            None if self.remaining == FOREVER => FOREVER,
            None => self.remaining.saturating_sub(slept),
        };
        Self { remaining, ..self }
    }

    /// Lets the kernel begin the call for what was left of its time, and interrupts it at once:
    /// it then stands as it stood. The time is passed at `spare`, which nobody else reads.
    pub(crate) fn resume(
        self,
        task: &Task,
        remote: &mut Remote<'_>,
        memory: &Memory,
        spare: u64,
    ) -> Result<()> {
        let registers = ptrace::from_words(task.registers);
        let left = self.remaining;
        let (a, b, c, d) = (registers.rdi, registers.rsi, registers.rdx, registers.r10);
        let arguments = match self.number {
            libc::SYS_nanosleep => [spare, b, 0, 0, 0, 0],
            libc::SYS_clock_nanosleep => [a, b, spare, d, 0, 0],
            libc::SYS_futex if waits_absolutely(&registers) => {
                [a, b, c, d, registers.r8, registers.r9]
            }
            libc::SYS_poll if left == FOREVER => [a, b, FOREVER, 0, 0, 0],
            libc::SYS_poll => [a, b, left.div_ceil(1_000_000), 0, 0, 0],
            libc::SYS_futex => [a, b, c, spare, registers.r8, registers.r9],
            // It begins anew by itself.
            _ => return Ok(()),
        };
        memory.write_all(spare, &bytes_of(&[left / 1_000_000_000, left % 1_000_000_000]))?;
        let result = remote.call_and_interrupt(self.number, &arguments)?;
        memory.write_all(spare, &[0; 16])?;
        if result != -RESTART_BLOCK {
            remote.finish_call(result);
        }
        Ok(())
    }
}

impl Standing {
    /// Notes that the tasks are let go now.
    pub(crate) fn release(&mut self) {
        self.released = clock::monotonic();
    }

    /// A task goes on to other calls.
    pub(crate) fn forget(&mut self, tid: i32) {
        self.calls.remove(&tid);
    }

    fn note(&mut self, tid: i32, place: [u64; 6], call: Interrupted, now: u64) {
        let end = now.saturating_add(call.remaining);
        self.calls.insert(tid, Known { number: call.number, place, end });
    }

    /// Notes the calls of a rebuilt task, `tid` as seen from here.
    pub(crate) fn rebuilt(&mut self, tid: i32, task: &Task) {
        if let Some(call) = task.interrupted {
            let registers = ptrace::from_words(task.registers);
            self.note(tid, place(&registers), call, clock::monotonic());
        }
    }
}

/// `FUTEX_WAIT_BITSET` (pthread_cond_timedwait, sem_timedwait) has an end, not a length. The other
/// calls of this kind have no such second argument: a pointer, or a small number.
fn waits_absolutely(registers: &libc::user_regs_struct) -> bool {
    const COMMAND: u64 = 0x7f;
    const FLAGS: u64 = (libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME) as u64;
    let operation = registers.rsi;
    operation & COMMAND == libc::FUTEX_WAIT_BITSET as u64 && operation & !(COMMAND | FLAGS) == 0
}

/// A `struct timespec` of the task, in nanoseconds.
fn timespec(memory: &Memory, at: u64) -> Option<u64> {
    let [seconds, nanoseconds] = memory.words::<2>(at).ok()?;
    Some(seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds))
}

/// The number of the call made just before `rip`, as the code there says: `mov eax, number;
/// syscall`.
fn number_in_code(rip: u64, memory: &Memory) -> Option<i64> {
    let mut code = [0; 7];
    memory.read_exact(rip.checked_sub(7)?, &mut code).ok()?;
    match code {
        [0xb8, a, b, c, d, 0x0f, 0x05] => Some(i32::from_le_bytes([a, b, c, d]).into()),
        _ => None,
    }
}

/// Calls that report `EINTR` when a tracer stops them, though no signal was delivered
/// (signal(7), "interruption by stop signals"; those on sockets where `SO_RCVTIMEO` or `SO_SNDTIMEO`
/// is set).
const CALLS: [i64; 27] = [
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_connect,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_msgrcv,
    libc::SYS_msgsnd,
    libc::SYS_io_getevents,
    libc::SYS_io_uring_enter,
];

/// Whether a call is one of them.
pub(crate) fn tells_of_interruption(number: i64) -> bool {
    CALLS.contains(&number)
}

/// One of these that was cut short is begun again instead. Gives its number.
pub(crate) fn undo_interruption(pid: i32, stopped: &Stopped) -> Result<Option<i64>> {
    let mut registers = stopped.registers()?;
    let call = registers.orig_rax as i64;
    if registers.rax as i64 != -i64::from(libc::EINTR) || !tells_of_interruption(call) {
        return Ok(None);
    }
    let failed = |e| stopped.failed("read the signals", e);
    let mask = ptrace::signal_mask(stopped.tid()).map_err(failed)?;
    let own = ptrace::pending(stopped.tid(), false).map_err(failed)?;
    let shared = ptrace::pending(stopped.tid(), true).map_err(failed)?;
    // Of a traced task, signals are queued that it ignores (a child's SIGCHLD): none of these would
    // have ended the call.
    let (caught, _) = proc::status(pid)?.dispositions()?;
    let delivered = |info: &Vec<u8>| {
        let signal = super::task::signal_of(info);
        (1..=64).contains(&signal) && (caught & !mask) >> (signal - 1) & 1 == 1
    };
    if own.iter().chain(&shared).any(delivered) {
        return Ok(None);
    }
    registers.rax = registers.orig_rax;
    registers.rip = registers.rip.wrapping_sub(SYSCALL_LENGTH);
    registers.orig_rax = u64::MAX;
    stopped.set_registers(&registers)?;
    Ok(Some(call))
}

/// Bytes of a `syscall` instruction.
const SYSCALL_LENGTH: u64 = 2;

/// The time limit of an epoll_wait(2) and its like, in nanoseconds.
fn limit(number: i64, registers: &libc::user_regs_struct, memory: &Memory) -> Option<u64> {
    match (number, registers.r10) {
        (libc::SYS_epoll_wait | libc::SYS_epoll_pwait, ms) => {
            u64::try_from(ms as i32).ok().map(|ms| ms * 1_000_000)
        }
        (libc::SYS_epoll_pwait2, at @ 1..) => timespec(memory, at),
        _ => None,
    }
}

/// A call that begins anew begins with its whole time limit, as its registers are the program's. An
/// event loop whose limit is longer than the time between checkpoints would wait for ever: so the
/// end is remembered, and a freeze that finds it past lets the call return "no event". Event loops
/// look at the clock then; other calls' limits just begin anew.
fn keep_limit(
    pid: i32,
    stopped: &Stopped,
    number: i64,
    memory: &Memory,
    before: Option<Seen>,
    standing: &mut Standing,
) -> Result<Option<Interrupted>> {
    let mut registers = stopped.registers()?;
    let Some(limit) = limit(number, &registers, memory) else { return Ok(None) };
    let (tid, now, place) = (stopped.tid(), clock::monotonic(), place(&registers));
    let slept = before.map_or(0, |seen| seen.slept(pid, tid));
    // The same call as at the last freeze, if the task has slept ever since that let it go.
    let asleep_since_then = slept > 0 && now - slept <= standing.released + SETTLED;
    let known = standing.calls.get(&tid);
    let end = match known.filter(|known| known.place == place && asleep_since_then) {
        Some(known) => known.end,
        None => now.saturating_add(limit.saturating_sub(slept)),
    };
    if end <= now {
        standing.calls.remove(&tid);
        registers.rax = 0;
        registers.rip = registers.rip.wrapping_add(SYSCALL_LENGTH);
        stopped.set_registers(&registers)?;
        return Ok(None);
    }
    let call = Interrupted { number, remaining: end - now };
    standing.note(tid, place, call, now);
    Ok(Some(call))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_moved_asleep_is_not_known_to_have_slept() {
        let text = |ran: &str| {
            format!("cat (1, #threads: 1)\n---\nse.exec_start   :   {ran}\nnr_switches  :  7\n")
        };
        let seen = Seen { ran: 17630.5, switches: 7, cpu: 3 };
        assert_eq!(Seen::in_words(&text("17630.500000"), 3), Some(seen));
        assert_eq!(Seen::in_words(&text("0.000000"), 3), None);
    }
}
