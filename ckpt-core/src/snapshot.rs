//! What a frozen job is: plain data and nothing else.
//!
//! Capture fills a [`Snapshot`], the image stores it as one section, rebuild reads it. PIDs in it
//! are those that the job's processes themselves see.

pub(crate) mod pages;
pub(crate) mod sound;
pub(crate) mod tree;

use std::fmt;

use bincode::{Decode, Encode};

use crate::error::{Error, ErrorKind, Result};
use crate::image;
use crate::job::JobId;
use crate::kinds::contents::Content;
use crate::kinds::credentials::Credentials;
use crate::kinds::file::{Descriptor, Named, OpenFile};
use crate::kinds::lock::Lock;
use crate::kinds::memory::AddressSpace;
use crate::kinds::pipe::Pipe;
use crate::kinds::process::Attributes;
use crate::kinds::signals::Disposition;
use crate::kinds::task::Task;
use crate::kinds::timers::Timers;

/// Tag of the section that holds the [`Snapshot`].
pub(crate) const SNAPSHOT: image::Tag = image::Tag(*b"JOB ");

/// A frozen job.
#[derive(Debug, Clone, Encode, Decode)]
pub struct Snapshot {
    /// Where it ran.
    pub host: Host,
    /// The job's identity.
    pub id: JobId,
    /// The job's short name.
    pub name: String,
    /// The process that stood above the job (launcher or stand-in).
    pub launcher: Launcher,
    /// All processes, parents before children.
    pub processes: Vec<Process>,
    /// Open file descriptions.
    pub files: Vec<OpenFile>,
    /// Pipes.
    pub pipes: Vec<Pipe>,
    /// Nameless files; their bytes are in the page stream.
    pub contents: Vec<Content>,
    /// Named files that are mapped.
    pub mapped: Vec<Mapped>,
}

/// Facts of the machine and the moment.
#[derive(Debug, Clone, Encode, Decode)]
pub struct Host {
    /// `uname -n`.
    pub node: String,
    /// `uname -r`.
    pub release: String,
    /// `CLOCK_MONOTONIC`, nanoseconds, as the job saw it.
    pub monotonic: i64,
    /// `CLOCK_BOOTTIME`, nanoseconds, as the job saw it.
    pub boottime: i64,
    /// Processor features that programs may have found, as /proc/cpuinfo names them.
    pub features: Vec<String>,
}

/// The process whose descendants are the job.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Launcher {
    /// Its PID.
    pub pid: i32,
    /// PID of the job's first process, whose end is the job's.
    pub root: i32,
    /// Its process group.
    pub group: i32,
    /// Its session.
    pub session: i32,
    /// Whose it is.
    pub credentials: Credentials,
}

/// A process.
#[derive(Debug, Clone, Encode, Decode)]
pub struct Process {
    /// PID.
    pub pid: i32,
    /// PID of its parent.
    pub parent: i32,
    /// Process group.
    pub group: i32,
    /// Session.
    pub session: i32,
    /// Command name of its first task, bytes.
    pub name: Vec<u8>,
    /// Whether it lives.
    pub life: Life,
}

/// A process that lives, or one whose parent has not asked for its status yet.
#[derive(Debug, Clone, Encode, Decode)]
pub enum Life {
    /// It lives.
    Alive(Box<Live>),
    /// It has ended with this wait status (wait(2)).
    Zombie(i32),
}

/// What a living process is made of.
#[derive(Debug, Clone, Encode, Decode)]
pub struct Live {
    /// Memory areas and what belongs to them.
    pub space: AddressSpace,
    /// Directory, limits, flags.
    pub attributes: Attributes,
    /// Whose it is.
    pub credentials: Credentials,
    /// Signal dispositions other than the default.
    pub dispositions: Vec<Disposition>,
    /// Signals queued for the whole process.
    pub pending: Vec<Vec<u8>>,
    /// Timers.
    pub timers: Timers,
    /// Descriptor table, by number.
    pub descriptors: Vec<Descriptor>,
    /// Record locks, each with a descriptor for the file.
    pub locks: Vec<(i32, Lock)>,
    /// Tasks; the first is the leader.
    pub tasks: Vec<Task>,
}

/// A named file that is mapped.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Mapped {
    /// The file.
    pub file: Named,
    /// GNU build id, if it is an ELF file that has one: decides instead of the time stamp.
    pub build_id: Option<Vec<u8>>,
    /// It must be opened for writing, as it is mapped shared and writable.
    pub writable: bool,
}

impl Snapshot {
    /// Reads the snapshot of an image.
    ///
    /// # Errors
    ///
    /// The section is missing or damaged.
    pub fn of(image: &image::Reader) -> Result<Self> {
        if image.has(image::Tag::RGNS) {
            let what = format!("{} is a program's own checkpoint", image.path().display());
            return Err(Error::new(ErrorKind::Unsupported, what)
                .help("start the program again: it reads that by itself"));
        }
        image.section(SNAPSHOT)?.ok_or_else(|| missing(image, "snapshot"))
    }

    /// The processes that live.
    pub fn alive(&self) -> impl Iterator<Item = (&Process, &Live)> {
        self.processes.iter().filter_map(|process| Some((process, process.live()?)))
    }
}

fn missing(image: &image::Reader, what: &str) -> Error {
    let path = image.path().display();
    Error::new(ErrorKind::Damaged, format!("the image {path} has no {what}"))
}

impl Process {
    /// What it is made of, if it lives.
    pub fn live(&self) -> Option<&Live> {
        match &self.life {
            Life::Alive(live) => Some(live),
            Life::Zombie(_) => None,
        }
    }
}

/// A snapshot in words, for `ckpt inspect`: `Display` writes several lines.
#[derive(Debug, Clone)]
pub struct Description(Snapshot);

/// Describes what is in an image.
///
/// # Errors
///
/// The snapshot's section is missing or damaged.
pub fn describe(image: &image::Reader) -> Result<Description> {
    Snapshot::of(image).map(Description)
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(snapshot) = self;
        writeln!(f, "host         {} (Linux {})", snapshot.host.node, snapshot.host.release)?;
        writeln!(f, "processes    {}", snapshot.processes.len())?;
        for process in &snapshot.processes {
            let name = String::from_utf8_lossy(&process.name);
            let (pid, parent) = (process.pid, process.parent);
            let (group, session) = (process.group, process.session);
            write!(f, "  {pid:>7} {name:<16} parent {parent}, group {group}, session {session}")?;
            match &process.life {
                Life::Zombie(status) => writeln!(f, ", zombie (status {status:#x})")?,
                Life::Alive(live) => writeln!(
                    f,
                    ", {} tasks, {} areas, {} descriptors: {}",
                    live.tasks.len(),
                    live.space.areas.len(),
                    live.descriptors.len(),
                    String::from_utf8_lossy(&live.space.program),
                )?,
            }
        }
        writeln!(f, "open files   {}", snapshot.files.len())?;
        for file in &snapshot.files {
            writeln!(f, "  {}", snapshot.shown(file))?;
        }
        writeln!(f, "pipes        {}", snapshot.pipes.len())?;
        writeln!(f, "mapped files {}", snapshot.mapped.len())
    }
}

impl Snapshot {
    fn shown(&self, file: &OpenFile) -> String {
        use crate::kinds::file::What;
        match &file.what {
            What::Stdio(stream) => format!("the launcher's descriptor {}", stream.number),
            What::Outside(number) => format!("leads out of the job (launcher's {number})"),
            What::Named(named) => format!("{} at {}", named.shown(), file.position),
            What::Content(index) => match self.contents.get(*index as usize) {
                Some(content) => format!("{content} (nameless, {} bytes)", content.size),
                None => "nameless".into(),
            },
            What::Pipe(index) => match self.pipes.get(*index as usize) {
                Some(pipe) => format!("pipe {index} ({} bytes in it)", pipe.length()),
                None => "pipe".into(),
            },
            What::Event(event) => format!("{event:?}"),
        }
    }
}
