//! Lines over a stream: JSON objects, each with a keyed checksum where the stream is TCP.
//!
//! A line is `CHECKSUM JSON`: HMAC-SHA256 over the line's number and its text, in hex, so that lines
//! can be neither changed nor repeated nor swapped. Nothing here is encrypted: what is said is no
//! secret, who says it matters.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags};
use rustix::time::Timespec;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::secret::{Secret, Tag, hex, tag};

/// A line longer than this is nobody's.
const MAX_LINE: usize = 4 << 20;
/// A reader that lets more than this pile up is given up.
const MAX_BACKLOG: usize = 16 << 20;

/// The stream below.
#[derive(Debug)]
pub enum Stream {
    /// Another host, or this one: needs the secret.
    Tcp(TcpStream),
    /// This host: known by its credentials.
    Unix(UnixStream),
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl Stream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(bytes),
            Self::Unix(stream) => stream.read(bytes),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }
}

/// The keys of both directions, and how many lines have gone each way.
#[derive(Debug)]
struct Seal {
    ours: (Tag, u64),
    theirs: (Tag, u64),
}

/// A stream of lines; nothing here blocks.
#[derive(Debug)]
pub struct Channel {
    stream: Stream,
    seal: Option<Seal>,
    input: Vec<u8>,
    output: Vec<u8>,
}

/// The two ends of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Who listens.
    Coordinator,
    /// Who connects.
    Peer,
}

impl Channel {
    /// Over a stream, which becomes nonblocking.
    ///
    /// # Errors
    ///
    /// What fcntl(2) says.
    pub fn new(stream: Stream) -> io::Result<Self> {
        match &stream {
            Stream::Tcp(tcp) => {
                tcp.set_nonblocking(true)?;
                tcp.set_nodelay(true)?;
                super::place::keep_alive(tcp);
            }
            Stream::Unix(unix) => unix.set_nonblocking(true)?,
        }
        Ok(Self { stream, seal: None, input: Vec::new(), output: Vec::new() })
    }

    /// From here on each line has its checksum.
    pub fn seal(&mut self, secret: &Secret, nonces: (&str, &str), own: End) {
        let (down, up) = (secret.key("down", nonces), secret.key("up", nonces));
        let (ours, theirs) = if own == End::Coordinator { (down, up) } else { (up, down) };
        self.seal = Some(Seal { ours: (ours, 0), theirs: (theirs, 0) });
    }

    /// The stream below.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Something waits to be written.
    pub fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Takes a message to be sent, and sends as much as goes.
    ///
    /// # Errors
    ///
    /// The other side is gone, or does not read.
    pub fn send(&mut self, message: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        if let Some(Seal { ours: (key, number), .. }) = &mut self.seal {
            let checksum = tag(key, &[&number.to_le_bytes(), &text]);
            *number += 1;
            self.output.extend(hex(&checksum).into_bytes());
            self.output.push(b' ');
        }
        self.output.extend(text);
        self.output.push(b'\n');
        if self.output.len() > MAX_BACKLOG {
            return Err(io::Error::new(ErrorKind::WriteZero, "the other side does not read"));
        }
        self.flush()
    }

    /// Sends as much as goes.
    ///
    /// # Errors
    ///
    /// The other side is gone.
    pub fn flush(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(sent) => drop(self.output.drain(..sent)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Reads what there is; [`Self::message`] gives the messages in it.
    ///
    /// # Errors
    ///
    /// The other side is gone (`UnexpectedEof`), or sends lines without end.
    pub fn fill(&mut self) -> io::Result<()> {
        let mut bytes = [0u8; 16 * 1024];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(got) => self.input.extend_from_slice(&bytes[..got]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
            if self.input.len() > MAX_LINE {
                return Err(io::Error::new(ErrorKind::InvalidData, "a line without end"));
            }
        }
    }

    /// The next message that is complete.
    ///
    /// # Errors
    ///
    /// `InvalidData`: a line that is no message, or whose checksum is wrong.
    pub fn message<M: DeserializeOwned>(&mut self) -> io::Result<Option<M>> {
        let Some(end) = self.input.iter().position(|&byte| byte == b'\n') else {
            return Ok(None);
        };
        let line: Vec<u8> = self.input.drain(..=end).collect();
        let mut text = &line[..end];
        if let Some(Seal { theirs: (key, number), .. }) = &mut self.seal {
            let wrong = || io::Error::new(ErrorKind::InvalidData, "a line that was tampered with");
            let (checksum, rest) = text.split_at_checked(65).ok_or_else(wrong)?;
            let expected = hex(&tag(key, &[&number.to_le_bytes(), rest]));
            *number += 1;
            // The first wrong line ends the connection and its key: the time tells nobody anything.
            if checksum[..64] != *expected.as_bytes() || checksum[64] != b' ' {
                return Err(wrong());
            }
            text = rest;
        }
        Ok(Some(serde_json::from_slice(text)?))
    }

    /// Waits for the next message, and sends what is still to be sent meanwhile.
    ///
    /// # Errors
    ///
    /// As [`Self::fill`] and [`Self::message`]; `TimedOut` at the deadline.
    pub fn receive<M: DeserializeOwned>(&mut self, deadline: Instant) -> io::Result<M> {
        loop {
            if let Some(message) = self.message()? {
                return Ok(message);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            let mut wanted = PollFlags::IN;
            wanted.set(PollFlags::OUT, self.has_output());
            let mut ready = [PollFd::new(&self.stream, wanted)];
            let left = Timespec::try_from(left).unwrap_or_default();
            match rustix::event::poll(&mut ready, Some(&left)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            self.flush()?;
            // The end may come right behind the last line.
            match self.fill() {
                Err(error) if !self.input.contains(&b'\n') => return Err(error),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordinator::wire::{Down, Up};

    fn pair() -> (Channel, Channel) {
        let (a, b) = UnixStream::pair().unwrap();
        let channel = |stream| Channel::new(Stream::Unix(stream)).unwrap();
        (channel(a), channel(b))
    }

    #[test]
    fn sealed_lines_come_through_and_forged_ones_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let secret = Secret::of(&folder.path().join("s")).unwrap();
        let (mut here, mut there) = pair();
        here.seal(&secret, ("a", "b"), End::Coordinator);
        there.seal(&secret, ("a", "b"), End::Peer);
        for _ in 0..2 {
            here.send(&Down::Ping).unwrap();
        }
        there.send(&Up::Leave).unwrap();
        there.fill().unwrap();
        assert!(matches!(there.message::<Down>(), Ok(Some(Down::Ping))));
        here.fill().unwrap();
        assert!(matches!(here.message::<Up>(), Ok(Some(Up::Leave))));
        // The second line again in the place of a third.
        let again = there.input.clone();
        assert!(matches!(there.message::<Down>(), Ok(Some(Down::Ping))));
        there.input = again;
        assert_eq!(there.message::<Down>().unwrap_err().kind(), ErrorKind::InvalidData);
        let (mut here, mut there) = pair();
        there.seal(&secret, ("a", "b"), End::Peer);
        here.send(&Down::Kill { checkpointed: false }).unwrap();
        there.fill().unwrap();
        assert!(there.message::<Down>().is_err(), "it came without a checksum");
    }

    #[test]
    fn the_end_of_the_other_side_is_seen() {
        let (mut here, there) = pair();
        drop(there);
        assert_eq!(here.fill().unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }
}
