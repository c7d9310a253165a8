//! Which pages have been written to since a moment.
//!
//! A userfaultfd(2) of a process protects its pages against writing in such a way that the kernel itself
//! takes the protection from a page that is written to, and lets the process go on (`WP_ASYNC`, Linux
//! 6.7). `PAGEMAP_SCAN` shows which pages have lost it ([`Pagemap::take_written`]). All protection ends
//! with the descriptor. What else the kernel offers is tried on two pages of our own.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use memmap2::MmapMut;

use super::PAGE;
use super::pagemap::Pagemap;

/// `UFFD_USER_MODE_ONLY`: no privilege is needed for that.
const USER_MODE_ONLY: i32 = 1;
/// Write protection that resolves itself, and of pages that are not there yet.
const WP_ASYNC: u64 = 1 << 15;
const WP_UNPOPULATED: u64 = 1 << 13;
const MODE_WP: u64 = 1 << 1;
/// `_IOWR(0xaa, 0x3f, struct uffdio_api)`, `_IOWR(0xaa, 0, struct uffdio_register)`.
const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
const API: u64 = 0xaa;
const SOFT_DIRTY: u64 = 1 << 55;

/// The watch over a process' pages: a userfaultfd that it has made.
#[derive(Debug)]
pub(crate) struct Watch(OwnedFd);

impl Watch {
    /// The flags with which the process calls userfaultfd(2).
    pub(crate) const FLAGS: i32 = libc::O_CLOEXEC | USER_MODE_ONLY;

    /// Sets up what userfaultfd(2) gave.
    pub(crate) fn begin(uffd: OwnedFd) -> io::Result<Self> {
        request(&uffd, UFFDIO_API, &mut [API, WP_ASYNC | WP_UNPOPULATED, 0])?;
        Ok(Self(uffd))
    }

    /// Watches an area. Its pages count as written until [`Pagemap::take_written`] has protected them.
    /// `ESRCH` says that the process has another address space now, or none.
    pub(crate) fn cover(&self, start: u64, end: u64) -> io::Result<()> {
        request(&self.0, UFFDIO_REGISTER, &mut [start, end - start, MODE_WP, 0])
    }
}

/// userfaultfd(2) with asynchronous write protection, and `PAGEMAP_SCAN` to see what was written.
pub(crate) fn by_write_protection() -> io::Result<()> {
    // SAFETY: takes a number, and gives a descriptor that is nobody else's.
    let uffd = unsafe {
        match libc::syscall(libc::SYS_userfaultfd, Watch::FLAGS) {
            -1 => return Err(io::Error::last_os_error()),
            fd => OwnedFd::from_raw_fd(fd as i32),
        }
    };
    let mut pages = two_pages()?;
    let start = pages.as_ptr() as u64;
    Watch::begin(uffd)?.tried(&mut pages, start)
}

impl Watch {
    fn tried(&self, pages: &mut MmapMut, start: u64) -> io::Result<()> {
        let end = start + 2 * PAGE;
        let pagemap = Pagemap::open(std::process::id().cast_signed()).map_err(io::Error::other)?;
        as_expected(pagemap.take_written(start, end).is_err())?;
        self.cover(start, end)?;
        pagemap.take_written(start, end)?;
        pages[0] = 2;
        let present = pagemap.present(start, end)?;
        let written = pagemap.take_written(start, end)?;
        let seen: Vec<bool> = present.iter().map(|pages| pages.written).collect();
        as_expected(written == [(start, start + PAGE)] && seen == [true, false])
    }
}

/// The soft-dirty bit of `/proc/PID/pagemap`.
pub(crate) fn by_soft_dirty() -> io::Result<()> {
    let mut pages = two_pages()?;
    fs::write("/proc/self/clear_refs", "4")?;
    pages[0] = 2;
    let mut entries = [0u8; 16];
    let first = pages.as_ptr() as u64 / PAGE * 8;
    File::open("/proc/self/pagemap")?.read_exact_at(&mut entries, first)?;
    let (words, _) = entries.as_chunks::<8>();
    let dirty = |at: usize| u64::from_le_bytes(words[at]) & SOFT_DIRTY != 0;
    as_expected(dirty(0) && !dirty(1))
}

fn two_pages() -> io::Result<MmapMut> {
    let mut pages = MmapMut::map_anon(2 * PAGE as usize)?;
    pages[0] = 1;
    pages[PAGE as usize] = 1;
    Ok(pages)
}

fn request<const N: usize>(
    fd: &OwnedFd,
    request: libc::c_ulong,
    words: &mut [u64; N],
) -> io::Result<()> {
    // SAFETY: the words are the structure of this request, live and writable.
    match unsafe { libc::ioctl(fd.as_raw_fd(), request, words.as_mut_ptr()) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn as_expected(is: bool) -> io::Result<()> {
    if is { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)) }
}
