//! Asking the supervisor, and waiting for an answer that may come in another life.
//!
//! The answer comes through a pipe whose reading end is inside the job, and whose other end we pass
//! on and give up. While the connection is open no checkpoint may be taken, since a socket that
//! leads out of the job cannot be saved: so it is short, and under a [`hold`]. We don't wait for
//! the supervisor's greeting, then: it may be waiting for our hold.
//!
//! A checkpoint may be taken while we wait. In the job that is restored from it, nobody is at the
//! other end of the pipe, and the pipe is another one than it was.

use core::mem::MaybeUninit;

use crate::hold;
use crate::json::Source;
use crate::place::{self, Record};
use crate::socket;
use crate::sys::{self, EAGAIN, ENOENT, Fd, Result};
use crate::text::{Put, Text};

/// How often we make sure that the supervisor lives. The end of the pipe tells as well, unless some
/// other thread has forked in the wrong moment.
const LOOK_EVERY: usize = 500;

/// The answer as it comes.
pub(crate) struct Answer {
    pipe: Fd,
    inode: u64,
    incarnation: Text<20>,
    chunk: [MaybeUninit<u8>; 256],
    /// Bytes of `chunk` that were read, and that were given away.
    have: usize,
    given: usize,
}

/// Sends a request, one line of JSON that says `"reply":"fd"`.
#[inline(always)]
pub(crate) fn ask(request: &[u8]) -> Result<Answer> {
    let mut record = Record::new();
    let pipe = send(request, &mut record)?;
    let mut incarnation = Text::new();
    incarnation.add(record.incarnation.bytes());
    let chunk = [const { MaybeUninit::uninit() }; 256];
    Ok(Answer { inode: pipe.inode()?, pipe, incarnation, chunk, have: 0, given: 0 })
}

#[inline(never)]
fn send(request: &[u8], record: &mut Record) -> Result<Fd> {
    loop {
        let hold = hold::take();
        if !Record::read(record) {
            return Err(ENOENT);
        }
        match socket::connect(record) {
            Ok(socket) => {
                let (read, write) = sys::pipe()?;
                socket::send(&socket, request, &write)?;
                return Ok(read);
            }
            // It doesn't take calls, perhaps since it waits for us to let go.
            Err(EAGAIN) => {
                drop(hold);
                sys::sleep(10);
            }
            Err(error) => return Err(error),
        }
    }
}

impl Answer {
    /// Whether we are in a restored job, and were not when we asked.
    pub(crate) fn came_back(&self) -> bool {
        let mut record = Record::new();
        let another = Record::read(&mut record) && !record.incarnation.is(self.incarnation.bytes());
        self.has_moved() || another
    }

    fn has_moved(&self) -> bool {
        self.pipe.inode() != Ok(self.inode)
    }

    /// Reads what comes next; false if nothing will.
    fn fill(&mut self) -> bool {
        loop {
            let mut ready = self.pipe.poll(LOOK_EVERY);
            if !ready && (self.has_moved() || !place::has_supervisor()) {
                // Its last words come before its end.
                ready = self.pipe.poll(0);
                if !ready {
                    return false;
                }
            }
            if ready {
                let got = self.pipe.read(&mut self.chunk).map(<[u8]>::len);
                (self.have, self.given) = (got.unwrap_or(0), 0);
                return self.have > 0;
            }
        }
    }
}

impl Source for Answer {
    fn next(&mut self) -> Option<u8> {
        if self.given == self.have && !self.fill() {
            return None;
        }
        let byte = self.chunk.get(..self.have)?.get(self.given)?;
        self.given += 1;
        // SAFETY: the byte is one of the `have` that `read` has filled in.
        Some(unsafe { byte.assume_init() })
    }
}
