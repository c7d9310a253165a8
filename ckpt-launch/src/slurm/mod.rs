//! Jobs under Slurm: its times, and what stands in its batch scripts.

pub mod time;
