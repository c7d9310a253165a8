//! Where a rank's images are, and how they are written.

use std::path::PathBuf;

use twox_hash::XxHash3_128;

use super::store::Options;
use crate::error::Result;
use crate::image::{Directory, Entry, file_name};
use crate::job::JobId;

/// The images of one rank.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) dir: PathBuf,
    /// The store's name.
    pub(crate) name: String,
    pub(crate) options: Options,
}

impl Place {
    /// What the images of this rank are known by. It is made of store and rank alone: a program that is
    /// started again finds what is its own.
    pub(crate) fn id_of(&self, rank: u32) -> JobId {
        let text = format!("{}\n{rank}", self.name);
        let seed = u64::from_le_bytes(*b"regions ");
        JobId(XxHash3_128::oneshot_with_seed(seed, text.as_bytes()) as u64)
    }

    /// That of our own.
    pub(crate) fn id(&self) -> JobId {
        self.id_of(self.options.rank)
    }

    /// The file name of a version of our own.
    pub(crate) fn file_name(&self, version: u64) -> String {
        let Options { rank, ranks, .. } = self.options;
        let name = match ranks {
            1 => self.name.clone(),
            _ => format!("{}.r{rank}", self.name),
        };
        file_name(&name, self.id(), version)
    }

    /// The versions that a rank has an image of, the newest first.
    pub(crate) fn versions(&self, entries: &[Entry], rank: u32) -> Vec<u64> {
        let id = self.id_of(rank);
        let its = entries.iter().filter(|it| it.job() == Some(id) && it.is_trusted());
        its.filter_map(Entry::generation).collect()
    }

    pub(crate) fn directory(&self) -> Result<Directory> {
        Directory::create(&self.dir)
    }
}
