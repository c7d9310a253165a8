//! The end of a round: whether the job is requeued, with which limit, and what is said.

use std::time::{Duration, Instant};

use ckpt_core::{Error, ErrorKind, Result};

use super::{Fate, HASTE, Round};
use crate::control::protocol::Event;
use crate::root::End;
use crate::signals::{self, Signals};
use crate::slurm::cause::Cause;
use crate::slurm::clock::{self, Limits};
use crate::slurm::requeue::{self, Outcome};
use crate::slurm::time::SlurmTime;
use crate::words::unix_now;

/// The exit status of a launcher whose job goes on in another round, or could.
const STOPPED: u8 = 85;
/// How long Slurm may take from a requeue to its TERM, and the first task to the requeue.
const GOODBYE: Duration = Duration::from_secs(60);
/// How long slurmctld is waited for when all depends on it.
const LAST_PATIENCE: Duration = Duration::from_secs(3600);
/// How rounds end that go on in another one.
const REQUEUED: &str = "requeued";
const FOLLOWED: &str = "stopped with the others";

impl Round<'_> {
    /// The payload's processes have ended, or were killed. Does what is left to do, and gives the exit
    /// status if it is not the payload's own.
    ///
    /// When the job is requeued, that takes its time, so that no line of the script comes between it
    /// and Slurm's TERM.
    pub fn over(mut self, end: &End, generation: u64, signals: &Signals) -> Option<u8> {
        self.clock.next_glance = self.clock.next_glance.map(|_| Instant::now());
        self.glance(Instant::now());
        let fate = match self.fate.take() {
            Some(fate) => fate,
            None => self.fate_of(end, generation),
        };
        let code = match fate {
            Fate::Finished => {
                self.finished(end.exit_code());
                self.close("finished", generation);
                None
            }
            Fate::Follows => {
                self.close("ended with the others", generation);
                None
            }
            Fate::Cancelled => {
                self.voice.warn("the job was cancelled: it is not requeued");
                self.close("cancelled", generation);
                None
            }
            Fate::Requeued => {
                self.voice.warn(match generation {
                    0 => "Slurm has requeued the job: it begins anew".to_owned(),
                    n => format!("Slurm has requeued the job: it goes on from generation {n}"),
                });
                self.close("requeued by others", generation);
                Some(STOPPED)
            }
            Fate::Broken => {
                self.close("broken", generation);
                None
            }
            Fate::Superseded(error) => Some(self.voice.fail(&error)),
            Fate::Lost(error) => {
                self.close("lost", generation);
                let what = "there is no checkpoint to go on from";
                Some(self.voice.fail(&Error::new(error.kind(), what).source(error)))
            }
            Fate::Requeue if !self.here.leads() => {
                self.close(FOLLOWED, generation);
                Some(STOPPED)
            }
            Fate::Requeue => Some(self.requeue(generation)),
        };
        let is_requeued = self.record.rounds.last().and_then(|round| round.end.as_deref());
        if matches!(is_requeued, Some(REQUEUED | FOLLOWED)) {
            self.wait_for_term(signals);
        }
        self.let_go();
        code
    }

    /// Waits until Slurm ends this round, at most for as long as that can take.
    fn wait_for_term(&mut self, signals: &Signals) {
        let deadline = Instant::now() + GOODBYE;
        while Instant::now() < deadline && !self.heard.contains(&libc::SIGTERM) {
            while let Some(signal) = signals.next() {
                self.heard.push(signal.number);
            }
            let arrived = self.shells.iter().flat_map(|shell| shell.arrived().unwrap_or_default());
            let arrived: Vec<i32> = arrived.collect();
            self.heard.extend(arrived);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether the payload has ended by itself; if so, that is written down.
    pub fn has_finished(&mut self, end: &End) -> bool {
        if self.fate.is_some() || !matches!(self.fate_of(end, 0), Fate::Finished) {
            return false;
        }
        self.finished(end.exit_code());
        self.close("finished", 0);
        true
    }

    fn finished(&mut self, status: u8) {
        if let Some(round) = self.record.rounds.last_mut() {
            round.status = Some(status);
        }
    }

    /// What an end means that nobody has ordered.
    fn fate_of(&mut self, end: &End, generation: u64) -> Fate {
        let signal = match end {
            End::Exited(0) if !self.terminated => return Fate::Finished,
            End::Stopped(_) => return Fate::Requeue,
            End::Exited(status) if *status > 128 => Some(status - 128),
            End::Lost(_) | End::NotBegun(_) if !self.terminated && self.warned.is_none() => {
                return Fate::Broken;
            }
            End::Exited(_) | End::Lost(_) | End::NotBegun(_) => None,
            End::Killed(signal) => Some(*signal),
        };
        let chosen = signal.is_some() && signal == self.warning.map(|w| w.signal);
        // In a step, what we have heard the payload has heard as well.
        let shared = self.here.in_step && signal.is_some_and(|signal| self.heard.contains(&signal));
        let is_warning = chosen || shared;
        let is_slurms = is_warning || matches!(signal, Some(libc::SIGTERM | libc::SIGKILL));
        if !(self.terminated || is_slurms || self.warned.is_some()) {
            return Fate::Finished;
        }
        if !self.here.leads() {
            return Fate::Follows;
        }
        // As long as slurmctld is away nobody ends us.
        let Some(cause) = self.cause(LAST_PATIENCE) else {
            let what = "slurmctld does not say why the job was ended";
            return if generation > 0 {
                Fate::Requeue
            } else {
                Fate::Lost(Error::new(ErrorKind::Busy, what))
            };
        };
        match cause {
            // What it died of is its own doing, or the machine's.
            Cause::Warning if !is_warning && !self.info.preempted => Fate::Finished,
            Cause::Warning | Cause::Limit if generation > 0 => {
                let how = signal.map_or_else(|| "a signal".to_owned(), signals::name);
                self.voice.warn(format_args!(
                    "Slurm has ended the job ({how}): generation {generation} must do"
                ));
                Fate::Requeue
            }
            Cause::Warning | Cause::Limit => {
                let what = "Slurm has ended the job before its first checkpoint";
                Fate::Lost(Error::new(ErrorKind::Busy, what))
            }
            Cause::Cancelled => Fate::Cancelled,
            Cause::Requeued => Fate::Requeued,
        }
    }

    /// Has the job requeued; gives the exit status.
    fn requeue(&mut self, generation: u64) -> u8 {
        self.close("to be requeued", generation);
        let left = match self.record.total.map(|total| clock::left(total, self.record.used())) {
            Some(None) => {
                let what = format!("the total time is used up: generation {generation} is kept");
                self.voice.fail(&Error::new(ErrorKind::Busy, what).help(self.by_hand()));
                self.close("total used up", generation);
                return STOPPED;
            }
            Some(Some(left)) => Some(left),
            None => None,
        };
        match self.requeued(left) {
            Ok(Outcome::Again) => {
                let mut what = format!("job {} is requeued", self.here.job);
                if generation > 0 {
                    what += &format!(": it goes on from generation {generation}");
                }
                if let Some(left) = left {
                    what += &format!(", {} of its total left", SlurmTime::Limit(left).hms());
                }
                self.voice.say(&Event::Chosen { what: what.clone() }, what);
                self.close(REQUEUED, generation);
                STOPPED
            }
            Ok(Outcome::Cancelled) => {
                self.voice.warn("the job was cancelled meanwhile: it is not requeued");
                self.close("cancelled", generation);
                STOPPED
            }
            Err(error) => {
                self.close("not requeued", generation);
                let what = format!("the job is not requeued, generation {generation} is kept");
                let error = Error::new(error.kind(), what).source(error).help(self.by_hand());
                self.voice.fail(&error)
            }
        }
    }

    /// Requeues it, and says what the next round is to be.
    fn requeued(&mut self, left: Option<u64>) -> Result<Outcome> {
        let (asked, least, lead) = (self.record.limit, self.info.least, self.clock.lead);
        let (scontrol, partition) = (&self.scontrol, &self.info.partition);
        let comment = left.map(|left| SlurmTime::Limit(left).hms());
        // Asked only when the requeue is done: it may take a while.
        let next = || {
            let most = scontrol.longest_limit(partition, HASTE).unwrap_or_default();
            let minutes = clock::next_limit(&Limits { asked, most, least }, left, lead);
            requeue::Next { minutes: minutes.filter(|_| asked.is_some()), comment: comment.clone() }
        };
        // As long as slurmctld is away nobody ends us; what is saved is safe.
        let patience = Duration::from_secs(24 * 3600);
        let restarts = self.here.restarts;
        let (outcome, set) = requeue::requeue(scontrol, restarts, &next, patience, self.voice)?;
        self.record.set = set.comment;
        Ok(outcome)
    }

    fn by_hand(&self) -> String {
        format!("go on by hand with `ckpt-restore {}`", self.dir.display())
    }

    /// Writes down how the round has ended.
    fn close(&mut self, how: &str, generation: u64) {
        if let Some(round) = self.record.rounds.last_mut() {
            round.end = Some(how.to_owned());
            if how != REQUEUED {
                round.seen = unix_now();
            }
        }
        self.note(generation);
    }

    /// Lets the shells have what is theirs: not the warnings, but TERM, which means them as well.
    fn let_go(mut self) {
        let was_warning = self.warned_by_term();
        let ours = self.taken.iter().copied();
        let ours: Vec<i32> =
            ours.filter(|&signal| signal != libc::SIGTERM || was_warning).collect();
        for shell in self.shells.drain(..) {
            if let Err(error) = shell.end(&ours) {
                tracing::info!(%error, "a shell's signals stay held back");
            }
        }
    }

    /// Whether TERM is this job's warning, and was no more than that.
    fn warned_by_term(&self) -> bool {
        let chosen = self.warning.is_some_and(|warning| warning.signal == libc::SIGTERM);
        let round = self.record.rounds.last().and_then(|round| round.end.as_deref());
        let is_over = matches!(round, Some(REQUEUED | FOLLOWED));
        chosen && !is_over && Cause::of(&self.info, self.here.restarts) == Cause::Warning
    }
}
