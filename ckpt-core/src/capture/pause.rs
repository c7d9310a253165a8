//! What the job must stand still for: a copy of little memory, or twins from which much is read later.
//!
//! Twins ([`Twin`]) are of no use for memory that is shared or that a fork leaves out, and none is
//! made where its pages would not fit if the job wrote to all of them. Then the job stands until
//! everything is read.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use memmap2::{MmapMut, MmapOptions};

use super::freeze::{Frozen, FrozenProcess};
use super::plan::{Extent, Plan, Source, Stretch};
use super::stream::read_whole;
use super::twin::Twin;
use crate::error::{Error, ErrorKind, Result};
use crate::os::{headroom, maps, proc};
use crate::snapshot::Process;
use crate::snapshot::pages::Object;

/// The bytes that are copied in the pause, at most.
const HELD: u64 = 64 << 20;
/// So little is copied sooner than any process is forked.
const LITTLE: u64 = 2 << 20;
/// While one page is copied, a fork gets done with so many.
const FORKED: u64 = 50;
/// A part of memory in so many may be needed for what is noted of it.
const HASHED: u64 = 50;
/// What must stay free for others.
const RESERVE: u64 = 64 << 20;

/// Memory for what is copied in the pause. It is there before that begins: nobody knows how long it takes
/// the kernel, or a virtual machine's host, to give some.
#[derive(Debug)]
pub(crate) struct Room {
    free: Option<MmapMut>,
    /// Bytes that were needed.
    pub(crate) used: u64,
}

impl Room {
    /// For somewhat more than the last pause needed; 0 if there was none.
    pub(crate) fn after(last: u64) -> Self {
        let bytes = if last == 0 { LITTLE } else { (last + last / 4).min(HELD) };
        let own = std::process::id().cast_signed();
        // Where there is hardly any, what is not needed must not be taken.
        let free = (headroom::left(own) >= bytes.saturating_add(RESERVE))
            .then(|| MmapOptions::new().len(bytes as usize).populate().map_anon().ok());
        Self { free: free.flatten(), used: 0 }
    }

    fn take(&mut self, bytes: usize) -> Result<MmapMut> {
        self.used = bytes as u64;
        let failed = |e| Error::os("cannot get memory for a copy", e);
        let fits = self.free.take().filter(|free| free.len() >= bytes);
        fits.map_or_else(|| MmapMut::map_anon(bytes).map_err(failed), Ok)
    }
}

/// Makes the plan independent of the frozen job; gives the twins that it reads from then, by process,
/// or nothing if the job must stand still for the whole of it. What was put off is looked at then.
///
/// # Errors
///
/// The memory cannot be read.
pub(crate) fn shorten(
    plan: &mut Plan,
    frozen: &Frozen,
    processes: &mut [Process],
    room: &mut Room,
) -> Result<Option<HashMap<usize, Twin>>> {
    let large = large(plan);
    let twins = match obstacle(plan, processes, &large) {
        Some(why) => {
            tracing::info!("the job stands still until all is read: {why}");
            None
        }
        None => match made(plan, frozen, &large) {
            Ok(twins) => Some(twins),
            Err(error) => {
                plan.twins.clear();
                tracing::info!(%error, "the job stands still until all is read: no copy of it");
                None
            }
        },
    };
    let of_twins;
    match &twins {
        Some(twins) => {
            let from_twin = |extent: &Extent| match extent.object {
                Object::Memory(index) => twins.contains_key(&(index as usize)),
                Object::Content(_) => false,
            };
            let held: Vec<Extent>;
            (of_twins, held) = std::mem::take(&mut plan.own).into_iter().partition(from_twin);
            plan.extents.extend(held);
            hold(plan, room)?;
        }
        None => {
            of_twins = std::mem::take(&mut plan.own);
            plan.look(processes, |index| frozen.processes[index].pid)?;
        }
    }
    plan.extents.extend(of_twins);
    Ok(twins)
}

/// The processes that a twin is made of: much of their memory is to be looked at yet, or to be read.
fn large(plan: &Plan) -> BTreeSet<usize> {
    let mut large: BTreeSet<usize> = plan.later.iter().map(|stretch| stretch.process).collect();
    let mut bytes: BTreeMap<usize, u64> = BTreeMap::new();
    for extent in &plan.own {
        if let Object::Memory(index) = extent.object {
            *bytes.entry(index as usize).or_default() += extent.length;
        }
    }
    let mut room = HELD.saturating_sub(plan.total());
    for (index, bytes) in bytes {
        let left = room.checked_sub(bytes).filter(|_| !large.contains(&index));
        let forks_sooner = || {
            let pid = plan.memories.get(index).map_or(0, |&(pid, _)| pid);
            bytes > LITTLE && bytes > proc::private_bytes(pid) / FORKED
        };
        match left {
            Some(left) if !forks_sooner() => room = left,
            _ => drop(large.insert(index)),
        }
    }
    large
}

/// Looks at what was put off, in the twins.
///
/// # Errors
///
/// [`ErrorKind::Busy`] if a twin has not what its process had: the job has advised the kernel so
/// (madvise(2)) after its areas' flags were read.
pub(crate) fn look(
    plan: &mut Plan,
    twins: &HashMap<usize, Twin>,
    processes: &mut [Process],
) -> Result<()> {
    for (&index, twin) in twins {
        let flags = maps::flags(twin.pid())?;
        let wiped = |flags: &[[u8; 2]]| flags.contains(b"wf");
        let mut whole: Vec<(u64, u64)> = flags
            .iter()
            .filter(|(_, flags)| !wiped(flags))
            .map(|(&(start, end, ..), _)| (start, end))
            .collect();
        whole.sort_unstable();
        let is_there = |(start, end): (u64, u64)| {
            let behind = whole.partition_point(|area| area.0 <= start);
            behind.checked_sub(1).is_some_and(|area| end <= whole[area].1)
        };
        let later = plan.later.iter().filter(|stretch| stretch.process == index);
        let from_it = |extent: &&Extent| extent.source == plan.memories[index].1;
        let sooner = plan.extents.iter().filter(from_it);
        let sooner = sooner.map(|extent| (extent.at, extent.at + extent.length));
        if let Some(lost) = later.map(Stretch::range).chain(sooner).find(|it| !is_there(*it)) {
            let what = format!("the memory at {:#x} is not in a copy of the process", lost.0);
            return Err(Error::new(ErrorKind::Busy, what).help("try again"));
        }
    }
    plan.look(processes, |index| twins.get(&index).map_or(0, Twin::pid))
}

/// Makes a twin of each large process.
fn made(plan: &mut Plan, frozen: &Frozen, large: &BTreeSet<usize>) -> Result<HashMap<usize, Twin>> {
    let processes: Vec<&FrozenProcess> =
        large.iter().map(|&index| &frozen.processes[index]).collect();
    let twins = Twin::of_all(&processes)?;
    for (&index, twin) in large.iter().zip(&twins) {
        plan.twins.push((plan.memories[index].1, twin.memory()?));
    }
    Ok(large.iter().copied().zip(twins).collect())
}

/// Why the job must stand still for all of it.
fn obstacle(plan: &Plan, processes: &[Process], large: &BTreeSet<usize>) -> Option<&'static str> {
    if plan.total() > HELD {
        return Some("it shares too much memory");
    }
    if large.is_empty() {
        return None;
    }
    let is_subreaper =
        |process: &Process| process.live().is_some_and(|live| live.attributes.subreaper);
    if processes.iter().any(is_subreaper) {
        return Some("a copy would fall to its own subreaper");
    }
    let pids = large.iter().map(|&index| plan.memories[index].0);
    let copied: u64 = pids.clone().map(proc::private_bytes).sum();
    let left = pids.map(headroom::left).min().unwrap_or_default();
    // Each page has a hash, which is held several times.
    if left < copied.saturating_add(copied / HASHED).saturating_add(RESERVE) {
        return Some("there is no room for a copy");
    }
    None
}

/// Copies what is not read from a twin, and lets the plan read these instead.
fn hold(plan: &mut Plan, room: &mut Room) -> Result<()> {
    let total = plan.total() as usize;
    if total > 0 {
        copy(plan, room.take(total)?)?;
    }
    for (source, file) in std::mem::take(&mut plan.twins) {
        plan.sources[source as usize] = Source::File(file);
    }
    Ok(())
}

/// Copies all extents.
fn copy(plan: &mut Plan, mut copy: MmapMut) -> Result<()> {
    let source = plan.sources.len() as u32;
    let mut at = 0;
    for extent in &mut plan.extents {
        let room = &mut copy[at..][..extent.length as usize];
        // What lies behind the end of a file is left out.
        let got = read_whole(&plan.sources[extent.source as usize], extent, room)?;
        extent.length = got as u64;
        (extent.source, extent.at) = (source, at as u64);
        at += got;
    }
    plan.add(Source::Held(copy));
    Ok(())
}
