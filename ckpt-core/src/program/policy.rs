//! When it is time for a checkpoint.

use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use super::slurm;
use crate::error::{Error, ErrorKind, Result};
use crate::os::{caught, proc};

/// Before the end there must be time for so many checkpoints like the longest so far.
const SPARE: u32 = 3;
/// How often it is looked for whether we were brought back, in another job of Slurm's, or our time was prolonged.
const ASK_EVERY: Duration = Duration::from_secs(60);

/// Why it is time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The last one was long ago.
    Interval,
    /// We will be ended soon. Told once.
    End,
    /// This signal has come.
    Signal(i32),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interval => f.write_str("it is time"),
            Self::End => f.write_str("the end is near"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// When checkpoints are taken, be it of regions or of the whole program. Asked often, it costs a look at the
/// clock.
///
/// ```
/// use std::time::Duration;
///
/// use ckpt_core::program::Policy;
///
/// let mut policy = Policy::new()
///     .every(Duration::from_secs(600))
///     .before_end(Duration::from_secs(120))
///     .on_signal(10)?; // SIGUSR1
/// if let Some(reason) = policy.should_checkpoint() {
///     eprintln!("a checkpoint: {reason}");
/// }
/// # Ok::<(), ckpt_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Policy {
    every: Option<Duration>,
    last: Instant,
    margin: Option<Duration>,
    end: Option<SystemTime>,
    /// The end was given, and is not Slurm's.
    is_given: bool,
    /// The end that was told of.
    told: Option<SystemTime>,
    asked: Instant,
    /// When our process began: another time is another life.
    begun: u64,
    longest: Duration,
    signals: Vec<i32>,
}

impl Default for Policy {
    fn default() -> Self {
        Self::new()
    }
}

impl Policy {
    /// One that never says so.
    pub fn new() -> Self {
        let now = Instant::now();
        Self {
            every: None,
            last: now,
            margin: None,
            end: None,
            is_given: false,
            told: None,
            asked: now,
            begun: begun(),
            longest: Duration::ZERO,
            signals: Vec::new(),
        }
    }

    /// So long after the last one.
    #[must_use]
    pub fn every(mut self, interval: Duration) -> Self {
        self.every = Some(interval);
        self
    }

    /// So long before Slurm ends the job, or earlier if checkpoints take long ([`Self::took`]). The end is taken
    /// from `$SLURM_JOB_END_TIME`, else from `squeue`, which is asked once. Outside of Slurm there is none.
    #[must_use]
    pub fn before_end(mut self, margin: Duration) -> Self {
        (self.margin, self.end) = (Some(margin), slurm::end());
        self
    }

    /// As [`Self::before_end`], with an end that is known otherwise.
    #[must_use]
    pub fn before(mut self, end: SystemTime, margin: Duration) -> Self {
        (self.margin, self.end, self.is_given) = (Some(margin), Some(end), true);
        self
    }

    /// When this signal has come (signal(7) has the numbers). From now on it is taken note of, and does nothing
    /// else.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Usage`] if the program has a handler of its own for it, or it cannot be caught.
    pub fn on_signal(mut self, signal: i32) -> Result<Self> {
        caught::catch(signal).map_err(|error| {
            let what = format!("cannot take note of signal {signal}");
            let error = match error.raw_os_error() {
                Some(libc::EEXIST) => "the program has a handler for it".into(),
                _ => error.to_string(),
            };
            Error::new(ErrorKind::Usage, what).source(error)
        })?;
        self.signals.push(signal);
        Ok(self)
    }

    /// Tells how long a checkpoint took.
    pub fn took(&mut self, total: Duration) {
        self.longest = self.longest.max(total);
        self.last = Instant::now();
    }

    /// Whether it is time, and why. Each reason is told once: whoever asks is expected to act upon it.
    pub fn should_checkpoint(&mut self) -> Option<Reason> {
        let reason = self.reason(Instant::now(), SystemTime::now());
        if reason.is_some() {
            self.last = Instant::now();
        }
        reason
    }

    fn reason(&mut self, now: Instant, clock: SystemTime) -> Option<Reason> {
        if let Some(&signal) = self.signals.iter().find(|&&signal| caught::has_come(signal)) {
            return Some(Reason::Signal(signal));
        }
        if self.is_near(now, clock) {
            self.told = self.end;
            return Some(Reason::End);
        }
        // After a restart on a host that has not been up for as long the clock may have gone back.
        self.last = self.last.min(now);
        let due = self.every.is_some_and(|every| now.saturating_duration_since(self.last) >= every);
        due.then_some(Reason::Interval)
    }

    fn is_near(&mut self, now: Instant, clock: SystemTime) -> bool {
        let Some(margin) = self.margin else { return false };
        self.asked = self.asked.min(now);
        if !self.is_given && now.duration_since(self.asked) >= ASK_EVERY {
            self.asked = now;
            let (begun, is_past) = (begun(), self.end.is_some_and(|end| end <= clock));
            if is_past || begun != self.begun {
                (self.end, self.begun) = (slurm::end(), begun);
            }
        }
        let margin = margin.max(self.longest.saturating_mul(SPARE));
        let near = |end: SystemTime| end.duration_since(clock).unwrap_or_default() <= margin;
        self.end.is_some_and(|end| self.told != Some(end) && near(end))
    }
}

/// In ticks since the host was booted.
fn begun() -> u64 {
    proc::stat(std::process::id().cast_signed()).map_or(0, |stat| stat.starttime)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn intervals_begin_with_the_last() {
        let mut policy = Policy::new().every(10 * SECOND);
        let (begin, clock) = (policy.last, SystemTime::now());
        assert_eq!(policy.reason(begin + 9 * SECOND, clock), None);
        assert_eq!(policy.reason(begin + 10 * SECOND, clock), Some(Reason::Interval));
        // After a restart on a host that has not been up for as long.
        policy.last = begin + 1000 * SECOND;
        assert_eq!(policy.reason(begin, clock), None);
        assert_eq!(policy.reason(begin + 10 * SECOND, clock), Some(Reason::Interval));
        assert_eq!(Policy::new().reason(begin + 1000 * SECOND, clock), None);
    }

    #[test]
    fn the_end_is_told_once_and_in_time() {
        let (now, clock) = (Instant::now(), SystemTime::now());
        let mut policy = Policy::new().before(clock + 100 * SECOND, 20 * SECOND);
        assert_eq!(policy.reason(now, clock + 79 * SECOND), None);
        assert_eq!(policy.reason(now, clock + 80 * SECOND), Some(Reason::End));
        assert_eq!(policy.reason(now, clock + 90 * SECOND), None);
        let mut slow = Policy::new().before(clock + 100 * SECOND, 20 * SECOND);
        slow.took(15 * SECOND);
        assert_eq!(slow.reason(now, clock + 54 * SECOND), None);
        assert_eq!(slow.reason(now, clock + 55 * SECOND), Some(Reason::End));
    }

    #[test]
    fn signals_count_once() {
        let signal = libc::SIGURG;
        let mut policy = Policy::new().on_signal(signal).unwrap();
        assert_eq!(policy.should_checkpoint(), None);
        rustix::process::kill_process(
            rustix::process::getpid(),
            rustix::process::Signal::from_named_raw(signal).unwrap(),
        )
        .unwrap();
        while policy.should_checkpoint() != Some(Reason::Signal(signal)) {}
        assert_eq!(policy.should_checkpoint(), None);
        let refused = Policy::new().on_signal(libc::SIGKILL).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Usage);
    }
}
