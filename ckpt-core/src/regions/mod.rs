//! Checkpoints that a program takes of its own data: named arrays of plain numbers, in the same images as
//! a whole job's, with the same checksums, compression, increments and tools (`ckpt list | inspect | verify
//! | gc`).
//!
//! ```text
//! slices ─▶ Transaction ─commit─▶ image NAME-ID-VERSION.ckpt ─▶ Version ─▶ slices
//! ```
//!
//! A [`Store`] is the versions of one program in a directory. A version is there as a whole or not at
//! all: it gets its name (rename(2)) when every byte is on disk. A program of several ranks has one image for
//! each, and a version counts when all ranks have theirs; nothing is said between them but through the
//! directory.
//!
//! ```
//! use ckpt_core::regions::{Options, Store};
//! # let folder = tempfile::tempdir().unwrap();
//! # let dir = folder.path();
//!
//! let mut field = vec![0.0f64; 1000];
//! let mut step = 0u64;
//! let mut store = Store::open(dir, "heat", Options::default())?;
//! store.restore(|version| {
//!     version.read("field", &mut field)?;
//!     step = version.value("step")?;
//!     Ok(())
//! })?;
//! while step < 30 {
//!     field.iter_mut().for_each(|cell| *cell += 1.0);
//!     step += 1;
//!     if step % 10 == 0 {
//!         let mut next = store.begin(step)?;
//!         next.add("field", &field)?.add_value("step", step)?;
//!         next.commit()?;
//!     }
//! }
//! assert_eq!(store.latest()?.map(|version| version.number()), Some(30));
//! # Ok::<(), ckpt_core::Error>(())
//! ```

mod catalog;
mod commit;
mod element;
mod owned;
mod place;
mod staging;
mod store;
mod version;

pub use catalog::{Region, of_image};
pub use commit::{Pending, Report, Transaction};
pub use element::{Element, Kind};
pub use owned::{Handle, Regions};
pub use store::{Keep, Options, PassedOver, Restored, Store};
pub use version::{Rank, Version};
