//! A job under DMTCP.
//!
//! Its coordinator listens on every address of the host, whatever it is told, and obeys whoever
//! connects: on a host that others share, anybody can kill the job. It also outlives us, so that
//! the job does.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use ckpt_core::{Error, ErrorKind, Result};
use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use super::command::{Coordinator, LOOK_EVERY, Status};
use super::find::Found;
use super::keep;
use super::set::{self, Set};
use super::space;

/// How a job is to be run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The checkpoint directory, an absolute path; it must exist.
    pub dir: PathBuf,
    /// How many generations are kept.
    pub keep: usize,
    /// Whether images are compressed: much smaller, and a tenth of the speed.
    pub gzip: bool,
    /// Whether DMTCP's warnings are to be silenced too (its notes are).
    pub quiet: bool,
}

/// A checkpoint that has been taken, read back and kept.
#[derive(Debug, Clone)]
pub struct Report {
    /// Its number.
    pub generation: u64,
    /// The generation's directory.
    pub path: PathBuf,
    /// Images, one for each process.
    pub images: usize,
    /// Bytes of all files.
    pub bytes: u64,
    /// From the request until everything was durable.
    pub total: Duration,
}

/// Drives one job. Dropped, it leaves the job running, but no checkpoint can be taken any more.
#[derive(Debug)]
pub struct Driver {
    coordinator: Coordinator,
    options: Options,
    version: String,
    work: TempDir,
    /// What a restart needed, and its new processes may still have open.
    placed: Option<PathBuf>,
}

impl Driver {
    /// Starts a coordinator; gives the command that starts `program` under it. That process
    /// becomes the program, so its exit status is the program's. Wait for it as for any child.
    ///
    /// # Errors
    ///
    /// When the coordinator does not start.
    pub fn launch<S: AsRef<OsStr>>(
        found: &Found,
        options: Options,
        program: impl AsRef<OsStr>,
        arguments: impl IntoIterator<Item = S>,
    ) -> Result<(Self, Command)> {
        let driver = Self::start(found, options, None)?;
        let mut command = driver.command("dmtcp_launch");
        command.arg(if driver.options.gzip { "--gzip" } else { "--no-gzip" });
        command.arg("--").arg(program).args(arguments);
        Ok((driver, command))
    }

    /// Verifies a set, starts a coordinator, and gives the command that brings the job back: that
    /// process becomes the job's first. The job runs when [`Driver::wait_until_running`] says so.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Damaged`] if a file of the set is missing or not as it was; otherwise when the
    /// coordinator does not start.
    pub fn restart(found: &Found, options: Options, set: &Set) -> Result<(Self, Command)> {
        set.verify()?;
        let driver = Self::start(found, options, set.place()?)?;
        let mut command = driver.command("dmtcp_restart");
        command.args(set.images());
        Ok((driver, command))
    }

    fn start(found: &Found, options: Options, placed: Option<PathBuf>) -> Result<Self> {
        let work = tempfile::Builder::new().prefix(set::WORK).tempdir_in(&options.dir);
        let work = work.map_err(|e| {
            Error::os(format!("cannot make a directory in {}", options.dir.display()), e)
        })?;
        let coordinator = Coordinator::start(found, work.path())?;
        let version = found.version.clone();
        Ok(Self { coordinator, options, version, work, placed })
    }

    fn command(&self, name: &str) -> Command {
        let mut command = self.coordinator.joining(name);
        // DMTCP's own interval would take checkpoints behind our back.
        command.env_remove("DMTCP_CHECKPOINT_INTERVAL").args(["--interval", "0", "-q"]);
        if self.options.quiet {
            command.arg("-q");
        }
        command.arg("--ckptdir").arg(self.work.path());
        command
    }

    /// Waits until all processes run; what is meant is the time after a restart.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Busy`] if they don't in time, [`ErrorKind::Gone`] if the coordinator is gone.
    pub fn wait_until_running(&self, deadline: Instant) -> Result<()> {
        while !self.status().map(|status| status.running && status.peers > 0)? {
            in_time(deadline, "the job does not run yet")?;
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Takes a checkpoint and keeps it. The job stands still for a part of that time only. After
    /// an error it may be gone (see [`Driver::is_alive`]); earlier generations never are.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`] if there is too little room: then DMTCP was not asked at all.
    /// [`ErrorKind::Busy`] if another checkpoint is under way or time is up, [`ErrorKind::Gone`]
    /// if the job is, [`ErrorKind::Damaged`] if what DMTCP wrote is not whole.
    pub fn checkpoint(&mut self, deadline: Instant) -> Result<Report> {
        let begun = Instant::now();
        let before = self.status()?;
        if before.peers == 0 {
            return Err(Error::new(ErrorKind::Gone, "no process of the job is under DMTCP"));
        }
        if !before.running {
            let what = "DMTCP is in the middle of a checkpoint or a restart";
            return Err(Error::new(ErrorKind::Busy, what));
        }
        // What is found here afterwards is new.
        keep::sweep(self.work.path())?;
        space::check(&self.options.dir, &self.coordinator.processes()?)?;
        self.coordinator.checkpoint(deadline)?;
        // "Done" is said before the last image has its name.
        while !matches!(keep::progress(self.work.path())?, (1.., false)) {
            in_time(deadline, "DMTCP's images do not appear")?;
            std::thread::sleep(LOOK_EVERY);
        }
        let (work, dir) = (self.work.path(), &self.options.dir);
        let made = (self.version.as_str(), before.peers);
        let committed = keep::commit(work, dir, made, self.options.keep, deadline)?;
        Ok(Report {
            generation: committed.generation,
            path: committed.path,
            images: committed.summary.images,
            bytes: committed.summary.bytes,
            total: begun.elapsed(),
        })
    }

    /// What the coordinator says.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Gone`] if there is none any more, [`ErrorKind::Busy`] if it hangs.
    pub fn status(&self) -> Result<Status> {
        self.coordinator.status()
    }

    /// Whether a process of the job is there.
    pub fn is_alive(&self) -> bool {
        self.status().is_ok_and(|status| status.peers > 0)
    }

    /// Kills the job. DMTCP's own way would have it exit with status 0, as if it had finished; so
    /// SIGKILL is sent to what runs on this host, and the rest is left to DMTCP.
    ///
    /// # Errors
    ///
    /// When the coordinator hangs.
    pub fn kill(&self) -> Result<()> {
        for pid in self.coordinator.processes()? {
            // It may have ended by itself.
            let _ = Pid::from_raw(pid).map(|pid| rustix::process::kill_process(pid, Signal::KILL));
        }
        self.coordinator.quit()
    }

    /// Where DMTCP has its files meanwhile.
    pub fn work(&self) -> &Path {
        self.work.path()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // A coordinator that nobody has joined would wait a minute.
        if self.status().is_ok_and(|status| status.peers == 0) {
            let _ = self.coordinator.quit();
        }
        if let Some(placed) = &self.placed {
            // A symbolic link in it is removed, not what it points to.
            let _ = std::fs::remove_dir_all(placed);
        }
    }
}

fn in_time(deadline: Instant, what: &str) -> Result<()> {
    match Instant::now() < deadline {
        true => Ok(()),
        false => Err(Error::new(ErrorKind::Busy, format!("{what}, and time is up"))),
    }
}
