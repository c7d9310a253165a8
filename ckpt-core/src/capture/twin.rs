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
    /// Makes the twins of processes all of whose tasks stand, all at once: each takes as long as a fork
    /// of its process, on a core of its own.
    ///
    /// # Errors
    ///
    /// There may be no room for more processes, or for their tables. The processes are as they were.
    pub(crate) fn of_all(processes: &[&FrozenProcess]) -> Result<Vec<Self>> {
        let begun = Instant::now();
        let sharing = SHARING | libc::CLONE_FILES;
        let twins = by_children(processes, sharing, |between| {
            let sites: Vec<Site> = between.iter().map(|child| child.site).collect();
            Ok(sites.into_iter().zip(forks(between)?))
        })?;
        // Only now can those be buried that are there though another is not: who made them is gone.
        let withdraw = |(site, twin): (Site, Result<Self>)| {
            let twin = twin?;
            twin.withdraw(site).map(|()| twin)
        };
        let twins: Vec<Result<Self>> = twins.map(withdraw).collect();
        tracing::debug!(count = processes.len(), took = ?begun.elapsed(), "twins");
        twins.into_iter().collect()
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

/// A child of a process of the job that works for us, and shares the process' memory.
pub(crate) struct Child<'a> {
    stopped: Stopped,
    memory: &'a Memory,
    site: Site,
}

impl Child<'_> {
    /// Lets it make system calls.
    pub(crate) fn remote(&self) -> Result<Remote<'_>> {
        Remote::over(&self.stopped, self.memory, self.site)
    }

    /// Its number.
    pub(crate) fn pid(&self) -> i32 {
        self.stopped.tid()
    }
}

/// Has processes all of whose tasks stand make a child each by clone(2) with these flags, which do the
/// `work` and are gone and waited for after that.
pub(crate) fn by_children<T>(
    processes: &[&FrozenProcess],
    flags: i32,
    work: impl FnOnce(&[Child<'_>]) -> Result<T>,
) -> Result<T> {
    let ground = |process: &&FrozenProcess| {
        let memory = Memory::open(process.pid)?;
        let site = Site::find(&maps::read(process.pid)?, &memory)?;
        Ok((memory, site))
    };
    let grounds = processes.iter().map(ground).collect::<Result<Vec<_>>>()?;
    let (mut parents, mut children) = (Vec::new(), Vec::new());
    let born = processes.iter().zip(&grounds).try_for_each(|(process, (memory, site))| {
        let remote = Remote::begin(&process.tasks[0], memory, *site)?;
        let (number, stopped) = remote.clone_child(flags as u64, 0)?;
        parents.push((remote, number));
        children.push(Child { stopped, memory, site: *site });
        Ok(())
    });
    let done = born.and_then(|()| work(&children));
    // Whatever came of it, nothing of the children is left.
    let buried = parents.into_iter().zip(children).map(|((remote, number), child)| {
        Twin(Some(child.stopped)).end();
        let arguments = [number, 0, libc::__WALL as u64, 0];
        remote.try_call("bury a child of ours", libc::SYS_wait4, &arguments)?;
        remote.end()
    });
    let buried: Vec<Result<()>> = buried.collect();
    buried.into_iter().collect::<Result<()>>().and(done)
}

/// Those in between make the twins, or not all.
fn forks(between: &[Child<'_>]) -> Result<Vec<Result<Twin>>> {
    let options = libc::PTRACE_O_EXITKILL;
    let remotes = between.iter().map(Child::remote).collect::<Result<Vec<_>>>()?;
    remotes.iter().try_for_each(|remote| remote.begin_child(0, options))?;
    let begun: Vec<Result<()>> = remotes.iter().map(Remote::make_child).collect();
    // From its first stop on a twin ends with us.
    let finish = |(remote, begun): (&Remote<'_>, Result<()>)| {
        begun.and_then(|()| remote.finish_child(options)).map(|(_, twin)| Twin(Some(twin)))
    };
    Ok(remotes.iter().zip(begun).map(finish).collect())
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
