//! Checks a snapshot's inner consistency before an image is published, and before anything is made
//! of one: an image's checksums vouch for its bytes, not for their sense.

use std::collections::HashSet;

use crate::error::{Error, ErrorKind, Result};
use crate::kinds::event::Event;
use crate::kinds::file::What;
use crate::kinds::memory::{AddressSpace, Backing};
use crate::os::{PAGE, TASK_SIZE};
use crate::snapshot::{Live, Snapshot};

/// Bytes of a `siginfo_t`.
const SIGNAL_INFO: usize = 128;
/// Highest descriptor number (`/proc/sys/fs/nr_open` goes no further).
const DESCRIPTORS: i32 = 1 << 30;

/// Checks indices, ranges and numbers.
///
/// # Errors
///
/// [`ErrorKind::Damaged`], with what makes no sense.
pub(crate) fn check(snapshot: &Snapshot) -> Result<()> {
    let mut pids = HashSet::new();
    for process in &snapshot.processes {
        need(process.pid > 0 && pids.insert(process.pid), "a process number")?;
        need(process.pid != snapshot.launcher.pid, "the launcher's number")?;
    }
    let root = snapshot.launcher.root;
    need(snapshot.alive().any(|(process, _)| process.pid == root), "the first process")?;
    for file in &snapshot.files {
        let known = match &file.what {
            What::Stdio(stream) => stream.number <= 2,
            What::Content(index) => (*index as usize) < snapshot.contents.len(),
            What::Pipe(index) => (*index as usize) < snapshot.pipes.len(),
            What::Event(Event::Poll(watches)) => {
                watches.iter().all(|watch| pids.contains(&watch.process))
            }
            What::Outside(_) | What::Named(_) | What::Event(_) => true,
        };
        need(known, "an open file")?;
        need(i64::try_from(file.position).is_ok(), "a position")?;
    }
    need(snapshot.contents.iter().all(|c| i64::try_from(c.size).is_ok()), "a length")?;
    snapshot.alive().try_for_each(|(_, live)| self::live(snapshot, live))
}

fn need(holds: bool, what: &str) -> Result<()> {
    if holds {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Damaged, format!("the image makes no sense: {what} is not possible")))
}

fn live(snapshot: &Snapshot, live: &Live) -> Result<()> {
    space(snapshot, &live.space)?;
    for descriptor in &live.descriptors {
        need((0..DESCRIPTORS).contains(&descriptor.fd), "a file descriptor")?;
        need((descriptor.file as usize) < snapshot.files.len(), "a descriptor's file")?;
    }
    need(live.dispositions.iter().all(|d| (1..=64).contains(&d.signal)), "a signal")?;
    let queued = live.pending.iter().chain(live.tasks.iter().flat_map(|task| &task.pending));
    let mut queued = queued.map(Vec::len);
    need(queued.all(|length| length == SIGNAL_INFO), "a queued signal")?;
    let mut tids = HashSet::new();
    let mut tids = live.tasks.iter().map(|task| task.tid > 0 && tids.insert(task.tid));
    need(tids.all(|fine| fine), "a task's number")?;
    need(live.tasks.iter().all(|task| task.name.len() < 16), "a task's name")
}

fn space(snapshot: &Snapshot, space: &AddressSpace) -> Result<()> {
    let range = |start: u64, end: u64| {
        start < end && end <= TASK_SIZE && start.is_multiple_of(PAGE) && end.is_multiple_of(PAGE)
    };
    let mut last = 0;
    for area in &space.areas {
        need(range(area.start, area.end) && area.start >= last, "a memory area")?;
        last = area.end;
        let known = match area.backing {
            Backing::Anonymous => true,
            Backing::File(index) => (index as usize) < snapshot.mapped.len(),
            Backing::Content(index) => (index as usize) < snapshot.contents.len(),
        };
        need(known, "a mapped file")?;
        need(area.guards.iter().all(|&(start, end)| range(start, end)), "a guard")?;
    }
    let length = space.vdso.1.len() as u64;
    let end = space.vdso.0.checked_add(length);
    need(end.is_some_and(|end| range(space.vdso.0, end)), "the vDSO")?;
    need(space.vvar.iter().all(|&(start, end)| range(start, end)), "the vDSO's data")?;
    // It is handed to the kernel in one page, behind 128 bytes.
    need(space.auxv.len() as u64 <= PAGE - 128, "the auxiliary vector")
}
