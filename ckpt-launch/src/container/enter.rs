//! From a command line to a container with our inside half in it, under a supervisor outside.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use ckpt_core::job::JobId;
use ckpt_core::{Error, ErrorKind, Result};
use goblin::elf::Elf;
use goblin::elf::program_header::PT_INTERP;
use std::io::IsTerminal;

use super::flags::InContainer;
use super::meeting::Meeting;
use super::outside::{Outside, Starting};
use super::runtime::{Run, Runtime};
use super::wire::Welcome;
use super::{Container, identity};
use crate::cli::{Keeping, Launch, Talk, With as Backend};
use crate::coordinator::peer::Peer;
use crate::engine::Engine;
use crate::launch::{Failure, With, checkpoint_directory, joining, ordinary};
use crate::os;
use crate::root::Root;
use crate::signals::Signals;
use crate::slurm::round::Round;
use crate::supervisor::{Begun, Supervisor};
use crate::voice::Voice;
use ckpt_core::job::Job;

/// Which of our programs is to run inside, with what, on which job.
#[derive(Debug)]
pub struct Inner {
    /// Its file name.
    pub program: &'static str,
    /// Its arguments, but for those that every inside half gets.
    pub words: Vec<OsString>,
    /// The job.
    pub job: JobId,
    /// Its short name.
    pub name: String,
    /// The newest generation.
    pub generation: u64,
    /// The folder in which the program runs.
    pub here: PathBuf,
    /// Folders that only this one container must have.
    pub seen: Vec<PathBuf>,
}

/// What stands around it, outside.
#[derive(Debug)]
pub struct Around<'a> {
    /// The checkpoint directory, by its absolute name.
    pub dir: PathBuf,
    /// The checkpoints' pace.
    pub keeping: &'a Keeping,
    /// The coordinator.
    pub with: &'a With,
    /// Which engine is wanted.
    pub backend: &'a Backend,
    /// How much is said.
    pub talk: &'a Talk,
}

/// Starts a job in a container; gives the exit status.
///
/// # Errors
///
/// Why there is no job.
pub fn launch<'a>(
    args: &Launch,
    runtime: Runtime,
    with: &With,
    voice: &'a Voice,
    round: Option<(Round<'a>, Signals)>,
) -> Result<u8, Failure> {
    let dir = checkpoint_directory(&args.place.directory()).map_err(ordinary)?;
    let (mut container, entrypoint) = described(&args.container, runtime).map_err(ordinary)?;
    let [program, ..] = args.command.as_slice() else {
        return Err(ordinary(Error::new(ErrorKind::Usage, "there is no COMMAND")));
    };
    let name = Path::new(program).file_name().unwrap_or(program).to_string_lossy().into_owned();
    let mut words = Vec::new();
    if let Some(preload) = &args.preload {
        let mut word = OsString::from("--preload");
        if !preload.is_empty() {
            word.push("=");
            word.push(preload);
        }
        words.push(word);
    }
    words.push("--".into());
    // What `podman run` would make of it.
    words.extend(entrypoint.into_iter().map(OsString::from));
    words.extend(args.command.iter().cloned());
    let job = JobId::random();
    let here = with_current(&mut container, runtime).map_err(ordinary)?;
    let (program, generation, seen) = ("ckpt-launch", 0, Vec::new());
    let inner = Inner { program, words, job, name, generation, here, seen };
    let (keeping, backend, talk) = (&args.keeping, &args.engine, &args.talk);
    let around = Around { dir, keeping, with, backend, talk };
    supervise(runtime, container, inner, &around, voice, round).map_err(ordinary)
}

/// The container that the flags describe, and the image's entry point.
///
/// # Errors
///
/// When there is no such image.
pub fn described(flags: &InContainer, runtime: Runtime) -> Result<(Container, Vec<String>)> {
    let image = flags.image.clone().unwrap_or_default();
    let known = identity::look(runtime, &image)?;
    let container = Container {
        runtime: runtime.name().to_owned(),
        image: lasting(runtime, &image),
        identity: known.identity,
        arguments: flags.container_arg.clone(),
        folders: Vec::new(),
    };
    Ok((container, known.entrypoint))
}

/// An image that is a file is found from anywhere.
pub fn lasting(runtime: Runtime, image: &str) -> String {
    let absolute = fs::canonicalize(image).ok().filter(|_| runtime == Runtime::Apptainer);
    absolute.map_or_else(|| image.to_owned(), |path| path.to_string_lossy().into_owned())
}

/// Starts the container, and stays with the job until it ends; gives the exit status.
///
/// # Errors
///
/// Why there is no job.
pub fn supervise<'a>(
    runtime: Runtime,
    mut container: Container,
    inner: Inner,
    around: &Around<'_>,
    voice: &'a Voice,
    round: Option<(Round<'a>, Signals)>,
) -> Result<u8> {
    let (round, signals) = match round {
        Some((round, signals)) => (Some(round), signals),
        None => (None, Signals::take(false)?),
    };
    runtime.allows(&container.arguments)?;
    let programs = programs()?;
    add(&mut container, &around.dir)?;
    let meeting = Meeting::at(&around.dir)?;
    // For the time of this container only.
    let mut entered = container.clone();
    add(&mut entered, meeting.path.parent().unwrap_or(&around.dir))?;

    let Inner { program, words, job, name, generation, here, seen } = inner;
    seen.iter().try_for_each(|folder| add(&mut entered, folder))?;
    let stdin = !rustix::stdio::stdin().is_terminal()
        && rustix::io::fcntl_getfd(rustix::stdio::stdin()).is_ok();
    let container_name = format!("ckpt-{job}-{:08x}", JobId::random().0 as u32);
    let run = Run {
        programs: &programs,
        name: &container_name,
        here: &here,
        stdin,
        umask: umask(),
        program,
        words: common(around, &meeting.path).into_iter().chain(words).collect(),
    };
    let mut command = runtime.command(&entered, &run)?;
    let apart = stdin && runtime.keeps_descriptors();
    if apart {
        let handed = os::hand_on_stdin(&mut command);
        handed.map_err(|e| Error::os("cannot hand on the standard input", e))?;
    } else if !stdin {
        command.stdin(Stdio::null());
    }
    tracing::info!(?command, "entering the container");
    let by_inside = runtime == Runtime::Shifter && !container.identity.is_empty();
    let expected = by_inside.then(|| container.identity.clone());
    let peer = around.with.join.clone().map(|at| Peer::join(at, joining(job, &name, generation)));
    let peer = peer.transpose()?;
    signals.inherited().hand_down(&mut command);
    let ends_with_us = round.is_some();
    let stdin = if apart { os::THIRD } else { 0 };
    let welcome = Welcome { job: job.to_string(), container, ends_with_us, stdin };
    let starting = Starting { runtime, name: container_name, command, meeting, welcome, expected };
    let (outside, pid) = Outside::start(starting)?;

    let mut job = Job::new(job, name, std::process::id().cast_signed(), pid);
    job.generation = generation;
    let begun = Begun {
        job,
        engine: Engine::Contained(Box::new(outside)),
        root: Root::Child(pid),
        behind: None,
        from: None,
        peer,
        dmtcp_names: false,
        round,
        inside: None,
    };
    Ok(Supervisor::new(voice, signals, None, begun, around.keeping, around.dir.clone()).run())
}

/// Has the current directory be in the container, under the name that the shell has for it, too.
///
/// # Errors
///
/// [`ErrorKind::Usage`] if it would be in the way of the image's own folders.
pub fn with_current(container: &mut Container, runtime: Runtime) -> Result<PathBuf> {
    let here =
        std::env::current_dir().map_err(|e| Error::os("cannot find the current directory", e))?;
    if hides_the_image(&here) && runtime != Runtime::Shifter {
        let what = format!("the host's {} would hide the container image's", here.display());
        return Err(Error::new(ErrorKind::Usage, what).help("start from a folder of your own"));
    }
    add(container, &here)?;
    if let Some(name) = std::env::var_os("PWD").map(PathBuf::from)
        && name.is_absolute()
        && fs::canonicalize(&name).is_ok_and(|name| name == here)
    {
        add(container, &name)?;
    }
    Ok(here)
}

/// Folders in which programs and libraries are, and those above them.
fn hides_the_image(folder: &Path) -> bool {
    const SYSTEM: [&str; 9] =
        ["/usr", "/bin", "/sbin", "/lib", "/lib64", "/var", "/opt", "/run", "/boot"];
    const PARTS: [&str; 6] = ["bin", "sbin", "lib", "lib64", "share", "local"];
    let under = |top: &str| folder.starts_with(top);
    let parent_is_usr = folder.parent() == Some(Path::new("/usr"));
    folder == Path::new("/")
        || SYSTEM.iter().any(|system| folder == Path::new(system))
        || parent_is_usr && PARTS.iter().any(|part| folder.ends_with(part))
        || under("/etc")
        || under("/proc")
        || under("/sys")
        || folder == Path::new("/dev")
}

/// The umask of this process (proc_pid_status(5); umask(2) would change it for a moment).
pub fn umask() -> u32 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let told = text.lines().find_map(|line| line.strip_prefix("Umask:"));
    told.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok()).unwrap_or(0o022)
}

/// The arguments that every inside half gets.
fn common(around: &Around<'_>, socket: &Path) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec!["--inside".into(), socket.into()];
    words.extend(["--ckptdir".into(), around.dir.clone().into_os_string()]);
    words.extend(around.keeping.words().into_iter().map(Into::into));
    words.extend(around.backend.words());
    words.extend(around.talk.words().into_iter().map(Into::into));
    words
}

/// Has a folder of the host's be in the container.
///
/// # Errors
///
/// [`ErrorKind::Usage`] if its name cannot be told to a runtime.
pub fn add(container: &mut Container, folder: &Path) -> Result<()> {
    let name = folder.to_str().ok_or_else(|| {
        let what = format!("{} cannot be named to a container", folder.display());
        Error::new(ErrorKind::Usage, what).help("use a folder whose name is UTF-8")
    })?;
    // What is mounted below a folder need not come with it.
    let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev()).ok();
    let is_in =
        |known: &String| folder.starts_with(known) && device(folder) == device(Path::new(known));
    if !container.folders.iter().any(is_in) {
        container.folders.push(name.to_owned());
    }
    Ok(())
}

/// The folder of our programs, if they run in any container.
///
/// # Errors
///
/// [`ErrorKind::Unsupported`] if they need the host's C library.
pub fn programs() -> Result<PathBuf> {
    let own = std::env::current_exe().map_err(|e| Error::os("cannot find this program", e))?;
    let fail = |e| Error::os(format!("cannot read {}", own.display()), e);
    let file = fs::File::open(&own).map_err(fail)?;
    // The program headers follow the file header.
    let mut head = vec![0u8; 4096];
    let read = std::os::unix::fs::FileExt::read_at(&file, &mut head, 0).map_err(fail)?;
    head.truncate(read);
    if needs_a_library(&head) {
        let what = format!("{} needs this host's C library", own.display());
        return Err(Error::new(ErrorKind::Unsupported, what)
            .help("use the static set that `cargo xtask dist` builds: it runs in any container"));
    }
    Ok(own.parent().unwrap_or(Path::new("/")).to_path_buf())
}

/// Whether a program has an interpreter: ld.so, which loads its libraries.
fn needs_a_library(head: &[u8]) -> bool {
    let Ok(header) = Elf::parse_header(head) else { return true };
    let (start, count) = (header.e_phoff as usize, usize::from(header.e_phnum));
    let context = goblin::container::Ctx::default();
    let headers = goblin::elf::ProgramHeader::parse(head, start, count, context);
    headers.map_or(true, |headers| headers.iter().any(|header| header.p_type == PT_INTERP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_that_are_the_images() {
        for folder in ["/", "/usr", "/usr/lib", "/etc", "/etc/x", "/opt", "/dev", "/proc/1"] {
            assert!(hides_the_image(Path::new(folder)), "{folder}");
        }
        for folder in ["/tmp", "/home/me", "/usr/workspace/me", "/opt/data", "/dev/shm", "/libs"] {
            assert!(!hides_the_image(Path::new(folder)), "{folder}");
        }
    }
}
