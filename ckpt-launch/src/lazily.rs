//! The flag `--lazy`, which launcher and restorer have in common.

use ckpt_core::rebuild::Fill;
use clap::ValueEnum;

/// How memory is filled while a restored job runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Lazily {
    /// What it touches first, and the rest behind
    Behind,
    /// What it touches, and the rest once something needs that: a checkpoint, a fork
    Touched,
}

impl Lazily {
    /// The same as a word of a command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Behind => "--lazy=behind",
            Self::Touched => "--lazy=touched",
        }
    }
}

impl From<Lazily> for Fill {
    fn from(lazily: Lazily) -> Self {
        match lazily {
            Lazily::Behind => Self::Behind,
            Lazily::Touched => Self::Touched,
        }
    }
}
