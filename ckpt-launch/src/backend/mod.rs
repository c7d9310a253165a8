//! Another engine for jobs that ours cannot hold: a DMTCP that is installed on this host.
//!
//! ```text
//! choose ──▶ Native                                 (ckpt_core)
//!    └─────▶ Dmtcp ──▶ find ──▶ dmtcp::Driver ──▶ command   dmtcp_coordinator, dmtcp_command
//!                                    ├──────────▶ space     is there room for the images?
//!                                    ├──────────▶ keep      images become a generation
//!                                    └──────────▶ set ──▶ image   is a generation whole?
//! ```
//!
//! DMTCP says "done" over an image that is still empty, loses the job when the disk is full, keeps
//! one generation, and waits for ever for an image that is missing. What is here stands between it
//! and the user: a checkpoint counts only when every byte of it has been read back, and a restart
//! begins only then.

pub mod choose;
mod command;
pub mod dmtcp;
pub mod find;
pub mod image;
mod keep;
mod manifest;
pub mod set;
mod space;

pub use choose::{Backend, Choice, auto};
pub use command::Status;
pub use dmtcp::{Driver, Options, Report};
pub use find::{Found, find};
pub use image::is_dmtcp_image;
pub use set::{Set, is_dmtcp_set, verify};
