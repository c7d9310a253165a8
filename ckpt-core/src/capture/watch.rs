//! Which pages the processes of the job have written to since a generation: large anonymous areas are
//! put under a watch of the kernel's ([`Watch`]) while the job runs, and a freeze asks which pages have
//! lost their protection since.
//!
//! The payload must not be able to tell: the userfaultfd is made by a child of the process, while all its
//! tasks stand, and taken over (pidfd_getfd(2)). A write to a watched page costs the fault that
//! it would cost after a fork, once a generation; huge pages are left alone.
//!
//! Nothing is believed that the kernel does not say of each page at the freeze: an area that is not
//! watched (mapped anew, moved by mremap(2), of a new program) counts as written, and what a process has
//! written is only told relative to the one image that was made when it was asked last.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::base::Base;
use super::freeze::{self, Frozen, FrozenProcess};
use super::plan::{Clean, Into, Plan, Stretch};
use super::refuse;
use super::states::States;
use super::twin::{SHARING, by_children};
use crate::error::{Error, ErrorKind, Result};
use crate::image::ImageId;
use crate::kinds::call::{Interrupted, Seen, Standing};
use crate::kinds::credentials::Credentials;
use crate::os::changes::Watch;
use crate::os::fds::Donor;
use crate::os::maps::{self, Kind, Map};
use crate::os::mem::Memory;
use crate::os::pagemap::Pagemap;
use crate::os::proc::{self, Family};
use crate::os::uffd::Uffd;
use crate::snapshot::{Life, Process};

/// Processes with less private memory are read faster than watched.
const LARGE: u64 = 16 << 20;
/// Areas that are shorter are read each time.
const LONG: u64 = 256 << 10;

/// The watched processes of a job.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watches {
    by_pid: HashMap<i32, Watched>,
    /// The kernel, a security policy or a limit forbids it; it is not tried again.
    refused: bool,
}

#[derive(Debug, Clone)]
struct Watched {
    watch: Arc<Watch>,
    /// What is not written to since then is as in this image.
    since: ImageId,
}

impl Watches {
    /// Puts what is new and large of a family under watch. They run meanwhile, but for
    /// a moment in which those that never were watched make what that takes.
    pub(crate) fn begin(
        &mut self,
        (parent, family): (i32, Family),
        timeout: Duration,
        standing: &mut Standing,
    ) {
        if self.refused {
            return;
        }
        let mut large = family.pids();
        large.retain(|&pid| proc::private_bytes(pid) >= LARGE);
        // One that has executed another program has lost its watch.
        self.by_pid.retain(|pid, watched| large.contains(pid) && watched.watch.is_alive());
        large.retain(|pid| !self.by_pid.contains_key(pid));
        if large.is_empty() {
            return;
        }
        let made = match made((parent, family), &large, timeout, standing) {
            Ok(made) => made,
            Err(error) => return tracing::debug!(%error, "nothing new is watched"),
        };
        for (pid, watch) in made {
            match watch.and_then(|(watch, areas)| protect(pid, &areas).map(|()| watch)) {
                Ok(watch) => {
                    let (watch, since) = (Arc::new(watch), ImageId::NONE);
                    self.by_pid.insert(pid, Watched { watch, since });
                }
                Err(error) => {
                    self.refused |= is_forbidden(&error);
                    let what = "what it changes is found by comparing, as it cannot be watched";
                    tracing::info!(pid, %error, what);
                }
            }
        }
    }

    /// Asks what of the frozen, watched processes was written to, and watches on. If the last time was
    /// when `base` was made, what is neither written nor new is as it is there; the plan knows then
    /// what is to be read of these processes.
    ///
    /// # Errors
    ///
    /// A process' pages cannot be looked at.
    pub(crate) fn look(
        &mut self,
        plan: &mut Plan,
        frozen: &Frozen,
        base: Option<&Base>,
        processes: &mut [Process],
    ) -> Result<()> {
        for (index, process) in frozen.processes.iter().enumerate() {
            let Some(watched) = self.by_pid.get_mut(&process.pid) else { continue };
            // Whatever comes of this checkpoint, the answer of the last one is used up.
            let since = std::mem::replace(&mut watched.since, ImageId::NONE);
            let base = base.filter(|base| base.id() == since);
            let is_known = base.and_then(|base| base.memory_of(processes[index].pid)).is_some();
            let pagemap = Pagemap::open(process.pid)?;
            let (its, others) =
                std::mem::take(&mut plan.later).into_iter().partition(|it| it.process == index);
            plan.later = others;
            for stretch in its {
                let (start, end) = stretch.range();
                // Only while all stands are its bounds sure. It counts as written this time.
                if !stretch.on_file
                    && end - start >= LONG
                    && !pagemap.is_watched(start).unwrap_or(true)
                {
                    let _ = watched.watch.cover(start, end);
                }
                if !is_known {
                    plan.later.push(stretch);
                    continue;
                }
                // Anonymous memory only: of files' pages more must be known.
                let written = match stretch.on_file {
                    true => None,
                    false => pagemap.take_written(start, end).ok(),
                };
                match written {
                    None => plan.look_at(&pagemap, &stretch, processes, Into::Own)?,
                    Some(written) => plan.changed(&pagemap, &stretch, &written, processes)?,
                }
            }
        }
        Ok(())
    }

    /// From now on `image` is what unwritten pages are as in.
    pub(crate) fn since(&mut self, image: ImageId) {
        self.by_pid.values_mut().for_each(|watched| watched.since = image);
    }

    /// An image has given way to another with the same contents.
    pub(crate) fn replaced(&mut self, from: ImageId, to: ImageId) {
        let those = self.by_pid.values_mut().filter(|watched| watched.since == from);
        those.for_each(|watched| watched.since = to);
    }

    /// Whether this process' watched areas are ours.
    pub(crate) fn has(&self, pid: i32) -> bool {
        self.by_pid.contains_key(&pid)
    }
}

impl Plan {
    /// Of a watched stretch, what was written is read, and the rest is as it was.
    fn changed(
        &mut self,
        pagemap: &Pagemap,
        stretch: &Stretch,
        written: &[(u64, u64)],
        processes: &mut [Process],
    ) -> Result<()> {
        let (start, end) = stretch.range();
        let present = pagemap.present(start, end).map_err(|e| {
            Error::os(format!("cannot read the pagemap of process {}", stretch.process), e)
        })?;
        let (mut guards, mut dirty) = (Vec::new(), written.to_vec());
        let mut clean = Vec::new();
        for pages in present {
            match (pages.guard, pages.written) {
                (true, _) => guards.push((pages.start, pages.end)),
                (false, true) => dirty.push((pages.start, pages.end)),
                (false, false) => clean.push((pages.start, pages.end)),
            }
        }
        dirty.sort_unstable();
        for (start, end) in less(&clean, &dirty) {
            self.clean.push(Clean { process: stretch.process as u32, start, end });
        }
        for &(start, end) in &dirty {
            self.written(stretch, (start, end));
        }
        if let Life::Alive(live) = &mut processes[stretch.process].life {
            live.space.areas[stretch.area].guards = guards;
        }
        Ok(())
    }
}

/// Sorted ranges less other sorted ranges.
fn less(ranges: &[(u64, u64)], others: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut left = Vec::new();
    let mut others = others.iter().peekable();
    for &(mut start, end) in ranges {
        while let Some(&&(from, to)) = others.peek()
            && from < end
        {
            if start < from {
                left.push((start, from));
            }
            start = start.max(to);
            if to > end {
                break;
            }
            others.next();
        }
        if start < end {
            left.push((start, end));
        }
    }
    left
}

/// A watch, and the areas that are under it.
type Made = (Watch, Vec<(u64, u64)>);

/// Has these processes make what a watch takes, and puts their long anonymous areas under it; the job
/// stands meanwhile. Processes that must not be asked ([`refuse::check`]) are left alone.
fn made(
    (parent, family): (i32, Family),
    pids: &[i32],
    timeout: Duration,
    standing: &mut Standing,
) -> Result<Vec<(i32, Result<Made>)>> {
    let launcher = Credentials::of(parent)?;
    let seen = |tid: i32| Seen::look(tid, tid).map(|seen| (tid, seen));
    let seen: HashMap<i32, Seen> = pids
        .iter()
        .flat_map(|&pid| proc::tasks(pid).unwrap_or_default())
        .filter_map(seen)
        .collect();
    let frozen = freeze::freeze(family, timeout)?;
    let states = States::default();
    let mut all = Vec::new();
    for process in &frozen.processes {
        // This freeze interrupts calls as any other does.
        let memory = Memory::open(process.pid)?;
        for stopped in &process.tasks {
            let tid = stopped.tid();
            let before = (seen.get(&tid).copied(), frozen.cut_short.get(&tid).copied());
            let _ = Interrupted::capture(process.pid, stopped, &memory, before, standing);
        }
        let may_be_asked = || {
            let above = frozen.parent(process.pid, parent, &states)?;
            refuse::check(process, above, &launcher, &states)
        };
        if pids.contains(&process.pid) && may_be_asked().is_ok() {
            let made = make(process).and_then(|watch| {
                let areas = cover(process.pid, &watch)?;
                Ok((watch, areas))
            });
            all.push((process.pid, made));
        }
    }
    standing.release();
    Ok(all)
}

/// Whether it will not go better with any other process.
fn is_forbidden(error: &Error) -> bool {
    // `Os` is what "no such system call" and "no such feature" are.
    matches!(error.kind(), ErrorKind::Permission | ErrorKind::Unsupported | ErrorKind::Os)
}

/// The userfaultfd is made by a child that shares the process' memory, and not its descriptors: whatever
/// happens to us, the process never has it.
fn make(process: &FrozenProcess) -> Result<Watch> {
    let uffd = by_children(&[process], SHARING, |children| {
        let [child] = children else { return Err(Error::new(ErrorKind::Internal, "no child")) };
        let what = "make a userfaultfd";
        let number =
            child.remote()?.try_call(what, libc::SYS_userfaultfd, &[Uffd::FLAGS as u64])?;
        Donor::open(child.pid())?.copy(number as i32)
    })?;
    Watch::begin(uffd).map_err(|e| Error::os("cannot set up a userfaultfd", e))
}

/// Watches all long anonymous areas of a process that stands; gives those.
fn cover(pid: i32, watch: &Watch) -> Result<Vec<(u64, u64)>> {
    let is_long = |map: &&Map| {
        let is_anonymous = map.kind == Kind::Anonymous && !map.shared && map.inode == 0;
        is_anonymous && map.end - map.start >= LONG
    };
    let mut covered = Vec::new();
    for map in maps::read(pid)?.iter().filter(is_long) {
        match watch.cover(map.start, map.end) {
            Ok(()) => covered.push((map.start, map.end)),
            // Of a kind that cannot be watched.
            Err(error) => tracing::debug!(pid, start = map.start, %error, "not watched"),
        }
    }
    Ok(covered)
}

/// Protects what has not been before. What is written until the freeze is told as written the next time.
fn protect(pid: i32, areas: &[(u64, u64)]) -> Result<()> {
    let pagemap = Pagemap::open(pid)?;
    for &(start, end) in areas {
        // An area that has gone since takes its watch with it.
        let _ = pagemap.take_written(start, end);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_clean_is_not_dirty() {
        let clean = [(0, 10), (20, 30), (40, 50), (60, 70)];
        assert_eq!(less(&clean, &[]), clean);
        assert_eq!(
            less(&clean, &[(5, 25), (25, 26), (48, 49), (60, 70)]),
            [(0, 5), (26, 30), (40, 48), (49, 50)]
        );
        assert_eq!(less(&clean, &[(0, 100)]), []);
        assert_eq!(less(&[(0, 10), (10, 20)], &[(3, 12)]), [(0, 3), (12, 20)]);
    }
}
