//! Files without a name, whose contents must go into the image: shared memory, memfd_create(2),
//! deleted files that are still open or mapped.

use std::ffi::{CString, OsStr};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{MemfdFlags, Mode, SealFlags};

use crate::error::{Error, Result};

/// What kind of nameless file.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum Nameless {
    /// memfd_create(2), or shared anonymous memory, which is the same but for a name.
    Memory {
        /// The name given at its making.
        name: Vec<u8>,
        /// `F_GET_SEALS`.
        seals: u32,
    },
    /// A file whose last name was removed.
    Deleted {
        /// The path it had.
        path: Vec<u8>,
        /// Permission bits.
        mode: u32,
    },
}

/// A nameless file; its bytes are in the page stream.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Content {
    /// What it is.
    pub kind: Nameless,
    /// Length in bytes.
    pub size: u64,
}

impl Content {
    /// Classifies the path by which the kernel calls a nameless file (` (deleted)` removed).
    pub(crate) fn kind_of(path: &[u8], mode: u32) -> Nameless {
        match path.strip_prefix(b"/memfd:") {
            Some(name) => Nameless::Memory { name: name.to_vec(), seals: 0 },
            None if path == b"/dev/zero" => {
                Nameless::Memory { name: b"dev-zero".to_vec(), seals: 0 }
            }
            None => Nameless::Deleted { path: path.to_vec(), mode: mode & 0o7777 },
        }
    }

    /// Makes the file, of full length and without contents yet.
    pub(crate) fn rebuild(&self) -> Result<OwnedFd> {
        let made = match &self.kind {
            Nameless::Memory { name, .. } => memfd(name),
            Nameless::Deleted { path, mode } => deleted(path, *mode),
        };
        let sized = made.and_then(|fd| {
            rustix::fs::ftruncate(&fd, self.size)?;
            Ok(fd)
        });
        sized.map_err(|e| Error::os(format!("cannot make the nameless file {self}"), e))
    }

    /// Seals it, once its contents are in place and it is mapped.
    pub(crate) fn seal(&self, fd: &OwnedFd) -> Result<()> {
        match &self.kind {
            Nameless::Memory { seals, .. } if *seals != 0 => {
                let failed = |e| Error::os(format!("cannot seal {self}"), e);
                let seals = SealFlags::from_bits_retain(*seals);
                if seals.contains(SealFlags::EXEC) && !seals.contains(SealFlags::WRITE) {
                    // An executable file would be sealed against writing along with that.
                    rustix::fs::fchmod(fd, Mode::from_raw_mode(0o666)).map_err(failed)?;
                }
                rustix::fs::fcntl_add_seals(fd, seals).map_err(failed)
            }
            _ => Ok(()),
        }
    }

    /// Whether it will be sealed against writing, for which no shared mapping may allow that.
    pub(crate) fn is_write_sealed(&self) -> bool {
        match &self.kind {
            Nameless::Memory { seals, .. } => seals & SealFlags::WRITE.bits() != 0,
            Nameless::Deleted { .. } => false,
        }
    }

    /// Opens it anew, for the access of `flags`.
    pub(crate) fn open(&self, fd: &OwnedFd, flags: i32) -> Result<OwnedFd> {
        reopen(fd.as_raw_fd(), flags).map_err(|e| Error::os(format!("cannot open {self}"), e))
    }
}

/// A new open file description of what `fd` leads to.
pub(crate) fn reopen(fd: i32, flags: i32) -> io::Result<OwnedFd> {
    // What leads there is a link, and shm_open(3) says that it will not follow any.
    let flags = flags & !libc::O_NOFOLLOW;
    super::file::open_with(Path::new(&format!("/proc/self/fd/{fd}")), flags)
}

impl std::fmt::Display for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Nameless::Memory { name, .. } | Nameless::Deleted { path: name, .. }) = &self.kind;
        write!(f, "{}", String::from_utf8_lossy(name))
    }
}

fn memfd(name: &[u8]) -> io::Result<OwnedFd> {
    let name = CString::new(name).unwrap_or_default();
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    Ok(rustix::fs::memfd_create(name, flags)?)
}

/// A file in the folder where the original was, under its name if that is free, deleted at once.
/// Where that folder is no more, memory serves.
fn deleted(path: &[u8], mode: u32) -> io::Result<OwnedFd> {
    let path = Path::new(OsStr::from_bytes(path));
    let mut spare = path.as_os_str().to_owned();
    spare.push(format!(".ckpt-{}", std::process::id()));
    for candidate in [path, Path::new(&spare)] {
        let made = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(mode | 0o600)
            .open(candidate);
        match made {
            Ok(file) => {
                fs::remove_file(candidate)?;
                return Ok(File::into(file));
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => {
                tracing::debug!(path = %candidate.display(), error = %e, "kept in memory instead");
                break;
            }
        }
    }
    memfd(path.file_name().map_or(b"deleted", |name| name.as_bytes()))
}
