//! The flags of `ckpt-restore`; those that it shares are declared in [`ckpt_launch::cli`].

use std::path::PathBuf;

use ckpt_core::job::JobId;
use ckpt_core::rebuild;
use ckpt_launch::cli::{JoinAt, Keeping, Lazily, Talk, UnderSlurm, Where, With};
use ckpt_launch::container::flags::BackInContainer;
use clap::{Parser, ValueEnum};

/// Bring a job back from a checkpoint, and stay with it until it ends.
///
/// Without IMAGE, the newest good generation in the checkpoint directory is used; damaged ones are
/// named and set aside (*.bad). An IMAGE that is named is never replaced by another. Exit status,
/// signals and the commands of `ckpt` are as under `ckpt-launch`.
#[derive(Debug, Clone, Parser)]
#[command(version, max_term_width = 100)]
pub struct Restore {
    /// The image, or a directory for the newest good one in it
    #[arg(value_name = "IMAGE|DIR")]
    pub image: Option<PathBuf>,
    #[command(flatten)]
    pub place: Where,
    /// Only images of this job (16 hex digits)
    #[arg(long, value_name = "ID")]
    pub job: Option<JobId>,
    /// This generation and no other
    #[arg(long, value_name = "N")]
    pub generation: Option<u64>,
    #[command(flatten)]
    pub keeping: Keeping,
    /// How the old PIDs come back
    #[arg(long, value_name = "WAY", default_value = "auto")]
    pub pids: Pids,
    /// Cut files that the job only appended to back to their length at the checkpoint
    #[arg(long)]
    pub cut_appended: bool,
    /// Let the job run at once, and fill its memory meanwhile. Damage in the image may be found only
    /// then: the job is killed, and can be restored from another image
    #[arg(long, value_name = "HOW")]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "behind")]
    pub lazy: Option<Lazily>,
    /// Restore although processes of the job seem to run still, or its groups are not had here
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub engine: With,
    /// Take checkpoints together with other jobs, as the coordinator at this address says
    #[arg(long, value_name = "HOST:PORT")]
    pub join: Option<JoinAt>,
    #[command(flatten)]
    pub container: BackInContainer,
    #[command(flatten)]
    pub slurm: UnderSlurm,
    #[command(flatten)]
    pub talk: Talk,
}

/// Ways for the old PIDs to come back.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Pids {
    /// The first that works
    Auto,
    /// clone3(set_tid) in this PID namespace
    SetTid,
    /// An own user and PID namespace
    Namespace,
    /// Fork until the wanted number comes by
    Cycle,
}

impl From<Pids> for rebuild::Pids {
    fn from(pids: Pids) -> Self {
        match pids {
            Pids::Auto => Self::Auto,
            Pids::SetTid => Self::SetTid,
            Pids::Namespace => Self::Namespace,
            Pids::Cycle => Self::Cycle,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    #[test]
    fn declarations_are_sound() {
        super::Restore::command().debug_assert();
    }

    #[test]
    fn two_kinds_of_image() {
        let words = ["ckpt-restore", "--image", "me/app:1", "images"];
        let args = super::Restore::parse_from(words);
        assert_eq!(args.image, Some("images".into()));
        assert_eq!(args.container.image.as_deref(), Some("me/app:1"));
    }
}
