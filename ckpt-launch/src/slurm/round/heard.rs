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
        self.heard.push(signal);
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
        for shell in &mut self.shells {
            if matches!(shell.renew(), Ok(true)) {
                tracing::info!("a shell had let its signals through again");
            }
        }
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
        let now = Instant::now();
        (self.clock.tried, self.clock.next_ask) = (now, now + ASK);
        match self.scontrol.job(patience) {
            Ok(info) => self.learn(info),
            Err(error) => {
                self.clock.next_ask = now + ASK_AGAIN;
                self.voice.warn(format_args!("slurmctld does not answer: {error}"));
            }
        }
    }

    pub(super) fn learn(&mut self, info: Info) {
        let now = Instant::now();
        // Once it is over, what it says of times is of another round, or of the past.
        if Cause::of(&info, self.here.restarts) == Cause::Warning && info.start.is_some() {
            self.clock.end = at(info.end).filter(|_| info.limit.seconds().is_some());
            self.clock.began = at(info.start).unwrap_or(now);
            self.record.learn(&info, self.wanted);
            let left =
                self.record.total.map(|total| total.saturating_sub(self.record.used_before()));
            let over = left.zip(info.start).map(|(left, start)| start.saturating_add(left));
            self.clock.total = at(over);
            if let (Some(round), Some(start)) = (self.record.rounds.last_mut(), info.start) {
                round.began = start;
            }
        }
        self.clock.asked = now;
        self.info = info;
        self.reckon(0);
    }

    /// How long before the end the last checkpoint must begin; `resident` is what the job has of
    /// memory, as long as nothing was measured.
    pub(super) fn reckon(&mut self, resident: u64) {
        let longest = self.record.longest();
        // Asked why, asked to requeue, told the rest.
        let slurmctld = 4 * self.scontrol.slowest();
        if longest.is_some() || resident > 0 {
            self.clock.lead = lead(longest, resident) + slurmctld;
        }
    }

    /// A warning has come. It is acted upon as late as is safe; but if it is not the time for one,
    /// somebody wants the job to make room. In a step it has reached every process.
    pub(super) fn warned(&mut self, signal: i32, generation: u64) -> Turn {
        self.ask(HASTE);
        if self.here.in_step && generation > 0 {
            let what = format!("every process of the step has got {}", signals::name(signal));
            return self.earlier(generation, Error::new(ErrorKind::Busy, what));
        }
        let early = Duration::from_secs(EARLY + 5);
        let ahead = self.warning.filter(|warning| warning.signal == signal);
        let ahead = ahead.map_or(USUAL_WARNING, |w| Duration::from_secs(w.ahead) + early);
        let left = self.clock.end.map(|end| end.saturating_duration_since(Instant::now()));
        let is_due = left.is_some_and(|left| left <= ahead);
        tracing::info!(signal = signals::name(signal), ?left, is_due, "warned");
        self.hurry |= !is_due;
        Turn::Nothing
    }

    /// TERM has come, to every process of the job unless it is a warning. Nothing as long as it
    /// cannot be told why.
    pub(super) fn terminated(&mut self, generation: u64) -> Option<Turn> {
        if !self.here.leads() {
            self.ends(Fate::Follows);
            return Some(Turn::Nothing);
        }
        let Some(cause) = self.cause(HASTE) else {
            self.clock.next_cause = Instant::now() + HASTE;
            return None;
        };
        self.terminated = false;
        Some(match cause {
            Cause::Warning => self.warned(libc::SIGTERM, generation),
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
        })
    }

    /// Why the job is ended, if slurmctld says it.
    pub(super) fn cause(&mut self, patience: Duration) -> Option<Cause> {
        match self.scontrol.job(patience) {
            Ok(info) => {
                let cause = Cause::of(&info, self.here.restarts);
                tracing::info!(?cause, info.state, info.reason, info.restarts, "cause");
                self.learn(info);
                Some(cause)
            }
            Err(error) => {
                self.voice.warn(format_args!("cannot tell yet why the job is ended: {error}"));
                None
            }
        }
    }
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
