//! One end of the connection between the halves: whole lines in, whole lines out.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use ckpt_core::{Error, ErrorKind, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::time::Timespec;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A line longer than this is not ours.
const MAX_LINE: usize = 1 << 20;
/// A reader that takes nothing for so long is as good as gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// One end.
#[derive(Debug)]
pub struct Line<In> {
    stream: UnixStream,
    input: Vec<u8>,
    words: VecDeque<In>,
    open: bool,
    /// Nobody takes our words any more; those that lie there are heard all the same.
    deaf: bool,
}

impl<In: DeserializeOwned> Line<In> {
    /// Takes over a connection.
    ///
    /// # Errors
    ///
    /// When it cannot be prepared.
    pub fn new(stream: UnixStream) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, input: Vec::new(), words: VecDeque::new(), open: true, deaf: false })
    }

    /// Whether the other end is there.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Whether words have been read that nobody has asked for yet: no poll tells of them.
    pub fn has_words(&self) -> bool {
        !self.words.is_empty()
    }

    /// What is to be polled for input.
    pub fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        self.open.then(|| self.stream.as_fd())
    }

    /// Says a word, if somebody is there to take it.
    pub fn say(&mut self, word: &impl Serialize) {
        let mut line = serde_json::to_vec(word).unwrap_or_default();
        line.push(b'\n');
        let deadline = Instant::now() + PATIENCE;
        let mut rest = line.as_slice();
        while !rest.is_empty() && self.open && !self.deaf {
            match self.stream.write(rest) {
                Ok(n) => rest = &rest[n..],
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    self.deaf = !self.wait(PollFlags::OUT, deadline);
                }
                Err(_) => self.deaf = true,
            }
        }
        if self.deaf {
            // What lies there can still be read, and then comes the end.
            let _ = self.stream.shutdown(std::net::Shutdown::Both);
        }
    }

    /// The next word that has come.
    pub fn hear(&mut self) -> Option<In> {
        self.read();
        self.words.pop_front()
    }

    /// The next word that `wanted` takes; the others stay for later.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Gone`] if the other end is, [`ErrorKind::Busy`] if none has come by `deadline`.
    pub fn await_word<T>(
        &mut self,
        deadline: Instant,
        mut wanted: impl FnMut(&In) -> Option<T>,
    ) -> Result<T> {
        let mut seen = 0;
        loop {
            self.read();
            for at in seen..self.words.len() {
                if let Some(word) = wanted(&self.words[at]) {
                    self.words.remove(at);
                    return Ok(word);
                }
            }
            seen = self.words.len();
            if !self.open {
                let what = "the launcher's other half is gone";
                return Err(Error::new(ErrorKind::Gone, what));
            }
            if !self.wait(PollFlags::IN, deadline) {
                let what = "the launcher's other half does not answer";
                return Err(Error::new(ErrorKind::Busy, what));
            }
        }
    }

    fn wait(&self, what: PollFlags, deadline: Instant) -> bool {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).ok();
            match rustix::event::poll(&mut [PollFd::new(&self.stream, what)], left.as_ref()) {
                Ok(ready) => return ready > 0,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }

    fn read(&mut self) {
        let mut bytes = [0u8; 4096];
        while self.open {
            match self.stream.read(&mut bytes) {
                Ok(0) => self.open = false,
                Ok(n) => self.input.extend_from_slice(&bytes[..n]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(_) => self.open = false,
            }
            self.open &= self.input.len() <= MAX_LINE;
        }
        while let Some(end) = self.input.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.input.drain(..=end).collect();
            match serde_json::from_slice(&line) {
                Ok(word) => self.words.push_back(word),
                Err(error) => tracing::warn!(%error, "a word of the other half makes no sense"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_pass_and_an_end_is_noticed() {
        let (a, b) = UnixStream::pair().unwrap();
        let (mut a, mut b) = (Line::<u32>::new(a).unwrap(), Line::<u32>::new(b).unwrap());
        assert_eq!(b.hear(), None);
        (1..=3).for_each(|n| a.say(&n));
        let soon = Instant::now() + Duration::from_secs(5);
        assert_eq!(b.await_word(soon, |&n| (n == 2).then_some(n)).unwrap(), 2);
        assert_eq!((b.hear(), b.hear(), b.hear()), (Some(1), Some(3), None));
        let error = b.await_word(Instant::now(), |&n| Some(n)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        drop(a);
        assert_eq!(b.await_word(soon, |&n| Some(n)).unwrap_err().kind(), ErrorKind::Gone);
        assert!(!b.is_open());
    }

    #[test]
    fn last_words_are_heard() {
        let (a, b) = UnixStream::pair().unwrap();
        let (mut a, mut b) = (Line::<u32>::new(a).unwrap(), Line::<u32>::new(b).unwrap());
        (1..=2).for_each(|n| a.say(&n));
        drop(a);
        // Nobody takes it.
        b.say(&3);
        assert_eq!((b.hear(), b.hear(), b.hear()), (Some(1), Some(2), None));
        assert!(!b.is_open());
    }
}
