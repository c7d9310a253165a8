//! What the end-to-end tests share: real programs, the users that run them, and [`Run`], which
//! takes a program through checkpoints, kills and restarts.
//!
//! The payloads are in `payloads/`. Each writes its progress, then its results and a checksum, to
//! one file that it opens once; the tests know nothing else of it. The variables:
//!
//! - `CKPT_TEST_SEED`: the seed of the random moments, as a failed test printed it;
//! - `CKPT_TEST_ROUNDS`: rounds of checkpoint, SIGKILL and restart for each payload (15);
//! - `CKPT_TEST_IN_A_ROW`: restarts of restarts in one run (5);
//! - `CKPT_TEST_SCENARIO`: of scenarios that share a Slurm cluster, only those with this in their names;
//! - `CKPT_TEST_STAND_IN`: bubblewrap in place of apptainer, as where that cannot be had;
//! - `CKPT_TEST_KEEP`: keep the folders of tests that passed, too.
//!
//! `cargo nextest` is wanted: each test must be a process of its own, since it collects orphans.

mod contained;
mod moments;
mod numbers;
mod payload;
mod run;
pub mod runtime;
mod site;
mod slurm;
mod survival;
mod tools;
mod tree;
mod user;

pub use contained::{Contained, programs, said};
pub use moments::Moments;
pub use numbers::Numbers;
pub use payload::{ALL, Payload, payload};
pub use run::{CheckpointFailed, Ended, From, Run, undisturbed};
pub use site::{Daemon, Said, Site, real_dmtcp, until};
pub use slurm::{Cluster, Fields, Job, NOTE, Options, SHORT, Scenario, Work};
pub use survival::{survives, with_environment};
pub use tools::{Tools, tools};
pub use tree::{descendants, describe, kill_tagged, tagged};
pub use user::User;
