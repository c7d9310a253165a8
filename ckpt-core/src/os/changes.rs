//! Which pages have been written to since a moment.
//!
//! A userfaultfd(2) of a process protects its pages against writing in such a way that the kernel itself
//! takes the protection from a page that is written to, and lets the process go on (`WP_ASYNC`, Linux
//! 6.7). `PAGEMAP_SCAN` shows which pages have lost it ([`Pagemap::take_written`]). All protection ends
//! with the descriptor. What the kernel offers is tried on two pages of our own.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use memmap2::MmapMut;

use super::PAGE;
use super::pagemap::Pagemap;
use super::uffd::{Mode, Uffd};

/// Write protection that resolves itself, and of pages that are not there yet.
const WP_ASYNC: u64 = 1 << 15;
const WP_UNPOPULATED: u64 = 1 << 13;

/// The watch over a process' pages: a userfaultfd that it has made.
#[derive(Debug)]
pub(crate) struct Watch(Uffd);

impl Watch {
    /// Sets up what userfaultfd(2) gave.
    pub(crate) fn begin(uffd: OwnedFd) -> io::Result<Self> {
        Uffd::with(uffd, WP_ASYNC | WP_UNPOPULATED).map(Self)
    }

    /// Whether the process still has the address space that is watched.
    pub(crate) fn is_alive(&self) -> bool {
        // Nothing is ever watched there; what is missing then, the area or all of it, is told.
        let asked = self.0.write_protect(0, PAGE, 0);
        asked.map_or_else(|e| e.raw_os_error() != Some(libc::ESRCH), |()| true)
    }

    /// Watches an area that is not yet watched. Its pages count as written until
    /// [`Pagemap::take_written`] has protected them. Its bounds must be those of the moment: a part of an
    /// area under watch is one area with the rest no more.
    pub(crate) fn cover(&self, start: u64, end: u64) -> io::Result<()> {
        self.0.register(start, end, Mode::WriteProtected)?;
        // mremap(2) ends the watch, but may leave the marks of protected pages: moved ones would pass for
        // unwritten in their new place.
        self.0.write_protect(start, end - start, 0)
    }
}

/// userfaultfd(2) with asynchronous write protection, and `PAGEMAP_SCAN` to see what was written.
pub(crate) fn by_write_protection() -> io::Result<()> {
    // SAFETY: takes a number, and gives a descriptor that is nobody else's.
    let uffd = unsafe {
        match libc::syscall(libc::SYS_userfaultfd, Uffd::FLAGS) {
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
        as_expected(!pagemap.is_watched(start)?)?;
        self.cover(start, end)?;
        as_expected(pagemap.is_watched(start)?)?;
        pagemap.take_written(start, end)?;
        pages[0] = 2;
        let present = pagemap.present(start, end)?;
        let written = pagemap.take_written(start, end)?;
        let seen: Vec<bool> = present.iter().map(|pages| pages.written).collect();
        as_expected(written == [(start, start + PAGE)] && seen == [true, false])
    }
}

fn two_pages() -> io::Result<MmapMut> {
    let mut pages = MmapMut::map_anon(2 * PAGE as usize)?;
    pages[0] = 1;
    pages[PAGE as usize] = 1;
    Ok(pages)
}

fn as_expected(is: bool) -> io::Result<()> {
    if is { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moved_pages_count_as_written() {
        // SAFETY: as in `by_write_protection`.
        let uffd = match unsafe { libc::syscall(libc::SYS_userfaultfd, Uffd::FLAGS) } {
            -1 => return,
            // SAFETY: the descriptor is nobody else's.
            fd => unsafe { OwnedFd::from_raw_fd(fd as i32) },
        };
        let Ok(watch) = Watch::begin(uffd) else { return };
        let pagemap = Pagemap::open(std::process::id().cast_signed()).unwrap();
        const LENGTH: usize = 4 << 20;
        let mut room = MmapMut::map_anon(3 * LENGTH).unwrap();
        room[..2 * LENGTH].fill(1);
        let start = room.as_mut_ptr() as usize;
        let [one, two, three] = [start, start + LENGTH, start + 2 * LENGTH];
        let all_written = |at: usize| {
            let (start, end) = (at as u64, (at + LENGTH) as u64);
            assert!(!pagemap.is_watched(start).unwrap());
            watch.cover(start, end).unwrap();
            let written = pagemap.take_written(start, end).unwrap();
            assert_eq!(written.iter().map(|(from, to)| to - from).sum::<u64>(), LENGTH as u64);
        };
        all_written(one);
        all_written(two);
        // What a move leaves depends on what the areas became one with.
        for _ in 0..4 {
            for (from, to) in [(one, three), (two, one), (three, two)] {
                let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
                // SAFETY: both ranges are in the mapping that `room` keeps, and nobody uses it
                // meanwhile.
                let moved = unsafe { libc::mremap(from as _, LENGTH, LENGTH, flags, to) };
                assert_eq!(moved as usize, to);
            }
            all_written(one);
            all_written(two);
        }
    }
}
