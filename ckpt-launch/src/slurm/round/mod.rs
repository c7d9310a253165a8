//! One round of a Slurm job, from the start of its script to its requeue: what the supervisor is told
//! to do, and when.
//!
//! ```text
//! clock, slurmctld ──▶ the last moment ──▶ Turn::Last: checkpoint, the job stands, is killed ─┐
//! signals, shells ───▶ cause ─┬─ warning ──▶ (the same, in time)                             ├─▶ over
//!                             ├─ limit ─────▶ Turn::End: an earlier generation must do ──────┤
//!                             └─ cancelled, requeued by others ──▶ nothing more ─────────────┘
//! fence ─────────────▶ superseded ──▶ Turn::End
//! ```
//!
//! Slurm sends CONT and TERM to every process of a job at once, to the payload as well, which then is
//! no more what it was: after that no checkpoint is taken. So the last one is taken by the clock,
//! before Slurm does anything; signals are hints.

mod ending;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ckpt_core::deferred::Deferred;
use ckpt_core::{Error, ErrorKind, Result};

use super::cause::Cause;
use super::clock::{Times, lead};
use super::fence::{self, Fence};
use super::here::Here;
use super::info::Info;
use super::record::{self, Record};
use super::scontrol::Scontrol;
use super::time::SlurmTime;
use super::warning::{EARLY, Warning};
use crate::signals;
use crate::voice::Voice;
use crate::words::unix_now;

/// How often signals that are held back from a shell are looked for.
const GLANCE: Duration = Duration::from_secs(1);
/// How often slurmctld is asked whether the end has moved.
const ASK: Duration = Duration::from_secs(600);
/// How often if it did not answer.
const ASK_AGAIN: Duration = Duration::from_secs(30);
/// How old its word may be when the last checkpoint is about to be taken.
const FRESH: Duration = Duration::from_secs(15);
/// How long we try to reach it: at the beginning, and when time is short.
const PATIENCE: Duration = Duration::from_secs(60);
const HASTE: Duration = Duration::from_secs(5);
/// Between attempts at the last checkpoint.
const RETRY: Duration = Duration::from_secs(3);
/// A warning that comes sooner than this before the end, where nobody has said when it comes, is
/// somebody's wish.
const USUAL_WARNING: Duration = Duration::from_secs(600);

/// What a shell that waits is kept from dying of: what Slurm sends by itself, and what people choose
/// for warnings.
const DEADLY: [i32; 6] =
    [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2, libc::SIGTERM];

/// What the supervisor is to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Nothing.
    Nothing,
    /// The last checkpoint of this round; with `stop` the job is killed with it.
    Last {
        /// Whether the job will go on in another round, or never.
        stop: bool,
    },
    /// The job is killed, without another checkpoint.
    End,
}

/// What is to become of the Slurm job.
#[derive(Debug)]
enum Fate {
    /// It goes on from the newest generation in another round.
    Requeue,
    /// The payload has ended by itself.
    Finished,
    /// Somebody has cancelled it.
    Cancelled,
    /// Others have had it requeued.
    Requeued,
    /// Another incarnation has taken over.
    Superseded(Error),
    /// There is nothing to go on from.
    Lost(Error),
}

/// How the clock stands.
#[derive(Debug)]
struct Clock {
    began: Instant,
    end: Option<Instant>,
    total: Option<Instant>,
    asked: Instant,
    lead: Duration,
    next_ask: Instant,
    next_fence: Instant,
    next_glance: Option<Instant>,
    retry: Instant,
}

/// One round.
#[derive(Debug)]
pub struct Round<'a> {
    voice: &'a Voice,
    here: Here,
    scontrol: Scontrol,
    dir: PathBuf,
    fence: Fence,
    record: Record,
    info: Info,
    warning: Option<Warning>,
    shells: Vec<Deferred>,
    /// Held back signals that were acted upon.
    taken: Vec<i32>,
    clock: Clock,
    warned: Option<i32>,
    terminated: bool,
    /// The last checkpoint is to be taken at once.
    hurry: bool,
    /// It was taken, and the job runs on.
    is_saved: bool,
    trouble: Option<Error>,
    fate: Option<Fate>,
}

impl<'a> Round<'a> {
    /// Begins it: claims the directory, asks slurmctld for the job's end, and keeps the shells above
    /// us alive. Blocks until an incarnation before us has ended.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Busy`] if a newer incarnation has the directory, or an older one does not end;
    /// the directory cannot be written to; slurmctld does not know the job.
    pub fn begin(here: Here, dir: &Path, total: SlurmTime, voice: &'a Voice) -> Result<Self> {
        let scontrol = Scontrol::new(&here.job);
        let info = scontrol.job(PATIENCE).or_else(|error| match error.kind() {
            ErrorKind::Busy => Ok(unheard(&here, voice, &error)),
            _ => Err(error),
        })?;
        let fence = Fence::claim(dir, here.restarts, &mut |before| {
            voice.warn(format_args!(
                "the incarnation before this one (restart {}, on {}) may still run: waiting until \
                 it has stopped itself",
                before.restarts, before.host
            ));
        })?;
        let record = begun(&here, dir, total, &info)?;
        record.write(dir)?;
        let warning = warning(&scontrol);
        let now = Instant::now();
        let far = now + Duration::from_secs(365 * 86400);
        let mut this = Self {
            voice,
            scontrol,
            dir: dir.to_path_buf(),
            fence,
            record,
            info: Info::default(),
            warning,
            shells: Vec::new(),
            taken: Vec::new(),
            clock: Clock {
                began: now,
                end: None,
                total: None,
                asked: now,
                lead: lead(None, 0),
                next_ask: if here.leads() { now + ASK } else { far },
                next_fence: now + fence::LOOK,
                next_glance: None,
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
        let is_known = info.end.is_some();
        this.learn(info);
        if !is_known && this.here.leads() {
            this.clock.next_ask = now + ASK_AGAIN;
        }
        this.clock.began = at(this.info.start).unwrap_or(now);
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

    /// The fence, which is checked before an image is published.
    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    /// Whether it is we who speak to Slurm for the whole job.
    pub fn leads(&self) -> bool {
        self.here.leads()
    }

    /// Whether a first checkpoint has been measured in any round.
    pub fn is_measured(&self) -> bool {
        self.record.longest().is_some()
    }

    /// The mean time between failures that the job has seen, begun at `guess` for one node.
    pub fn failures(&self, guess: Duration) -> Duration {
        self.record.failures(guess / self.here.nodes.max(1))
    }

    /// Takes note of a signal from outside the job; false if it is not Slurm's.
    pub fn hears(&mut self, signal: i32) -> bool {
        let chosen = self.warning.is_some_and(|warning| warning.signal == signal);
        if signal == libc::SIGTERM {
            self.terminated = true;
        } else if chosen || matches!(signal, libc::SIGUSR1 | libc::SIGUSR2) {
            self.warned = Some(signal);
        }
        signal == libc::SIGTERM || self.warned == Some(signal)
    }

    /// When something is due next.
    pub fn due(&self) -> Instant {
        let clock = &self.clock;
        let moment = self.last_moment().map(|moment| moment.max(clock.retry));
        let moment = moment.filter(|_| !self.is_saved && self.fate.is_none() && self.here.leads());
        let times = [Some(clock.next_ask), Some(clock.next_fence), clock.next_glance, moment];
        times.into_iter().flatten().min().unwrap_or(clock.next_fence)
    }

    /// What is to be done now. `generation` is the newest on disk; `resident` tells the bytes of
    /// memory that the job has.
    pub fn turn(&mut self, generation: u64, resident: &dyn Fn() -> u64) -> Turn {
        let now = Instant::now();
        if self.fate.is_some() {
            (self.clock.next_fence, self.clock.next_ask) = (now + ASK, now + ASK);
            return Turn::Nothing;
        }
        if now >= self.clock.next_fence {
            self.clock.next_fence = now + fence::LOOK;
            if let Err(error) = self.fence.check() {
                return self.ends(Fate::Superseded(error));
            }
            if !self.is_measured() {
                self.clock.lead = lead(None, resident());
            }
        }
        self.glance(now);
        if std::mem::take(&mut self.terminated) {
            return self.terminated(generation);
        }
        if !self.here.leads() {
            self.warned = None;
            return Turn::Nothing;
        }
        if let Some(signal) = self.warned.take() {
            self.warned(signal);
        }
        if now >= self.clock.next_ask {
            self.ask(HASTE);
        }
        self.last(generation, now)
    }

    /// Whether it is time for the last checkpoint.
    fn last(&mut self, generation: u64, now: Instant) -> Turn {
        if self.is_saved || now < self.clock.retry || !self.is_time() {
            return Turn::Nothing;
        }
        // It may have been given more time.
        if now.saturating_duration_since(self.clock.asked) > FRESH {
            self.ask(HASTE);
            if self.terminated || !self.is_time() {
                return Turn::Nothing;
            }
        }
        let over = self.clock.end.into_iter().chain(self.clock.total).min();
        if let Some(trouble) = self.trouble.take_if(|_| over.is_some_and(|over| over <= now)) {
            return self.earlier(generation, trouble);
        }
        Turn::Last { stop: self.info.requeue || self.total_is_up() }
    }

    fn is_time(&self) -> bool {
        self.last_moment().is_some_and(|moment| moment <= Instant::now())
    }

    fn total_is_up(&self) -> bool {
        self.clock.total.is_some_and(|total| total <= Instant::now())
    }

    fn last_moment(&self) -> Option<Instant> {
        if self.hurry {
            return Some(self.clock.asked);
        }
        let Clock { began, end, total, lead, .. } = self.clock;
        // Every process of a step gets a step's warning, and few expect it.
        let to_steps = self.warning.filter(|w| self.here.in_step && !w.to_the_shell);
        let deadly = to_steps.map_or(0, |warning| warning.ahead + EARLY);
        Times { began, end, total, lead, deadly: Duration::from_secs(deadly) }.last_moment()
    }

    /// Looks for signals that are held back from the shells.
    fn glance(&mut self, now: Instant) {
        if self.clock.next_glance.is_none_or(|next| now < next) {
            return;
        }
        self.clock.next_glance = Some(now + GLANCE);
        // A shell that is gone takes us along soon enough.
        let arrived = self.shells.iter().flat_map(|shell| shell.arrived().unwrap_or_default());
        let arrived: Vec<i32> = arrived.filter(|signal| !self.taken.contains(signal)).collect();
        for signal in arrived {
            if !self.taken.contains(&signal) {
                tracing::info!(signal = signals::name(signal), "held back from the batch shell");
                self.taken.push(signal);
                self.hears(signal);
            }
        }
    }

    /// Asks slurmctld how the job stands.
    fn ask(&mut self, patience: Duration) {
        self.clock.next_ask = Instant::now() + ASK;
        match self.scontrol.job(patience) {
            Ok(info) => self.learn(info),
            Err(error) => {
                self.clock.next_ask = Instant::now() + ASK_AGAIN;
                self.voice.warn(format_args!("slurmctld does not answer: {error}"));
            }
        }
    }

    fn learn(&mut self, info: Info) {
        let now = Instant::now();
        // Once it is over, what it says of times is of another round, or of the past.
        if Cause::of(&info, self.here.restarts) == Cause::Warning {
            self.clock.end = at(info.end).filter(|_| info.limit.seconds().is_some());
        }
        self.clock.asked = now;
        let left = self.record.total.map(|total| total.saturating_sub(self.record.used_before()));
        self.clock.total = left
            .zip(info.start.or(Some(unix_now())))
            .and_then(|(left, start)| at(Some(start.saturating_add(left))));
        if let Some(longest) = self.record.longest() {
            self.clock.lead = lead(Some(longest), 0);
        }
        self.info = info;
    }

    /// A warning has come. It is acted upon as late as is safe; but if it is not the time for one,
    /// somebody wants the job to make room.
    fn warned(&mut self, signal: i32) {
        self.ask(HASTE);
        let early = Duration::from_secs(EARLY + 5);
        let ahead = self.warning.filter(|warning| warning.signal == signal);
        let ahead = ahead.map_or(USUAL_WARNING, |w| Duration::from_secs(w.ahead) + early);
        let left = self.clock.end.map(|end| end.saturating_duration_since(Instant::now()));
        let is_due = left.is_some_and(|left| left <= ahead);
        tracing::info!(signal = signals::name(signal), ?left, is_due, "warned");
        self.hurry |= !is_due;
    }

    /// TERM has come, to every process of the job unless it is a warning.
    fn terminated(&mut self, generation: u64) -> Turn {
        match self.cause() {
            Cause::Warning => {
                self.warned(libc::SIGTERM);
                Turn::Nothing
            }
            Cause::Limit => {
                let what = "the time limit came before the last checkpoint";
                self.earlier(generation, Error::new(ErrorKind::Busy, what))
            }
            Cause::Cancelled => {
                // What the payload does about it is its own affair.
                self.ends(Fate::Cancelled);
                Turn::Nothing
            }
            Cause::Requeued => self.ends(Fate::Requeued),
        }
    }

    /// Why the job is ended, as far as can be told.
    fn cause(&mut self) -> Cause {
        match self.scontrol.job(2 * HASTE) {
            Ok(info) => {
                let cause = Cause::of(&info, self.here.restarts);
                tracing::info!(?cause, info.state, info.reason, info.restarts, "cause");
                self.learn(info);
                cause
            }
            Err(error) => {
                let is_over = self.clock.end.is_some_and(|end| end <= Instant::now() + HASTE);
                self.voice.warn(format_args!("cannot tell why the job is ended: {error}"));
                if is_over { Cause::Limit } else { Cause::Cancelled }
            }
        }
    }

    /// There will be no newer generation than that on disk, if there is one.
    fn earlier(&mut self, generation: u64, why: Error) -> Turn {
        if generation == 0 {
            return self.ends(Fate::Lost(why));
        }
        self.voice.warn(format_args!("generation {generation} must do: {why}"));
        self.ends(Fate::Requeue)
    }

    fn ends(&mut self, fate: Fate) -> Turn {
        self.fate = Some(fate);
        Turn::End
    }

    /// A checkpoint was taken.
    pub fn took(&mut self, generation: u64, time: Duration) {
        self.record.took(time);
        self.clock.lead = lead(self.record.longest(), 0);
        self.note(generation);
    }

    /// It was the round's last one.
    pub fn is_saved(&mut self) {
        if self.is_time() {
            (self.is_saved, self.trouble) = (true, None);
        }
    }

    /// The last checkpoint was not taken: it is tried again while there is time.
    pub fn failed(&mut self, error: Error) {
        self.clock.retry = Instant::now() + RETRY;
        self.trouble = Some(error);
    }

    /// Writes down that we live.
    fn note(&mut self, generation: u64) {
        if let Some(round) = self.record.rounds.last_mut() {
            (round.seen, round.generation) = (unix_now(), generation);
        }
        if let Err(error) = self.fence.check().and_then(|()| self.record.write(&self.dir)) {
            self.voice.warn(error);
        }
    }
}

/// What is assumed of a job as long as slurmctld does not answer.
fn unheard(here: &Here, voice: &Voice, error: &Error) -> Info {
    voice.warn(format_args!("{error}; the job begins without knowing its end, and asks again"));
    let state = "RUNNING".to_owned();
    Info { state, restarts: here.restarts, requeue: true, ..Info::default() }
}

/// The record with this round in it.
fn begun(here: &Here, dir: &Path, total: SlurmTime, info: &Info) -> Result<Record> {
    let mut record = Record::read(dir)?.unwrap_or_default();
    record.cluster.clone_from(&here.cluster);
    record.job.clone_from(&here.job);
    // The largest that was seen: one round's may have been cut by --time-min.
    record.limit = record.limit.max(info.limit.seconds());
    if record.rounds.is_empty() {
        record.total = total.seconds().or(info.comment_as_time().and_then(SlurmTime::seconds));
    }
    let now = unix_now();
    record.rounds.push(record::Round {
        restarts: here.restarts,
        host: crate::control::place::host(),
        began: info.start.unwrap_or(now),
        seen: now,
        generation: 0,
        end: None,
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

/// The instant of a time of day, seconds since 1970.
fn at(moment: Option<u64>) -> Option<Instant> {
    let (moment, now) = (moment?, unix_now());
    let instant = Instant::now();
    match moment.checked_sub(now) {
        Some(ahead) => instant.checked_add(Duration::from_secs(ahead)),
        None => Some(instant.checked_sub(Duration::from_secs(now - moment)).unwrap_or(instant)),
    }
}
