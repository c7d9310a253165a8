//! A job in a container that the launcher starts: `ckpt-launch --container podman --image IMAGE`.
//!
//! The launcher is then in two halves. The *outside* one starts the container, speaks to Slurm and to
//! a coordinator, knows the interval, and passes signals on. The *inside* one is the container's first
//! process: an ordinary launcher or restorer, which runs the payload and takes its checkpoints when it
//! is told to. What both are is `ckpt-launch` (or `ckpt-restore`), static, from a folder that is bound
//! into the container at [`runtime::PROGRAMS`]; the image needs nothing of ours, not even a shell or
//! a C library.
//!
//! ```text
//! outside: Supervisor, Engine::Contained ─▶ outside::Outside ─┐
//!                                                  socket in the checkpoint directory  (wire.rs)
//! inside:  Supervisor, Engine::Native    ◀─ inside::Inside  ◀─┘
//! ```
//!
//! What the container is ([`Container`]) becomes part of each image, so that `ckpt-restore`, outside,
//! enters the same again, and refuses another one.

pub mod enter;
pub mod flags;
pub mod identity;
pub mod inside;
pub mod line;
pub mod meeting;
pub mod outside;
pub mod runtime;
pub mod wire;

pub use ckpt_core::job::Container;
