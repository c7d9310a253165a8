//! Turns frozen processes into plain data.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use super::files::{Collector, Place, Table};
use super::freeze::{Frozen, FrozenProcess};
use super::plan::Plan;
use super::refuse;
use super::sheet::{Seen, Sheet, Sheets};
use super::states::States;
use super::watch::Watches;
use crate::error::{Error, ErrorKind, Result};
use crate::kinds::Hand;
use crate::kinds::asks::Asks;
use crate::kinds::call::{self, Interrupted, Standing};
use crate::kinds::credentials::Credentials;
use crate::kinds::memory::{AddressSpace, Area};
use crate::kinds::process::Attributes;
use crate::kinds::signals;
use crate::kinds::task::Task;
use crate::kinds::timers::Timers;
use crate::os::maps::{self, Kind, Map};
use crate::os::mem::Memory;
use crate::os::proc::{self, Family};
use crate::os::remote::{Remote, Site};
use crate::os::scratch::Scratch;
use crate::os::status::Status;
use crate::os::{PAGE, ptrace};
use crate::snapshot::{Launcher, Life, Live, Process};

/// `VmFlags` of the areas of each process, read before the freeze.
pub(crate) type AreaFlags = HashMap<i32, maps::Flags>;

/// What was seen of each task before the freeze.
pub(crate) type Sightings = HashMap<i32, call::Seen>;

/// What is known from before the freeze.
pub(crate) struct Before<'a> {
    pub(crate) flags: AreaFlags,
    pub(crate) seen: Sightings,
    /// System calls that the freeze has cut short, by tid.
    pub(crate) cut_short: BTreeMap<i32, i64>,
    pub(crate) standing: &'a mut Standing,
    /// Of the time behind it: nothing is asked of it before.
    pub(crate) states: States,
    pub(crate) watches: &'a Watches,
    /// The process above the job.
    pub(crate) above: i32,
}

impl<'a> Before<'a> {
    /// Looks at a family while it runs, and the process above it.
    pub(crate) fn look(
        (above, family): (i32, Family),
        standing: &'a mut Standing,
        watches: &'a Watches,
    ) -> Self {
        let mut before = Self {
            flags: AreaFlags::new(),
            seen: Sightings::new(),
            cut_short: BTreeMap::new(),
            standing,
            states: States::default(),
            watches,
            above,
        };
        // The launcher's are what they are.
        let _ = before.states.namespaces(above);
        for pid in family.pids() {
            // Whatever ends meanwhile, or is new at the freeze, just goes without.
            before.flags.extend(maps::flags(pid).ok().map(|flags| (pid, flags)));
            for tid in proc::tasks(pid).unwrap_or_default() {
                before.seen.extend(call::Seen::look(pid, tid).map(|seen| (tid, seen)));
            }
        }
        before
    }
}

/// The process above the job, and the job's first.
pub(crate) fn launcher(pid: i32, root: i32, states: &States) -> Result<Launcher> {
    let status = states.status(pid)?;
    Ok(Launcher {
        pid: status.inner_pid()?,
        root: states.status(root)?.inner_pid()?,
        group: status.innermost("NSpgid")?,
        session: status.innermost("NSsid")?,
        credentials: Credentials::told(&status)?,
    })
}

/// All processes of the job; their pages are added to `plan`.
pub(crate) fn capture(
    frozen: &Frozen,
    launcher: &Launcher,
    before: &mut Before<'_>,
    files: &mut Collector,
    plan: &mut Plan,
) -> Result<Vec<Process>> {
    // First everything is looked at: what cannot be saved is refused before it is disturbed.
    for process in &frozen.processes {
        let parent = frozen.parent(process.pid, before.above, &before.states)?;
        let checked = refuse::check(process, parent, &launcher.credentials, &before.states);
        checked.map_err(|e| e.of_process(process.pid, &proc::comm(process.pid)))?;
    }
    let sheets = Sheets::of(frozen);
    let mut processes = Vec::new();
    sheets.with(|| {
        for (index, process) in frozen.processes.iter().enumerate() {
            let pid = process.pid;
            let live =
                sheets.take(index).and_then(|it| live(process, index, it, before, files, plan));
            let live = live.map_err(|e| e.of_process(pid, &proc::comm(pid)))?;
            let name = live.tasks.first().map(|task| task.name.clone()).unwrap_or_default();
            processes.push(outline(pid, name, Life::Alive(Box::new(live)), frozen, before)?);
        }
        Ok::<_, Error>(())
    })?;
    files.find_watched()?;
    for &pid in &frozen.zombies {
        let status = proc::stat(pid)?.exit_code.unwrap_or_default();
        let (name, life) = (proc::comm(pid).into_bytes(), Life::Zombie(status));
        processes.push(outline(pid, name, life, frozen, before)?);
    }
    Ok(processes)
}

fn outline(
    pid: i32,
    name: Vec<u8>,
    life: Life,
    frozen: &Frozen,
    before: &Before<'_>,
) -> Result<Process> {
    let states = &before.states;
    let (status, parent) = (states.status(pid)?, frozen.parent(pid, before.above, states)?);
    Ok(Process {
        pid: status.inner_pid()?,
        parent: states.status(parent)?.inner_pid()?,
        group: status.innermost("NSpgid")?,
        session: status.innermost("NSsid")?,
        name,
        life,
    })
}

fn live(
    process: &FrozenProcess,
    index: usize,
    sheet: Sheet,
    before: &mut Before<'_>,
    files: &mut Collector,
    plan: &mut Plan,
) -> Result<Live> {
    let pid = process.pid;
    let memory = Memory::open(pid)?;
    let Sheet { maps, names, mut descriptors, attributes, space } = sheet;
    let (caught, _) = before.states.status(pid)?.dispositions()?;
    let site = Site::find(&maps, &memory)?.with_handlers(caught);
    let leader = &process.tasks[0];
    let pending = ptrace::pending(leader.tid(), true)
        .map_err(|e| leader.failed("read the process' pending signals", e))?;
    let mut tasks = Vec::with_capacity(process.tasks.len());
    for (stopped, name) in process.tasks.iter().zip(names) {
        let tid = stopped.tid();
        let seen = (before.seen.get(&tid).copied(), before.cut_short.get(&tid).copied());
        let call = Interrupted::capture(pid, stopped, &memory, seen, before.standing)?;
        tasks.push(Task::capture(stopped, before.states.status(tid)?.inner_pid()?, name, call)?);
    }
    settle_timers(process, &memory, site, &mut descriptors)?;
    let Table { descriptors, locks } = files.descriptors(pid, &descriptors)?;
    let flags = area_flags(pid, &maps, before)?;
    let is_large = before.states.status(pid)?.private_bytes() >= LARGE;
    let whose = (pid, index as u32, is_large);
    let areas = areas(whose, (&maps, &flags), before.watches, files, plan)?;

    let mut live = Live {
        space,
        attributes,
        credentials: Credentials::told(&*before.states.status(pid)?)?,
        dispositions: Vec::new(),
        pending,
        timers: Timers::default(),
        descriptors,
        locks,
        tasks,
    };
    ask_all(process, &mut live, &memory, site, (&maps, &before.states), files)?;
    live.space.areas = areas;
    Ok(live)
}

/// A periodic timerfd that nobody reads stands still after its first tick. Asked for its time
/// (timerfd_gettime(2)), the kernel notes all the ticks that it owes, and takes none away.
fn settle_timers(
    process: &FrozenProcess,
    memory: &Memory,
    site: Site,
    descriptors: &mut [Seen],
) -> Result<()> {
    let mut timers: Vec<&mut Seen> = descriptors.iter_mut().filter(|it| it.is_timer()).collect();
    if timers.is_empty() {
        return Ok(());
    }
    let remote = Remote::begin(&process.tasks[0], memory, site)?;
    let scratch = Scratch::map(&remote)?;
    let hand = Hand { remote: &remote, memory, scratch };
    let asked = timers.iter().try_for_each(|timer| {
        let arguments = [timer.fd as u64, 0];
        hand.ask::<4>("read a timerfd", libc::SYS_timerfd_gettime, &arguments, 1).map(drop)
    });
    scratch.free(&remote)?;
    remote.end()?;
    asked?;
    timers.iter_mut().try_for_each(|timer| timer.again())
}

/// Lets each task answer what only it can, with one scratch page for all of them. One task is on
/// loan at a time: they share the place of the stub.
fn ask_all(
    process: &FrozenProcess,
    live: &mut Live,
    memory: &Memory,
    site: Site,
    (maps, states): (&[Map], &States),
    files: &mut Collector,
) -> Result<()> {
    let leader = &process.tasks[0];
    let status = states.status(process.pid)?;
    let remote = Remote::begin(leader, memory, site)?;
    let scratch = Scratch::map(&remote)?;
    let hand = Hand { remote: &remote, memory, scratch };
    let asked = ask_process(process.pid, &hand, live, (leader.group_stop, &status), maps)
        .and_then(|()| files.places_of(process.pid).try_for_each(|place| resident(&hand, place)));
    if asked.is_err() || process.tasks.len() == 1 {
        scratch.free(&remote)?;
        remote.end()?;
        return asked;
    }
    remote.end()?;
    let last = process.tasks.len() - 1;
    for (at, (task, stopped)) in live.tasks.iter_mut().zip(&process.tasks).enumerate().skip(1) {
        let remote = Remote::begin(stopped, memory, site)?;
        let asked = ask_task(&Hand { remote: &remote, memory, scratch }, task);
        if asked.is_err() || at == last {
            scratch.free(&remote)?;
        }
        remote.end()?;
        asked?;
    }
    Ok(())
}

/// Asks which pages of shared memory exist (mincore(2)). Swapped pages do not show up there: where
/// there is swap, all is read.
fn resident(hand: &Hand<'_>, place: &mut Place) -> Result<()> {
    static SWAP: LazyLock<bool> = LazyLock::new(|| {
        let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let line = info.lines().find(|line| line.starts_with("SwapTotal:")).unwrap_or_default();
        line.split_ascii_whitespace().nth(1) != Some("0")
    });
    if *SWAP {
        return Ok(());
    }
    let mut found: Vec<(u64, u64)> = Vec::new();
    let end = place.start + place.length;
    let mut at = place.start;
    while at < end {
        // One byte a page: as many as fit into scratch memory.
        let length = (end - at).min(PAGE * PAGE);
        let arguments = [at, length, hand.scratch.address];
        let what = "ask which pages of shared memory exist";
        hand.remote.try_call(what, libc::SYS_mincore, &arguments)?;
        let mut pages = vec![0; (length / PAGE) as usize];
        hand.memory.read_exact(hand.scratch.address, &mut pages)?;
        for (number, _) in pages.iter().enumerate().filter(|(_, page)| **page & 1 != 0) {
            let page = at + number as u64 * PAGE;
            match found.last_mut() {
                Some(last) if last.1 == page => last.1 += PAGE,
                _ => found.push((page, page + PAGE)),
            }
        }
        at += length;
    }
    place.resident = Some(found);
    Ok(())
}

fn ask_process(
    pid: i32,
    hand: &Hand<'_>,
    live: &mut Live,
    (stopped, status): (bool, &Status),
    maps: &[Map],
) -> Result<()> {
    // First of all: it shows in memory that nobody has touched yet.
    live.attributes.capture(hand, pid, status)?;
    live.attributes.stopped = stopped;
    live.space.capture(hand.memory, maps)?;
    let mut asks = Asks::default();
    let task = Task::ask(&mut asks);
    let space = AddressSpace::ask(&mut asks);
    let attributes = Attributes::ask(&mut asks);
    let dispositions = signals::ask(&mut asks, status.dispositions()?);
    let timers = Timers::ask(&mut asks, pid)?;
    let answers = hand.answers(asks)?;
    let first = &mut live.tasks[0];
    first.rseq_section = hand.remote.rseq_section().map_or(0, |(_, section)| section);
    task(first, &answers)?;
    space(&mut live.space, &answers)?;
    attributes(&mut live.attributes, &answers)?;
    live.dispositions = dispositions(&answers)?;
    live.timers = timers(&answers)?;
    Ok(())
}

/// What another than the process' first task has to tell.
fn ask_task(hand: &Hand<'_>, task: &mut Task) -> Result<()> {
    let mut asks = Asks::default();
    let told = Task::ask(&mut asks);
    task.rseq_section = hand.remote.rseq_section().map_or(0, |(_, section)| section);
    told(task, &hand.answers(asks)?)
}

/// The flags that were read before the freeze, if every area is still the same.
fn area_flags(pid: i32, maps: &[Map], before: &mut Before<'_>) -> Result<maps::Flags> {
    let known = before.flags.remove(&pid).unwrap_or_default();
    if maps.iter().all(|map| known.contains_key(&map.key())) {
        return Ok(known);
    }
    maps::flags(pid)
}

/// A process with less private memory is copied sooner than forked.
const LARGE: u64 = 2 << 20;

/// The areas of a process, and what of their pages must be saved.
fn areas(
    (pid, index, is_large): (i32, u32, bool),
    (maps, flags): (&[Map], &maps::Flags),
    watches: &Watches,
    files: &mut Collector,
    plan: &mut Plan,
) -> Result<Vec<Area>> {
    let mut areas = Vec::new();
    let mut pages = plan.process(pid, index, is_large)?;
    for map in maps {
        match map.kind {
            Kind::Vdso | Kind::Vvar | Kind::Vsyscall => continue,
            Kind::Special => {
                let name = String::from_utf8_lossy(&map.path);
                let what = format!("cannot save the mapping {name} at {:#x}", map.start);
                return Err(Error::new(ErrorKind::Unsupported, what));
            }
            Kind::Anonymous | Kind::Stack | Kind::File => {}
        }
        let flags = flags.get(&map.key()).map_or(&[][..], Vec::as_slice);
        let backing = files.backing(pid, map, flags)?;
        let guards = pages.area(areas.len(), map, backing, &files.mapped, flags)?;
        refuse::area(map, flags, watches.has(pid))?;
        areas.push(Area::capture(map, backing, flags, guards));
    }
    Ok(areas)
}
