//! What a round hears of: signals, also those that are held back from the shells, and slurmctld's word.

use std::time::{Duration, Instant};

use ckpt_core::{Error, ErrorKind};

use super::{ASK, ASK_AGAIN, Fate, GLANCE, HASTE, Round, Turn};
use crate::signals;
use crate::slurm::cause::Cause;
use crate::slurm::clock::lead;
use crate::slurm::info::Info;
use crate::slurm::warning::EARLY;
use crate::words::unix_now;

/// A warning that comes sooner than this before the end, where nobody has said when it comes, is
/// somebody's wish.
const USUAL_WARNING: Duration = Duration::from_secs(600);

impl Round<'_> {
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

    /// Looks for signals that are held back from the shells.
    pub(super) fn glance(&mut self, now: Instant) {
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
    pub(super) fn ask(&mut self, patience: Duration) {
        self.clock.next_ask = Instant::now() + ASK;
        match self.scontrol.job(patience) {
            Ok(info) => self.learn(info),
            Err(error) => {
                self.clock.next_ask = Instant::now() + ASK_AGAIN;
                self.voice.warn(format_args!("slurmctld does not answer: {error}"));
            }
        }
    }

    pub(super) fn learn(&mut self, info: Info) {
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
    pub(super) fn warned(&mut self, signal: i32) {
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
    pub(super) fn terminated(&mut self, generation: u64) -> Turn {
        if !self.here.leads() {
            self.ends(Fate::Follows);
            return Turn::Nothing;
        }
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
    pub(super) fn cause(&mut self) -> Cause {
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
}

/// The instant of a time of day, seconds since 1970.
pub(super) fn at(moment: Option<u64>) -> Option<Instant> {
    let (moment, now) = (moment?, unix_now());
    let instant = Instant::now();
    match moment.checked_sub(now) {
        Some(ahead) => instant.checked_add(Duration::from_secs(ahead)),
        None => Some(instant.checked_sub(Duration::from_secs(now - moment)).unwrap_or(instant)),
    }
}
