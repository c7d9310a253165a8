//! userfaultfd(2) as a plain user may have it: of the process' own accesses, not of those that the kernel
//! makes on its behalf (`UFFD_USER_MODE_ONLY`, Linux 5.11).
//!
//! The process makes it, and we take it over. An area that is registered is either watched for writes
//! ([`super::changes`]), or its missing pages are ours to bring ([`Uffd::copy`]): who touches one
//! waits for us, and a system call that does so fails with `EFAULT`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// `UFFD_USER_MODE_ONLY`: no privilege is needed for that.
const USER_MODE_ONLY: i32 = 1;
const API: u64 = 0xaa;
/// `_IOWR(0xaa, NUMBER, STRUCTURE)` of linux/userfaultfd.h.
const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
const UFFDIO_WAKE: libc::c_ulong = 0x8010_aa02;
const UFFDIO_COPY: libc::c_ulong = 0xc028_aa03;
const UFFDIO_ZEROPAGE: libc::c_ulong = 0xc020_aa04;
const UFFDIO_WRITEPROTECT: libc::c_ulong = 0xc018_aa06;
/// `UFFD_EVENT_PAGEFAULT`.
const PAGE_FAULT: u64 = 0x12;
/// Words of `struct uffd_msg`.
const MESSAGE: usize = 4;

/// A process' userfaultfd in our hands. What is registered with it goes back to normal when it is
/// dropped.
#[derive(Debug)]
pub(crate) struct Uffd(OwnedFd);

/// What an area is registered for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mode {
    /// `UFFDIO_REGISTER_MODE_MISSING`.
    Missing = 1,
    /// `UFFDIO_REGISTER_MODE_WP`.
    WriteProtected = 2,
}

impl Uffd {
    /// The flags with which a process calls userfaultfd(2).
    pub(crate) const FLAGS: i32 = libc::O_CLOEXEC | libc::O_NONBLOCK | USER_MODE_ONLY;

    /// Sets up what userfaultfd(2) gave, with these `UFFD_FEATURE_*`.
    pub(crate) fn with(fd: OwnedFd, features: u64) -> io::Result<Self> {
        let this = Self(fd);
        this.request(UFFDIO_API, &mut [API, features, 0]).map(|()| this)
    }

    /// Registers an area.
    pub(crate) fn register(&self, start: u64, end: u64, mode: Mode) -> io::Result<()> {
        self.request(UFFDIO_REGISTER, &mut [start, end - start, mode as u64, 0])
    }

    /// Takes the write protection off (bit 0 of `mode` clear) a range, or puts it on.
    pub(crate) fn write_protect(&self, start: u64, length: u64, mode: u64) -> io::Result<()> {
        self.request(UFFDIO_WRITEPROTECT, &mut [start, length, mode])
    }

    /// Fills missing pages, and wakes who waits for them.
    ///
    /// # Errors
    ///
    /// `EEXIST`: one is not missing; `ENOENT`: the area is not registered; `ESRCH`: the process has ended.
    pub(crate) fn copy(&self, address: u64, bytes: &[u8]) -> io::Result<()> {
        let source = bytes.as_ptr() as u64;
        in_steps(bytes.len() as u64, |done| {
            let mut words = [address + done, source + done, bytes.len() as u64 - done, 0, 0];
            // The kernel reads the rest of `bytes` there.
            (self.request(UFFDIO_COPY, &mut words), words[4])
        })
    }

    /// The same with zeros.
    ///
    /// # Errors
    ///
    /// As of [`Self::copy`].
    pub(crate) fn zero(&self, address: u64, length: u64) -> io::Result<()> {
        in_steps(length, |done| {
            let mut words = [address + done, length - done, 0, 0];
            (self.request(UFFDIO_ZEROPAGE, &mut words), words[3])
        })
    }

    /// Wakes who waits for pages that are there by now.
    pub(crate) fn wake(&self, address: u64, length: u64) -> io::Result<()> {
        self.request(UFFDIO_WAKE, &mut [address, length])
    }

    /// The address that somebody has touched and waits for; `None` if nobody does.
    pub(crate) fn fault(&self) -> io::Result<Option<u64>> {
        let mut message = [0u8; 8 * MESSAGE];
        match rustix::io::read(&self.0, &mut message) {
            Ok(length) if length == message.len() => {}
            Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let (words, _) = message.as_chunks::<8>();
        let is_fault = u64::from_ne_bytes(words[0]) & 0xff == PAGE_FAULT;
        Ok(is_fault.then(|| u64::from_ne_bytes(words[2])))
    }

    fn request<const N: usize>(
        &self,
        request: libc::c_ulong,
        words: &mut [u64; N],
    ) -> io::Result<()> {
        // SAFETY: the words are the structure of this request, live and writable; an address within them
        // that the kernel reads from is that of a live buffer (see `copy`), others are the traced process'.
        match unsafe { libc::ioctl(self.0.as_raw_fd(), request, words.as_mut_ptr()) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }
}

impl AsFd for Uffd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Repeats a request that gets through a part of its range at a time: it tells how far it got, or a
/// negated errno.
fn in_steps(length: u64, mut step: impl FnMut(u64) -> (io::Result<()>, u64)) -> io::Result<()> {
    let mut done = 0;
    while done < length {
        match step(done) {
            (Ok(()), _) => return Ok(()),
            (Err(error), more) if error.raw_os_error() == Some(libc::EAGAIN) => {
                done += if more.cast_signed() > 0 { more } else { 0 };
            }
            (Err(error), _) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::FromRawFd;

    use memmap2::MmapMut;

    use super::*;
    use crate::os::PAGE;

    /// None where the kernel forbids it.
    fn of_ourselves() -> Option<Uffd> {
        // SAFETY: takes a number, and gives a descriptor that is nobody else's.
        let fd = match unsafe { libc::syscall(libc::SYS_userfaultfd, Uffd::FLAGS) } {
            -1 => return None,
            // SAFETY: as above.
            fd => unsafe { OwnedFd::from_raw_fd(fd as i32) },
        };
        Some(Uffd::with(fd, 0).unwrap())
    }

    #[test]
    fn missing_pages_are_brought() {
        let Some(uffd) = of_ourselves() else { return };
        let length = 4 * PAGE as usize;
        let room = MmapMut::map_anon(length).unwrap();
        let start = room.as_ptr() as u64;
        uffd.register(start, start + length as u64, Mode::Missing).unwrap();
        assert_eq!(uffd.fault().unwrap(), None);
        let reader = std::thread::spawn(move || room[PAGE as usize]);
        let asked = loop {
            if let Some(address) = uffd.fault().unwrap() {
                break address;
            }
            std::thread::yield_now();
        };
        assert_eq!(asked & !(PAGE - 1), start + PAGE);
        uffd.copy(start, &vec![7; 2 * PAGE as usize]).unwrap();
        assert_eq!(reader.join().unwrap(), 7);
    }

    #[test]
    fn what_is_there_stays() {
        let Some(uffd) = of_ourselves() else { return };
        let mut room = MmapMut::map_anon(2 * PAGE as usize).unwrap();
        room[0] = 1;
        let start = room.as_ptr() as u64;
        uffd.register(start, start + 2 * PAGE, Mode::Missing).unwrap();
        let errno = |result: io::Result<()>| result.unwrap_err().raw_os_error();
        assert_eq!(errno(uffd.copy(start, &[7; PAGE as usize])), Some(libc::EEXIST));
        assert_eq!(errno(uffd.zero(start, PAGE)), Some(libc::EEXIST));
        uffd.zero(start + PAGE, PAGE).unwrap();
        assert_eq!((room[0], room[PAGE as usize]), (1, 0));
        assert_eq!(errno(uffd.copy(start - PAGE, &[7; PAGE as usize])), Some(libc::ENOENT));
    }
}
