//! The job that we belong to, and its files in the checkpoint directory
//! (`ckpt-launch/src/control/` tells of them).

use core::mem::MaybeUninit;

use crate::json::{Line, Source};
use crate::sys::{EAGAIN, Fd, LOCK_NB, LOCK_SH, O_NOFOLLOW, Result};
use crate::text::{Kept, Put, Text};

/// `$CKPT_DIR`.
pub(crate) static DIR: Kept<4096> = Kept::new();
/// `$CKPT_JOB_ID`.
pub(crate) static JOB: Kept<17> = Kept::new();

/// Whether we are in a job.
pub(crate) fn is_in_job() -> bool {
    DIR.len() > 0 && JOB.is_full()
}

/// The name of one of the job's files, with its final 0 or without.
pub(crate) fn name(ending: &[u8]) -> Text<40> {
    let mut name = Text::new();
    name.add(b".ckpt-");
    JOB.iter().for_each(|byte| name.push(byte));
    name.add(ending);
    name
}

/// Opens one of the job's files; `ending` is a C string.
pub(crate) fn open(ending: &[u8]) -> Result<Fd> {
    Fd::directory(&DIR)?.child(&name(ending), O_NOFOLLOW)
}

/// What we need of the supervisor's record.
pub(crate) struct Record {
    /// Differs for every supervisor of the job.
    pub(crate) incarnation: Text<20>,
    /// Its socket; cut off if the name is longer than an address.
    pub(crate) socket: Text<108>,
}

impl Record {
    /// Reads it to `record`; false if there is none, or one that is just being written.
    pub(crate) fn read(record: &mut Self) -> bool {
        let Ok(file) = open(b".lock\0") else { return false };
        let mut bytes = FileBytes::new(file);
        let mut line = Line::new(&mut bytes);
        let (mut key, mut value) = (Text::<12>::new(), Text::<109>::new());
        record.incarnation.clear();
        record.socket.clear();
        while line.member(&mut key, &mut value) {
            if key.is(b"incarnation") {
                record.incarnation.add(value.bytes());
            } else if key.is(b"socket") {
                record.socket.add(value.bytes());
            }
        }
        !record.incarnation.bytes().is_empty() && !record.socket.bytes().is_empty()
    }

    pub(crate) fn new() -> Self {
        Self { incarnation: Text::new(), socket: Text::new() }
    }
}

/// Whether a supervisor holds the job's lock, as far as the file system can tell.
pub(crate) fn has_supervisor() -> bool {
    match open(b".lock\0") {
        Ok(file) => match file.flock(LOCK_SH | LOCK_NB) {
            Ok(()) => false,
            Err(EAGAIN) => true,
            Err(_) => true,
        },
        Err(_) => false,
    }
}

/// The bytes of a file, from its beginning.
pub(crate) struct FileBytes {
    file: Fd,
    chunk: [MaybeUninit<u8>; 256],
    /// Bytes of `chunk` that were read, and that were given away.
    have: usize,
    given: usize,
    offset: usize,
    /// Whether reading has failed.
    pub(crate) failed: bool,
}

impl FileBytes {
    #[inline(always)]
    pub(crate) fn new(file: Fd) -> Self {
        let chunk = [const { MaybeUninit::uninit() }; 256];
        Self { file, chunk, have: 0, given: 0, offset: 0, failed: false }
    }
}

impl Source for FileBytes {
    fn next(&mut self) -> Option<u8> {
        if self.given == self.have {
            let got = self.file.read_at(&mut self.chunk, self.offset).map(<[u8]>::len);
            self.failed |= got.is_err();
            (self.have, self.given) = (got.unwrap_or(0), 0);
            self.offset += self.have;
        }
        let byte = self.chunk.get(..self.have)?.get(self.given)?;
        self.given += 1;
        // SAFETY: the byte is one of the `have` that `read_at` has filled in.
        Some(unsafe { byte.assume_init() })
    }
}
