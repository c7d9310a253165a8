//! What stands around a running job: the part that `ckpt-launch`, `ckpt-restore` and `ckpt` share.
//!
//! ```text
//! cli ──▶ launch  ──▶ supervisor ◀──signals── signals      (one loop, one thread)
//!   └───▶ commands ──▶ control::client ══socket══▶ control::server ──▶ supervisor
//!                                                     supervisor ──▶ ckpt_core::capture
//! ```
//!
//! [`backend`] drives a DMTCP that is installed here, for jobs that the engine cannot hold.
//! `ckpt-restore` enters at the supervisor with another [`root::Root`]. Everything that is said to
//! a human or a script goes through [`voice`].

pub mod backend;
pub mod cli;
pub mod commands;
pub mod container;
pub mod control;
pub mod coordinator;
pub mod dmtcp;
pub mod doctor;
pub mod engine;
pub mod gc;
pub mod images;
pub mod itself;
pub mod launch;
pub mod lazily;
pub mod names;
pub mod os;
pub mod pace;
pub mod root;
pub mod run;
pub mod signals;
pub mod slurm;
pub mod supervisor;
pub mod tree;
pub mod voice;
pub mod words;
