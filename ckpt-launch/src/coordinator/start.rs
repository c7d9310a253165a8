//! Starts a coordinator of its own for a launcher that finds none: a process apart, so that it
//! outlives the launcher as long as others need it.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Command, Stdio};

use ckpt_core::{Error, ErrorKind, Result};

use super::place;
use crate::os;

/// How a launcher finds its coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// The one that is there, else a new one.
    #[default]
    Any,
    /// The one that is there.
    Join,
    /// A new one.
    New,
}

/// Starts one at this address and port (0: any); gives the port. To be called before
/// this process has children that are a job: the coordinator is none of it.
///
/// # Errors
///
/// The port is taken, or the program cannot be started.
pub fn start(bind: IpAddr, port: u16, words: &[String]) -> Result<u16> {
    let listener = place::listen(bind, port)?;
    let port = listener.local_addr().map_err(|e| Error::os("cannot see our port", e))?.port();
    let program = std::env::current_exe()
        .map_err(|e| Error::os("cannot find our own program", e))?
        .with_file_name("ckpt-launch");
    let mut command = Command::new(&program);
    command.arg("--coordinator").args(["--daemon", "--exit-on-last", "--quiet", "--quiet"]);
    command.args(["--listen-fd", &listener.as_raw_fd().to_string()]).args(words);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    os::hand_on(&mut command, listener.as_fd());
    // It goes into the background by itself, once it listens.
    let status = command
        .status()
        .map_err(|e| Error::os(format!("cannot start the coordinator {}", program.display()), e))?;
    if !status.success() {
        let what = format!("the coordinator ended with {status} as it began");
        return Err(Error::new(ErrorKind::Internal, what));
    }
    Ok(port)
}
