//! `ckpt-launch --slurm`: whether this round begins the job, goes on with it, or finds it ended.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use ckpt_core::{Error, ErrorKind, Result};

use super::here::Here;
use super::linger::linger;
use super::place::{Go, Place};
use super::requeue::{self, Next};
use super::round::{Round, Start, ask_first};
use super::scontrol::Scontrol;
use super::together::{self, Meeting};
use crate::cli::{Launch, Lazily, UnderSlurm};
use crate::control::protocol::Event;
use crate::launch::{self, Failure, With, checkpoint_directory, ordinary};
use crate::root::End;
use crate::signals::Signals;
use crate::voice::Voice;

/// How long slurmctld is waited for when a round cannot begin.
const SOON: Duration = Duration::from_secs(20);

/// Begins or continues the job; gives the exit status.
///
/// # Errors
///
/// Why it does not run.
pub fn launch(args: &Launch, voice: &Voice) -> std::result::Result<u8, Failure> {
    let here = Here::find(&|name| std::env::var_os(name)).map_err(ordinary)?;
    let base = checkpoint_directory(&args.place.directory()).map_err(ordinary)?;
    let command: Vec<String> =
        args.command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let info = ask_first(&here, &Scontrol::new(&here.name), voice).map_err(ordinary)?;
    let found = match here.is_one_of_many() {
        true => together::meet(&here, &base, &command, info.start, voice),
        false => Place::find(&here, &base, &command, info.start, voice).map(|place| (place, None)),
    };
    let (place, meeting) = found.map_err(ordinary)?;
    let go = match &meeting {
        Some(meeting) => meeting.go(&place, &here, voice),
        None => place.go(&here, voice),
    };
    match go.map_err(ordinary)? {
        Go::On => return Err(ordinary(restore(args, &place.dir, meeting.as_ref()))),
        Go::Ended(status) => {
            let what = format!("the payload has ended in an earlier round, with status {status}");
            voice.say(&Event::Chosen { what: what.clone() }, what);
            place.passed(&here).map_err(ordinary)?;
            return match meeting.filter(|_| here.leads()) {
                Some(meeting) => stay(here, place, &args.slurm, &meeting, status, voice),
                None => Ok(status),
            };
        }
        Go::Begin => {}
    }
    let mut args = args.clone();
    args.place.ckptdir = Some(place.dir.clone());
    let with = With { join: meeting.map(|meeting| meeting.address), dmtcp_names: false };
    let total = args.slurm.total.unwrap_or_default();
    let Place { dir, fence, .. } = place;
    let start = Start { here, dir, fence, command: Some(command), info: Some(info), total };
    let signals = Signals::take(false).map_err(ordinary)?;
    let round = begin(start, voice).map_err(ordinary)?;
    launch::launch(&args, &with, voice, Some((round, signals)))
}

/// Begins a round. If it cannot be, because Slurm ends it or an older incarnation does not end, the job
/// is tried again in another one. Signals are held back already.
///
/// # Errors
///
/// Those of [`Round::begin`].
pub fn begin<'a>(start: Start, voice: &'a Voice) -> Result<Round<'a>> {
    let (name, restarts, leads) =
        (start.here.name.clone(), start.here.restarts, start.here.leads());
    Round::begin(start, voice).inspect_err(|error| {
        if error.kind() == ErrorKind::Busy && leads && restarts > 0 {
            let scontrol = Scontrol::new(&name);
            let again = requeue::requeue(&scontrol, restarts, &Next::default, SOON, voice);
            tracing::info!(?again, "this round cannot begin");
        }
    })
}

/// Our payload has ended in an earlier round, the others' have not.
fn stay(
    here: Here,
    place: Place,
    slurm: &UnderSlurm,
    meeting: &Meeting,
    status: u8,
    voice: &Voice,
) -> std::result::Result<u8, Failure> {
    let signals = Signals::take(false).map_err(ordinary)?;
    let total = slurm.total.unwrap_or_default();
    let Place { dir, fence, job_dir } = place;
    let others = here.clone();
    let ended = move || together::all_have_ended(&others, &job_dir).unwrap_or(false);
    if ended() {
        return Ok(status);
    }
    let start = Start { here, dir, fence, command: None, info: None, total };
    let mut round = begin(start, voice).map_err(ordinary)?;
    let newest = meeting.generation.unwrap_or_default();
    let (others, generation) = linger(&mut round, &meeting.address, &signals, &ended, newest);
    let end = others.unwrap_or(End::Exited(status.into()));
    Ok(round.over(&end, generation, &signals).unwrap_or(status))
}

/// Becomes `ckpt-restore`, which must be the same process: signals know it by its number. Returns
/// only if that fails.
fn restore(args: &Launch, dir: &Path, meeting: Option<&Meeting>) -> Error {
    let program = match std::env::current_exe() {
        Ok(own) => own.with_file_name("ckpt-restore"),
        Err(error) => return Error::os("cannot find this program", error),
    };
    let mut command = Command::new(&program);
    command.args(args.slurm.words()).args(args.keeping.words()).args(args.talk.words());
    command.args(args.cut_appended.then_some("--cut-appended"));
    command.args(args.lazy.map(Lazily::word));
    command.arg("--ckptdir").arg(dir);
    if let Some(dir) = &args.engine.dmtcp {
        command.arg("--dmtcp").arg(dir);
    }
    if let Some(meeting) = meeting {
        command.arg("--join").arg(meeting.address.to_string());
        command.env("CKPT_SECRET_FILE", &meeting.address.secret);
        let generation = meeting.generation.unwrap_or_default();
        command.arg("--generation").arg(generation.to_string());
    }
    Error::os(format!("cannot run {}", program.display()), command.exec())
}
