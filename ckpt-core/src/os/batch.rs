//! Many remote system calls with one stop: code that makes all the calls of a table.
//!
//! ```text
//! scratch page: number, six arguments, result │ number, …      (64 bytes a call)
//! in the vDSO:  [loop over the table] then tgkill(self, idle signal) ─▶ the stub of `remote`
//! ```
//!
//! With a call at a time the tracer is asked twice for each. Here it hears of the end only, by a signal
//! that stops a traced task and does nothing to any other: one that has no handler, and that is ignored
//! by default. So if we die meanwhile the task makes the rest of the calls, sends itself a signal that
//! is dropped, and goes on in the stub, which takes it back.

use libc::user_regs_struct;

/// Bytes of a call in the table.
pub(crate) const CALL: u64 = 64;
/// Where in it the result is put.
pub(crate) const RESULT: u64 = 56;
/// Room for the code, right before the stub.
pub(crate) const ROOM: u64 = 80;

/// The code; behind its end comes the stub's `syscall`.
const CODE: [u8; 75] = [
    0x49, 0x8b, 0x04, 0x24, // mov rax, [r12]
    0x49, 0x8b, 0x7c, 0x24, 8, // mov rdi, [r12 + 8]
    0x49, 0x8b, 0x74, 0x24, 16, // mov rsi, [r12 + 16]
    0x49, 0x8b, 0x54, 0x24, 24, // mov rdx, [r12 + 24]
    0x4d, 0x8b, 0x54, 0x24, 32, // mov r10, [r12 + 32]
    0x4d, 0x8b, 0x44, 0x24, 40, // mov r8, [r12 + 40]
    0x4d, 0x8b, 0x4c, 0x24, 48, // mov r9, [r12 + 48]
    0x0f, 0x05, // syscall
    0x49, 0x89, 0x44, 0x24, 56, // mov [r12 + 56], rax
    0x49, 0x83, 0xc4, 64, // add r12, 64
    0x49, 0xff, 0xcd, // dec r13
    0x75, 0xce, // jnz to the beginning
    0xb8, 39, 0, 0, 0, // mov eax, SYS_getpid
    0x0f, 0x05, // syscall
    0x89, 0xc7, // mov edi, eax
    0xb8, 186, 0, 0, 0, // mov eax, SYS_gettid
    0x0f, 0x05, // syscall
    0x89, 0xc6, // mov esi, eax
    0x89, 0xda, // mov edx, ebx
    0xb8, 234, 0, 0, 0, // mov eax, SYS_tgkill
];

/// The whole room, the code at its end.
pub(crate) fn code() -> [u8; ROOM as usize] {
    let mut room = [0x90; ROOM as usize];
    room[ROOM as usize - CODE.len()..].copy_from_slice(&CODE);
    room
}

/// Whether the room is free, or holds what an earlier launcher's death left behind.
pub(crate) fn is_free(room: &[u8]) -> bool {
    room.iter().all(|&byte| byte == 0) || *room == code()
}

/// Signals that may tell of the end.
const IDLE: [i32; 2] = [libc::SIGURG, libc::SIGWINCH];

/// The bit of a signal in a mask.
pub(crate) fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// One that a task with this mask can be stopped by, and that its process has no handler for. One that
/// it blocks may be waited for in another way, and would be taken from there.
pub(crate) fn idle_signal(caught: u64, mask: u64) -> Option<i32> {
    IDLE.into_iter().find(|&signal| (caught | mask) & bit(signal) == 0)
}

/// Sets the registers to make `count` calls of the table at `table`; the room is at `room`.
pub(crate) fn load(
    registers: &mut user_regs_struct,
    room: u64,
    (table, count): (u64, u64),
    signal: i32,
) {
    registers.rip = room;
    (registers.r12, registers.r13) = (table, count);
    registers.rbx = signal as u64;
    registers.orig_rax = u64::MAX;
}

/// Whether a task that has stopped for the idle signal has made all its calls; it has come to the stub.
pub(crate) fn is_done(registers: &user_regs_struct, room: u64) -> bool {
    const SYSCALL: u64 = 2;
    registers.r13 == 0 && registers.rip == room + ROOM + SYSCALL
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loop_jumps_to_its_beginning() {
        let jump = CODE.windows(2).position(|pair| pair == [0x75, 0xce]).unwrap();
        assert_eq!(jump as i64 + 2 + i64::from(0xceu8 as i8), 0);
    }

    #[test]
    fn a_signal_that_matters_to_the_process_is_not_taken() {
        assert_eq!(idle_signal(0, 0), Some(libc::SIGURG));
        assert_eq!(idle_signal(bit(libc::SIGURG), 0), Some(libc::SIGWINCH));
        assert_eq!(idle_signal(bit(libc::SIGURG), bit(libc::SIGWINCH)), None);
    }
}
