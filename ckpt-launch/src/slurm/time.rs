//! Slurm's spans of time, in every form that people write them in and its commands print them in.
//!
//! Options, comments and the answers of `scontrol` and `squeue` are read into one type before anybody
//! reckons with them: a lone number is minutes to Slurm, and "no limit" and "nothing there" are
//! neither errors nor zero. What is read here is what sbatch(1) accepts, and means the same; only
//! where Slurm lets a number overflow or a sign through, there is an error.

use std::fmt;
use std::str::FromStr;

use ckpt_core::{Error, ErrorKind};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Words for a time that nobody has set, or that Slurm itself cannot tell; in small letters.
const UNSET: &[&str] = &["", "(null)", "n/a", "not_set", "partition_limit", "invalid"];

/// Words for no limit; in small letters.
const UNLIMITED: &[&str] = &["unlimited", "infinite", "-1"];

/// A span of time, as Slurm speaks of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SlurmTime {
    /// Nothing is known or was asked for.
    #[default]
    Unset,
    /// Without end.
    Unlimited,
    /// So many seconds. As a limit that is asked for, 0 means none to Slurm: see
    /// [`as_limit`](Self::as_limit).
    Limit(u64),
}

impl SlurmTime {
    /// The seconds, if it is a number of them.
    pub fn seconds(self) -> Option<u64> {
        match self {
            Self::Limit(seconds) => Some(seconds),
            Self::Unset | Self::Unlimited => None,
        }
    }

    /// Whole minutes, rounded up as Slurm rounds limits, if it is a number.
    pub fn minutes_up(self) -> Option<u64> {
        self.seconds().map(|seconds| seconds.div_ceil(MINUTE))
    }

    /// What it means after `--time`, where 0 asks for no limit.
    #[must_use]
    pub fn as_limit(self) -> Self {
        if self == Self::Limit(0) { Self::Unlimited } else { self }
    }

    /// As job scripts write it: `HH:MM:SS`, whose hours may be more than 99; `UNLIMITED`; nothing
    /// for what is unset.
    pub fn hms(self) -> String {
        match self {
            Self::Unset => String::new(),
            Self::Unlimited => "UNLIMITED".to_owned(),
            Self::Limit(s) => {
                format!("{:02}:{:02}:{:02}", s / HOUR, s % HOUR / MINUTE, s % MINUTE)
            }
        }
    }
}

/// As `scontrol` prints it: `02:03:04`, with days in front where there are any (`1-02:03:04`),
/// `UNLIMITED` or `NOT_SET`.
impl fmt::Display for SlurmTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unset => f.pad("NOT_SET"),
            Self::Unlimited => f.pad("UNLIMITED"),
            Self::Limit(s) if *s >= DAY => {
                f.pad(&format!("{}-{}", s / DAY, Self::Limit(s % DAY).hms()))
            }
            Self::Limit(_) => f.pad(&self.hms()),
        }
    }
}

/// Reads any of sbatch(1)'s forms (`MM`, `MM:SS`, `HH:MM:SS`, `D-HH`, `D-HH:MM`, `D-HH:MM:SS`), and
/// Slurm's words for no limit and for nothing. Blanks around it don't matter. Each number may be as
/// large as one likes: `90:00` is an hour and a half.
impl FromStr for SlurmTime {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        let word = text.to_ascii_lowercase();
        if UNSET.contains(&&*word) {
            return Ok(Self::Unset);
        }
        if UNLIMITED.contains(&&*word) {
            return Ok(Self::Unlimited);
        }
        seconds(text).map(Self::Limit).ok_or_else(|| nonsense(text))
    }
}

fn nonsense(text: &str) -> Error {
    Error::new(ErrorKind::Usage, format!("{text:?} is no time of Slurm's")).help(
        "write minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS or UNLIMITED (45 is 45 minutes)",
    )
}

/// The seconds of a time made of numbers, if it is one and can be counted.
fn seconds(text: &str) -> Option<u64> {
    let (days, rest) = match text.split_once('-') {
        Some((days, rest)) => (Some(number(days)?), rest),
        None => (None, text),
    };
    // With days in front, numbers are given from the hours down; without, a lone one is minutes.
    let units: &[u64] = match (days, rest.matches(':').count()) {
        (Some(_), 0) if rest.is_empty() => &[],
        (Some(_), colons @ 0..=2) => &[HOUR, MINUTE, 1][..=colons],
        (None, 0) => &[MINUTE],
        (None, 1) => &[MINUTE, 1],
        (None, 2) => &[HOUR, MINUTE, 1],
        _ => return None,
    };
    let mut sum = days.unwrap_or(0).checked_mul(DAY)?;
    for (part, unit) in rest.split(':').zip(units) {
        sum = sum.checked_add(number(part)?.checked_mul(*unit)?)?;
    }
    Some(sum)
}

/// A number without a sign, which `parse` would let through.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests;
