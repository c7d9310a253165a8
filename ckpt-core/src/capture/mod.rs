//! Live tree → image: freeze, look at every kind of object, stream the memory, publish, release.

pub(crate) mod base;
pub(crate) mod files;
pub(crate) mod freeze;
mod gate;
pub(crate) mod increment;
mod numbers;
mod pause;
pub(crate) mod plan;
pub(crate) mod processes;
pub(crate) mod refuse;
mod sheet;
pub(crate) mod sieve;
mod states;
pub(crate) mod stream;
mod twin;
pub(crate) mod watch;

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::image::{self, Directory, Importance, Level, Writer};
use crate::job::{History, Job};
use crate::os::{clock, cpu, elf};
use crate::progress::{Event, Observer};
use crate::snapshot::tree::{self, Outside};
use crate::snapshot::{Host, SNAPSHOT, Snapshot, sound};

pub use gate::{Alone, Gate, Step};

use base::Base;
use files::Collector;
use freeze::Frozen;
use plan::Plan;
use processes::Before;
use stream::{Found, Means, Streamed};

/// How a checkpoint is taken.
#[derive(Debug, Clone)]
pub struct Options {
    /// The checkpoint directory; made (mode 0700) if it is missing.
    pub dir: PathBuf,
    /// How hard its blocks are compressed.
    pub level: Level,
    /// How many generations of this job are kept in `dir`, the new one included; at least 1.
    pub keep: usize,
    /// How long the job may take to come to a stop.
    pub freeze_timeout: Duration,
    /// Threads that read and compress; 0 means one a core.
    pub workers: usize,
    /// How many earlier generations an image may need, at most: what is in these is not stored
    /// again. 0 makes each image complete by itself.
    pub increments: usize,
    /// The kernel is asked to tell which pages of large processes are written to (userfaultfd(2)), so that
    /// others need not be compared. A job cannot tell, but for one thing: memory that it maps over a
    /// part of a watched area does not become one area with the rest, and a later mremap(2) over both
    /// gives `EFAULT`.
    pub watch: bool,
    /// This one is complete by itself whatever [`Self::increments`] says.
    pub full: bool,
    /// The new generation is at least this one.
    pub generation: u64,
    /// The job ends with this checkpoint: it stands still from the capture on, and is killed
    /// (SIGKILL) when the image has its name and [`Gate::published`] has said yes. So nothing that
    /// it does is lost or done twice. If there is no image, it runs on.
    pub stop: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("."),
            level: Level::default(),
            keep: 2,
            freeze_timeout: Duration::from_secs(10),
            workers: 0,
            increments: INCREMENTS,
            watch: true,
            full: false,
            generation: 1,
            stop: false,
        }
    }
}

/// How many earlier generations an image needs at most, where nothing else is said.
pub const INCREMENTS: usize = 8;

/// What a checkpoint did. Bytes of memory and file contents, not of the snapshot.
#[derive(Debug, Clone)]
pub struct Report {
    /// Generation of the image, from 1.
    pub generation: u64,
    /// Where it is.
    pub path: PathBuf,
    /// How long the job was stopped.
    pub frozen: Duration,
    /// From the request until the image was durable.
    pub total: Duration,
    /// Processes saved, zombies included.
    pub processes: usize,
    /// Tasks saved.
    pub tasks: usize,
    /// Bytes that were read from the job.
    pub bytes_read: u64,
    /// Bytes of the image file.
    pub bytes_stored: u64,
    /// Bytes that needed no storing: zero pages, clean pages of files, what is there already.
    pub bytes_skipped: u64,
    /// Of these, bytes that earlier generations have.
    pub bytes_unchanged: u64,
    /// How many earlier generations the image needs.
    pub needs: usize,
    /// Why this generation is not one of all launchers ([`Gate::published`]).
    pub alone: Option<String>,
}

/// Takes a checkpoint of `job` and returns once the image is durable; `job.generation` is then
/// that of the new image. Blocks. Must be called from one thread at a time, and nothing else in
/// this process may `wait` for the job's processes meanwhile: ptrace(2) belongs to the calling
/// thread.
///
/// # Errors
///
/// Whatever fails, the job runs on unharmed and earlier images are untouched.
pub fn checkpoint(job: &mut Job, options: &Options, observer: &dyn Observer) -> Result<Report> {
    checkpoint_together(job, options, observer, &Alone)
}

/// As [`checkpoint`], in step with other launchers' checkpoints.
///
/// # Errors
///
/// As [`checkpoint`], or what `gate` says.
pub fn checkpoint_together(
    job: &mut Job,
    options: &Options,
    observer: &dyn Observer,
    gate: &dyn Gate,
) -> Result<Report> {
    let mut tries = 0;
    let report = loop {
        match attempt(job, options, observer, gate) {
            // A freeze that came in the middle of an execve; a new thread has no old tracees.
            Err(error) if error.kind() == ErrorKind::Disturbed && tries < TRIES => {
                tracing::debug!(%error, "frozen once more");
                tries += 1;
            }
            other => break other?,
        }
    };
    job.generation = report.generation;
    job.history = with_this(job.history);
    Ok(report)
}

/// How often a freeze is tried again that the job has disturbed.
const TRIES: u32 = 20;

fn attempt(
    job: &mut Job,
    options: &Options,
    observer: &dyn Observer,
    gate: &dyn Gate,
) -> Result<Report> {
    // ptrace belongs to a thread: when this one ends, the kernel lets go of every task that could
    // not be let go in order.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("ckpt-capture".into());
        let worker = thread
            .spawn_scoped(scope, || {
                let taken = take(&mut *job, options, observer, gate);
                // One that stood until now goes on only now, if it does.
                if options.stop {
                    job.standing.release();
                }
                taken
            })
            .map_err(|e| Error::os("cannot start a thread for the checkpoint", e))?;
        let lost = |_| Err(Error::new(ErrorKind::Internal, "the checkpoint's thread ended"));
        worker.join().unwrap_or_else(lost)
    })
}

fn take(
    job: &mut Job,
    options: &Options,
    observer: &dyn Observer,
    gate: &dyn Gate,
) -> Result<Report> {
    let started = Instant::now();
    job.family().must_be_there()?;
    let directory = Directory::create(&options.dir)?;
    let generation = options.generation.max(1 + newest_generation(&directory, job)?);
    let name = image::file_name(&job.name, job.id, generation);
    let base = increment::base(&directory, job, options);
    if options.watch && options.increments > 0 && !options.stop {
        let family = job.family();
        job.watches.begin((job.parent, family), options.freeze_timeout, &mut job.standing);
    }
    let header = image::NewHeader { job: job.id, generation };
    let mut writer = Writer::create(&options.dir, &name, &header, options.level)?;
    tracing::debug!(since = ?started.elapsed(), "begun");
    let taken = freeze_and_copy(job, options, (observer, gate), (&writer, base.as_ref()))?;
    tracing::debug!(since = ?started.elapsed(), "streamed");

    let mut snapshot = taken.snapshot;
    restorable(&snapshot)?;
    if job.of_itself.is_some() && snapshot.launcher.root == 1 {
        let what = "cannot save process 1 of a container: at a restart that number is another's";
        return Err(Error::new(ErrorKind::Unsupported, what)
            .help("start the container with an init (--init), or the program with ckpt-launch"));
    }
    // The files may be looked at while the job runs on.
    for mapped in &mut snapshot.mapped {
        mapped.build_id = elf::build_id(&mapped.file.path);
    }
    writer.section(SNAPSHOT, Importance::Critical, &snapshot)?;
    let needs = increment::write(&mut writer, taken.found, base.as_ref())?;
    writer.section(image::Tag::HIST, Importance::Skippable, &with_this(job.history))?;
    if let Some(last) = taken.last_number {
        writer.section(image::Tag::LAST, Importance::Skippable, &last)?;
    }
    if let Some(container) = &job.container {
        writer.section(image::Tag::CTNR, Importance::Skippable, container)?;
    }
    let id = writer.header().id;
    let finished = writer.finish()?;
    tracing::debug!(since = ?started.elapsed(), "durable");
    gate.pass(Step::Durable)?;
    let published = finished.publish()?;
    tracing::debug!(since = ?started.elapsed(), "published");
    job.watches.since(id);
    drop(base);
    let alone = gate.published(generation, &published.path).err();
    if alone.is_none()
        && let Some(frozen) = taken.held
    {
        frozen.kill();
    }
    if let Err(error) = directory.prune(job.id, options.keep.max(1)) {
        observer.event(Event::Warning(format!("older generations stay: {error}")));
    }
    Ok(Report {
        generation,
        path: published.path,
        frozen: taken.frozen,
        total: started.elapsed(),
        processes: snapshot.processes.len(),
        tasks: taken.tasks,
        bytes_read: taken.streamed.read,
        bytes_stored: published.bytes,
        bytes_skipped: taken.skipped + taken.streamed.left_out,
        bytes_unchanged: taken.streamed.unchanged,
        needs,
        alone: alone.map(|error| error.to_string()),
    })
}

/// Refuses what no host could bring back, before an earlier image gives way to it.
fn restorable(snapshot: &Snapshot) -> Result<()> {
    sound::check(snapshot).map_err(|e| e.kind_is(ErrorKind::Internal))?;
    // Which of the two it will be is decided where the job is restarted.
    let plan = |outside| tree::plan(snapshot, outside).map(drop);
    plan(Outside::Numbered).or_else(|error| plan(Outside::Inherited).map_err(|_| error))
}

/// The history with one more checkpoint.
fn with_this(history: History) -> History {
    History { checkpoints: history.checkpoints.saturating_add(1), ..history }
}

/// The highest generation that this job has: after a restart from an older one, newer images are
/// not written over.
fn newest_generation(directory: &Directory, job: &Job) -> Result<u64> {
    let images = directory.images()?;
    let of_job = images.iter().filter(|image| image.job() == Some(job.id));
    let newest = of_job.filter_map(image::Entry::generation).max();
    Ok(newest.unwrap_or_default().max(job.generation))
}

/// What the frozen time brought.
struct Taken {
    snapshot: Snapshot,
    /// The process number that was handed out last.
    last_number: Option<i32>,
    found: Found,
    streamed: Streamed,
    skipped: u64,
    tasks: usize,
    frozen: Duration,
    /// The job that stands still until it is killed.
    held: Option<Frozen>,
}

fn freeze_and_copy(
    job: &mut Job,
    options: &Options,
    (observer, gate): (&dyn Observer, &dyn Gate),
    (writer, base): (&Writer, Option<&Base>),
) -> Result<Taken> {
    let family = job.family();
    let mut before = Before::look((job.parent, family), &mut job.standing, &job.watches);
    let mut files = Collector::new();
    let features = cpu::features();
    let mut room = pause::Room::after(job.held);
    tracing::debug!("looked at before");
    let stopped = Instant::now();
    let mut frozen = freeze::freeze(family, options.freeze_timeout)?;
    before.cut_short = std::mem::take(&mut frozen.cut_short);
    let Some(first) = frozen.processes.first().map(|process| process.pid) else {
        return Err(Error::new(ErrorKind::NotFound, "the job has ended: nothing is left to save"));
    };
    files.learn(&frozen);
    if job.of_itself.is_some() {
        files.own_pipes(&frozen);
    }
    // Only now do numbers stand still: a thread's execve exchanges them.
    let launcher = processes::launcher(job.parent, job.root, &before.states)?;
    let tasks = frozen.tasks();
    let count = frozen.processes.len() + frozen.zombies.len();
    observer.event(Event::Frozen { processes: count, tasks });
    gate.pass(Step::Frozen)?;

    let mut plan = Plan::default();
    let mut processes = processes::capture(&frozen, &launcher, &mut before, &mut files, &mut plan)?;
    let last_number = numbers::last(&frozen, &before.states);
    tracing::debug!(since = ?stopped.elapsed(), "looked at");
    // The clocks last: what is left of a timer was read before, so none fires too early.
    let host = host(first, features);
    plan.contents(&mut files)?;
    job.watches.look(&mut plan, &frozen, base, &mut processes)?;
    tracing::debug!(since = ?stopped.elapsed(), bytes = plan.total(), "found out what was written to");
    // One that is killed in the end need not go on soon.
    let twins = match options.stop {
        true => {
            let own = std::mem::take(&mut plan.own);
            plan.extents.extend(own);
            plan.look(&mut processes, |index| frozen.processes[index].pid)?;
            None
        }
        false => pause::shorten(&mut plan, &frozen, &mut processes, &mut room)?,
    };
    job.held = room.used;
    tracing::debug!(since = ?stopped.elapsed(), twins = twins.as_ref().map(HashMap::len), "copied");
    let sieve = increment::sieve(job.id, base, options, &processes);
    let means = Means { workers: options.workers, beside: twins.is_some() };
    let write = |plan: &Plan| stream::write(plan, writer, &sieve, &means, observer);
    let written = twins.is_none().then(|| write(&plan)).transpose()?;
    gate.pass(Step::Captured)?;
    let held = options.stop.then_some(frozen);
    job.standing.release();
    let frozen = stopped.elapsed();
    if held.is_none() {
        observer.event(Event::Released { frozen });
    }
    let (found, streamed) = match written {
        Some(written) => written,
        None => {
            twins.iter().try_for_each(|twins| pause::look(&mut plan, twins, &mut processes))?;
            write(&plan)?
        }
    };
    drop(twins);
    for warning in std::mem::take(&mut files.warnings) {
        observer.event(Event::Warning(warning));
    }
    let Collector { files, pipes, contents, mapped, .. } = files;
    let (id, name) = (job.id, job.name.clone());
    let snapshot = Snapshot { host, id, name, launcher, processes, files, pipes, contents, mapped };
    let last_number = last_number
        .inspect_err(|error| tracing::info!(%error, "which number came last is not known"))
        .ok();
    let skipped = plan.skipped;
    Ok(Taken { snapshot, last_number, found, streamed, skipped, tasks, frozen, held })
}

/// The machine as process `pid` sees it.
fn host(pid: i32, features: Vec<String>) -> Host {
    let uname = rustix::system::uname();
    let (monotonic, boottime) = clock::of_process(pid);
    Host {
        node: uname.nodename().to_string_lossy().into_owned(),
        release: uname.release().to_string_lossy().into_owned(),
        monotonic,
        boottime,
        features,
    }
}
