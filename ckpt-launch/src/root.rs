//! The job's first process: whose end is the job's end, and how that is learnt.
//!
//! Launched, it is our child. Restored, it is the child of a stand-in (the engine's), which tells
//! us its wait status over a pipe. The supervisor's loop is the same for both.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ckpt_core::{Error, ErrorKind};
use rustix::process::{Pid, WaitOptions, WaitStatus};

use crate::os;

/// Why a coordinator had a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// There is a checkpoint of this moment (`-kc`): exit status 85.
    Checkpointed,
    /// It was to end, no more (`-k`, `-q`): exit status 86.
    Killed,
}

impl Stop {
    /// Its exit status: a script must be able to tell "stopped" from "finished". With
    /// `$CKPT_STOP_STATUS` set it is that number, for scripts that expect DMTCP's 0.
    pub fn exit_code(self) -> u8 {
        let wanted = std::env::var("CKPT_STOP_STATUS").ok().and_then(|text| text.parse().ok());
        wanted.unwrap_or(match self {
            Self::Checkpointed => 85,
            Self::Killed => 86,
        })
    }
}

/// How the job ended.
#[derive(Debug)]
pub enum End {
    /// Its first process exited with this status.
    Exited(i32),
    /// Its first process was killed by this signal.
    Killed(i32),
    /// A coordinator had it ended, after a checkpoint or without one.
    Stopped(Stop),
    /// It can't be told any more.
    Lost(Error),
    /// It was not begun in its container, where it was said why; with this exit status.
    NotBegun(u8),
}

impl End {
    /// From a wait status.
    pub(crate) fn of(status: i32) -> Self {
        // WaitStatus has no public constructor from a number, hence the macros' arithmetic.
        if libc::WIFSIGNALED(status) {
            Self::Killed(libc::WTERMSIG(status))
        } else {
            Self::Exited(libc::WEXITSTATUS(status))
        }
    }

    /// The exit status that a shell would give.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Exited(status) => *status as u8,
            Self::Killed(signal) => 128u8.wrapping_add(*signal as u8),
            Self::Stopped(stop) => stop.exit_code(),
            Self::Lost(error) => error.kind().exit_code(),
            Self::NotBegun(code) => *code,
        }
    }
}

/// The job's first process.
#[derive(Debug)]
pub enum Root {
    /// Our child.
    Child(i32),
    /// A child of the stand-in.
    Restored {
        /// The stand-in, our child.
        stand_in: i32,
        /// The first process's PID as seen from here.
        pid: i32,
        /// The processes that a terminal's signals are meant for.
        foreground: Vec<i32>,
        /// Four bytes, the wait status, come here.
        status: OwnedFd,
    },
}

impl Root {
    /// Its PID, as seen from here.
    pub fn pid(&self) -> i32 {
        match self {
            Self::Child(pid) | Self::Restored { pid, .. } => *pid,
        }
    }

    /// What else must be polled for its end, beside SIGCHLD.
    pub fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Child(_) => None,
            Self::Restored { status, .. } => Some(status.as_fd()),
        }
    }

    /// The processes that a terminal's signal must be passed to, because they are not in our
    /// process group and so did not get it.
    pub fn out_of_reach(&self) -> Vec<i32> {
        let Self::Restored { foreground, .. } = self else { return Vec::new() };
        let ours = rustix::process::getpgrp();
        let elsewhere = |&pid: &i32| {
            let group = Pid::from_raw(pid).map(|pid| rustix::process::getpgid(Some(pid)));
            matches!(group, Some(Ok(group)) if group != ours)
        };
        foreground.iter().copied().filter(elsewhere).collect()
    }

    /// Passes a signal on.
    pub fn signal(&self, number: i32) {
        if let Err(error) = os::kill(self.pid(), number) {
            tracing::debug!(pid = self.pid(), number, %error, "signal not passed on");
        }
    }

    /// Reaps whatever has ended among our children, orphans included; the job's end if it has come.
    /// If not `all`, only the stand-in: others' words are for whoever traces them.
    pub fn reap(&self, all: bool) -> Option<End> {
        let mut ended = None;
        let mut stand_in_died = false;
        let next = || match self {
            Self::Restored { stand_in, .. } if !all => {
                rustix::process::waitpid(Pid::from_raw(*stand_in), WaitOptions::NOHANG)
            }
            _ => rustix::process::wait(WaitOptions::NOHANG),
        };
        while let Ok(Some((pid, status))) = next() {
            self.sort(pid, status, &mut ended, &mut stand_in_died);
        }
        ended.or_else(|| self.end_without_wait(stand_in_died))
    }

    /// Kills all of the job and reaps it. Every wait is preceded by a look that killed all that was
    /// there, so one of our children is bound to end.
    pub fn kill_all(&self) -> (usize, End) {
        let (mut killed, mut ended, mut stand_in_died) = (HashSet::new(), None, false);
        // The first process may have ended by itself, in time to tell.
        let told = self.read_status();
        loop {
            killed.extend(crate::tree::kill_descendants());
            match rustix::process::wait(WaitOptions::empty()) {
                Ok(Some((pid, status))) => self.sort(pid, status, &mut ended, &mut stand_in_died),
                Err(rustix::io::Errno::INTR) => {}
                Ok(None) | Err(_) => break,
            }
        }
        (killed.len(), told.or(ended).unwrap_or(End::Killed(libc::SIGKILL)))
    }

    fn sort(
        &self,
        pid: Pid,
        status: WaitStatus,
        ended: &mut Option<End>,
        stand_in_died: &mut bool,
    ) {
        let pid = pid.as_raw_nonzero().get();
        match self {
            Self::Child(root) if *root == pid => *ended = Some(End::of(status.as_raw())),
            Self::Restored { stand_in, .. } if *stand_in == pid => *stand_in_died = true,
            _ => tracing::debug!(pid, "orphan reaped"),
        }
    }

    /// The end as far as wait(2) doesn't tell it.
    fn end_without_wait(&self, stand_in_died: bool) -> Option<End> {
        match self {
            Self::Child(root) => {
                let gone = Pid::from_raw(*root).map(rustix::process::test_kill_process)
                    == Some(Err(rustix::io::Errno::SRCH));
                gone.then(|| lost(format!("process {root}, the job's first, ended unseen")))
            }
            Self::Restored { stand_in, .. } => self.read_status().or_else(|| {
                stand_in_died
                    .then(|| lost(format!("process {stand_in}, the job's stand-in parent, died")))
            }),
        }
    }

    /// Reads the stand-in's word, if it is there.
    fn read_status(&self) -> Option<End> {
        let Self::Restored { status, stand_in, .. } = self else { return None };
        let mut ready = [rustix::event::PollFd::new(status, rustix::event::PollFlags::IN)];
        let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        if rustix::event::poll(&mut ready, Some(&now)) != Ok(1) {
            return None;
        }
        let mut word = [0u8; 4];
        match rustix::io::read(status, &mut word) {
            Ok(4) => Some(End::of(i32::from_le_bytes(word))),
            Ok(_) => Some(lost(format!("process {stand_in}, the job's stand-in parent, died"))),
            Err(_) => None,
        }
    }
}

fn lost(what: String) -> End {
    let error = Error::new(ErrorKind::Internal, what);
    End::Lost(error.help("the job's exit status is unknown; the newest image can be restored"))
}
