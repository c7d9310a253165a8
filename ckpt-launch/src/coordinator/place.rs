//! Where a coordinator is: its port, the unix socket beside it, and the way there.
//!
//! It listens on TCP, on the loopback address unless told otherwise, and on a unix socket whose name
//! holds the port and the network namespace: two hosts' ports of one number are two places. A local
//! peer tries the unix socket first.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ckpt_core::{Error, ErrorKind, Result};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use super::channel::{Channel, End, Stream};
use super::secret::{self, Secret};
use super::wire::{Greeting, Proof, VERSION};
use crate::control;

/// How long a connection may take to come about, and how long to its greeting.
const CONNECT: Duration = Duration::from_secs(2);
const GREET: Duration = Duration::from_secs(5);

/// A coordinator's address, as users give it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Host name or number.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// The file of the secret.
    pub secret: PathBuf,
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl Address {
    /// Connects and proves who we are.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`]: nobody listens there. [`ErrorKind::Permission`]: it is a stranger, or
    /// we are one to it.
    pub fn connect(&self) -> Result<Channel> {
        if self.is_here()
            && let Some(path) = socket_path(self.port)
            && let Ok(stream) = control::client::connect(&path)
        {
            return self.greeted_locally(stream);
        }
        let mut refused = None;
        for address in self.candidates()? {
            match TcpStream::connect_timeout(&address, CONNECT) {
                Ok(stream) => return self.greeted(stream),
                Err(error) => refused = Some(error),
            }
        }
        let what = format!("there is no coordinator at {self}");
        let error = Error::new(ErrorKind::NotFound, what);
        Err(match refused {
            Some(refused) => error.source(refused),
            None => error,
        })
    }

    /// Whether the host is this one.
    pub fn is_here(&self) -> bool {
        let own = control::place::host();
        let short = |name: &str| name.split('.').next().map(str::to_owned);
        self.host == "localhost"
            || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
            || self.host == own
            || self.host.parse::<IpAddr>().is_err() && short(&self.host) == short(&own)
    }

    fn candidates(&self) -> Result<Vec<SocketAddr>> {
        let mut found = Vec::new();
        if self.is_here() {
            found.push(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)));
        }
        match (self.host.as_str(), self.port).to_socket_addrs() {
            Ok(addresses) => found.extend(addresses),
            Err(_) if !found.is_empty() => {}
            Err(error) => {
                let what = format!("cannot find the host {}", self.host);
                return Err(Error::new(ErrorKind::NotFound, what).source(error));
            }
        }
        found.dedup();
        Ok(found)
    }

    fn greeted_locally(&self, stream: UnixStream) -> Result<Channel> {
        let peer = getsockopt(&stream, PeerCredentials)
            .map_err(|e| Error::os("cannot see whose the coordinator is", e))?;
        let own = rustix::process::geteuid().as_raw();
        if peer.uid() != own && peer.uid() != 0 {
            return Err(self.stranger(&format!("it is user {}'s", peer.uid())));
        }
        let mut channel = Channel::new(Stream::Unix(stream)).map_err(|e| self.failed(e))?;
        self.greeting(&mut channel)?;
        Ok(channel)
    }

    /// The same over a connection that is there.
    ///
    /// # Errors
    ///
    /// As [`Self::connect`].
    pub fn greeted(&self, stream: TcpStream) -> Result<Channel> {
        let mut channel = Channel::new(Stream::Tcp(stream)).map_err(|e| self.failed(e))?;
        let greeting = self.greeting(&mut channel)?;
        let secret = Secret::of(&self.secret)?;
        let own = secret::hex(&secret::random());
        let nonces = (greeting.nonce.as_str(), own.as_str());
        let proof = Proof { nonce: own.clone(), proof: secret.proof("peer", nonces) };
        channel.send(&proof).map_err(|e| self.failed(e))?;
        let theirs: Proof = channel.receive(Instant::now() + GREET).map_err(|e| {
            self.stranger(&format!("it hung up on the secret of {}: {e}", self.secret.display()))
        })?;
        if !secret.proves("coordinator", nonces, &theirs.proof) {
            return Err(self.stranger("it does not know the secret"));
        }
        channel.seal(&secret, nonces, End::Peer);
        Ok(channel)
    }

    fn greeting(&self, channel: &mut Channel) -> Result<Greeting> {
        let greeting: Greeting = channel.receive(Instant::now() + GREET).map_err(|e| {
            let what = format!("what listens at {self} is no coordinator of ckpt: {e}");
            Error::new(ErrorKind::Unsupported, what)
                .help("name another port, or end what occupies this one")
        })?;
        if greeting.ckpt > VERSION {
            let what = format!("the coordinator at {self} speaks version {}", greeting.ckpt);
            return Err(Error::new(ErrorKind::Unsupported, what)
                .help("use launchers and coordinator of one release of ckpt"));
        }
        Ok(greeting)
    }

    fn failed(&self, error: std::io::Error) -> Error {
        Error::os(format!("cannot speak to the coordinator at {self}"), error)
    }

    fn stranger(&self, why: &str) -> Error {
        Error::new(ErrorKind::Permission, format!("the coordinator at {self} is a stranger: {why}"))
            .help("--secret-file or $CKPT_SECRET_FILE names the secret that both sides must have")
    }
}

/// The unix socket of the coordinator with this port, in our network namespace.
pub fn socket_path(port: u16) -> Option<PathBuf> {
    let network = std::fs::metadata("/proc/self/ns/net").ok()?.ino();
    let folder = control::place::runtime_dir().ok()?;
    Some(folder.join(format!("coordinator-{network}-{port}.sock")))
}

/// Listens on TCP; port 0 lets the kernel choose one.
///
/// # Errors
///
/// [`ErrorKind::Busy`]: the port is taken; what bind(2) says.
pub fn listen(bind: IpAddr, port: u16) -> Result<TcpListener> {
    let listener = TcpListener::bind((bind, port)).map_err(|e| {
        let what = format!("cannot listen at {bind}:{port}");
        if e.kind() == std::io::ErrorKind::AddrInUse {
            return Error::new(ErrorKind::Busy, what).source(e).help(
                "another coordinator may be there: join it, or choose another port (0: any)",
            );
        }
        Error::os(what, e)
    })?;
    // A scheduler starts all launchers at once: who finds the queue full waits for a second. As
    // many as the kernel allows; if it allows no more, fewer serve.
    let _ = rustix::net::listen(&listener, i32::MAX);
    Ok(listener)
}

/// Listens on the unix socket beside the port, which we hold: what may be there is a dead one's.
pub fn listen_locally(port: u16) -> Option<(OwnedFd, PathBuf)> {
    let path = socket_path(port)?;
    match control::place::bind(&path) {
        Ok(socket) => Some((socket, path)),
        Err(error) => {
            tracing::info!(%error, path = %path.display(), "no unix socket there; TCP serves");
            None
        }
    }
}

/// Lets a connection to a host that died end within half a minute.
pub fn keep_alive(stream: &TcpStream) {
    use rustix::net::sockopt as so;
    let fd = stream.as_fd();
    // Where one cannot be set, the others still serve.
    let _ = so::set_socket_keepalive(fd, true);
    let _ = so::set_tcp_keepidle(fd, Duration::from_secs(10));
    let _ = so::set_tcp_keepintvl(fd, Duration::from_secs(5));
    let _ = so::set_tcp_keepcnt(fd, 3);
    let _ = so::set_tcp_user_timeout(fd, 20_000);
}

/// A socket's file, removed when its coordinator ends.
#[derive(Debug)]
pub struct SocketFile(pub PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file::<&Path>(&self.0);
    }
}
