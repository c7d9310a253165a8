//! Where the two halves meet: a socket in the checkpoint directory.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use ckpt_core::job::JobId;
use ckpt_core::{Error, Result};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

use crate::control::{client, place};

/// Where the inside half finds us.
#[derive(Debug)]
pub struct Meeting {
    /// The socket; it vanishes with the value.
    pub path: PathBuf,
    listener: OwnedFd,
}

impl Meeting {
    /// Listens in the checkpoint directory, or where sockets are possible.
    ///
    /// # Errors
    ///
    /// When no directory takes a socket.
    pub fn at(dir: &Path) -> Result<Self> {
        clear(dir);
        let name = format!(".ckpt-outside-{}.sock", JobId::random());
        let path = dir.join(&name);
        let (path, bound) = match place::bind(&path) {
            Ok(listener) => (path, Ok(listener)),
            Err(error) => {
                tracing::info!(%error, path = %path.display(), "no socket there");
                let path = place::runtime_dir()?.join(name);
                let bound = place::bind(&path);
                (path, bound)
            }
        };
        let fail = |e: rustix::io::Errno| {
            Error::os(format!("cannot open a socket at {}", path.display()), e)
        };
        let listener = bound.map_err(fail)?;
        Ok(Self { path, listener })
    }

    /// What is to be polled.
    pub fn poll_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// The connection of whoever has come, if it is ours.
    pub fn admit(&self) -> Option<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let connection = accept_with(&self.listener, flags).ok()?;
        // Inside it may be another number; here it is ours, or root's.
        let own = rustix::process::geteuid().as_raw();
        let peer = getsockopt(&connection, PeerCredentials).ok()?;
        (peer.uid() == own || peer.uid() == 0).then_some(connection)
    }
}

/// Takes away the sockets of launchers that were killed before anybody met them.
fn clear(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_one = name
            .to_str()
            .is_some_and(|name| name.starts_with(".ckpt-outside-") && name.ends_with(".sock"));
        if is_one && client::connect(&entry.path()).is_err_and(|e| e == Errno::CONNREFUSED) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

impl Drop for Meeting {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
