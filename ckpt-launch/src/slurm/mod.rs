//! Jobs under Slurm: its times, and what stands in its batch scripts.

pub mod cause;
pub mod clock;
pub mod enter;
pub mod fence;
pub mod here;
pub mod info;
pub mod record;
pub mod requeue;
pub mod round;
pub mod scontrol;
pub mod time;
pub mod together;
pub mod warning;
