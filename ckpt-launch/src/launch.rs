//! `ckpt-launch`: starts the payload as a shell would have, and hands it to the supervisor.
//!
//! Same session, process group, terminal, descriptors, signal mask and ignored signals; two
//! variables more in the environment, by which `ckpt` inside the job finds it.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use ckpt_core::image::Directory;
use ckpt_core::job::{Job, JobId};
use ckpt_core::probe::{self, Grade};
use ckpt_core::{Error, ErrorKind, Result};

use crate::backend::{Backend, Driver};
use crate::cli::{self, JoinAt, Launch};
use crate::container::enter as enter_container;
use crate::container::inside::Inside;
use crate::control::place::{Ownership, Place, host};
use crate::control::protocol::Event;
use crate::control::server::Server;
use crate::coordinator::peer::Peer;
use crate::coordinator::place::Address;
use crate::coordinator::wire::Joining;
use crate::engine::{self, Engine};
use crate::root::Root;
use crate::signals::Signals;
use crate::slurm::enter;
use crate::slurm::round::Round;
use crate::supervisor::{Begun, Supervisor};
use crate::voice::Voice;

/// Runs the job; gives the exit status.
pub fn run(args: &Launch) -> u8 {
    let voice = Voice::new("ckpt-launch", &args.talk);
    let with = With { join: args.join.clone().map(JoinAt::address), dmtcp_names: false };
    let ended = match args.slurm.slurm {
        true => enter::launch(args, &voice),
        false => launch(args, &with, &voice, None),
    };
    ended.unwrap_or_else(|(code, error)| {
        voice.fail(&error);
        code
    })
}

/// What stands around a job besides.
#[derive(Debug, Clone, Default)]
pub struct With {
    /// The coordinator to join.
    pub join: Option<Address>,
    /// Images get a name in DMTCP's manner beside their own.
    pub dmtcp_names: bool,
}

/// An exit status that isn't the error's own, with the error.
pub type Failure = (u8, Error);

/// The failure that has the error's own status.
pub fn ordinary(error: Error) -> Failure {
    (error.kind().exit_code(), error)
}

/// Runs the job with a coordinator, under DMTCP's names or as a round of a Slurm job; gives the exit
/// status.
///
/// # Errors
///
/// Why there is no job.
pub fn launch<'a>(
    args: &Launch,
    with: &With,
    voice: &'a Voice,
    round: Option<(Round<'a>, Signals)>,
) -> Result<u8, Failure> {
    if let Some(runtime) = args.container.container {
        return enter_container::launch(args, runtime, with, voice, round);
    }
    let inside = args.container.inside.as_deref().map(Inside::connect);
    let mut inside = inside.transpose().map_err(ordinary)?;
    if inside.is_some() && engine::choose(&args.engine, &args.command).backend == Backend::Native {
        container_allows(voice).map_err(ordinary)?;
    }
    let dir = checkpoint_directory(&args.place.directory()).map_err(ordinary)?;
    let [program, ..] = args.command.as_slice() else {
        return Err(ordinary(Error::new(ErrorKind::Usage, "there is no COMMAND")));
    };
    let preload = args.preload.as_ref().map(preload).transpose().map_err(ordinary)?;
    let (round, signals) = match round {
        Some((round, signals)) => (Some(round), signals),
        None => (None, Signals::take(false).map_err(ordinary)?),
    };
    become_subreaper().map_err(ordinary)?;

    let id = match &inside {
        Some(inside) => inside.welcome().job.parse().map_err(ordinary)?,
        None => JobId::random(),
    };
    let name = Path::new(program).file_name().unwrap_or(program).to_string_lossy().into_owned();
    // Before there is a job: a coordinator that turns us away must not leave one behind.
    let peer = with.join.clone().map(|at| Peer::join(at, joining(id, &name, 0)));
    let mut peer = peer.transpose().map_err(ordinary)?;
    let mut ownership = Ownership::take(Place { dir: dir.clone(), job: id }).map_err(ordinary)?;
    let server = Server::new(ownership.listen().map_err(ordinary)?);

    let (engine, mut command) = started(args, &dir, voice).map_err(ordinary)?;
    command.env("CKPT_DIR", &dir).env("CKPT_JOB_ID", id.to_string());
    if let Some(preload) = preload {
        command.env("LD_PRELOAD", preload).env("CKPT_LAUNCHER_PID", std::process::id().to_string());
    }
    if let Some(at) = &with.join {
        command.env("DMTCP_COORD_HOST", &at.host).env("DMTCP_COORD_PORT", at.port.to_string());
    }
    signals.inherited().hand_down(&mut command);
    let child = command.spawn().map_err(|e| cannot_run(program, e))?;
    let pid = child.id().cast_signed();
    if let Some(peer) = &mut peer {
        peer.runs_as(pid);
    }

    let parent = std::process::id().cast_signed();
    let mut job = Job::new(id, name.clone(), parent, pid);
    if let Some(inside) = &mut inside {
        job.container = Some(inside.welcome().container.clone());
        inside.runs(&job);
    }
    tracing::info!(job = %id, pid, dir = %dir.display(), "launched");
    let dir_text = dir.to_string_lossy().into_owned();
    voice.event(&Event::Launched { job: id.to_string(), name, pid, dir: dir_text });

    let dmtcp_names = with.dmtcp_names;
    let root = Root::Child(pid);
    let begun =
        Begun { job, engine, root, behind: None, from: None, peer, dmtcp_names, round, inside };
    let control = Some((ownership, server));
    Ok(Supervisor::new(voice, signals, control, begun, &args.keeping, dir).run())
}

/// Whether a job in this container can be checkpointed, and come back: told before it has computed
/// for hours. This process has a single thread.
fn container_allows(voice: &Voice) -> Result<()> {
    for fact in probe::restart_here() {
        match fact.grade {
            Grade::Good | Grade::Fair => {}
            Grade::Poor => voice.warn(
                "neither user namespaces nor chosen process numbers are to be had in this \
                 container: a restart here needs the job's numbers to be free (another node, or \
                 after the job's end) and is refused otherwise; the monotonic clock jumps",
            ),
            Grade::Missing => {
                let why = format!("{} {}", fact.what, fact.way);
                let what = format!("jobs cannot be checkpointed in this container: {why}");
                let error = Error::new(ErrorKind::Unsupported, what);
                return Err(fact.fix.into_iter().fold(error, Error::help));
            }
        }
    }
    Ok(())
}

/// The engine, and the command that starts the job under it.
fn started(args: &Launch, dir: &Path, voice: &Voice) -> Result<(Engine, Command)> {
    let choice = engine::choose(&args.engine, &args.command);
    let [program, arguments @ ..] = args.command.as_slice() else {
        return Err(Error::new(ErrorKind::Usage, "there is no COMMAND"));
    };
    if choice.backend == Backend::Native {
        tracing::info!("{}", choice.why);
        let mut command = Command::new(program);
        command.args(arguments);
        return Ok((Engine::Native, command));
    }
    let found = engine::dmtcp(&args.engine)?;
    let what = format!("{} ({} in {})", choice.why, found.version, found.bin.display());
    voice.say(&Event::Chosen { what: what.clone() }, what);
    let options = engine::dmtcp_options(dir, &args.keeping, args.talk.quiet);
    let (driver, command) = Driver::launch(&found, options, program, arguments)?;
    Ok((Engine::Dmtcp(Box::new(driver)), command))
}

/// What a launcher says of itself to a coordinator.
pub fn joining(job: JobId, name: &str, generation: u64) -> Joining {
    Joining {
        job: job.to_string(),
        name: name.to_owned(),
        host: host(),
        pid: std::process::id().cast_signed(),
        generation,
        computation: None,
    }
}

/// Makes the checkpoint directory if need be, and gives its absolute name.
///
/// # Errors
///
/// When it cannot be made.
pub fn checkpoint_directory(dir: &Path) -> Result<PathBuf> {
    Directory::create(dir)?;
    cli::absolute(dir)
}

/// Has orphans of the job become our children: they stay in the job.
///
/// # Errors
///
/// When the kernel refuses.
pub fn become_subreaper() -> Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|e| Error::os("cannot become the reaper of the job's orphans", e))
}

/// The shell's exit statuses: 127 where there is no such program, 126 where it doesn't run.
fn cannot_run(program: &OsString, error: io::Error) -> Failure {
    let code = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
    (code, Error::os(format!("cannot run {}", program.display()), error))
}

/// The value for `LD_PRELOAD`.
fn preload(path: &OsString) -> Result<OsString> {
    let path = if path.is_empty() {
        let own = std::env::current_exe().map_err(|e| Error::os("cannot find this program", e))?;
        own.with_file_name("libckpt_preload.so")
    } else {
        PathBuf::from(path)
    };
    let path = path
        .canonicalize()
        .map_err(|e| Error::os(format!("cannot preload {}", path.display()), e))?;
    if path.as_os_str().as_encoded_bytes().iter().any(|b| b" :\t\n".contains(b)) {
        let what = format!("cannot preload {}", path.display());
        return Err(
            Error::new(ErrorKind::Usage, what).help("its name must hold no blank and no colon")
        );
    }
    let mut value = path.into_os_string();
    if let Some(others) = std::env::var_os("LD_PRELOAD").filter(|others| !others.is_empty()) {
        value.push(":");
        value.push(others);
    }
    Ok(value)
}
