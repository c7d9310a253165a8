//! File locks: flock(2), open file description locks and record locks (fcntl_locking(2)).
//!
//! `/proc/PID/fdinfo` lists those that belong to a descriptor. The first two kinds are the open
//! file description's; a record lock is the process', and shows up at each of its descriptors for
//! the file.

use std::io;
use std::os::fd::OwnedFd;

use super::{Hand, bytes_of};
use crate::error::{Error, Result};
use crate::os::fds;

/// What kind of lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum Kind {
    /// flock(2).
    Whole,
    /// `F_OFD_SETLK`.
    Description,
    /// `F_SETLK`.
    Record,
}

/// A lock that is held.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Lock {
    /// Its kind.
    pub kind: Kind,
    /// For writing, not only for reading.
    pub exclusive: bool,
    /// First byte.
    pub start: u64,
    /// Last byte; `None` is the end of the file, wherever that is.
    pub end: Option<u64>,
}

impl Lock {
    /// All locks in a descriptor's fdinfo.
    pub(crate) fn all(info: &str) -> Vec<Self> {
        info.lines().filter_map(|line| Self::parsed(line.strip_prefix("lock:")?)).collect()
    }

    /// `1: POSIX  ADVISORY  WRITE 4711 08:02:17 0 EOF`
    fn parsed(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, kind, _, mode, .., start, end] = words.as_slice() else { return None };
        let kind = match *kind {
            "FLOCK" => Kind::Whole,
            "OFDLCK" => Kind::Description,
            "POSIX" => Kind::Record,
            _ => return None,
        };
        let exclusive = *mode == "WRITE";
        Some(Self { kind, exclusive, start: start.parse().ok()?, end: end.parse().ok() })
    }

    /// `struct flock` of fcntl.h, as words.
    fn words(&self) -> [u64; 4] {
        let kind = if self.exclusive { libc::F_WRLCK } else { libc::F_RDLCK };
        let length = self.end.map_or(0, |end| end.wrapping_sub(self.start).wrapping_add(1));
        [u64::from(kind as u16) | (libc::SEEK_SET as u64) << 16, self.start, length, 0]
    }

    /// Takes a lock of an open file description again, through a descriptor of ours.
    pub(crate) fn take(&self, fd: &OwnedFd) -> Result<()> {
        let taken = match self.kind {
            Kind::Whole => {
                use rustix::fs::FlockOperation as Op;
                let exclusive = Op::NonBlockingLockExclusive;
                let how = if self.exclusive { exclusive } else { Op::NonBlockingLockShared };
                rustix::fs::flock(fd, how).map_err(io::Error::from)
            }
            Kind::Description => fds::lock_description(fd, self.words()),
            Kind::Record => Ok(()),
        };
        taken.map_err(|e| self.refused(e))
    }

    /// Takes a record lock again, in the process at hand, through its descriptor `fd`.
    pub(crate) fn take_record(&self, hand: &Hand<'_>, fd: i32) -> Result<()> {
        let at = hand.put(&bytes_of(&self.words()))?;
        let arguments = [fd as u64, libc::F_SETLK as u64, at];
        match hand.remote.call(libc::SYS_fcntl, &arguments)? {
            0 => Ok(()),
            code => Err(self.refused(io::Error::from_raw_os_error(-code as i32))),
        }
    }

    fn refused(&self, error: io::Error) -> Error {
        let what = format!("cannot take a file lock again ({self:?})");
        Error::os(what, error).help("another program may hold it now; wait for that to end")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lines_are_understood() {
        let info = "pos:\t0\nflags:\t02\nlock:\t1: FLOCK  ADVISORY  WRITE 17 fe:00:12 0 EOF\n\
                    lock:\t2: POSIX  ADVISORY  READ  17 fe:00:12 3 9\n";
        let locks = Lock::all(info);
        assert_eq!(locks[0], Lock { kind: Kind::Whole, exclusive: true, start: 0, end: None });
        let record = Lock { kind: Kind::Record, exclusive: false, start: 3, end: Some(9) };
        assert_eq!(locks[1], record);
        assert_eq!(record.words()[2], 7);
    }
}
