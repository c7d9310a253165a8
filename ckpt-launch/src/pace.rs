//! How often checkpoints are taken: every so often, or as often as is best for the job.
//!
//! A checkpoint costs the time that the job stands still; a failure costs what was computed since the
//! last one. The interval at which both together cost least is J. T. Daly's ("A higher order estimate
//! of the optimum checkpoint interval for restart dumps", 2006), which refines J. W. Young's square
//! root of twice the cost times the mean time between failures.

use std::time::Duration;

/// What a checkpoint may cost as long as none was measured.
const FIRST_GUESS: Duration = Duration::from_secs(1);
/// Image files are not written for more than this share of the time.
const SHARE: u32 = 10;
/// A node's mean time between failures if nobody knows better: a job is rather lost to a full disk,
/// a neighbour's memory or maintenance than to the hardware.
pub const USUAL_MTBF: Duration = Duration::from_secs(24 * 3600);

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interval {
    /// Only on request.
    Never,
    /// Every so often.
    Every(Duration),
    /// As is best.
    Auto,
}

/// The pace of one job.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    interval: Interval,
    mtbf: Duration,
    /// How long the job stood, and how long it took in all, at the last checkpoint.
    last: Option<(Duration, Duration)>,
}

impl Pace {
    /// A pace; `mtbf` is the mean time between failures of all that the job runs on.
    pub fn new(interval: Interval, mtbf: Duration) -> Self {
        Self { interval, mtbf, last: None }
    }

    /// Notes what a checkpoint has cost: how long the job stood, and how long it took in all.
    pub fn took(&mut self, frozen: Duration, total: Duration) {
        self.last = Some((frozen, total));
    }

    /// From the beginning of one to the next; nothing if there is none by itself.
    pub fn interval(&self) -> Option<Duration> {
        match self.interval {
            Interval::Never => None,
            Interval::Every(interval) => (!interval.is_zero()).then_some(interval),
            Interval::Auto => {
                let (cost, total) = self.last.unwrap_or((FIRST_GUESS, Duration::ZERO));
                Some(best(cost, self.mtbf).max(SHARE * total))
            }
        }
    }
}

/// The best interval from the beginning of a checkpoint to that of the next, for one that costs
/// `cost` where something fails every `mtbf`.
fn best(cost: Duration, mtbf: Duration) -> Duration {
    // A checkpoint that costs nothing measurable is still not taken all the time.
    let (cost, mtbf) = (cost.as_secs_f64().max(0.001), mtbf.as_secs_f64().max(1.0));
    let half = cost / (2.0 * mtbf);
    let seconds = if half < 1.0 {
        // Daly's time is that of computing alone.
        (2.0 * cost * mtbf).sqrt() * (1.0 + half.sqrt() / 3.0 + half / 9.0)
    } else {
        mtbf + cost
    };
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(s: f64) -> Duration {
        Duration::from_secs_f64(s)
    }

    /// What a job of endless length takes longer at this interval, by Daly's complete model.
    fn overhead(interval: f64, cost: f64, mtbf: f64) -> f64 {
        let work = interval - cost;
        mtbf * ((interval / mtbf).exp() - 1.0) / work
    }

    #[test]
    fn nothing_near_is_better() {
        for (cost, mtbf) in [(0.02, 86400.0), (1.0, 86400.0), (60.0, 3600.0), (600.0, 3600.0)] {
            let found = best(seconds(cost), seconds(mtbf)).as_secs_f64();
            let least = overhead(found, cost, mtbf);
            for other in [found * 0.8, found * 1.25] {
                assert!(overhead(other, cost, mtbf) > least, "{other} for {cost}, {mtbf}");
            }
        }
        assert_eq!(best(seconds(10.0), seconds(2.0)), seconds(12.0));
        assert!(best(Duration::ZERO, Duration::MAX) > seconds(10.0));
    }

    #[test]
    fn follows_what_was_measured() {
        let mut pace = Pace::new(Interval::Auto, USUAL_MTBF);
        let first = pace.interval().unwrap();
        pace.took(seconds(30.0), seconds(40.0));
        assert!(pace.interval().unwrap() > first);
        pace.took(seconds(0.01), seconds(100.0));
        assert_eq!(pace.interval(), Some(seconds(1000.0)));
        assert_eq!(Pace::new(Interval::Never, USUAL_MTBF).interval(), None);
        let every = Pace::new(Interval::Every(seconds(3.0)), USUAL_MTBF);
        assert_eq!(every.interval(), Some(seconds(3.0)));
        assert_eq!(Pace::new(Interval::Every(Duration::ZERO), USUAL_MTBF).interval(), None);
    }
}
