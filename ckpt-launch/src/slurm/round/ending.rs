//! The end of a round: whether the job is requeued, with which limit, and what is said.

use std::time::{Duration, Instant};

use ckpt_core::{Error, ErrorKind, Result};

use super::{Fate, HASTE, Round};
use crate::control::protocol::Event;
use crate::root::End;
use crate::signals;
use crate::slurm::cause::Cause;
use crate::slurm::clock::{self, Limits};
use crate::slurm::requeue::{self, Outcome};
use crate::slurm::time::SlurmTime;
use crate::words::unix_now;

/// The exit status of a launcher whose job goes on in another round, or could.
const STOPPED: u8 = 85;

impl Round<'_> {
    /// The payload's processes have ended, or were killed. Does what is left to do, and gives the exit
    /// status if it is not the payload's own.
    pub fn over(mut self, end: &End, generation: u64) -> Option<u8> {
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
            Fate::Superseded(error) => Some(self.voice.fail(&error)),
            Fate::Lost(error) => {
                self.close("lost", generation);
                let what = "there is no checkpoint to go on from";
                Some(self.voice.fail(&Error::new(error.kind(), what).source(error)))
            }
            Fate::Requeue if !self.here.leads() => {
                self.close("stopped with the others", generation);
                Some(STOPPED)
            }
            Fate::Requeue => Some(self.requeue(generation)),
        };
        self.let_go();
        code
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
            End::Exited(_) | End::Lost(_) => None,
            End::Killed(signal) => Some(*signal),
        };
        let is_warning = signal.is_some() && signal == self.warning.map(|w| w.signal);
        let is_slurms = is_warning || matches!(signal, Some(libc::SIGTERM | libc::SIGKILL));
        if !(self.terminated || is_slurms || self.warned.is_some()) {
            return Fate::Finished;
        }
        if !self.here.leads() {
            return Fate::Follows;
        }
        match self.cause() {
            // What it died of is its own doing, or the machine's.
            Cause::Warning if !is_warning => Fate::Finished,
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
        let used =
            self.record.used_before() + self.record.rounds.last().map_or(0, |r| r.seen - r.began);
        let left = match self.record.total.map(|total| clock::left(total, used)) {
            Some(None) => {
                self.voice.warn(format_args!(
                    "the total time is used up: generation {generation} is kept, and the job is not \
                     requeued; {}",
                    self.by_hand()
                ));
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
                self.close("requeued", generation);
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
        let most = self.scontrol.longest_limit(&self.info.partition, HASTE).unwrap_or_default();
        let limits = Limits { asked: self.record.limit, most, least: self.info.least };
        let minutes = clock::next_limit(&limits, left, self.clock.lead);
        let next = requeue::Next {
            minutes: minutes.filter(|&minutes| Some(minutes) != self.info.limit.minutes_up()),
            comment: left.map(|left| SlurmTime::Limit(left).hms()),
        };
        // As long as slurmctld is away nobody ends us; what is saved is safe.
        let patience = Duration::from_secs(24 * 3600);
        requeue::requeue(&self.scontrol, self.here.restarts, &next, patience, self.voice)
    }

    fn by_hand(&self) -> String {
        format!("go on by hand with `ckpt-restore {}`", self.dir.display())
    }

    /// Writes down how the round has ended.
    fn close(&mut self, how: &str, generation: u64) {
        if let Some(round) = self.record.rounds.last_mut() {
            round.end = Some(how.to_owned());
            if how != "requeued" {
                round.seen = unix_now();
            }
        }
        self.note(generation);
    }

    /// Lets the shells have what is theirs: not the warnings, but TERM, which means them as well.
    fn let_go(mut self) {
        let ours: Vec<i32> = self
            .taken
            .iter()
            .copied()
            .filter(|&signal| signal != libc::SIGTERM || self.warned_by_term())
            .collect();
        for shell in self.shells.drain(..) {
            if let Err(error) = shell.end(&ours) {
                tracing::info!(%error, "a shell's signals stay held back");
            }
        }
    }

    /// Whether TERM is this job's warning, and was no more than that.
    fn warned_by_term(&self) -> bool {
        let chosen = self.warning.is_some_and(|warning| warning.signal == libc::SIGTERM);
        chosen && Cause::of(&self.info, self.here.restarts) == Cause::Warning
    }
}
