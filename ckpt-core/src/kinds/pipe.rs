//! Pipes and named FIFOs (pipe(7)), with what is in them.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};

use super::file::open_with;
use crate::error::{Error, ErrorKind, Result};
use crate::os::fds::tee;

/// A pipe, as plain data.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Pipe {
    /// Name in the file system, if it is a FIFO.
    pub path: Option<Vec<u8>>,
    /// Capacity in bytes.
    pub capacity: u64,
    /// The bytes written and not yet read, as they would be read: in packet mode (`O_DIRECT`) one
    /// entry a packet, else all in one.
    pub contents: Vec<Vec<u8>>,
    /// They were written in packet mode.
    pub packets: bool,
}

impl Pipe {
    /// Copies what is in the pipe that `link` (a path in `/proc/PID/fd`) leads to, and leaves it
    /// there.
    pub(crate) fn capture(link: &str, path: Option<Vec<u8>>) -> Result<Self> {
        let failed = |e: io::Error| Error::os(format!("cannot read the pipe at {link}"), e);
        let pipe: OwnedFd = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(link)
            .map_err(failed)?
            .into();
        let capacity = fcntl_getpipe_size(&pipe).map_err(|e| failed(e.into()))?;
        let (out, into) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
        // As large as the original if we may: tee cannot copy more than fits.
        let _ = fcntl_setpipe_size(&into, capacity);
        let total = match tee(&pipe, &into, capacity) {
            Ok(length) => length,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
            Err(e) => return Err(failed(e)),
        };
        let waiting = rustix::io::ioctl_fionread(&pipe).map_err(|e| failed(e.into()))?;
        if total as u64 != waiting {
            // The limit on pipe buffers (pipe-user-pages-soft) keeps ours too small.
            let what = format!("cannot copy {waiting} bytes out of the pipe at {link}");
            return Err(Error::new(ErrorKind::Busy, what).help("try again, with fewer pipes open"));
        }
        let packets = total > 1 && begins_with_packet(&out, capacity).map_err(failed)?;
        // A copied packet stays a packet: one read brings no more than one.
        let mut out = File::from(out);
        let mut contents = Vec::new();
        let mut done = 0;
        while done < total {
            let mut chunk = vec![0; total - done];
            let length = out.read(&mut chunk).map_err(failed)?;
            chunk.truncate(length);
            done += length;
            contents.push(chunk);
        }
        let packets = packets || contents.len() > 1;
        Ok(Self { path, capacity: capacity as u64, contents, packets })
    }

    /// Notes that one of its descriptors is in packet mode: a single byte does not tell.
    pub(crate) fn note_packet_mode(&mut self) {
        self.packets |= self.length() == 1;
    }

    /// How many bytes are in it.
    pub fn length(&self) -> usize {
        self.contents.iter().map(Vec::len).sum()
    }

    /// Makes it, empty; both ends are open in what comes back.
    pub(crate) fn rebuild(&self) -> Result<Keeper> {
        let name = self.path.as_deref().unwrap_or(b"pipe");
        let failed = |e: io::Error| {
            Error::os(format!("cannot make the pipe {}", String::from_utf8_lossy(name)), e)
        };
        let (read, write) = match &self.path {
            Some(path) => {
                let both = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open(OsStr::from_bytes(path))
                    .map_err(failed)?;
                (both.try_clone().map_err(failed)?.into(), both.into())
            }
            None => pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?,
        };
        let _ = fcntl_setpipe_size(write.as_fd(), self.capacity as usize);
        Ok(Keeper { read: read.into(), write: write.into(), roused: false })
    }
}

/// Whether the first that a pipe holds is a packet: of that, what is not read at once is gone.
fn begins_with_packet(pipe: &OwnedFd, capacity: usize) -> io::Result<bool> {
    let (out, into) = pipe_with(PipeFlags::CLOEXEC)?;
    let _ = fcntl_setpipe_size(&into, capacity);
    let copied = tee(pipe, &into, capacity)? as u64;
    rustix::io::read(&out, &mut [0; 1])?;
    Ok(rustix::io::ioctl_fionread(&out)? + 1 < copied)
}

/// Holds both ends of a pipe until all its descriptors are in place.
#[derive(Debug)]
pub(crate) struct Keeper {
    read: File,
    write: File,
    /// A byte of ours is in it.
    roused: bool,
}

impl Keeper {
    /// Makes both ends ready, until [`Self::fill`].
    pub(crate) fn rouse(&mut self) -> Result<()> {
        self.write.write_all(b"r").map_err(|e| Error::os("cannot write to a pipe", e))?;
        self.roused = true;
        Ok(())
    }

    /// Puts back what was in the pipe.
    pub(crate) fn fill(&mut self, pipe: &Pipe) -> Result<()> {
        let failed = |e: io::Error| Error::os("cannot fill a pipe", e);
        if std::mem::take(&mut self.roused) {
            self.read.read_exact(&mut [0]).map_err(failed)?;
        }
        let mode = if pipe.packets { OFlags::DIRECT } else { OFlags::empty() };
        // Nobody reads yet: what does not fit must be an error.
        let mode = mode | OFlags::NONBLOCK;
        rustix::fs::fcntl_setfl(&self.write, mode).map_err(|e| failed(e.into()))?;
        pipe.contents.iter().try_for_each(|chunk| self.write.write_all(chunk)).map_err(failed)
    }

    /// Opens the pipe anew, with the flags of an open file description.
    pub(crate) fn open(&self, flags: i32) -> io::Result<OwnedFd> {
        let path = format!("/proc/self/fd/{}", self.write.as_raw_fd());
        // Packet mode can be set, but not opened with.
        let fd = open_with(Path::new(&path), flags & !libc::O_DIRECT)?;
        if flags & libc::O_DIRECT != 0 {
            let mode = flags & (libc::O_DIRECT | libc::O_NONBLOCK);
            rustix::fs::fcntl_setfl(&fd, OFlags::from_bits_retain(mode as u32))?;
        }
        Ok(fd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_copied_and_left() {
        let (read, mut write) = io::pipe().unwrap();
        write.write_all(b"left behind").unwrap();
        let link = format!("/proc/self/fd/{}", write.as_raw_fd());
        let pipe = Pipe::capture(&link, None).unwrap();
        assert_eq!(pipe.contents, [b"left behind"]);
        let again = Pipe::capture(&link, None).unwrap();
        assert_eq!(pipe, again);
        drop(read);
    }

    #[test]
    fn packets_stay_apart() {
        let (_read, write) = pipe_with(PipeFlags::DIRECT).unwrap();
        for packet in [b"one".as_slice(), b"and two"] {
            rustix::io::write(&write, packet).unwrap();
        }
        let link = format!("/proc/self/fd/{}", write.as_raw_fd());
        let pipe = Pipe::capture(&link, None).unwrap();
        assert_eq!(pipe.contents, [b"one".as_slice(), b"and two"]);
        let mut keeper = pipe.rebuild().unwrap();
        keeper.rouse().unwrap();
        keeper.fill(&pipe).unwrap();
        let link = format!("/proc/self/fd/{}", keeper.write.as_raw_fd());
        assert_eq!(Pipe::capture(&link, None).unwrap(), pipe);
    }

    #[test]
    fn one_packet_is_none_of_a_stream() {
        for (flags, packets) in [(PipeFlags::DIRECT, true), (PipeFlags::empty(), false)] {
            let (_read, write) = pipe_with(flags).unwrap();
            rustix::io::write(&write, b"one").unwrap();
            let link = format!("/proc/self/fd/{}", write.as_raw_fd());
            let pipe = Pipe::capture(&link, None).unwrap();
            assert_eq!((pipe.contents.len(), pipe.packets), (1, packets));
        }
    }
}
