//! The launcher's own stdin, stdout and stderr: at restart the restorer's take their place.
//!
//! Where the job reads a file by stdin, and the restorer is given the same file, that is opened anew
//! at its beginning: the position is put back, or the job would read twice what it has read.

use std::collections::HashSet;
use std::io::IsTerminal;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;

use rustix::fs::FileType;

use crate::os::fds;

fn is_terminal(fd: i32) -> bool {
    match fd {
        0 => std::io::stdin().is_terminal(),
        1 => std::io::stdout().is_terminal(),
        _ => std::io::stderr().is_terminal(),
    }
}

/// One of the three.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Stream {
    /// Its number.
    pub number: u8,
    /// The regular file that it is, for stdin.
    pub origin: Option<Origin>,
}

/// A regular file, as it can be known again.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Origin {
    /// `st_dev`.
    pub device: u64,
    /// `st_ino`.
    pub inode: u64,
    /// Where it was.
    pub path: Vec<u8>,
}

impl Origin {
    /// The file of one of our descriptors, if it is a regular one.
    fn of(fd: i32) -> Option<Self> {
        let name = format!("/proc/self/fd/{fd}");
        let meta = std::fs::metadata(&name).ok().filter(std::fs::Metadata::is_file)?;
        let path = std::fs::read_link(&name).ok()?.into_os_string().into_vec();
        Some(Self { device: meta.dev(), inode: meta.ino(), path })
    }

    /// Whether a descriptor of ours is that file. A network file system may have another device
    /// number on each node.
    pub(crate) fn is(&self, fd: &OwnedFd) -> bool {
        Self::of(fd.as_raw_fd()).is_some_and(|now| {
            now.inode == self.inode && (now.device == self.device || now.path == self.path)
        })
    }
}

/// What the launcher's descriptors 0, 1 and 2 were when the checkpoint was taken.
#[derive(Debug, Default)]
pub(crate) struct Stdio {
    /// Number, device, inode, and whether that inode alone tells.
    known: Vec<(i32, u64, u64, bool)>,
}

impl Stdio {
    /// Looks at our own three.
    pub(crate) fn ours() -> Self {
        let known = (0..=2).filter_map(|fd| {
            let meta = std::fs::metadata(format!("/proc/self/fd/{fd}")).ok()?;
            let own = match FileType::from_raw_mode(meta.mode()) {
                FileType::RegularFile | FileType::Directory => false,
                FileType::CharacterDevice => is_terminal(fd),
                _ => true,
            };
            Some((fd, meta.dev(), meta.ino(), own))
        });
        Self { known: known.collect() }
    }

    /// These, by device and inode, are not ours.
    pub(crate) fn forget(&mut self, inodes: &HashSet<(u64, u64)>) {
        self.known.retain(|(_, device, inode, _)| !inodes.contains(&(*device, *inode)));
    }

    /// Which of them a descriptor of the job is. A pipe, terminal or socket is known by its
    /// inode; of a regular file or /dev/null it must be the same open file description, as the job
    /// may have opened it by itself.
    pub(crate) fn which(&self, pid: i32, fd: i32, device: u64, inode: u64) -> Option<Stream> {
        let same = |ours: i32| {
            fds::same_file((std::process::id() as i32, ours), (pid, fd)).unwrap_or(false)
        };
        let mut fitting = self
            .known
            .iter()
            .filter(|(_, dev, ino, _)| (*dev, *ino) == (device, inode))
            .filter(|(ours, _, _, by_inode)| *by_inode || same(*ours));
        // Two of ours may be one terminal: the same number is the best guess.
        let first = fitting.clone().find(|(ours, ..)| *ours == fd).or_else(|| fitting.next());
        let (number, ..) = first?;
        let origin = if *number == 0 { Origin::of(0) } else { None };
        Some(Stream { number: *number as u8, origin })
    }
}
