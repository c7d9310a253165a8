//! `ckpt-launch --slurm`: whether this round begins the job or goes on with it, and in which
//! directory.
//!
//! Each Slurm job has a directory of its own, `slurm-<jobid>` in the checkpoint directory, so that
//! several jobs, and the jobs of an array, can share that; each task of a step has one in it
//! (`task-<n>`).

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use ckpt_core::image::Directory;
use ckpt_core::{Error, ErrorKind, Result};

use super::here::Here;
use super::linger::linger;
use super::record::Record;
use super::round::Round;
use super::together::{self, Meeting};
use crate::backend;
use crate::cli::{Launch, UnderSlurm, Where};
use crate::launch::{self, Failure, With, checkpoint_directory, ordinary};
use crate::root::End;
use crate::signals::Signals;
use crate::voice::Voice;

/// After so many rounds without a trace of one, the directory is not what it should be.
const HOPELESS: u32 = 3;

/// Begins or continues the job; gives the exit status.
///
/// # Errors
///
/// Why it does not run.
pub fn launch(args: &Launch, voice: &Voice) -> std::result::Result<u8, Failure> {
    let place = Place::find(&args.place).map_err(ordinary)?;
    let meeting = place.meet(voice).map_err(ordinary)?;
    let goes_on = match &meeting {
        Some(meeting) => meeting.generation.is_some(),
        None => place.goes_on(voice).map_err(ordinary)?,
    };
    if let Some(meeting) = meeting.as_ref().filter(|_| goes_on)
        && let Some(status) = place.finished().map_err(ordinary)?
    {
        return place.stay(&args.slurm, meeting, status, voice).map_err(ordinary);
    }
    if goes_on {
        return Err(ordinary(restore(args, meeting.as_ref())));
    }
    place.make_way(voice).map_err(ordinary)?;
    let mut args = args.clone();
    args.place.ckptdir = Some(place.dir.clone());
    let with = With { join: meeting.map(|meeting| meeting.address), dmtcp_names: false };
    let round = place.round(&args.slurm, voice).map_err(ordinary)?;
    launch::launch(&args, &with, voice, Some(round))
}

/// A Slurm job's place.
#[derive(Debug)]
pub struct Place {
    here: Here,
    /// The directory of the whole Slurm job.
    job_dir: PathBuf,
    /// Ours.
    dir: PathBuf,
}

impl Place {
    /// Finds it; makes the directories.
    ///
    /// # Errors
    ///
    /// This is no Slurm job; the directories cannot be made.
    pub fn find(place: &Where) -> Result<Self> {
        let here = Here::find(&|name| std::env::var_os(name))?;
        let base = checkpoint_directory(&place.directory())?;
        let job_dir = checkpoint_directory(&base.join(format!("slurm-{}", here.job)))?;
        let dir = match here.is_one_of_many() {
            true => checkpoint_directory(&job_dir.join(format!("task-{}", here.task)))?,
            false => job_dir.clone(),
        };
        Ok(Self { here, job_dir, dir })
    }

    /// Our own directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn meet(&self, voice: &Voice) -> Result<Option<Meeting>> {
        let many = self.here.is_one_of_many();
        many.then(|| together::meet(&self.here, &self.job_dir, voice)).transpose()
    }

    /// Whether there is something to go on from.
    fn goes_on(&self, voice: &Voice) -> Result<bool> {
        if self.here.restarts == 0 {
            return Ok(false);
        }
        if !Directory::open(&self.dir)?.images()?.is_empty() || backend::is_dmtcp_set(&self.dir) {
            return Ok(self.finished()?.is_none());
        }
        if self.here.restarts >= HOPELESS && Record::read(&self.dir)?.is_none() {
            let what =
                format!("{} has lost what earlier rounds have left there", self.dir.display());
            return Err(Error::new(ErrorKind::NotFound, what).help(
                "name a folder with --ckptdir that all nodes share and that is kept between rounds",
            ));
        }
        voice.warn("no round before this one has come to a checkpoint: the job begins anew");
        Ok(false)
    }

    /// The payload's exit status, if it has ended in an earlier round.
    fn finished(&self) -> Result<Option<u8>> {
        Ok(Record::read(&self.dir)?.and_then(|record| record.finished()))
    }

    /// Moves aside what a job of the same number, or an earlier life of this one, has left.
    fn make_way(&self, voice: &Voice) -> Result<()> {
        let images = Directory::open(&self.dir)?.images()?;
        let is_left = !images.is_empty() || backend::is_dmtcp_set(&self.dir);
        if !is_left && (self.here.restarts > 0 || Record::read(&self.dir)?.is_none()) {
            return Ok(());
        }
        let name = |n: u32| {
            let mut name = self.dir.clone().into_os_string();
            name.push(format!(".old-{n}"));
            PathBuf::from(name)
        };
        let Some(aside) = (1..10_000).map(name).find(|path| !path.exists()) else { return Ok(()) };
        std::fs::rename(&self.dir, &aside).map_err(|e| {
            Error::os(format!("cannot move {} out of the way", self.dir.display()), e)
        })?;
        voice.warn(format_args!(
            "{} is of an earlier job: it is kept as {}",
            self.dir.display(),
            aside.display()
        ));
        Directory::create(&self.dir).map(drop)
    }

    /// Our payload has ended in an earlier round, the others' have not.
    fn stay(self, slurm: &UnderSlurm, meeting: &Meeting, status: u8, voice: &Voice) -> Result<u8> {
        if !self.here.leads() {
            return Ok(status);
        }
        let signals = Signals::take(false)?;
        let mut round = self.round(slurm, voice)?;
        let others = linger(&mut round, &meeting.address, &signals, false);
        let end = others.unwrap_or(End::Exited(status.into()));
        Ok(round.over(&end, 0).unwrap_or(status))
    }

    /// Begins the round.
    ///
    /// # Errors
    ///
    /// Those of [`Round::begin`].
    pub fn round<'a>(self, slurm: &UnderSlurm, voice: &'a Voice) -> Result<Round<'a>> {
        Round::begin(self.here, &self.dir, slurm.total.unwrap_or_default(), voice)
    }
}

/// Becomes `ckpt-restore`, which must be the same process: signals know it by its number. Returns
/// only if that fails.
fn restore(args: &Launch, meeting: Option<&Meeting>) -> Error {
    let program = match std::env::current_exe() {
        Ok(own) => own.with_file_name("ckpt-restore"),
        Err(error) => return Error::os("cannot find this program", error),
    };
    let mut command = Command::new(&program);
    command.args(args.slurm.words()).args(args.keeping.words()).args(args.talk.words());
    command.args(args.cut_appended.then_some("--cut-appended"));
    if let Some(dir) = &args.place.ckptdir {
        command.arg("--ckptdir").arg(dir);
    }
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
