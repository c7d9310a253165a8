//! Where the bytes of all pages are: which block of which image holds what.
//!
//! An image's own blocks hold pages one after the other ([`PageIndex`]). A page that is the same as in
//! an earlier generation, or the same as another one of the job, is not stored again: the image refers
//! to where it is already ([`References`]). A restart takes both as one list ([`whereabouts`]).
//! So that a later generation can tell which pages are the same, each page's hash goes along
//! ([`Hash`]).

use std::collections::HashMap;

use bincode::{Decode, Encode};
use twox_hash::XxHash3_128;

use super::missing;
use crate::error::{Error, ErrorKind, Result};
use crate::image::{self, BlockId};
use crate::job::JobId;
use crate::os::PAGE;

/// Tag of the section that holds the [`PageIndex`].
pub(crate) const PAGES: image::Tag = image::Tag::PAGE;

/// Where the page stream's blocks belong.
#[derive(Debug, Clone, Default, Encode, Decode)]
pub struct PageIndex {
    /// One entry a block.
    pub blocks: Vec<BlockPages>,
}

/// What one block holds: the concatenation of these runs.
#[derive(Debug, Clone, Encode, Decode)]
pub struct BlockPages {
    /// The block.
    pub block: BlockId,
    /// Its runs in order.
    pub runs: Vec<PageRun>,
}

/// A run of bytes of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct PageRun {
    /// Whose bytes.
    pub object: Object,
    /// Address in the process, or offset in the file.
    pub address: u64,
    /// Length in bytes.
    pub length: u32,
}

/// What has bytes in the page stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub enum Object {
    /// The memory of a process, by its index.
    Memory(u32),
    /// A nameless file, by its index.
    Content(u32),
}

/// Pages whose bytes are in blocks that hold them for others as well.
#[derive(Debug, Clone, Default, Encode, Decode)]
pub struct References {
    /// At most one entry for each block.
    pub blocks: Vec<Located>,
}

/// Parts of one block, and what they are the bytes of.
#[derive(Debug, Clone, Encode, Decode)]
pub struct Located {
    /// 0: this image; n: the n-th that it needs.
    pub image: u32,
    /// The block there.
    pub block: BlockId,
    /// Its parts.
    pub runs: Vec<Part>,
}

/// A part of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Part {
    /// Where in the block's plaintext it begins.
    pub at: u32,
    /// What it is the bytes of.
    pub run: PageRun,
}

impl Located {
    /// Bytes of all its parts.
    pub(crate) fn bytes(&self) -> u64 {
        self.runs.iter().map(|part| u64::from(part.run.length)).sum()
    }

    /// A run whose end is beyond all numbers.
    fn flawed(&self) -> Option<PageRun> {
        let is_sound = |part: &Part| {
            let run = &part.run;
            let end = run.address.checked_add(u64::from(run.length));
            end.and(part.at.checked_add(run.length)).is_some()
        };
        self.runs.iter().find(|part| !is_sound(part)).map(|part| part.run)
    }
}

impl Part {
    /// Its bytes.
    ///
    /// # Errors
    ///
    /// The block is shorter.
    pub(crate) fn of<'a>(&self, plain: &'a [u8]) -> Result<&'a [u8]> {
        let end = self.at.checked_add(self.run.length);
        let bytes = end.and_then(|end| plain.get(self.at as usize..end as usize));
        bytes.ok_or_else(|| Error::new(ErrorKind::Damaged, "a block is shorter than its runs"))
    }
}

/// The bytes of a page: XXH3, 128 bits, little-endian.
pub(crate) type Hash = [u8; 16];

/// The hashes that one section holds, at most: those of 256 GiB.
pub(crate) const MOST_HASHES: usize = (1 << 26) - 1;

/// The hash of a page, or of what a file has of its last one. Its seed is the job's, so that no bytes
/// are known to be mistaken for others.
pub(crate) fn hash(job: JobId, page: &[u8]) -> Hash {
    XxHash3_128::oneshot_with_seed(job.0, page).to_le_bytes()
}

/// The hashes of the pages that an image's own blocks hold.
#[derive(Debug)]
pub(crate) struct Hashes {
    /// For each block, where its runs begin and which hash is the first of each.
    places: HashMap<BlockId, Vec<(u32, u32)>>,
    all: Vec<Hash>,
}

impl Hashes {
    /// Reads those of an image; none if it has none.
    pub(crate) fn of(image: &image::Reader) -> Result<Self> {
        let all: Vec<Hash> = image.section(image::Tag::HASH)?.unwrap_or_default();
        let mut next = 0u32;
        let mut places = HashMap::new();
        for Located { block, runs, .. } in PageIndex::of(image)?.located() {
            let of_run = |part: &Part| {
                let place = (part.at, next);
                next = next.saturating_add(hashes_in(part.run.length) as u32);
                place
            };
            places.insert(block, runs.iter().map(of_run).collect());
        }
        if next as usize != all.len() && !all.is_empty() {
            let what = format!("{} has not one hash for each page", image.path().display());
            return Err(Error::new(ErrorKind::Damaged, what));
        }
        Ok(Self { places, all })
    }

    /// Which one is that of the page at this place of a block.
    pub(crate) fn index(&self, block: BlockId, at: u32) -> Option<u32> {
        let runs = self.places.get(&block)?;
        let run = runs.partition_point(|(begin, _)| *begin <= at).checked_sub(1)?;
        let (begin, first) = *runs.get(run)?;
        let into = (at - begin).is_multiple_of(PAGE as u32).then(|| (at - begin) / PAGE as u32)?;
        first.checked_add(into)
    }

    /// The hash of this index.
    pub(crate) fn get(&self, index: u32) -> Option<&Hash> {
        self.all.get(index as usize)
    }
}

/// How many hashes a run of this length has.
pub(crate) fn hashes_in(length: u32) -> usize {
    length.div_ceil(PAGE as u32) as usize
}

impl PageIndex {
    /// Reads the page index of an image.
    ///
    /// # Errors
    ///
    /// The section is missing or damaged.
    pub fn of(image: &image::Reader) -> Result<Self> {
        image.section(PAGES)?.ok_or_else(|| missing(image, "page index"))
    }

    /// The blocks with the places of their parts.
    pub(crate) fn located(self) -> impl Iterator<Item = Located> {
        self.blocks.into_iter().map(|BlockPages { block, runs }| {
            let mut at = 0u32;
            let part = |run: PageRun| {
                let part = Part { at, run };
                at = at.saturating_add(run.length);
                part
            };
            Located { image: 0, block, runs: runs.into_iter().map(part).collect() }
        })
    }
}

/// Where all pages of an image are, each block once.
///
/// # Errors
///
/// The sections are damaged, or refer to images that it does not need.
pub(crate) fn whereabouts(image: &image::Reader) -> Result<Vec<Located>> {
    let mut all: Vec<Located> = PageIndex::of(image)?.located().collect();
    let references: References = image.section(image::Tag::REFS)?.unwrap_or_default();
    let needed = image.needed()?.len();
    let own: HashMap<BlockId, usize> =
        all.iter().enumerate().map(|(index, located)| (located.block, index)).collect();
    if let Some(run) = all.iter().chain(&references.blocks).find_map(Located::flawed) {
        let what =
            format!("{} has pages at {:#x} that cannot be", image.path().display(), run.address);
        return Err(Error::new(ErrorKind::Damaged, what));
    }
    for located in references.blocks {
        if located.image as usize > needed {
            let what =
                format!("the image {} refers to one it does not need", image.path().display());
            return Err(Error::new(ErrorKind::Damaged, what));
        }
        match own.get(&located.block).filter(|_| located.image == 0) {
            Some(&index) => all[index].runs.extend(located.runs),
            None => all.push(located),
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_follow_each_other() {
        let run = |address, length| PageRun { object: Object::Memory(0), address, length };
        let blocks =
            vec![BlockPages { block: BlockId(3), runs: vec![run(8192, 4096), run(0, 10)] }];
        let located: Vec<Located> = PageIndex { blocks }.located().collect();
        let places: Vec<u32> = located[0].runs.iter().map(|part| part.at).collect();
        assert_eq!((located[0].block, places), (BlockId(3), vec![0, 4096]));
        assert_eq!(located[0].runs[1].of(&[7; 5000]).unwrap(), &[7u8; 10]);
        assert!(located[0].runs[1].of(&[7; 4100]).is_err());
    }

    #[test]
    fn hashes_of_other_jobs_are_others() {
        let page = [1u8; 4096];
        assert_ne!(hash(JobId(1), &page), hash(JobId(2), &page));
        assert_eq!((hashes_in(4096), hashes_in(4097), hashes_in(0)), (1, 2, 0));
    }
}
