//! From the choice of an image to the supervisor.
//!
//! The lock is taken before anything is rebuilt, so that no job runs twice (a job that has lost its
//! supervisor has lost the lock, too, and is looked for); signals are held back
//! until the job runs, then passed on to it.

use ckpt_core::image::{Header, Reader};
use ckpt_core::job::Job;
use ckpt_core::rebuild::{self, Behind, Fill, Rebuilt};
use ckpt_core::{Error, ErrorKind, Result};
use ckpt_launch::cli::{self, JoinAt};
use ckpt_launch::container::inside::Inside;
use ckpt_launch::control::environment;
use ckpt_launch::control::place::{Ownership, Place};
use ckpt_launch::control::protocol::{Event, Last};
use ckpt_launch::control::server::Server;
use ckpt_launch::coordinator::peer::Peer;
use ckpt_launch::engine::Engine;
use ckpt_launch::launch::With;
use ckpt_launch::root::Root;
use ckpt_launch::signals::Signals;
use ckpt_launch::slurm::enter;
use ckpt_launch::slurm::here::Here;
use ckpt_launch::slurm::round::{Round, Start};
use ckpt_launch::supervisor::{Begun, Supervisor};
use ckpt_launch::voice::{Relay, Voice};
use ckpt_launch::{images, launch, words};

use crate::choose::{self, Choice};
use crate::cli::Restore;
use crate::contained::{self, Contained};
use crate::{dmtcp, twin};

/// What the job is part of besides.
#[derive(Debug, Default)]
pub struct Part<'a> {
    /// A round of a Slurm job.
    pub round: Option<Round<'a>>,
    /// Signals that are held back already.
    pub signals: Option<Signals>,
    /// A launcher whose other half is outside of our container.
    pub inside: Option<Inside>,
}

/// Brings the job back and stays with it; gives the exit status.
pub fn run(args: &Restore) -> u8 {
    let voice = Voice::new("ckpt-restore", &args.talk);
    let with = With { join: args.join.clone().map(JoinAt::address), dmtcp_names: false };
    let ended = match args.slurm.slurm {
        true => in_slurm(args, &with, &voice),
        false => restore(args, &with, &voice, None),
    };
    ended.unwrap_or_else(|error| voice.fail(&error))
}

/// Goes on with a Slurm job, from what is in its own directory.
fn in_slurm(args: &Restore, with: &With, voice: &Voice) -> Result<u8> {
    let here = Here::find(&|name| std::env::var_os(name))?;
    let dir = cli::absolute(&args.place.directory())?;
    let total = args.slurm.total.unwrap_or_default();
    let start = Start { here, dir, fence: None, command: None, info: None, total };
    // From here on they are held back, so that none ends us while we wait.
    let early = Signals::take(true)?;
    let round = enter::begin(start, voice)?;
    restore(args, with, voice, Some((round, early)))
}

/// Brings it back, with a coordinator, under DMTCP's names or as a round of a Slurm job; gives the
/// exit status.
///
/// # Errors
///
/// When it is not back.
pub fn restore<'a>(
    args: &Restore,
    with: &With,
    voice: &'a Voice,
    round: Option<(Round<'a>, Signals)>,
) -> Result<u8> {
    if let Some(contained) = Contained::of(args, voice)? {
        return contained.restore(args, with, voice, round);
    }
    contained::none_wanted(args)?;
    let (round, signals) = round.unzip();
    let inside = args.container.inside.as_deref().map(Inside::connect).transpose()?;
    let part = Part { round, signals, inside };
    let path = args.image.clone().unwrap_or_else(|| args.place.directory());
    if dmtcp::is_meant(&path) {
        return dmtcp::restore(args, &[path], voice, part);
    }
    newest(args, with, voice, part)
}

/// Brings back what is chosen, or what takes its place if it is damaged.
fn newest<'a>(args: &Restore, with: &With, voice: &'a Voice, mut part: Part<'a>) -> Result<u8> {
    let mut choice = Choice::of(args)?;
    let dir = choose::home(args, &choice)?;
    // The first failure is the one to report if nothing better is found.
    let mut damage: Option<Error> = None;
    loop {
        let image = match (choice.open(args, voice), damage.take()) {
            (Ok(image), _) => image,
            (Err(error), Some(damage)) if error.kind() == ErrorKind::NotFound => {
                return Err(damage);
            }
            (Err(error), _) => return Err(error),
        };
        let job = image.header().job;
        let mut ownership = Ownership::take(Place { dir: dir.clone(), job })?;
        if !args.force {
            twin::check(job, with.dmtcp_names)?;
        }
        let signals = match part.signals.take() {
            Some(signals) => signals,
            None => Signals::take(true)?,
        };
        launch::become_subreaper()?;
        let control = (Server::new(ownership.listen()?), ownership);
        environment::write(control.1.place())?;
        match rebuilt(args, voice, &image) {
            Ok(rebuilt) => {
                let begun = begun(rebuilt, image.header(), with, voice, part);
                let (server, ownership) = control;
                let (control, keeping) = (Some((ownership, server)), &args.keeping);
                return Ok(Supervisor::new(voice, signals, control, begun, keeping, dir).run());
            }
            Err(error) if error.kind() == ErrorKind::Damaged => {
                match choice.without(image.path(), job, voice) {
                    Some(next) => {
                        voice.warn(format_args!("{error}; the generation before it is tried"));
                        choice = next;
                        damage = Some(error);
                    }
                    None => return Err(error),
                }
            }
            Err(error) => return Err(error),
        }
    }
}

fn rebuilt(args: &Restore, voice: &Voice, image: &Reader) -> Result<Rebuilt> {
    let options = rebuild::Options {
        pids: args.pids.into(),
        cut_appended: args.cut_appended,
        force: args.force,
        fill: args.lazy.map_or(Fill::First, Fill::from),
        ..rebuild::Options::default()
    };
    let relay = Relay::new(voice, "restore", &mut []);
    rebuild::rebuild(image, &options, &relay)
}

/// Joins the coordinator. One that is not there is no reason to lose a job that runs.
fn joined(with: &With, job: &Job, voice: &Voice) -> Option<Peer> {
    let mut joining = launch::joining(job.id, &job.name, job.generation);
    joining.pid = job.root;
    let (peer, trouble) = Peer::seek(with.join.clone()?, joining);
    if let Some(error) = trouble {
        voice.warn(format_args!("{error}; the job runs, and goes on looking for it"));
    }
    Some(peer)
}

/// What the supervisor takes over of a job that runs again; says so.
fn begun<'a>(
    rebuilt: Rebuilt,
    header: &Header,
    with: &With,
    voice: &Voice,
    part: Part<'a>,
) -> Begun<'a> {
    say(voice, &rebuilt, header.generation);
    let from = Last {
        generation: header.generation,
        at: header.created / 1_000_000_000,
        path: rebuilt.path.to_string_lossy().into_owned(),
        bytes_stored: images::size(&rebuilt.path),
        frozen_s: None,
        total_s: None,
    };
    let root = Root::Restored {
        stand_in: rebuilt.job.parent,
        pid: rebuilt.root,
        foreground: rebuilt.foreground,
        status: rebuilt.status,
    };
    let mut job = rebuilt.job;
    let peer = joined(with, &job, voice);
    let Part { round, mut inside, .. } = part;
    if let Some(inside) = &mut inside {
        job.container = Some(inside.welcome().container.clone());
        inside.runs(&job);
    }
    let (engine, from, dmtcp_names) = (Engine::Native, Some(from), with.dmtcp_names);
    let behind = rebuilt.behind;
    Begun { job, engine, root, behind, from, peer, dmtcp_names, round, inside }
}

fn say(voice: &Voice, rebuilt: &Rebuilt, generation: u64) {
    let later = rebuilt.behind.as_ref().map_or(0, Behind::bytes);
    let event = Event::Restored {
        job: rebuilt.job.id.to_string(),
        name: rebuilt.job.name.clone(),
        pid: rebuilt.root,
        generation,
        path: rebuilt.path.to_string_lossy().into_owned(),
        bytes: rebuilt.bytes,
        total_s: rebuilt.total.as_secs_f64(),
        bytes_later: later,
    };
    let follow = match later {
        0 => String::new(),
        bytes => format!(", {} follow", words::bytes(bytes)),
    };
    voice.say(
        &event,
        format_args!(
            "generation {generation} of {} runs again: {}, {}{follow}, {}, {}",
            rebuilt.job.name,
            words::duration(rebuilt.total),
            words::bytes(rebuilt.bytes),
            words::rate(rebuilt.bytes, rebuilt.total),
            rebuilt.path.display()
        ),
    );
}
