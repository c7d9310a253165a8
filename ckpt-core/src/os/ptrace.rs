//! ptrace(2) requests as safe functions: nix lacks several, and cannot decode real-time signals
//! in wait statuses.

use std::io;
use std::mem::{MaybeUninit, size_of};

use libc::{c_int, c_uint, c_void, pid_t, siginfo_t, user_regs_struct};

use super::proc;

/// `NT_X86_XSTATE` of elf(5).
const NT_X86_XSTATE: usize = 0x202;
const PTRACE_PEEKSIGINFO_SHARED: u32 = 1;
const PTRACE_GET_RSEQ_CONFIGURATION: c_uint = 0x420f;
/// Enough for the XSAVE layout of most processors, then for every one that exists (AMX brings it to
/// 11 008 bytes).
const XSTATE_ROOM: [usize; 2] = [4096, 64 * 1024];

/// What `waitpid` said of a tracee.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// `PTRACE_EVENT_STOP`, with the stopping signal: `SIGTRAP`, or a group stop's signal.
    EventStop(c_int),
    /// Another `PTRACE_EVENT_*`.
    Event(c_int),
    /// Stopped at the entry or exit of a system call.
    Syscall,
    /// About to receive this signal.
    Signal(c_int),
    /// Ended; the raw wait status.
    Ended(c_int),
}

/// A robust-list-like pair read from the kernel: address and size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct RseqConfiguration {
    pub(crate) pointer: u64,
    pub(crate) size: u32,
    pub(crate) signature: u32,
    pub(crate) flags: u32,
    pub(crate) pad: u32,
}

fn request(
    request: c_uint,
    tid: pid_t,
    addr: *mut c_void,
    data: *mut c_void,
) -> io::Result<libc::c_long> {
    // SAFETY: every caller in this file passes an `addr`/`data` pair that is either plain numbers
    // or points to a live buffer of the size that the request writes or reads.
    let result = unsafe { libc::ptrace(request, tid, addr, data) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn number(value: usize) -> *mut c_void {
    value as *mut c_void
}

pub(crate) fn seize(tid: pid_t, options: c_int) -> io::Result<()> {
    request(libc::PTRACE_SEIZE, tid, number(0), number(options as usize)).map(drop)
}

pub(crate) fn set_options(tid: pid_t, options: c_int) -> io::Result<()> {
    request(libc::PTRACE_SETOPTIONS, tid, number(0), number(options as usize)).map(drop)
}

pub(crate) fn interrupt(tid: pid_t) -> io::Result<()> {
    request(libc::PTRACE_INTERRUPT, tid, number(0), number(0)).map(drop)
}

pub(crate) fn cont(tid: pid_t, signal: c_int) -> io::Result<()> {
    request(libc::PTRACE_CONT, tid, number(0), number(signal as usize)).map(drop)
}

pub(crate) fn syscall(tid: pid_t, signal: c_int) -> io::Result<()> {
    request(libc::PTRACE_SYSCALL, tid, number(0), number(signal as usize)).map(drop)
}

pub(crate) fn detach(tid: pid_t, signal: c_int) -> io::Result<()> {
    request(libc::PTRACE_DETACH, tid, number(0), number(signal as usize)).map(drop)
}

pub(crate) fn event_message(tid: pid_t) -> io::Result<u64> {
    let mut message: u64 = 0;
    request(libc::PTRACE_GETEVENTMSG, tid, number(0), (&raw mut message).cast())?;
    Ok(message)
}

pub(crate) fn registers(tid: pid_t) -> io::Result<user_regs_struct> {
    let mut registers = MaybeUninit::<user_regs_struct>::uninit();
    request(libc::PTRACE_GETREGS, tid, number(0), registers.as_mut_ptr().cast())?;
    // SAFETY: PTRACE_GETREGS filled the whole structure, as it returned success.
    Ok(unsafe { registers.assume_init() })
}

pub(crate) fn set_registers(tid: pid_t, registers: &user_regs_struct) -> io::Result<()> {
    request(libc::PTRACE_SETREGS, tid, number(0), (&raw const *registers).cast_mut().cast())
        .map(drop)
}

/// A system call that a task is about to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) number: i64,
    pub(crate) arguments: [u64; 6],
    /// The stack pointer.
    pub(crate) stack: u64,
}

/// Where a task stands that has stopped for a system call (`PTRACE_GET_SYSCALL_INFO`, Linux 5.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Before a call of a 64-bit program.
    Entry(Call),
    /// Behind one, with its result.
    Exit(i64),
    /// Before a call by another convention, or where a filter has stopped it.
    Other,
}

pub(crate) fn place(tid: pid_t) -> io::Result<Place> {
    const AUDIT_ARCH_X86_64: u64 = 0xc000_003e;
    const X32: u64 = 1 << 30;
    const PTRACE_GET_SYSCALL_INFO: c_uint = 0x420e;
    // struct ptrace_syscall_info: op (one byte) and arch, two pointers, then number and arguments.
    let mut words = [0u64; 11];
    let size = number(size_of_val(&words));
    request(PTRACE_GET_SYSCALL_INFO, tid, size, (&raw mut words).cast())?;
    // Behind a call its result is in the number's place.
    let [head, _, stack, number, a, b, c, d, e, f, _] = words;
    Ok(match (head & 0xff, head >> 32, number & X32) {
        (1, AUDIT_ARCH_X86_64, 0) => {
            let arguments = [a, b, c, d, e, f];
            Place::Entry(Call { number: number.cast_signed(), arguments, stack })
        }
        (2, ..) => Place::Exit(number.cast_signed()),
        _ => Place::Other,
    })
}

/// Whether the task has its system calls turned into signals (`PR_SET_SYSCALL_USER_DISPATCH`).
pub(crate) fn dispatches_syscalls(tid: pid_t) -> bool {
    const GET_SYSCALL_USER_DISPATCH_CONFIG: c_uint = 0x4211;
    // struct ptrace_sud_config: mode, selector, offset, length.
    let mut config = [0u64; 4];
    let size = number(size_of_val(&config));
    let at = (&raw mut config).cast();
    // Kernels before 6.4 cannot tell.
    request(GET_SYSCALL_USER_DISPATCH_CONFIG, tid, size, at).is_ok() && config[0] != 0
}

/// The registers as plain words, in the order of `user_regs_struct` of sys/user.h.
pub(crate) fn to_words(registers: &user_regs_struct) -> [u64; 27] {
    // SAFETY: user_regs_struct is repr(C) and made of 27 words of 64 bits, nothing else; the
    // sizes are compared at compile time by transmute itself.
    unsafe { std::mem::transmute::<user_regs_struct, [u64; 27]>(*registers) }
}

/// The way back from [`to_words`].
pub(crate) fn from_words(words: [u64; 27]) -> user_regs_struct {
    // SAFETY: as above; every bit pattern is a value of both types.
    unsafe { std::mem::transmute::<[u64; 27], user_regs_struct>(words) }
}

/// The whole XSAVE area, in the kernel's "standard" (uncompacted) layout.
pub(crate) fn xstate(tid: pid_t) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for room in XSTATE_ROOM {
        bytes = vec![0u8; room];
        let mut vector = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        request(libc::PTRACE_GETREGSET, tid, number(NT_X86_XSTATE), (&raw mut vector).cast())?;
        // What fills the room may be longer.
        if vector.iov_len < room {
            bytes.truncate(vector.iov_len);
            break;
        }
    }
    Ok(bytes)
}

/// Sets the XSAVE area. Another processor's may be longer or shorter: what is missing is in its
/// initial state, and what is too much must be.
pub(crate) fn set_xstate(tid: pid_t, bytes: &[u8]) -> io::Result<()> {
    /// Where the area tells which components are not in their initial state.
    const IN_USE: usize = 512;
    /// Where the kernel tells which components there are (`struct _fpx_sw_bytes` keeps its place).
    const EXISTING: usize = 464;
    let mut local = xstate(tid)?;
    let word = |area: &[u8], at: usize| {
        let bytes = area.get(at..at + 8).unwrap_or_default();
        bytes.iter().rev().fold(0u64, |sum, &byte| sum << 8 | u64::from(byte))
    };
    if bytes.len() <= IN_USE || word(bytes, IN_USE) & !word(&local, EXISTING) != 0 {
        return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
    }
    let length = bytes.len().min(local.len());
    let existing = local[EXISTING..EXISTING + 48].to_vec();
    local.fill(0);
    local[..length].copy_from_slice(&bytes[..length]);
    local[EXISTING..EXISTING + 48].copy_from_slice(&existing);
    let bytes = local.as_slice();
    let mut vector =
        libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    request(libc::PTRACE_SETREGSET, tid, number(NT_X86_XSTATE), (&raw mut vector).cast()).map(drop)
}

/// Blocked signals, as a mask of `1 << (signal - 1)`.
pub(crate) fn signal_mask(tid: pid_t) -> io::Result<u64> {
    let mut mask: u64 = 0;
    let at = (&raw mut mask).cast();
    request(libc::PTRACE_GETSIGMASK, tid, number(size_of::<u64>()), at)?;
    Ok(mask)
}

pub(crate) fn set_signal_mask(tid: pid_t, mask: u64) -> io::Result<()> {
    let at = (&raw const mask).cast_mut().cast();
    request(libc::PTRACE_SETSIGMASK, tid, number(size_of::<u64>()), at).map(drop)
}

/// All queued signals of the task, or of its whole process if `shared`; each as the kernel's 128
/// bytes of `siginfo_t`. Nothing is dequeued.
pub(crate) fn pending(tid: pid_t, shared: bool) -> io::Result<Vec<Vec<u8>>> {
    const BATCH: usize = 32;
    const SIZE: usize = size_of::<siginfo_t>();
    let mut found = Vec::new();
    loop {
        let mut args = libc::ptrace_peeksiginfo_args {
            off: found.len() as u64,
            flags: if shared { PTRACE_PEEKSIGINFO_SHARED } else { 0 },
            nr: BATCH as i32,
        };
        let mut room = vec![0u8; BATCH * SIZE];
        let at = room.as_mut_ptr().cast();
        let got = request(libc::PTRACE_PEEKSIGINFO, tid, (&raw mut args).cast(), at)? as usize;
        found.extend(room.chunks_exact(SIZE).take(got).map(<[u8]>::to_vec));
        if got < BATCH {
            return Ok(found);
        }
    }
}

/// The task's rseq(2) registration; a zero pointer means none.
pub(crate) fn rseq(tid: pid_t) -> io::Result<RseqConfiguration> {
    let mut found = RseqConfiguration::default();
    let size = size_of::<RseqConfiguration>();
    request(PTRACE_GET_RSEQ_CONFIGURATION, tid, number(size), (&raw mut found).cast())?;
    Ok(found)
}

/// Whether a task may send itself signals here. A seccomp filter or a security module may forbid it to
/// us as to the job, which has the same.
pub(crate) fn may_signal_ourselves() -> bool {
    static MAY: std::sync::LazyLock<bool> = std::sync::LazyLock::new(|| {
        // SAFETY: plain numbers; signal 0 is sent to nobody.
        0 == unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::gettid(), 0) }
    });
    *MAY
}

/// waitid(2) for one task; `None` if it has nothing to say (only without `block`).
///
/// A process' death is only looked at: the status belongs to whoever waits for the job's processes,
/// and a tracer that is the parent, too, would take it away. Another thread's death is told to its
/// tracer alone, and its process cannot end before that has been heard.
pub(crate) fn wait(tid: pid_t, block: bool) -> io::Result<Option<Status>> {
    let hang = if block { 0 } else { libc::WNOHANG };
    let Some(found) = waitid(tid, libc::WEXITED | libc::WSTOPPED | libc::WNOWAIT | hang)? else {
        return Ok(None);
    };
    if let Status::Ended(_) = found {
        if !proc::is_leader(tid) {
            bury(tid);
        }
        return Ok(Some(found));
    }
    waitid(tid, libc::WSTOPPED | libc::WNOHANG)
}

/// What a tracee has to say, which stays to be said.
pub(crate) fn look(tid: pid_t) -> io::Result<Option<Status>> {
    waitid(tid, libc::WEXITED | libc::WSTOPPED | libc::WNOWAIT | libc::WNOHANG)
}

/// Takes note of the death of a tracee or child, if it has ended; false if there is none of this
/// number (any more). A dead tracee is its parent's only after that.
pub(crate) fn bury(tid: pid_t) -> bool {
    waitid(tid, libc::WEXITED | libc::WNOHANG).is_ok()
}

fn waitid(tid: pid_t, flags: c_int) -> io::Result<Option<Status>> {
    loop {
        // SAFETY: siginfo_t is plain data, for which zero is a value; the kernel fills it, and
        // leaves it zero if there is nothing to report. `si_pid` and `si_status` are what a
        // SIGCHLD's siginfo_t holds.
        let (result, pid, code, status) = unsafe {
            let mut info: siginfo_t = std::mem::zeroed();
            let result = libc::waitid(libc::P_PID, tid as u32, &raw mut info, flags | libc::__WALL);
            (result, info.si_pid(), info.si_code, info.si_status())
        };
        if result == -1 {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        }
        return Ok((pid != 0).then(|| match code {
            libc::CLD_EXITED => Status::Ended(status << 8),
            libc::CLD_KILLED | libc::CLD_DUMPED => Status::Ended(status),
            _ => decode(status),
        }));
    }
}

/// `status` is the stop's signal, with the event in the next byte.
fn decode(status: c_int) -> Status {
    let signal = status & 0xff;
    match status >> 8 {
        0 if signal == libc::SIGTRAP | 0x80 => Status::Syscall,
        0 => Status::Signal(signal),
        libc::PTRACE_EVENT_STOP => Status::EventStop(signal),
        event => Status::Event(event),
    }
}

/// A robust list's head and length (get_robust_list(2)), of a task that we trace.
pub(crate) fn robust_list(tid: pid_t) -> io::Result<(u64, u64)> {
    let mut head: u64 = 0;
    let mut length: u64 = 0;
    // SAFETY: the kernel writes one word to each of the two live variables.
    let result =
        unsafe { libc::syscall(libc::SYS_get_robust_list, tid, &raw mut head, &raw mut length) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok((head, length)) }
}
