//! When the last checkpoint of a round begins, and how long the next round is to be. Numbers in,
//! numbers out.

use std::time::{Duration, Instant};

use super::time::SlurmTime;

/// What there is to do beside the checkpoint: to ask slurmctld, to requeue, to be scheduled late.
const MARGIN: Duration = Duration::from_secs(10);
/// What is compressed and written in a second, at the least, as long as nothing was measured.
const RATE: u64 = 100_000_000;
/// A total of which less is left is used up, seconds.
const CRUMB: u64 = 2;

/// How long before the end the last checkpoint must begin: twice as long as the longest one of late
/// took, or, before the first, as reading so many bytes of memory may take.
pub fn lead(longest: Option<Duration>, resident: u64) -> Duration {
    let expected =
        longest.unwrap_or_else(|| Duration::from_secs_f64(resident as f64 / RATE as f64));
    2 * expected + MARGIN
}

/// The times of a round.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// When it began.
    pub began: Instant,
    /// When Slurm ends it, if it does.
    pub end: Option<Instant>,
    /// When the total is used up.
    pub total: Option<Instant>,
    /// See [`lead`].
    pub lead: Duration,
    /// How long before the end a warning may come that the job would die of.
    pub deadly: Duration,
}

impl Times {
    /// When the last checkpoint begins. A part of each round is always the job's, half of it where no
    /// warning is deadly: else one that needs longer for a checkpoint than it has would never come on.
    pub fn last_moment(&self) -> Option<Instant> {
        let by_end = self.end.map(|end| {
            let quarter = self.began + end.saturating_duration_since(self.began) / 4;
            let end = end.checked_sub(self.deadly).map_or(quarter, |end| end.max(quarter));
            let half = self.began + (end - self.began) / 2;
            end.checked_sub(self.lead).map_or(half, |moment| moment.max(half))
        });
        by_end.into_iter().chain(self.total).min()
    }
}

/// What is left of a total after so many seconds; nothing if it is as good as used up.
pub fn left(total: u64, used: u64) -> Option<u64> {
    total.checked_sub(used).filter(|&left| left > CRUMB)
}

/// Limits that bear on the next round.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// What was asked for at first, seconds.
    pub asked: Option<u64>,
    /// The longest that the partition allows.
    pub most: SlurmTime,
    /// The least that the job wants (`--time-min`).
    pub least: SlurmTime,
}

/// The next round's time limit in minutes: what is left of the total, with time for its last
/// checkpoint, or what was asked for at first, or what the partition allows, whichever is least. No
/// limit, no number.
pub fn next_limit(limits: &Limits, left: Option<u64>, lead: Duration) -> Option<u64> {
    let wanted = left.map(|left| left.saturating_add(lead.as_secs()));
    let least = [wanted, limits.asked, limits.most.seconds()].into_iter().flatten().min()?;
    let minutes = SlurmTime::Limit(least).minutes_up()?.max(1);
    // Less than its minimum is refused.
    Some(minutes.max(limits.least.minutes_up().unwrap_or(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn the_lead_follows_what_was_measured() {
        assert_eq!(lead(Some(seconds(30)), u64::MAX), seconds(70));
        assert_eq!(lead(None, 0), seconds(10));
        assert_eq!(lead(None, 1_000_000_000), seconds(30));
    }

    #[test]
    fn as_late_as_is_safe() {
        let began = Instant::now();
        let times = Times {
            began,
            end: Some(began + seconds(3600)),
            total: None,
            lead: seconds(70),
            deadly: Duration::ZERO,
        };
        assert_eq!(times.last_moment(), Some(began + seconds(3530)));
        let warned = Times { deadly: seconds(90), ..times };
        assert_eq!(warned.last_moment(), Some(began + seconds(3440)));
        let slow = Times { lead: seconds(5000), ..times };
        assert_eq!(slow.last_moment(), Some(began + seconds(1800)));
        let both = Times { deadly: seconds(3000), ..slow };
        assert_eq!(both.last_moment(), Some(began + seconds(450)));
        let none = Times { deadly: seconds(5000), ..slow };
        assert_eq!(none.last_moment(), Some(began + seconds(450)));
        let short = Times { total: Some(began + seconds(100)), ..times };
        assert_eq!(short.last_moment(), Some(began + seconds(100)));
        assert_eq!(Times { end: None, ..times }.last_moment(), None);
    }

    #[test]
    fn rounds_get_shorter_at_the_end_and_end() {
        let limits = Limits { asked: Some(7200), ..Limits::default() };
        let next = |left| next_limit(&limits, left, seconds(70));
        assert_eq!(next(None), Some(120));
        assert_eq!(next(Some(86400)), Some(120));
        assert_eq!(next(Some(1)), Some(2));
        assert_eq!(next(Some(600)), Some(12));
        let tight = Limits { most: SlurmTime::Limit(3600), ..limits };
        assert_eq!(next_limit(&tight, None, seconds(70)), Some(60));
        let least = Limits { least: SlurmTime::Limit(1800), ..limits };
        assert_eq!(next_limit(&least, Some(60), seconds(70)), Some(30));
        assert_eq!(next_limit(&Limits::default(), None, seconds(70)), None);
        // Whatever a round takes, the sum of all is the total.
        let (mut used, total, mut rounds) = (0, 10_000, 0);
        while let Some(left) = left(total, used) {
            let limit = next(Some(left)).unwrap() * 60;
            used += left.min(limit - 70);
            rounds += 1;
        }
        assert_eq!((used, rounds), (total, 2));
    }
}
