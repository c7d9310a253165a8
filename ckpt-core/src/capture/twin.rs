//! A copy-on-write copy of a frozen process, from which its memory is read while the process runs on.
//!
//! The process must not be able to tell. It makes a child that shares all it has (clone(2) with
//! `CLONE_VM` and no signal at its end), that one makes the twin, a fork, and ends; the process waits
//! for it (`__WALL`), so nothing is left. The twin is an orphan now and falls to the job's parent. It
//! has no descriptors and a session of its own, and is never run: it stands where it began, and ends
//! with us.

use std::fs::File;
use std::time::{Duration, Instant};

use super::freeze::FrozenProcess;
use crate::error::{Error, Result};
use crate::os::maps;
use crate::os::mem::Memory;
use crate::os::proc;
use crate::os::remote::{Remote, Site};
use crate::os::tracee::Stopped;

/// What a short-lived child shares with the process that makes it.
pub(crate) const SHARING: i32 = libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_SIGHAND;
/// How long its new parent may take to bury it.
const BURIAL: Duration = Duration::from_secs(2);

/// The copy. It is gone when this is.
#[derive(Debug)]
pub(crate) struct Twin(Option<Stopped>);

impl Twin {
    /// Makes the twin of a process all of whose tasks stand.
    ///
    /// # Errors
    ///
    /// There may be no room for one more process, or for its tables. The process is as it was.
    pub(crate) fn of(process: &FrozenProcess) -> Result<Self> {
        let begun = Instant::now();
        let sharing = SHARING | libc::CLONE_FILES;
        let (twin, site) = by_a_child(process, sharing, |between, memory, site| {
            fork(between, memory, site).map(|twin| (twin, site))
        })?;
        tracing::debug!(pid = process.pid, took = ?begun.elapsed(), "a twin");
        twin.withdraw(site)?;
        Ok(twin)
    }

    /// Lets go of whatever the copy holds that others could notice.
    fn withdraw(&self, site: Site) -> Result<()> {
        let Some(stopped) = &self.0 else { return Ok(()) };
        let memory = Memory::open(stopped.tid())?;
        let remote = Remote::over(stopped, &memory, site)?;
        remote.try_call("close files", libc::SYS_close_range, &[0, u32::MAX.into(), 0])?;
        remote.try_call("begin a session", libc::SYS_setsid, &[]).map(drop)
    }

    /// Its number.
    pub(crate) fn pid(&self) -> i32 {
        self.0.as_ref().map_or(0, Stopped::tid)
    }

    /// Its memory.
    ///
    /// # Errors
    ///
    /// It may have been killed.
    pub(crate) fn memory(&self) -> Result<File> {
        let path = format!("/proc/{}/mem", self.pid());
        File::open(&path).map_err(|e| Error::os(format!("cannot open {path}"), e))
    }

    fn end(&mut self) -> Option<i32> {
        let stopped = self.0.take()?;
        let pid = stopped.tid();
        stopped.kill();
        Some(pid)
    }
}

/// Has a process all of whose tasks stand make a child by clone(2) with these flags, which does the
/// `work` and is gone and waited for after that.
pub(crate) fn by_a_child<T>(
    process: &FrozenProcess,
    flags: i32,
    work: impl FnOnce(&Stopped, &Memory, Site) -> Result<T>,
) -> Result<T> {
    let memory = Memory::open(process.pid)?;
    let site = Site::find(&maps::read(process.pid)?, &memory)?;
    let remote = Remote::begin(&process.tasks[0], &memory, site)?;
    let (number, child) = remote.clone_child(flags as u64, 0)?;
    let done = work(&child, &memory, site);
    // Whatever came of it, nothing of the child is left.
    Twin(Some(child)).end();
    let arguments = [number, 0, libc::__WALL as u64, 0];
    remote.try_call("bury a child of ours", libc::SYS_wait4, &arguments)?;
    remote.end()?;
    done
}

/// The one in between makes the twin.
fn fork(between: &Stopped, memory: &Memory, site: Site) -> Result<Twin> {
    // From its first stop on it ends with us, and so does its child.
    let remote = Remote::over(between, memory, site)?;
    let (_, twin) = remote.clone_child(0, libc::PTRACE_O_EXITKILL)?;
    Ok(Twin(Some(twin)))
}

impl Drop for Twin {
    fn drop(&mut self) {
        let Some(pid) = self.end() else { return };
        // A zombie would be taken for one of the job's by the next checkpoint.
        let deadline = Instant::now() + BURIAL;
        while proc::stat(pid).is_ok() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}
