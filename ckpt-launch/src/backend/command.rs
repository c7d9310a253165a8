//! Talking with DMTCP's coordinator by `dmtcp_command`.
//!
//! Its words are read rather than `--json`, which only DMTCP 5.0 knows: they have been the same
//! since 2.x.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use ckpt_core::{Error, ErrorKind, Result};

use super::find::Found;
use crate::run::{Said, run};

/// A coordinator answers at once, or it hangs.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// How often a file is looked for that another process is about to make.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What the coordinator says of its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// How many processes are connected.
    pub peers: u32,
    /// Whether all of them run: no checkpoint and no restart is under way.
    pub running: bool,
    /// DMTCP's own interval in seconds; 0, as intervals are ours.
    pub interval: u32,
}

fn parse_status(text: &str) -> Option<Status> {
    let value = |key: &str| text.lines().find_map(|line| line.trim().strip_prefix(key));
    let interval = value("CKPT_INTERVAL=")?.split(' ').next()?;
    Some(Status {
        peers: value("NUM_PEERS=")?.parse().ok()?,
        running: value("RUNNING=")? == "yes",
        interval: interval.parse().ok()?,
    })
}

/// The processes on this host, from lines like `1, bash[40000:708]@node7, …`.
fn parse_list(text: &str, host: &str) -> Vec<i32> {
    let pid = |line: &str| {
        let (process, rest) = line.split_once("]@")?;
        let (_, pid) = process.rsplit_once(':')?;
        rest.split(',').next().filter(|name| *name == host)?;
        pid.parse().ok()
    };
    text.lines().filter_map(pid).collect()
}

/// A running coordinator. It listens on all addresses of the host and asks nobody who they are.
#[derive(Debug)]
pub(super) struct Coordinator {
    found: Found,
    port: String,
}

impl Coordinator {
    /// Starts one that has its files in `work`. It outlives us, and ends with its last process.
    pub(super) fn start(found: &Found, work: &Path) -> Result<Self> {
        let deadline = Instant::now() + ANSWER_TIME;
        let file = work.join("port");
        let mut command = found.command("dmtcp_coordinator");
        command.args(["--daemon", "--exit-on-last", "-q", "-p", "0", "--stale-timeout", "60"]);
        command.arg("--port-file").arg(&file).arg("--ckptdir").arg(work);
        let said = run(&mut command, deadline)?;
        while said.status.success() && Instant::now() < deadline {
            let port = fs::read_to_string(&file).unwrap_or_default();
            if port.parse::<u16>().is_ok() {
                return Ok(Self { found: found.clone(), port });
            }
            std::thread::sleep(LOOK_EVERY);
        }
        let what = format!("DMTCP's coordinator did not start {}", said.text.trim());
        Err(Error::new(ErrorKind::Unsupported, what.trim_end().to_owned()))
    }

    /// A command that is to join this coordinator.
    pub(super) fn joining(&self, name: &str) -> Command {
        let mut command = self.found.command(name);
        command.args(["--join-coordinator", "--coord-host", "127.0.0.1"]);
        command.args(["--coord-port", &self.port]);
        command
    }

    fn ask(&self, what: &str, deadline: Instant) -> Result<Said> {
        let mut command = self.found.command("dmtcp_command");
        command.args(["--coord-host", "127.0.0.1", "--coord-port", &self.port, what]);
        run(&mut command, deadline)
    }

    pub(super) fn status(&self) -> Result<Status> {
        let said = self.ask("--status", Instant::now() + ANSWER_TIME)?;
        parse_status(&said.text).ok_or_else(|| {
            Error::new(ErrorKind::Gone, "DMTCP's coordinator has ended, and the job with it")
        })
    }

    /// The job's processes on this host.
    pub(super) fn processes(&self) -> Result<Vec<i32>> {
        let said = self.ask("--list", Instant::now() + ANSWER_TIME)?;
        let host = rustix::system::uname();
        Ok(parse_list(&said.text, &host.nodename().to_string_lossy()))
    }

    /// Has a checkpoint taken. On return the images have their names, not yet their contents.
    pub(super) fn checkpoint(&self, deadline: Instant) -> Result<()> {
        let said = self.ask("--bcheckpoint", deadline)?;
        if said.status.success() {
            return Ok(());
        }
        // Either the job died of it, or it was busy with something else.
        self.status()?;
        let what = format!("DMTCP took no checkpoint: {}", said.text.trim().replace('\n', ""));
        Err(Error::new(ErrorKind::Busy, what))
    }

    /// Kills what is connected, on any host, and ends.
    pub(super) fn quit(&self) -> Result<()> {
        self.ask("--quit", Instant::now() + ANSWER_TIME).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_coordinators_words() {
        let text = "Coordinator:\n  Port: 1\nStatus...\n  NUM_PEERS=2\n  RUNNING=yes\n  \
                    CKPT_INTERVAL=0 (checkpoint manually)\n";
        let status = Status { peers: 2, running: true, interval: 0 };
        assert_eq!(parse_status(text), Some(status));
        assert_eq!(parse_status("Coordinator not found."), None);
        let list = "Client List:\n#, PROG[virtPID:realPID]@HOST, DMTCP-UNIQUEPID, STATE, BARRIER\n\
                    1, bash[40000:708]@vm, 98ff, RUNNING, \n2, x[4:7]@other, 98ff, RUNNING, \n";
        assert_eq!(parse_list(list, "vm"), [708]);
    }
}
