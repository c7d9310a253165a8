//! The code that a task on loan runs: where in its vDSO it goes, and what it does. Should the tracer be
//! gone, it takes the task back to where it was. [`Remote`](super::remote::Remote) puts it there.

use libc::user_regs_struct;

use super::batch;
use super::maps::{Kind, Map};
use super::mem::Memory;
use super::ptrace;
use crate::error::{Error, ErrorKind, Result};

/// Room for the stub at the end of the vDSO, bytes.
pub(super) const STUB_ROOM: u64 = 256;

/// Where in a process the stub goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Site {
    pub(super) address: u64,
    /// The tail of the vDSO is free for the whole stub; else only a bare `syscall` instruction of
    /// the process' own code serves.
    pub(super) whole: bool,
    /// Where there is room for the code of [`batch`]: right before the stub, or before another
    /// `syscall` instruction.
    pub(super) room: Option<u64>,
    /// Signals that the process handles.
    pub(super) caught: u64,
}

impl Site {
    /// Finds the place: the zero bytes at the end of the vDSO.
    pub(crate) fn find(maps: &[Map], memory: &Memory) -> Result<Self> {
        let vdso = maps.iter().find(|map| map.kind == Kind::Vdso).ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, "there is no vDSO in the address space")
                .help("boot the kernel without vdso=0")
        })?;
        let address = vdso.end - STUB_ROOM;
        let mut end = [0u8; (batch::ROOM + STUB_ROOM) as usize];
        memory.read_exact(address - batch::ROOM, &mut end)?;
        let (before, tail) = end.split_at(batch::ROOM as usize);
        // A stub that an earlier launcher's death left behind may be overwritten as well.
        if tail.iter().all(|&byte| byte == 0) || tail.starts_with(&STUB_HEAD) {
            let is_free = batch::is_free(before) && ptrace::may_signal_ourselves();
            let room = is_free.then_some(address - batch::ROOM);
            return Ok(Self { address, whole: true, room, caught: !0 });
        }
        let what = "the end of the vDSO is not free, so the process cannot be asked safely";
        Err(Error::new(ErrorKind::Unsupported, what))
    }

    /// The same, where these signals have handlers: calls may be made many at once, if there is one
    /// left to tell of their end.
    pub(crate) fn with_handlers(self, caught: u64) -> Self {
        Self { caught, ..self }
    }

    /// A `syscall` instruction of the code itself.
    pub(crate) fn bare(start: u64, code: &[u8]) -> Result<Self> {
        match code.windows(2).position(|pair| pair == [0x0f, 0x05]) {
            Some(at) => {
                Ok(Self { address: start + at as u64, whole: false, room: None, caught: 0 })
            }
            None => Err(Error::new(ErrorKind::Unsupported, "the vDSO has no syscall instruction")),
        }
    }
}

impl Site {
    /// The same with room for many calls at once, in a process in the making whose vDSO ends there.
    /// It is taken away by [`Self::clean`].
    pub(crate) fn with_room(self, end: u64, memory: &Memory) -> Result<Self> {
        const SYSCALL: [u8; 2] = [0x0f, 0x05];
        let at = end - STUB_ROOM - batch::ROOM;
        let mut now = [0u8; batch::ROOM as usize + SYSCALL.len()];
        memory.read_exact(at, &mut now)?;
        if now.iter().any(|&byte| byte != 0) || !ptrace::may_signal_ourselves() {
            return Ok(self);
        }
        memory.write_all(at, &[batch::code().as_slice(), &SYSCALL].concat())?;
        Ok(Self { room: Some(at), ..self })
    }

    /// Leaves the vDSO as it was. No more calls are made many at once.
    pub(crate) fn clean(&mut self, memory: &Memory) -> Result<()> {
        match self.room.take() {
            Some(at) => memory.write_all(at, &[0; batch::ROOM as usize + 2]),
            None => Ok(()),
        }
    }
}

/// `syscall; lea rsp, […`: how a stub begins.
const STUB_HEAD: [u8; 5] = [0x0f, 0x05, 0x48, 0x8d, 0x25];

/// Takes the stub out of a copy of the vDSO.
pub(crate) fn erase_stub(vdso: &mut [u8]) {
    if let Some(tail) = vdso.len().checked_sub(STUB_ROOM as usize)
        && vdso[tail..].starts_with(&STUB_HEAD)
    {
        vdso[tail..].fill(0);
        if let Some(before) = tail.checked_sub(batch::ROOM as usize)
            && batch::is_free(&vdso[before..tail])
        {
            vdso[before..tail].fill(0);
        }
    }
}

/// What a stub does with a system call that has returned 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Zero {
    /// It is a result like any other.
    Result,
    /// It is a new child's, which ends.
    Child,
}

/// The stub for a task with these registers and this signal mask.
pub(super) fn stub(registers: &user_regs_struct, mask: u64, zero: Zero) -> Vec<u8> {
    let mut back = *registers;
    // An interrupted system call is begun again, as the kernel would have done.
    if (back.orig_rax as i64) >= 0 {
        match -(back.rax as i64) {
            512..=514 => {
                back.rax = back.orig_rax;
                back.rip = back.rip.wrapping_sub(2);
            }
            516 => {
                back.rax = libc::SYS_restart_syscall as u64;
                back.rip = back.rip.wrapping_sub(2);
            }
            _ => {}
        }
    }
    let values = [
        (0, back.rax),
        (1, back.rcx),
        (2, back.rdx),
        (3, back.rbx),
        (5, back.rbp),
        (6, back.rsi),
        (7, back.rdi),
        (8, back.r8),
        (9, back.r9),
        (10, back.r10),
        (11, back.r11),
        (12, back.r12),
        (13, back.r13),
        (14, back.r14),
        (15, back.r15),
    ];
    // Data at the very end of the room: mask, flags, target.
    let data = STUB_ROOM - 24;
    let relative = |code: &Vec<u8>, opcode: &[u8], to: u64| {
        let from = code.len() as u64 + opcode.len() as u64 + 4;
        let mut bytes = opcode.to_vec();
        bytes.extend(((to as i64 - from as i64) as i32).to_le_bytes());
        bytes
    };
    // The stack pointer comes back before the signals do: a handler may run right then. Behind
    // popfq nothing touches the flags.
    let mut code = vec![0x0f, 0x05]; // syscall
    if zero == Zero::Child {
        code.extend([0x85, 0xc0, 0x75, 9]); // test eax, eax; jnz over the rest
        code.extend([0x31, 0xff, 0xb8, 60, 0, 0, 0, 0x0f, 0x05]); // exit(0)
    }
    code.extend(relative(&code, &[0x48, 0x8d, 0x25], data + 8)); // lea rsp, [flags]
    code.push(0x9d); // popfq
    code.extend([0x48, 0xbc]);
    code.extend(back.rsp.to_le_bytes()); // mov rsp, value
    code.extend([0xb8, 14, 0, 0, 0]); // mov eax, SYS_rt_sigprocmask
    code.extend([0xbf, 2, 0, 0, 0]); // mov edi, SIG_SETMASK
    code.extend(relative(&code, &[0x48, 0x8d, 0x35], data)); // lea rsi, [mask]
    code.extend([0xba, 0, 0, 0, 0]); // mov edx, 0
    code.extend([0x41, 0xba, 8, 0, 0, 0]); // mov r10d, 8
    code.extend([0x0f, 0x05]); // syscall
    for (register, value) in values {
        code.extend([if register < 8 { 0x48 } else { 0x49 }, 0xb8 + (register as u8 & 7)]);
        code.extend(u64::to_le_bytes(value)); // mov register, value
    }
    code.extend(relative(&code, &[0xff, 0x25], data + 16)); // jmp [target]
    code.resize(data as usize, 0xcc);
    code.extend(mask.to_le_bytes());
    code.extend(back.eflags.to_le_bytes());
    code.extend(back.rip.to_le_bytes());
    code
}
