//! Bytes on disk: one file is one generation of a job. This module knows no process; it is handed
//! blocks of memory and sections of plain data, and gives them back unharmed or not at all.
//!
//! ```text
//! blocks   ──Packer──▶ Writer::append  ─┐                    ┌▶ Reader::read_block ──▶ plaintext
//! sections ──────────▶ Writer::section ─┤ commit ▶ file ▶ open
//!                                       └▶ temporary name    └▶ Reader::section    ──▶ values
//! ```
//!
//! A [`Writer`] fills a temporary file and gives it its name only when it is complete and
//! durable, so a crash at any point leaves the generation before it. A [`Reader`] trusts nothing:
//! every byte is covered by a checksum, every length is checked before memory is taken for it.
//! A [`Directory`] finds the newest image that is whole. [`Ancestors`] are the earlier images that one
//! refers to. `docs/format.md` gives the format byte by
//! byte.

mod ancestors;
mod block;
mod codec;
mod contents;
mod directory;
mod format;
mod level;
mod outflow;
mod owner;
mod reader;
mod temp;
#[cfg(test)]
mod tests;
mod writer;

pub use ancestors::{Ancestors, Needed};
pub use block::{BlockId, Packer, Unpacker};
pub use directory::{Directory, Entry, Whose, file_name};
pub use format::{
    FORMAT_VERSION, Header, ImageId, Importance, KNOWN_TAGS, MAX_BLOCK, NewHeader, Tag,
};
pub use level::{LEVEL, Level};
pub use owner::check as check_owner_of;
pub use reader::{Reader, Summary};
pub use writer::{Finished, Published, Writer};
