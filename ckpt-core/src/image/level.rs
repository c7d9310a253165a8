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
/// Bytes of memory before a higher rung is tried: it takes so many until one sees what the last one did.
const UP: u64 = 32 << 20;
/// The same for a lower one: while blocks are packed too hard the disk has nothing to do.
const DOWN: u64 = 8 << 20;
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
    /// Bytes of memory that were written since.
    since: u64,
    /// Of these, bytes of which nothing could be saved; packing them harder would not help.
    in_vain: u64,
    /// Bytes that were on their way to the disk then.
    backlog: u64,
}

impl Effort {
    pub(super) fn new(level: Level) -> Self {
        Self { level, rung: Mutex::new(Rung { at: 1, since: 0, in_vain: 0, backlog: 0 }) }
    }

    /// zstd's level for sections, which are few.
    pub(super) fn of_sections(&self) -> i32 {
        match self.level {
            Level::Fixed(level) => level,
            Level::Auto => LEVEL,
        }
    }

    /// zstd's level for the next block, with so many bytes on their way to the disk. Without knowledge of
    /// that it stays as it is.
    pub(super) fn of_next(&self, backlog: Option<u64>) -> i32 {
        if let Level::Fixed(level) = self.level {
            return level;
        }
        let mut rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(backlog) = backlog {
            let at = rung.step(backlog);
            if at != rung.at {
                tracing::debug!(level = RUNGS[at], backlog, "blocks are packed otherwise");
                *rung = Rung { at, since: 0, in_vain: 0, backlog };
            }
        }
        RUNGS[rung.at]
    }

    /// A block of so many bytes of memory was written, packed at this level or as it was.
    pub(super) fn written(&self, plain: usize, level: i32, is_packed: bool) {
        if self.level == Level::Auto {
            let mut rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
            rung.since += plain as u64;
            rung.in_vain += if level == 0 || is_packed { 0 } else { plain as u64 };
        }
    }
}

impl Rung {
    /// One up or down, or the same.
    fn step(&self, backlog: u64) -> usize {
        match backlog {
            ..IDLE if self.since >= DOWN => self.at.saturating_sub(1),
            // One that is on its way back is high enough.
            BUSY.. if backlog >= self.backlog && self.since - self.in_vain >= UP => {
                (self.at + 1).min(RUNGS.len() - 1)
            }
            _ => self.at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::MAX_BLOCK;

    /// A disk that takes so many MiB a tick, and cores that bring this many to it at a level, of as many in
    /// memory as it says; gives the level in the end.
    fn settles(disk: u64, packed: impl Fn(i32) -> u64, is_packed: bool) -> i32 {
        let effort = Effort::new(Level::Auto);
        let (mut written, mut on_disk, mut level) = (0, 0, LEVEL);
        for _ in 0..2000 {
            written += packed(level) << 20;
            on_disk = written.min(on_disk + (disk << 20));
            effort.written(MAX_BLOCK, level, is_packed);
            level = effort.of_next(Some(written - on_disk));
        }
        level
    }

    #[test]
    fn it_follows_the_disk() {
        let bytes = |level: i32| 20 / (1 + level as u64);
        assert_eq!(settles(50, bytes, true), 0, "a disk that takes everything");
        assert_eq!(settles(1, |level| 20 - level as u64, true), 9, "one that takes nearly nothing");
        assert_eq!(settles(1, |_| 20, false), LEVEL, "nothing can be saved");
        // Between two rungs it has now the one, now the other.
        assert!([0, 3].contains(&settles(10, bytes, true)));
    }

    #[test]
    fn without_knowledge_it_stays() {
        let effort = Effort::new(Level::Auto);
        assert!((0..100).all(|_| effort.of_next(None) == LEVEL));
        let fixed = Effort::new(Level::Fixed(-2));
        assert!((0..100).all(|_| fixed.of_next(Some(0)) == -2));
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
