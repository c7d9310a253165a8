//! Open file descriptions (OFDs) and the descriptors that lead to them (open(2), proc_pid_fd(5)).

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, SeekFrom};

use super::event::Event;
use super::lock::Lock;
use super::procfs;
use super::stdio::Stream;
use crate::error::{Error, ErrorKind, Result};

/// One entry of a process' descriptor table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Descriptor {
    /// Its number.
    pub fd: i32,
    /// Index of the open file description in the snapshot.
    pub file: u32,
    /// `FD_CLOEXEC`.
    pub close_on_exec: bool,
}

/// An open file description.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct OpenFile {
    /// Access mode and status flags, as open(2) takes them.
    pub flags: i32,
    /// Position in bytes.
    pub position: u64,
    /// What is open.
    pub what: What,
    /// Locks that belong to it.
    pub locks: Vec<Lock>,
}

/// What an open file description leads to.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum What {
    /// One of the launcher's descriptors 0, 1 and 2.
    Stdio(Stream),
    /// A pipe or socket that leads out of the job, inherited from whoever started the launcher:
    /// the launcher's descriptor of this number. It comes back as one whose other end is closed.
    Outside(i32),
    /// A file with a name.
    Named(Named),
    /// A nameless file: index in the snapshot's contents.
    Content(u32),
    /// A pipe or FIFO: index in the snapshot's pipes.
    Pipe(u32),
    /// eventfd and its like.
    Event(Event),
}

/// A file that can be found by its name.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Named {
    /// Its path.
    pub path: Vec<u8>,
    /// `S_IFMT` bits of its mode.
    pub file_type: u32,
    /// Length in bytes at the checkpoint.
    pub size: u64,
    /// Time of the last change of its contents, nanoseconds since 1970.
    pub modified: i128,
}

impl Named {
    /// Notes a file as it is now.
    pub(crate) fn of(path: &[u8], meta: &fs::Metadata) -> Self {
        Self {
            path: path.to_vec(),
            file_type: meta.mode() & libc::S_IFMT,
            size: meta.len(),
            modified: i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec()),
        }
    }

    /// The path for messages.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.path).into_owned()
    }

    fn is_regular(&self) -> bool {
        FileType::from_raw_mode(self.file_type) == FileType::RegularFile
    }

    /// Checks, before anything is made, that the file can be opened again with the same meaning.
    ///
    /// # Errors
    ///
    /// It is gone, has become something else, or lacks bytes that the job had written.
    pub fn check(&self, position: u64, writable: bool) -> Result<()> {
        let path = Path::new(OsStr::from_bytes(&self.path));
        let name = self.shown();
        let meta = fs::metadata(path).map_err(|e| {
            let error = Error::os(format!("cannot find {name}, which the job has open"), e);
            error.help("put the file back, or restart where it is")
        })?;
        if meta.mode() & libc::S_IFMT != self.file_type {
            let what = format!("{name} is not the kind of file that it was at the checkpoint");
            return Err(Error::new(ErrorKind::Unsupported, what));
        }
        if self.is_regular() && meta.len() < self.size && (writable || meta.len() < position) {
            let (now, then) = (meta.len(), self.size);
            let what = format!("{name} has {now} bytes, and had {then} at the checkpoint");
            return Err(Error::new(ErrorKind::Unsupported, what)
                .help("put the file back as it was, or use an image that fits to it"));
        }
        Ok(())
    }

    /// Opens it as it was open; `outer` knows the numbers of the job's processes as seen from here.
    pub(crate) fn rebuild(
        &self,
        flags: i32,
        position: u64,
        outer: &dyn Fn(i32) -> Option<i32>,
    ) -> Result<OwnedFd> {
        let failed = |e: io::Error| Error::os(format!("cannot open {}", self.shown()), e);
        let moved = procfs::here(&self.path, outer);
        let path = OsStr::from_bytes(moved.as_deref().unwrap_or(&self.path));
        let fd = open_with(Path::new(path), flags).map_err(failed)?;
        if flags & libc::O_PATH != 0 {
            return Ok(fd);
        }
        if matches!(
            FileType::from_raw_mode(self.file_type),
            FileType::RegularFile | FileType::Directory | FileType::BlockDevice
        ) {
            rustix::fs::seek(&fd, SeekFrom::Start(position)).map_err(|e| failed(e.into()))?;
        }
        Ok(fd)
    }

    /// Shortens a file that was only appended to back to its length at the checkpoint.
    pub(crate) fn cut_appended(&self, fd: &OwnedFd, flags: i32) -> Result<()> {
        let written = flags & libc::O_PATH == 0 && flags & libc::O_ACCMODE != libc::O_RDONLY;
        if !self.is_regular() || !written || flags & libc::O_APPEND == 0 {
            return Ok(());
        }
        let what = || format!("cannot cut {} to {} bytes", self.shown(), self.size);
        rustix::fs::ftruncate(fd, self.size).map_err(|e| Error::os(what(), e))
    }
}

/// A pipe end, or a socket, that nobody is at the other end of.
pub(crate) fn dead_end(flags: i32) -> io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use rustix::pipe::{PipeFlags, pipe_with};
    Ok(match flags & libc::O_ACCMODE {
        libc::O_RDONLY => pipe_with(PipeFlags::CLOEXEC)?.0,
        libc::O_WRONLY => pipe_with(PipeFlags::CLOEXEC)?.1,
        _ => socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?.0,
    })
}

/// open(2) with the flags of an existing OFD: never creates, never becomes a controlling terminal.
pub(crate) fn open_with(path: &Path, flags: i32) -> io::Result<OwnedFd> {
    let never = libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC;
    let unnamed = if flags & libc::O_TMPFILE == libc::O_TMPFILE { libc::O_TMPFILE } else { 0 };
    let flags = (flags & !never & !unnamed) | libc::O_CLOEXEC | libc::O_NOCTTY;
    let flags = OFlags::from_bits_retain(flags as u32);
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// `pos` and `flags` of `/proc/PID/fdinfo/FD`.
pub(crate) fn position_and_flags(info: &str) -> Option<(u64, i32)> {
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name));
    let position = field("pos:")?.trim().parse().ok()?;
    let flags = i32::from_str_radix(field("flags:")?.trim(), 8).ok()?;
    Some((position, flags))
}
