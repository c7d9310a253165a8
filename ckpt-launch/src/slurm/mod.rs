//! Jobs under Slurm: a job that outlives its time limit, by one line in its script.
//!
//! ```text
//! enter ──▶ launch or ckpt-restore ──▶ round ◀── supervisor
//!   │                                  ├── here (environment), fence, record (files)
//!   └── together (several tasks)       ├── scontrol ──▶ info ──▶ cause, clock (plain data)
//!                                      └── requeue
//! script, quote: `ckpt-launch sbatch`        commands, plan: `ckpt slurm`
//! ```

pub mod cause;
pub mod clock;
pub mod commands;
pub mod enter;
pub mod fence;
pub mod here;
pub mod info;
pub mod linger;
pub mod place;
pub mod plan;
pub mod quote;
pub mod record;
pub mod requeue;
pub mod round;
pub mod scontrol;
pub mod script;
pub mod time;
pub mod together;
pub mod warning;
