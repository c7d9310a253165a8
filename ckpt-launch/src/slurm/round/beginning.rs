//! The beginning of a round: the directory is claimed, slurmctld asked, the shells above us kept alive.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ckpt_core::deferred::Deferred;
use ckpt_core::{Error, ErrorKind, Result};

use super::{ASK, ASK_AGAIN, Clock, GLANCE, HASTE, Round};
use crate::slurm::clock::lead;
use crate::slurm::fence::{self, Claim, Fence};
use crate::slurm::here::Here;
use crate::slurm::info::Info;
use crate::slurm::record::{self, Record};
use crate::slurm::scontrol::Scontrol;
use crate::slurm::time::SlurmTime;
use crate::slurm::warning::Warning;
use crate::voice::Voice;
use crate::words::unix_now;

/// What a shell that waits is kept from dying of: what Slurm sends by itself, and what people choose
/// for warnings.
const DEADLY: [i32; 6] =
    [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2, libc::SIGTERM];

/// How long slurmctld is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a round begins with.
#[derive(Debug)]
pub struct Start {
    /// Where we are.
    pub here: Here,
    /// Our directory.
    pub dir: PathBuf,
    /// The right to it, if it was taken already.
    pub fence: Option<Fence>,
    /// The command, as far as it is text; nothing if the record knows it.
    pub command: Option<Vec<String>>,
    /// What slurmctld says, if it was asked already.
    pub info: Option<Info>,
    /// What the command line says of the total.
    pub total: SlurmTime,
}

impl<'a> Round<'a> {
    /// Begins it: claims the directory, asks slurmctld for the job's end, and keeps the shells above
    /// us alive. Blocks until an incarnation before us has ended. Signals are held back already.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Busy`] if a newer incarnation has the directory, or an older one does not end;
    /// the directory cannot be written to; slurmctld does not know the job.
    pub fn begin(start: Start, voice: &'a Voice) -> Result<Self> {
        let Start { here, dir, fence, command, info, total } = start;
        let scontrol = Scontrol::new(&here.name);
        let info = match info {
            Some(info) => info,
            None => ask_first(&here, &scontrol, voice)?,
        };
        let fence = match fence {
            Some(fence) => fence,
            None => claim(&here, &dir, voice)?,
        };
        let warning = if here.leads() { warning(&scontrol) } else { None };
        let now = Instant::now();
        let far = now + Duration::from_secs(365 * 86400);
        let mut this = Self {
            voice,
            scontrol,
            fence,
            record: begun(&here, &dir, command, &info)?,
            dir,
            info: Info::default(),
            wanted: total,
            warning,
            shells: Vec::new(),
            taken: Vec::new(),
            heard: Vec::new(),
            clock: Clock {
                began: now,
                end: None,
                total: None,
                asked: now,
                tried: now,
                lead: lead(None, 0),
                next_ask: if here.leads() { now + ASK } else { far },
                next_fence: now + fence::LOOK,
                next_glance: None,
                next_cause: now,
                retry: now,
            },
            here,
            warned: None,
            terminated: false,
            hurry: false,
            is_saved: false,
            trouble: None,
            fate: None,
        };
        if info.start.is_none() && this.here.leads() {
            this.clock.next_ask = now + ASK_AGAIN;
        }
        this.learn(info);
        this.record.write(&this.dir)?;
        this.protect();
        if this.here.leads() {
            this.introduce();
        }
        Ok(this)
    }

    /// Keeps those above us from dying of Slurm's signals.
    fn protect(&mut self) {
        let deadly = |signal: i32| DEADLY.into_iter().chain([signal]).collect::<Vec<_>>();
        let signals = deadly(self.warning.map_or(libc::SIGTERM, |warning| warning.signal));
        for &pid in &self.here.above {
            match Deferred::begin(pid, &signals) {
                Ok(shell) => self.shells.push(shell),
                Err(error) => self.voice.warn(format_args!(
                    "the batch script's shell (process {pid}) dies of Slurm's signals, and the job \
                     with it: {error}; write `exec` before ckpt-launch"
                )),
            }
        }
        self.clock.next_glance = (!self.shells.is_empty()).then(|| Instant::now() + GLANCE);
    }

    fn introduce(&self) {
        if !self.info.requeue {
            self.voice.warn(
                "this job must not be requeued: its last checkpoint will be kept, and the job runs \
                 until its time is up; add `#SBATCH --requeue`",
            );
        }
        let end = self.clock.end.map(|end| end.saturating_duration_since(Instant::now()).as_secs());
        let total = self.record.total;
        tracing::info!(job = self.here.job, restarts = self.here.restarts, ?end, ?total, "round");
    }
}

/// What slurmctld says at first. A job can begin without that.
///
/// # Errors
///
/// It does not know the job.
pub fn ask_first(here: &Here, scontrol: &Scontrol, voice: &Voice) -> Result<Info> {
    let state = "RUNNING".to_owned();
    let unknown = Info { state, restarts: here.restarts, requeue: true, ..Info::default() };
    // A thousand tasks must not ask all at once.
    if !here.leads() {
        return Ok(unknown);
    }
    scontrol.job(PATIENCE).or_else(|error| match error.kind() {
        ErrorKind::Busy => {
            voice.warn(format_args!(
                "{error}; the job begins without knowing its end, and asks again"
            ));
            Ok(unknown)
        }
        _ => Err(error),
    })
}

fn claim(here: &Here, dir: &Path, voice: &Voice) -> Result<Fence> {
    let mut waiting = |before: &Claim| {
        voice.warn(format_args!(
            "the incarnation before this one (restart {}, on {}) may still run: waiting until it \
             has stopped itself",
            before.restarts, before.host
        ));
    };
    Fence::claim(dir, here.restarts, &mut waiting)?.ok_or_else(|| {
        let what = format!("{} is in use by another command of this script", dir.display());
        Error::new(ErrorKind::Busy, what).help("give each a directory of its own (--ckptdir)")
    })
}

/// The record with this round in it.
fn begun(here: &Here, dir: &Path, command: Option<Vec<String>>, info: &Info) -> Result<Record> {
    let mut record = Record::read(dir)?.unwrap_or_default();
    record.cluster.clone_from(&here.cluster);
    record.job.clone_from(&here.job);
    if let Some(command) = command {
        record.command = command;
    }
    let now = unix_now();
    record.rounds.push(record::Round {
        restarts: here.restarts,
        host: crate::control::place::host(),
        began: info.start.unwrap_or(now),
        seen: now,
        ..record::Round::default()
    });
    Ok(record)
}

/// The job's `--signal`, if it can be learnt.
fn warning(scontrol: &Scontrol) -> Option<Warning> {
    // sbatch(1) prefers its variable to the script; what stood on its command line nobody tells.
    let named = std::env::var("SBATCH_SIGNAL").ok();
    named.as_deref().and_then(Warning::parse).or_else(|| {
        let script = scontrol.script(HASTE);
        script
            .inspect_err(|error| tracing::info!(%error, "no batch script"))
            .ok()
            .and_then(|script| Warning::in_script(&script))
    })
}
