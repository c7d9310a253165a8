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

mod beginning;
mod ending;
mod heard;

pub use beginning::{Start, ask_first};

use std::path::PathBuf;
use std::time::{Duration, Instant};

use ckpt_core::deferred::Deferred;
use ckpt_core::{Error, ErrorKind};

use super::clock::Times;
use super::fence::{self, Fence};
use super::here::Here;
use super::info::Info;
use super::record::Record;
use super::scontrol::Scontrol;
use super::time::SlurmTime;
use super::warning::{EARLY, Warning};
use crate::voice::Voice;
use crate::words::unix_now;

/// How often signals that are held back from a shell are looked for.
const GLANCE: Duration = Duration::from_secs(1);
/// How often slurmctld is asked whether the end has moved.
const ASK: Duration = Duration::from_secs(600);
/// How often if it did not answer.
const ASK_AGAIN: Duration = Duration::from_secs(30);
/// How long before the last checkpoint it is asked once more, and how old its word may be then.
const AHEAD: Duration = Duration::from_secs(30);
const FRESH: Duration = Duration::from_secs(60);
/// How long we try to reach it when time is short.
const HASTE: Duration = Duration::from_secs(5);
/// Between attempts at the last checkpoint, at least and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(60));

/// So long before its end a round is given up that comes to no checkpoint.
const BEFORE: Duration = Duration::from_secs(2);

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
    /// Another task decides what becomes of it.
    Follows,
    /// Another incarnation has taken over.
    Superseded(Error),
    /// There is nothing to go on from.
    Lost(Error),
    /// Something went wrong around the payload: it has not ended by itself.
    Broken,
}

/// How the clock stands.
#[derive(Debug)]
struct Clock {
    began: Instant,
    end: Option<Instant>,
    total: Option<Instant>,
    asked: Instant,
    tried: Instant,
    lead: Duration,
    next_ask: Instant,
    next_fence: Instant,
    next_glance: Option<Instant>,
    next_cause: Instant,
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
    /// What the command line says of the total.
    wanted: SlurmTime,
    warning: Option<Warning>,
    shells: Vec<Deferred>,
    /// Held back signals that were acted upon.
    taken: Vec<i32>,
    /// All that have come.
    heard: Vec<i32>,
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
    /// The fence, which is checked before an image is published.
    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    /// Whether other tasks may still run when ours has ended.
    pub fn is_one_of_many(&self) -> bool {
        self.here.is_one_of_many()
    }

    /// Whether it is we who speak to Slurm for the whole job.
    pub fn leads(&self) -> bool {
        self.here.leads()
    }

    /// Whether checkpoints may be taken: the job has not been told to end.
    pub fn is_sound(&self) -> bool {
        !self.terminated && self.fate.is_none()
    }

    /// The tasks' coordinator is gone: they will come to no generation together any more.
    pub fn is_alone(&mut self, generation: u64) -> Turn {
        let what = "the coordinator of the tasks is gone";
        self.earlier(generation, Error::new(ErrorKind::Gone, what))
    }

    /// The mean time between failures that the job has seen, begun at `guess` for one node.
    pub fn failures(&self, guess: Duration) -> Duration {
        self.record.failures(guess / self.here.nodes.max(1))
    }

    /// When something is due next; nothing if all that is left is to wait for the payload's end.
    pub fn due(&self) -> Option<Instant> {
        let clock = &self.clock;
        let moment = self.last_moment().map(|moment| moment.max(clock.retry));
        let moment = moment.filter(|_| !self.is_saved && self.here.leads());
        let cause = self.terminated.then_some(clock.next_cause);
        let times = [Some(clock.next_ask), Some(clock.next_fence), clock.next_glance, moment];
        let times = times.into_iter().chain([self.refresh(), cause]);
        times.flatten().min().filter(|_| self.fate.is_none())
    }

    /// What is to be done now. `generation` is the newest on disk; `resident` tells the bytes of
    /// memory that the job has.
    pub fn turn(&mut self, generation: u64, resident: &dyn Fn() -> u64) -> Turn {
        let now = Instant::now();
        if self.fate.is_some() {
            return Turn::Nothing;
        }
        if now >= self.clock.next_fence {
            self.clock.next_fence = now + fence::LOOK;
            if let Err(error) = self.fence.check() {
                return self.ends(Fate::Superseded(error));
            }
            if self.record.longest().is_none() {
                self.reckon(resident().max(1));
            }
        }
        self.glance(now);
        if self.terminated
            && now >= self.clock.next_cause
            && let Some(turn) = self.terminated(generation)
        {
            return turn;
        }
        if !self.here.leads() {
            self.warned = None;
            return Turn::Nothing;
        }
        if let Some(signal) = self.warned.take()
            && let turn @ Turn::End = self.warned(signal, generation)
        {
            return turn;
        }
        if now >= self.clock.next_ask || self.refresh().is_some_and(|at| at <= now) {
            self.ask(HASTE);
        }
        // A step that TERM has reached is no more what it was.
        if self.terminated && self.here.in_step {
            return Turn::Nothing;
        }
        self.last(generation, Instant::now())
    }

    /// Whether it is time for the last checkpoint.
    fn last(&mut self, generation: u64, now: Instant) -> Turn {
        if self.is_saved || now < self.clock.retry || !self.is_time() {
            return Turn::Nothing;
        }
        let over = self.clock.end.into_iter().chain(self.clock.total).min();
        if let Some(trouble) =
            self.trouble.take_if(|_| over.is_some_and(|over| over <= now + BEFORE))
        {
            return self.earlier(generation, trouble);
        }
        Turn::Last { stop: self.info.requeue || self.total_is_up() }
    }

    fn is_time(&self) -> bool {
        self.last_moment().is_some_and(|moment| moment <= Instant::now())
    }

    /// When slurmctld is asked whether the job was given more time, shortly before the last moment.
    fn refresh(&self) -> Option<Instant> {
        let at = self.last_moment()?.checked_sub(AHEAD)?;
        let at = at.max(self.clock.asked + FRESH).max(self.clock.tried + AHEAD);
        (self.here.leads() && !self.is_saved && !self.hurry).then_some(at)
    }

    fn total_is_up(&self) -> bool {
        self.clock.total.is_some_and(|total| total <= Instant::now())
    }

    fn last_moment(&self) -> Option<Instant> {
        if self.hurry {
            return Some(self.clock.asked);
        }
        let Clock { began, end, total, lead, .. } = self.clock;
        // Every process of a step gets a warning, one for the shell by way of srun, and few expect it.
        let to_steps = self.warning.filter(|_| self.here.in_step);
        let deadly = to_steps.map_or(0, |warning| warning.ahead + EARLY);
        Times { began, end, total, lead, deadly: Duration::from_secs(deadly) }.last_moment()
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
        self.reckon(0);
        self.note(generation);
    }

    /// It was the round's last one.
    pub fn is_saved(&mut self) {
        if self.is_time() {
            self.trouble = None;
            // One that somebody has wished for is not the last, if the job runs on.
            self.is_saved = !std::mem::take(&mut self.hurry) || self.is_time();
        }
    }

    /// The last checkpoint was not taken: it is tried again while there is time.
    pub fn failed(&mut self, error: Error) {
        let now = Instant::now();
        let over = self.clock.end.into_iter().chain(self.clock.total).min();
        let left = over.map_or(RETRY.1, |over| over.saturating_duration_since(now) / 4);
        let next = now + left.clamp(RETRY.0, RETRY.1);
        // The decision must come before Slurm's.
        let last = over.and_then(|over| over.checked_sub(BEFORE)).filter(|&last| last > now);
        self.clock.retry = last.map_or(next, |last| next.min(last));
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
