//! Other people's commands (`scontrol`, `dmtcp_command`): run to their end, which comes in time.

use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;

use ckpt_core::{Error, ErrorKind, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags};
use rustix::time::Timespec;

/// What a command said, and how it ended.
#[derive(Debug)]
pub struct Said {
    /// Its exit status.
    pub status: ExitStatus,
    /// Its stdout and stderr.
    pub text: String,
}

/// Runs a command that talks little; kills it when `deadline` has passed.
///
/// # Errors
///
/// [`ErrorKind::Busy`] if it had to be killed; it cannot be run.
pub fn run(command: &mut Command, deadline: Instant) -> Result<Said> {
    let name = Path::new(command.get_program()).display().to_string();
    let failed = |error| Error::os(format!("cannot run {name}"), error);
    // A file, not a pipe: a daemon that the command leaves behind may hold it open.
    let mut output = tempfile::tempfile().map_err(failed)?;
    command.stdin(Stdio::null()).process_group(0);
    command.stdout(output.try_clone().map_err(failed)?);
    command.stderr(output.try_clone().map_err(failed)?);
    let mut child = command.spawn().map_err(failed)?;
    let pidfd = rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty());
    let ended = pidfd.map_err(Into::into).and_then(|pidfd| ends_by(&pidfd, deadline));
    if !matches!(ended, Ok(true)) {
        // It may have ended by itself meanwhile.
        let _ = child.kill();
    }
    let status = child.wait().map_err(failed)?;
    if !ended.map_err(failed)? {
        let what = format!("{name} did not answer in time");
        return Err(Error::new(ErrorKind::Busy, what));
    }
    let mut bytes = Vec::new();
    output.rewind().and_then(|()| output.read_to_end(&mut bytes)).map_err(failed)?;
    Ok(Said { status, text: String::from_utf8_lossy(&bytes).into_owned() })
}

fn ends_by(pidfd: &impl std::os::fd::AsFd, deadline: Instant) -> std::io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).ok();
        match rustix::event::poll(&mut [PollFd::new(pidfd, PollFlags::IN)], left.as_ref()) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_command_that_hangs_is_killed() {
        let soon = Instant::now() + Duration::from_millis(50);
        let error = run(Command::new("sleep").arg("1000"), soon).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
    }
}
