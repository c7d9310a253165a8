//! What whole checkpoints cost, beside their rivals: `cargo xtask bench`. Micro-benchmarks of the
//! parts: `cargo bench -p ckpt-benches`; what our commands cost at the start: `--bin overhead`.
//!
//! [`payload`] starts a program that measures its own pauses, under whatever words a rival puts before
//! it; [`rivals`] take it through checkpoints and restarts and give [`Figures`]; [`growth`], [`memory`]
//! and [`slowdown`] are about our engine alone. [`report`] has the order of it all, and makes text of
//! it with [`table`] and [`plot`].

pub mod arrays;
pub mod growth;
pub mod host;
pub mod memory;
pub mod payload;
pub mod plot;
pub mod programs;
pub mod report;
pub mod rivals;
pub mod run;
pub mod slowdown;
pub mod table;

pub use rivals::Figures;
pub use run::Result;

/// How often each thing is done; the medians are told.
pub const ROUNDS: usize = 3;
