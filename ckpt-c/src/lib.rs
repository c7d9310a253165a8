//! ckpt for C: `include/ckpt.h` is made from this crate.
//!
//! Each function checks what it is given, does its work with [`ckpt_core`], and says what became of it: a
//! [`ckpt_status`] and, for the calling thread, words ([`ckpt_error`]). Handles are opaque. `veloc.rs` has what VeloC
//! (<https://veloc.readthedocs.io>) calls the same things.
//!
//! This crate is the border to another language: each of its functions is `unsafe` to call, and what it must be
//! able to rely on stands at it. What they do with pointers is in [`arguments`].

// Names as they are in C.
#![allow(non_camel_case_types)]
#![allow(clippy::missing_safety_doc, reason = "the documentation is the header's, and for C")]

mod arguments;
mod itself;
mod options;
mod policy;
mod saved;
mod status;
mod store;
mod veloc;

pub use itself::*;
pub use options::*;
pub use policy::*;
pub use saved::*;
pub use status::*;
pub use store::*;
pub use veloc::*;
