//! The supervisor's end of the socket: takes connections, reads requests, writes replies.
//!
//! Nothing here blocks. The supervisor polls [`Server::poll_fds`], calls [`Server::service`] and
//! gets the requests that are complete, each with the [`Reply`] to answer on.

use std::io::{IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, accept_with, recvmsg,
};

use super::protocol::{Event, MAX_LINE, ReplyBy, Request, VERSION, Verb};
use ckpt_core::{Error, ErrorKind};

/// More connections than this at once are not served.
const MAX_CLIENTS: usize = 64;

/// Where the answer to a request goes.
#[derive(Debug)]
pub struct Reply(Option<std::fs::File>);

impl Reply {
    fn new(fd: OwnedFd) -> Self {
        // A reader that sleeps must not stop the job's supervisor.
        let nonblocking = rustix::fs::fcntl_getfl(&fd)
            .and_then(|flags| rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK));
        Self(nonblocking.is_ok().then(|| fd.into()))
    }

    /// Sends one event; a client that went away is forgotten.
    pub fn send(&mut self, event: &Event) {
        if let Some(file) = &mut self.0
            && let Err(error) = file.write_all(event.line().as_bytes())
        {
            tracing::debug!(%error, "a client went away before its answer");
            self.0 = None;
        }
    }

    /// Sends a failure.
    pub fn fail(&mut self, error: &Error) {
        self.send(&Event::failed(error));
    }
}

/// A request that is complete.
#[derive(Debug)]
pub struct Call {
    /// What is wanted.
    pub verb: Verb,
    /// Where the answer goes.
    pub reply: Reply,
}

#[derive(Debug)]
struct Client {
    connection: OwnedFd,
    input: Vec<u8>,
    passed: Option<OwnedFd>,
    /// A request that waits for the client to hang up.
    waiting: Option<Verb>,
}

/// What came of reading from a client.
enum Read {
    More,
    Call(Verb, Option<OwnedFd>),
    Drop(Option<Error>),
}

/// The listening end.
#[derive(Debug)]
pub struct Server {
    listener: OwnedFd,
    clients: Vec<Client>,
}

impl Server {
    /// Serves `listener`, which is nonblocking.
    pub fn new(listener: OwnedFd) -> Self {
        Self { listener, clients: Vec::new() }
    }

    /// What is to be polled for input.
    pub fn poll_fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let clients = self.clients.iter().map(|client| client.connection.as_fd());
        std::iter::once(self.listener.as_fd()).chain(clients)
    }

    /// Takes what has come; gives the requests that are complete. `refused` is told of strangers.
    pub fn service(&mut self, hello: &Event, refused: &mut dyn FnMut(u32, i32)) -> Vec<Call> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        while let Ok(connection) = accept_with(&self.listener, flags) {
            self.admit(connection, hello, refused);
        }
        let mut calls = Vec::new();
        for mut client in std::mem::take(&mut self.clients) {
            match client.read() {
                Read::More => self.clients.push(client),
                Read::Call(verb, fd) => {
                    let reply = Reply::new(fd.unwrap_or(client.connection));
                    calls.push(Call { verb, reply });
                }
                Read::Drop(None) => {}
                Read::Drop(Some(error)) => Reply::new(client.connection).fail(&error),
            }
        }
        calls
    }

    fn admit(&mut self, connection: OwnedFd, hello: &Event, refused: &mut dyn FnMut(u32, i32)) {
        let Ok(peer) = getsockopt(&connection, PeerCredentials) else { return };
        let own = rustix::process::geteuid().as_raw();
        let mut answer = match connection.try_clone() {
            Ok(copy) => Reply::new(copy),
            Err(_) => return,
        };
        if peer.uid() != own && peer.uid() != 0 {
            refused(peer.uid(), peer.pid());
            let what = format!("this job belongs to user {own}, not to user {}", peer.uid());
            answer.fail(&Error::new(ErrorKind::Permission, what));
        } else if self.clients.len() >= MAX_CLIENTS {
            answer.fail(&Error::new(ErrorKind::Busy, "too many connections to this job"));
        } else {
            answer.send(hello);
            let client = Client { connection, input: Vec::new(), passed: None, waiting: None };
            self.clients.push(client);
        }
    }
}

impl Client {
    fn read(&mut self) -> Read {
        loop {
            let mut bytes = [0u8; 4096];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            let got =
                recvmsg(&self.connection, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags);
            let got = match got {
                Ok(got) => got.bytes,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return Read::More,
                // It hung up without having read our greeting, as it may.
                Err(Errno::CONNRESET) => 0,
                Err(_) => return Read::Drop(None),
            };
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(mut fds) = message {
                    self.passed = fds.next().or(self.passed.take());
                }
            }
            if got == 0 {
                return match self.waiting {
                    Some(verb) => Read::Call(verb, self.passed.take()),
                    None => Read::Drop(None),
                };
            }
            if self.waiting.is_some() {
                continue;
            }
            self.input.extend_from_slice(&bytes[..got]);
            if let Some(end) = self.input.iter().position(|&b| b == b'\n') {
                match self.parse(end) {
                    Ok(Request { request, reply: Some(ReplyBy::Fd), .. }) => {
                        self.waiting = Some(request);
                    }
                    Ok(request) => return Read::Call(request.request, None),
                    Err(error) => return Read::Drop(Some(error)),
                }
            } else if self.input.len() > MAX_LINE {
                return Read::Drop(Some(Error::new(ErrorKind::Usage, "the request is too long")));
            }
        }
    }

    fn parse(&self, end: usize) -> Result<Request, Error> {
        let request: Request = serde_json::from_slice(&self.input[..end])
            .map_err(|e| Error::new(ErrorKind::Usage, "the request makes no sense").source(e))?;
        if request.version > VERSION {
            let what = format!("this job speaks version {VERSION}, not {}", request.version);
            return Err(Error::new(ErrorKind::Usage, what));
        }
        if request.reply.is_some() && self.passed.is_none() {
            return Err(Error::new(ErrorKind::Usage, "the request came without its descriptor"));
        }
        Ok(request)
    }
}
