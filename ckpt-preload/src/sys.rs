//! System calls, and descriptors that close themselves.

use core::arch::asm;
use core::ffi::CStr;
use core::mem::MaybeUninit;

use crate::text::Text;

/// The error is an errno(3).
pub(crate) type Result<T> = core::result::Result<T, i32>;

pub(crate) const ENOENT: i32 = 2;
pub(crate) const EINTR: i32 = 4;
pub(crate) const EAGAIN: i32 = 11;
pub(crate) const EACCES: i32 = 13;
pub(crate) const EINVAL: i32 = 22;

pub(crate) const O_CLOEXEC: usize = 0o2_000_000;
pub(crate) const O_NOFOLLOW: usize = 0o400_000;
pub(crate) const O_DIRECTORY: usize = 0o200_000;
pub(crate) const O_PATH: usize = 0o10_000_000;

pub(crate) const LOCK_SH: usize = 1;
pub(crate) const LOCK_NB: usize = 4;
pub(crate) const LOCK_UN: usize = 8;

const READ: usize = 0;
const CLOSE: usize = 3;
const FSTAT: usize = 5;
const POLL: usize = 7;
const PREAD64: usize = 17;
const GETPID: usize = 39;
const FCNTL: usize = 72;
const FLOCK: usize = 73;
const PRCTL: usize = 157;
const FUTEX: usize = 202;
const OPENAT: usize = 257;
const PIPE2: usize = 293;

const AT_FDCWD: i32 = -100;
const F_DUPFD_CLOEXEC: usize = 1030;
const FUTEX_WAIT_PRIVATE: usize = 128;
const FUTEX_WAKE_PRIVATE: usize = 129;
const POLLIN: i16 = 1;
const PR_SET_PTRACER: usize = 0x5961_6d61;

/// A system call.
///
/// # Safety
///
/// The arguments must be what the call wants.
pub(crate) unsafe fn syscall(number: usize, arguments: [usize; 5]) -> Result<usize> {
    let [a, b, c, d, e] = arguments;
    let result: isize;
    // SAFETY: the x86_64 convention: rcx and r11 are lost, memory may be written to.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a,
            in("rsi") b,
            in("rdx") c,
            in("r10") d,
            in("r8") e,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    if (-4095..0).contains(&result) { Err(-result as i32) } else { Ok(result as usize) }
}

/// Calls again while it is only interrupted.
pub(crate) fn persist<T>(mut call: impl FnMut() -> Result<T>) -> Result<T> {
    loop {
        match call() {
            Err(EINTR) => {}
            result => return result,
        }
    }
}

/// A descriptor of ours.
pub(crate) struct Fd(i32);

impl Fd {
    /// Takes over the descriptor that a call has given.
    pub(crate) fn from_call(result: usize) -> Self {
        Self(result as i32)
    }

    pub(crate) fn open(path: &CStr, flags: usize) -> Result<Self> {
        Self::open_at(AT_FDCWD, path.as_ptr().cast(), flags)
    }

    /// Opens a file by its name in this directory.
    pub(crate) fn child(&self, name: &Text<40>, flags: usize) -> Result<Self> {
        match name.bytes() {
            [.., 0] => Self::open_at(self.0, name.bytes().as_ptr(), flags),
            _ => Err(EINVAL),
        }
    }

    /// `path` is the address of a C string.
    fn open_at(dir: i32, path: *const u8, flags: usize) -> Result<Self> {
        // SAFETY: the callers above pass a string that ends with a 0 and outlives the call.
        persist(|| unsafe {
            syscall(OPENAT, [dir as usize, path as usize, flags | O_CLOEXEC, 0, 0])
        })
        .map(Self::from_call)
    }

    /// Opens the directory whose name begins at `path`, for lookups in it.
    pub(crate) fn directory<const N: usize>(path: &'static crate::text::Kept<N>) -> Result<Self> {
        Self::open_at(AT_FDCWD, path.as_ptr(), O_PATH | O_DIRECTORY)
    }

    /// Forgets that it is ours: the number.
    pub(crate) fn leak(self) -> i32 {
        let number = self.0;
        core::mem::forget(self);
        number
    }

    pub(crate) fn number(&self) -> i32 {
        self.0
    }

    /// Reads once; nothing at the end.
    pub(crate) fn read<'a>(&self, buffer: &'a mut [MaybeUninit<u8>]) -> Result<&'a [u8]> {
        let (address, length) = (buffer.as_mut_ptr() as usize, buffer.len());
        // SAFETY: the kernel writes at most `length` bytes to the buffer, which is ours alone.
        let got = persist(|| unsafe { syscall(READ, [self.0 as usize, address, length, 0, 0]) })?;
        Ok(initialised(buffer, got))
    }

    /// Reads at an offset, so that the position in the file stays 0: an image may be taken while
    /// it is open.
    pub(crate) fn read_at<'a>(
        &self,
        buffer: &'a mut [MaybeUninit<u8>],
        offset: usize,
    ) -> Result<&'a [u8]> {
        let (address, length) = (buffer.as_mut_ptr() as usize, buffer.len());
        // SAFETY: as above.
        let got =
            persist(|| unsafe { syscall(PREAD64, [self.0 as usize, address, length, offset, 0]) })?;
        Ok(initialised(buffer, got))
    }

    pub(crate) fn inode(&self) -> Result<u64> {
        inode(self.0)
    }

    pub(crate) fn flock(&self, operation: usize) -> Result<()> {
        // SAFETY: integers only.
        persist(|| unsafe { syscall(FLOCK, [self.0 as usize, operation, 0, 0, 0]) }).map(drop)
    }

    /// Gives it a number from `least` up, out of the program's way, if there may be such numbers.
    pub(crate) fn move_up(self, least: usize) -> Self {
        // SAFETY: integers only.
        let moved = unsafe { syscall(FCNTL, [self.0 as usize, F_DUPFD_CLOEXEC, least, 0, 0]) };
        moved.map_or(self, Self::from_call)
    }

    /// Whether something can be read, or the end has come, within `milliseconds`; an interrupted
    /// wait counts as a wait.
    pub(crate) fn poll(&self, milliseconds: usize) -> bool {
        #[repr(C)]
        struct PollFd {
            fd: i32,
            events: i16,
            revents: i16,
        }
        let mut ready = PollFd { fd: self.0, events: POLLIN, revents: 0 };
        let address = &raw mut ready as usize;
        // SAFETY: one pollfd, which is ours alone, and which the kernel may write to.
        unsafe { syscall(POLL, [address, 1, milliseconds, 0, 0]) == Ok(1) }
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        // SAFETY: the descriptor is ours, and is not used again.
        let _ = unsafe { syscall(CLOSE, [self.0 as usize, 0, 0, 0, 0]) };
    }
}

fn initialised(buffer: &[MaybeUninit<u8>], got: usize) -> &[u8] {
    let got = got.min(buffer.len());
    // SAFETY: the kernel has written `got` bytes from the beginning of the buffer.
    unsafe { core::slice::from_raw_parts(buffer.as_ptr().cast(), got) }
}

/// The inode that a descriptor, ours or not, leads to.
pub(crate) fn inode(fd: i32) -> Result<u64> {
    // struct stat: 144 bytes, the second number is st_ino.
    let mut stat = [MaybeUninit::<u64>::uninit(); 18];
    // SAFETY: the kernel writes a struct stat, for which there is room.
    unsafe { syscall(FSTAT, [fd as usize, stat.as_mut_ptr() as usize, 0, 0, 0]) }?;
    let [_, inode, ..] = stat;
    // SAFETY: the call has succeeded, so all of it was written.
    Ok(unsafe { inode.assume_init() })
}

/// A pipe: its end to read from and its end to write to.
pub(crate) fn pipe() -> Result<(Fd, Fd)> {
    let mut ends = [-1i32; 2];
    // SAFETY: the kernel writes two ints to `ends`.
    unsafe { syscall(PIPE2, [ends.as_mut_ptr() as usize, O_CLOEXEC, 0, 0, 0]) }?;
    let [read, write] = ends;
    Ok((Fd(read), Fd(write)))
}

pub(crate) fn sleep(milliseconds: usize) {
    // SAFETY: no descriptors, only a time limit.
    let _ = unsafe { syscall(POLL, [0, 0, milliseconds, 0, 0]) };
}

pub(crate) fn getpid() -> u32 {
    // SAFETY: it has no arguments.
    unsafe { syscall(GETPID, [0; 5]) }.unwrap_or(0) as u32
}

/// Lets process `pid` trace us.
pub(crate) fn set_ptracer(pid: u32) {
    // SAFETY: integers only. It fails where there is no Yama, which is as well.
    let _ = unsafe { syscall(PRCTL, [PR_SET_PTRACER, pid as usize, 0, 0, 0]) };
}

/// Sleeps until [`wake`], unless `word` has another value than `value` by then.
pub(crate) fn wait(word: &core::sync::atomic::AtomicU32, value: u32) {
    let address = word.as_ptr() as usize;
    // SAFETY: the word outlives the call; the kernel only reads it. Without a time limit.
    let _ = unsafe { syscall(FUTEX, [address, FUTEX_WAIT_PRIVATE, value as usize, 0, 0]) };
}

/// Wakes one who waits for `word`.
pub(crate) fn wake(word: &core::sync::atomic::AtomicU32) {
    // SAFETY: the address serves as a key only.
    let _ = unsafe { syscall(FUTEX, [word.as_ptr() as usize, FUTEX_WAKE_PRIVATE, 1, 0, 0]) };
}
