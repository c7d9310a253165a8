//! Image → live tree: check the host, make the processes, fill them, compare, release.

mod alone;
mod body;
mod check;
mod compare;
mod faults;
mod files;
mod ladder;
mod lazy;
pub(crate) mod pages;
mod skeleton;
mod spans;
mod turns;

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::error::{Error, Result};
use crate::image::{self, Whose};
use crate::job::{Container, History, Job};
use crate::kinds::call::Standing;
use crate::kinds::event::{self, Watch};
use crate::kinds::file::What;
use crate::os::numbers;
use crate::progress::{Event, Observer};
use crate::snapshot::{Snapshot, sound, tree};

use body::{Body, Tids};
use faults::{Faults, Keeper};
use files::OpenFiles;
use ladder::{Grown, Numbers};
use lazy::{Filling, Lazy};
use pages::{Pages, Places};
use skeleton::{Legacy, Skeleton};

pub use lazy::Behind;

/// Which way the old PIDs come back (the ladder of `ARCHITECTURE.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pids {
    /// The first rung that works.
    #[default]
    Auto,
    /// `clone3(set_tid)` in the PID namespace we are in.
    SetTid,
    /// An own user and PID namespace.
    Namespace,
    /// Fork until the wanted number comes by.
    Cycle,
}

/// When a job's memory is filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fill {
    /// Before the job runs.
    #[default]
    First,
    /// While it runs, from [`Rebuilt::behind`]: what it touches first, and all the rest behind.
    Behind,
    /// While it runs, what it touches; all the rest once something needs that.
    Touched,
}

/// How a job is brought back.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Rung of the PID ladder.
    pub pids: Pids,
    /// Cut files that the job only appended to back to their length at the checkpoint.
    pub cut_appended: bool,
    /// Go on with other groups than the job had.
    pub force: bool,
    /// Threads that decode; 0 means one a core.
    pub workers: usize,
    /// Treat this kernel's vDSO as another one than the image's even if it is the same: the way
    /// that restarts under another kernel take, to try it out.
    pub patch_vdso: bool,
    /// When the memory is filled.
    pub fill: Fill,
}

/// A job that runs again.
#[derive(Debug)]
pub struct Rebuilt {
    /// The job, ready for further checkpoints.
    pub job: Job,
    /// PID, as seen from here, of the job's first process.
    pub root: i32,
    /// PIDs, as seen from here, of the processes in the process group that the launcher was in:
    /// a terminal's signals go to these.
    pub foreground: Vec<i32>,
    /// Gives four bytes, the wait status (wait(2)) of the first process, when it ends; end of file
    /// without them means that the stand-in died.
    pub status: OwnedFd,
    /// How long it took until the job ran.
    pub total: Duration,
    /// Bytes of memory and file contents put back.
    pub bytes: u64,
    /// The rest of the memory, which comes while the job runs ([`Options::fill`]). It must be looked
    /// after; no checkpoint can be taken before it is there.
    pub behind: Option<Behind>,
    /// The image it came from.
    pub path: PathBuf,
}

/// Brings the job of `image` back. Must be called while this process has a single thread; blocks
/// until the job runs. The stand-in (the job's parent) becomes a child of this process.
///
/// # Errors
///
/// On any failure nothing of the job is left running, and the image is untouched.
pub fn rebuild(
    image: &image::Reader,
    options: &Options,
    observer: &dyn Observer,
) -> Result<Rebuilt> {
    let started = Instant::now();
    let snapshot = Snapshot::of(image)?;
    let pages = Arc::new(Pages::open(image, Whose::Trusted)?);
    let history: History = image.section(image::Tag::HIST)?.unwrap_or_default();
    let container: Option<Container> = image.section(image::Tag::CTNR)?;
    sound::check(&snapshot)?;
    let last_number = match image.section(image::Tag::LAST)? {
        Some(last) => last,
        None => highest_number(&snapshot),
    };
    check::host(image, &snapshot, options.force)?;
    let programs = check::programs(&snapshot)?;
    if options.fill != Fill::First {
        pages.expect_all_but(&faults::brought(&snapshot, &pages.located, true));
    }
    tracing::debug!(since = ?started.elapsed(), "the host is right");

    let pair =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
    let (ours, theirs) = pair.map_err(|e| Error::os("cannot make a socket pair", e))?;
    let pipe = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
    let (status, report) = pipe.map_err(|e| Error::os("cannot make a pipe", e))?;
    let socket = (&theirs, socket_number(&snapshot));
    let keeper = (options.fill != Fill::First).then(Keeper::new).transpose()?;
    let Grown { skeleton, tids, numbers } = ladder::climb(
        (&snapshot, last_number),
        &programs,
        socket,
        Legacy { status: &report, kept: keeper.as_ref().map(Keeper::socket) },
        options.pids,
        observer,
    )?;
    drop(report);
    tracing::debug!(since = ?started.elapsed(), "processes are there");

    let outer: HashMap<i32, i32> =
        skeleton.processes.iter().map(|&(i, pid)| (snapshot.processes[i].pid, pid)).collect();
    let mut bodies = executed(&snapshot, &skeleton, (socket.1, &ours), options.patch_vdso)?;
    tracing::debug!(since = ?started.elapsed(), "and empty");
    let means = (tids, &outer, keeper);
    let (bytes, filling) = furnish(&pages, &snapshot, &mut bodies, means, options, observer)?;
    tracing::debug!(since = ?started.elapsed(), "as they were");
    if numbers == Numbers::Shared {
        numbers::go_on_after(last_number)
            .map_err(|e| Error::os("cannot use up process numbers", e))?;
    }
    let mut standing = Standing::default();
    bodies.iter().for_each(|body| body.note_calls(&mut standing));
    let behind = released(bodies, &snapshot, filling, options.fill)?;
    standing.release();

    let launcher = &snapshot.launcher;
    let in_front = snapshot
        .processes
        .iter()
        .filter(|process| (process.group, process.session) == (launcher.group, launcher.session));
    let foreground = in_front.filter_map(|process| outer.get(&process.pid).copied()).collect();
    let root = outer.get(&launcher.root).copied().unwrap_or_default();
    let stand_in = skeleton.stand_in;
    skeleton.release();
    let job = Job {
        generation: image.header().generation,
        history: History { restarts: history.restarts.saturating_add(1), ..history },
        container,
        standing,
        ..Job::new(snapshot.id, snapshot.name.clone(), stand_in, root)
    };
    let path = image.path().to_path_buf();
    Ok(Rebuilt { job, root, foreground, status, total: started.elapsed(), bytes, behind, path })
}

/// Lets the job run.
fn released(
    bodies: Vec<Body<'_>>,
    snapshot: &Snapshot,
    filling: Option<Filling>,
    fill: Fill,
) -> Result<Option<Behind>> {
    match filling {
        Some(filling) => {
            let bodies = faults::indexed(snapshot, bodies).collect();
            Behind::begin(filling, bodies, fill).map(Some)
        }
        None => {
            bodies.into_iter().for_each(Body::release);
            Ok(None)
        }
    }
}

/// Fills the empty processes with all that they had, until each stands where it stood; gives the
/// bytes of memory and files, and what memory is to come later.
fn furnish(
    pages: &Arc<Pages>,
    snapshot: &Snapshot,
    bodies: &mut [Body<'_>],
    (tids, outer, keeper): (Tids, &HashMap<i32, i32>, Option<Keeper>),
    options: &Options,
    observer: &dyn Observer,
) -> Result<(u64, Option<Filling>)> {
    let mut files = OpenFiles::for_memory(snapshot)?;
    for body in bodies.iter() {
        body.map(&files).map_err(|e| e.whose(body.process))?;
    }
    tracing::debug!("areas are mapped");
    let workers = options.workers;
    let lazily = keeper.is_some();
    let faults = faults(snapshot, bodies, pages, keeper, observer);
    let chosen = || Lazy::choose(snapshot, bodies, &pages.located, &faults);
    let lazy = lazily.then(chosen).flatten();
    let into = places(snapshot, bodies, &files, &faults)?;
    let later = |index: usize| lazy.as_ref().is_some_and(|lazy| lazy.has(index));
    let bytes = pages.fill(&later, &into, workers, observer)?;
    drop(into);
    tracing::debug!(bytes, "memory is filled");
    let later = match lazy {
        Some(lazy) => {
            lazy.prepare(&faults)?;
            Some((lazy, faults))
        }
        None => {
            drop(faults);
            None
        }
    };
    files.open(&|pid| outer.get(&pid).copied())?;
    for body in bodies.iter_mut() {
        let opened = body.open(&files);
        let chosen = |()| if tids == Tids::Chosen { body.tasks() } else { Ok(()) };
        opened.and_then(chosen).map_err(|e| e.whose(body.process))?;
    }
    if tids == Tids::Cycled {
        body::tasks_by_turns(bodies)?;
    }
    files.rouse_pipes()?;
    watch(snapshot, bodies, true)?;
    files.fill_pipes()?;
    watch(snapshot, bodies, false)?;
    files.seal()?;
    tracing::debug!("tasks and files are there");
    for body in bodies.iter() {
        let compared = body.finish().and_then(|()| compare::process(body, snapshot));
        compared.map_err(|e| e.whose(body.process))?;
    }
    let begin = |(lazy, faults)| Filling::begin(Arc::clone(pages), &lazy, faults, workers);
    let filling = later.map(begin).transpose()?;
    // From here on nothing should fail: the user's own files are changed last.
    if options.cut_appended {
        files.cut_appended()?;
    }
    let none = Faults::default();
    let places = places(snapshot, bodies, &files, &none)?;
    pages.fill_files(&places, workers, observer)?;
    drop(places);
    // Nothing of ours may stay open in between: a reader that waits for the end of a pipe would
    // wait for us.
    drop(files);
    for body in bodies.iter() {
        body.arm().map_err(|e| e.whose(body.process))?;
    }
    for body in bodies.iter() {
        body.poise().map_err(|e| e.whose(body.process))?;
    }
    Ok((bytes, filling))
}

/// The memory that is not written, but brought. Where that cannot be had, it is written.
fn faults(
    snapshot: &Snapshot,
    bodies: &[Body<'_>],
    pages: &Pages,
    keeper: Option<Keeper>,
    observer: &dyn Observer,
) -> Faults {
    let lazily = keeper.is_some();
    let areas = faults::brought(snapshot, &pages.located, lazily);
    Faults::of(snapshot, bodies, areas, keeper).unwrap_or_else(|error| {
        if lazily {
            let what = format!("not lazily: {error}; all memory is filled first");
            observer.event(Event::Warning(what));
        }
        tracing::info!(%error, "memory is written");
        Faults::default()
    })
}

/// What is known of the last number handed out where that was not written down.
fn highest_number(snapshot: &Snapshot) -> i32 {
    let tasks = snapshot.alive().flat_map(|(_, live)| live.tasks.iter().map(|task| task.tid));
    tasks.chain(snapshot.processes.iter().map(|process| process.pid)).max().unwrap_or_default()
}

/// A descriptor number that no process of the job uses.
fn socket_number(snapshot: &Snapshot) -> i32 {
    let used: HashSet<i32> =
        snapshot.alive().flat_map(|(_, live)| live.descriptors.iter().map(|d| d.fd)).collect();
    (3..i32::MAX).find(|fd| !used.contains(fd)).unwrap_or(3)
}

/// Lets the processes execute their programs, and empties them.
fn executed<'a>(
    snapshot: &'a Snapshot,
    skeleton: &Skeleton,
    socket: (i32, &'a OwnedFd),
    patch_vdso: bool,
) -> Result<Vec<Body<'a>>> {
    for &(_, pid) in &skeleton.processes {
        body::seize(pid)?;
    }
    skeleton.execute();
    for &(index, pid) in &skeleton.processes {
        let process = &snapshot.processes[index];
        if body::await_program(pid)?.is_none() {
            let source = skeleton.failure().unwrap_or_else(crate::os::tracee::gone);
            let live = process.live();
            let program = live.map_or(&[][..], |live| &live.space.program);
            let what = format!("cannot execute {}", String::from_utf8_lossy(program));
            return Err(Error::os(what, source).whose(process));
        }
    }
    let mut bodies = Vec::new();
    for &(index, pid) in &skeleton.processes {
        let process = &snapshot.processes[index];
        if let Some(live) = process.live() {
            let body = Body::executed(process, live, pid, socket, patch_vdso);
            bodies.push(body.map_err(|e| e.whose(process))?);
        }
    }
    Ok(bodies)
}

fn places<'a>(
    snapshot: &Snapshot,
    bodies: &'a [Body<'a>],
    files: &OpenFiles<'a>,
    faults: &'a Faults,
) -> Result<Places<'a>> {
    let of = |pid: i32| bodies.iter().find(|body| body.process.pid == pid);
    let bodies = snapshot.processes.iter().map(|process| of(process.pid)).collect();
    Ok(Places { bodies, faults, contents: files.contents()?, mapped: files.mapped()? })
}

/// Fills the epoll sets, with the disarmed entries or the others.
fn watch(snapshot: &Snapshot, bodies: &[Body<'_>], disarmed: bool) -> Result<()> {
    for (index, file) in snapshot.files.iter().enumerate() {
        let What::Event(event::Event::Poll(watches)) = &file.what else { continue };
        for body in bodies {
            let of_body = |watch: &&Watch| watch.process == body.process.pid;
            let due = watches.iter().filter(of_body).filter(|w| w.is_disarmed() == disarmed);
            let due: Vec<&Watch> = due.collect();
            let set = body.live.descriptors.iter().find(|d| d.file == index as u32);
            if let (false, Some(set)) = (due.is_empty(), set) {
                body.watch(&due, set.fd).map_err(|e| e.whose(body.process))?;
            }
        }
    }
    Ok(())
}
