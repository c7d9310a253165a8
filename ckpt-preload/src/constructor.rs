//! The constructor, by raw system calls.

use core::arch::asm;
use core::mem::MaybeUninit;

const READ: usize = 0;
const CLOSE: usize = 3;
const PRCTL: usize = 157;
const OPENAT: usize = 257;

const AT_FDCWD: usize = -100isize as usize;
const O_CLOEXEC: usize = 0o2_000_000;
const PR_SET_PTRACER: usize = 0x5961_6d61;

/// What is looked for, at the beginning of an entry.
const NAME: &[u8] = b"CKPT_LAUNCHER_PID=";

// SAFETY: the loader calls each entry of .init_array once with C's calling convention; the
// function ignores whatever arguments there are.
#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = allow_launcher;

extern "C" fn allow_launcher() {
    let path = c"/proc/self/environ";
    // SAFETY: the path is a C string that lives for ever.
    let fd = unsafe { syscall(OPENAT, AT_FDCWD, path.as_ptr() as usize, O_CLOEXEC) };
    if fd < 0 {
        return;
    }
    let fd = fd as usize;
    let pid = launcher_pid(fd);
    // SAFETY: the descriptor is ours, and is not used again.
    unsafe { syscall(CLOSE, fd, 0, 0) };
    if pid > 0 {
        // SAFETY: integers only. It fails where there is no Yama, which is as well.
        unsafe { syscall(PRCTL, PR_SET_PTRACER, pid, 0) };
    }
}

/// The number behind [`NAME`] in the environment read from `fd`; 0 if there is none.
fn launcher_pid(fd: usize) -> usize {
    // Not zeroed: that would be a call to memset, which there is no library for.
    let mut buffer = [MaybeUninit::<u8>::uninit(); 512];
    let mut search = Search::default();
    loop {
        let (address, length) = (buffer.as_mut_ptr() as usize, buffer.len());
        // SAFETY: the kernel writes at most `length` bytes to the buffer, which is ours alone.
        let got = unsafe { syscall(READ, fd, address, length) };
        if got <= 0 {
            return search.end();
        }
        for byte in buffer.iter().take(got as usize) {
            // SAFETY: the kernel has written `got` bytes.
            let byte = unsafe { byte.assume_init() };
            if let Some(pid) = search.take(byte) {
                return pid;
            }
        }
    }
}

/// A search through NUL-separated entries, byte by byte.
#[derive(Default)]
struct Search {
    /// Bytes of [`NAME`] that this entry matches so far; [`usize::MAX`] once it does not.
    matched: usize,
    pid: usize,
}

impl Search {
    /// Takes a byte; gives the number when its entry is complete.
    fn take(&mut self, byte: u8) -> Option<usize> {
        if byte == 0 {
            let found = self.end();
            *self = Self::default();
            return (found > 0).then_some(found);
        }
        if self.matched < NAME.len() {
            let same = NAME.get(self.matched) == Some(&byte);
            self.matched = if same { self.matched + 1 } else { usize::MAX };
        } else if self.matched == NAME.len() {
            if byte.is_ascii_digit() && self.pid <= 0x7fff_ffff {
                self.pid = self.pid.wrapping_mul(10).wrapping_add((byte & 15) as usize);
            } else {
                self.matched = usize::MAX;
            }
        }
        None
    }

    fn end(&self) -> usize {
        if self.matched == NAME.len() { self.pid } else { 0 }
    }
}

/// A system call with up to three arguments; the fourth and fifth are 0.
///
/// # Safety
///
/// The arguments must be what the call wants.
unsafe fn syscall(number: usize, a: usize, b: usize, c: usize) -> isize {
    let result: isize;
    // SAFETY: the x86_64 convention: rcx and r11 are lost, memory may be written to.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a,
            in("rsi") b,
            in("rdx") c,
            in("r10") 0usize,
            in("r8") 0usize,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}
