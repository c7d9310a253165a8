//! How hard blocks are compressed.

use std::fmt;
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::PoisonError;

/// zstd's level where nothing is said: small images at a speed that most disks do not exceed.
pub const LEVEL: i32 = 3;
/// zstd's levels.
const LEVELS: std::ops::RangeInclusive<i32> = -7..=22;
/// What [`Level::Auto`] chooses from.
const RUNGS: [i32; 4] = [0, LEVEL, 6, 9];
/// Bytes in an image before another rung is tried: it takes so many until one sees what the last one did.
const STEP: u64 = 8 << 20;
/// With less on its way to the disk than this, the disk will soon have nothing to do.
const IDLE: u64 = 16 << 20;
/// With more than this, blocks are there sooner than the disk takes them.
const BUSY: u64 = 48 << 20;

/// How hard blocks are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// zstd's level for all blocks, from -7 to 22; 0 stores them as they are.
    Fixed(i32),
    /// As hard as it takes to keep the disk busy: from not at all, where it takes more than the cores can
    /// compress, to level 9, where it is slow. The image is durable soonest, and larger on a quick disk.
    Auto,
}

impl Default for Level {
    fn default() -> Self {
        Self::Fixed(LEVEL)
    }
}

impl From<i32> for Level {
    fn from(level: i32) -> Self {
        Self::Fixed(level)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(level) => level.fmt(f),
            Self::Auto => f.write_str("auto"),
        }
    }
}

impl FromStr for Level {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word.parse() {
            Ok(level) if LEVELS.contains(&level) => Ok(Self::Fixed(level)),
            _ if word == "auto" => Ok(Self::Auto),
            _ => Err(format!("a number from {} to {}, or auto", LEVELS.start(), LEVELS.end())),
        }
    }
}

/// The level of the moment.
#[derive(Debug)]
pub(super) struct Effort {
    level: Level,
    rung: Mutex<Rung>,
}

#[derive(Debug, Clone, Copy)]
struct Rung {
    /// Of [`RUNGS`].
    at: usize,
    /// Bytes that the image had when it was taken.
    since: u64,
}

impl Effort {
    pub(super) fn new(level: Level) -> Self {
        Self { level, rung: Mutex::new(Rung { at: 1, since: 0 }) }
    }

    /// zstd's level for sections, which are few.
    pub(super) fn of_sections(&self) -> i32 {
        match self.level {
            Level::Fixed(level) => level,
            Level::Auto => LEVEL,
        }
    }

    /// zstd's level for the next block, when the image has so many `written` bytes, of which so many are
    /// on the disk. Without knowledge of that it stays as it is.
    pub(super) fn of_next(&self, written: u64, on_disk: Option<u64>) -> i32 {
        if let Level::Fixed(level) = self.level {
            return level;
        }
        let mut rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(on_disk) = on_disk
            && written >= rung.since + STEP
        {
            *rung = Rung { at: step(rung.at, written.saturating_sub(on_disk)), since: written };
        }
        RUNGS[rung.at]
    }
}

/// One rung up or down, or none.
fn step(rung: usize, backlog: u64) -> usize {
    match backlog {
        ..IDLE => rung.saturating_sub(1),
        IDLE..=BUSY => rung,
        _ => (rung + 1).min(RUNGS.len() - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk and cores of given speeds, in MiB a tick; gives the level in the end.
    fn settles(disk: u64, compressed: impl Fn(i32) -> u64) -> i32 {
        let effort = Effort::new(Level::Auto);
        let (mut written, mut on_disk, mut level) = (0, 0, LEVEL);
        for _ in 0..2000 {
            written += compressed(level) << 20;
            on_disk = written.min(on_disk + (disk << 20));
            level = effort.of_next(written, Some(on_disk));
        }
        level
    }

    #[test]
    fn it_follows_the_disk() {
        let bytes = |level: i32| 20 / (1 + level as u64);
        assert_eq!(settles(50, bytes), 0, "a disk that takes everything");
        assert_eq!(settles(1, |level| 20 - level as u64), 9, "one that takes nearly nothing");
        // Between two rungs it has now the one, now the other.
        assert!([0, 3].contains(&settles(10, bytes)));
    }

    #[test]
    fn without_knowledge_it_stays() {
        let effort = Effort::new(Level::Auto);
        assert!((0..100).all(|n| effort.of_next(n << 20, None) == LEVEL));
        let fixed = Effort::new(Level::Fixed(-2));
        assert!((0..100).all(|n| fixed.of_next(n << 20, Some(0)) == -2));
    }

    #[test]
    fn words() {
        for (word, level) in [("auto", Level::Auto), ("-7", (-7).into()), ("22", 22.into())] {
            assert_eq!(word.parse(), Ok(level));
            assert_eq!(level.to_string(), word);
        }
        for word in ["", "23", "-8", "fast", "3.5"] {
            assert!(word.parse::<Level>().is_err(), "{word}");
        }
    }
}
