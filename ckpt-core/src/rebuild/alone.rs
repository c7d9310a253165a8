//! One restart at a time waits for process numbers: several, say of all tasks of a job on one node,
//! would pass over each other's numbers for ever.
//!
//! A name for a socket does for a lock: it needs no file that all users may open, it goes with its
//! holder, and no job lasts long enough in it to matter if somebody holds it who should not.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// After so long it is gone on without.
const PATIENCE: Duration = Duration::from_secs(600);

/// Others that ask for it wait while this is there.
#[derive(Debug)]
pub(crate) struct Alone {
    _name: Option<OwnedFd>,
}

impl Alone {
    /// Waits until nobody else in this PID namespace searches.
    pub(crate) fn wait() -> Self {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match bound() {
                Ok(name) => return Self { _name: Some(name) },
                Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                    tracing::info!(%error, "other restarts on this host may be in the way");
                    return Self { _name: None };
                }
                Err(_) if Instant::now() >= deadline => {
                    tracing::warn!("another restart waits for process numbers, and does not end");
                    return Self { _name: None };
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

fn bound() -> io::Result<OwnedFd> {
    let namespace = std::fs::read_link("/proc/self/ns/pid")?;
    let name = format!("ckpt-numbers-{}", namespace.display());
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let first = Alone::wait();
        assert_eq!(bound().unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        // Another restart on this host may have been waiting for that.
        drop(Alone::wait());
    }
}
