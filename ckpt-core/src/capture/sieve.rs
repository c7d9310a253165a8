//! Which pages need storing: not those that are zero, nor those that are on disk already, in the base or
//! in the image that is being written. What is left over is closed up.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Mutex, PoisonError};

use super::base::{Base, Place};
use super::plan::Extent;
use crate::image::BlockId;
use crate::job::JobId;
use crate::os::PAGE;
use crate::snapshot::pages::{Hash, Object, PageRun, Part, hash};

/// Pages of the image itself that are remembered, at most: some 20 MiB.
const REMEMBERED: usize = 1 << 19;
/// Locks that workers share these under.
const SHARDS: usize = 64;

/// What the pages of a checkpoint are compared with.
pub(crate) struct Sieve<'a> {
    pub(crate) job: JobId,
    pub(crate) base: Option<&'a Base>,
    /// For each process of the job, which memory in the base its own is compared with.
    pub(crate) memories: Vec<Option<Object>>,
    /// Pages get hashes.
    pub(crate) hashes: bool,
    /// Pages that more than one process may have.
    pub(crate) seen: Option<Seen>,
}

/// Pages that were kept, before their block is written.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) runs: Vec<PageRun>,
    pub(crate) hashes: Vec<Hash>,
}

/// Pages that are somewhere already.
pub(crate) type Elsewhere = HashMap<(u32, BlockId), Vec<Part>>;

/// Adds a part, to the one before it if the two are one.
pub(crate) fn refer(elsewhere: &mut Elsewhere, place: Place, run: PageRun) {
    let parts = elsewhere.entry((place.image, place.block)).or_default();
    match parts.last_mut() {
        Some(Part { at, run: last })
            if *at + last.length == place.at && is_next(last, run.object, run.address) =>
        {
            last.length += run.length;
        }
        _ => parts.push(Part { at: place.at, run }),
    }
}

/// Whether what begins here goes on where a run ends: a run has whole pages, but for its last.
fn is_next(last: &PageRun, object: Object, address: u64) -> bool {
    let is_whole = u64::from(last.length).is_multiple_of(PAGE);
    is_whole && last.object == object && last.address + u64::from(last.length) == address
}

impl Sieve<'_> {
    /// Moves the pages that are to be stored together, notes them, and returns their bytes.
    pub(crate) fn pass(
        &self,
        bytes: &mut [u8],
        extent: &Extent,
        kept: &mut Kept,
        elsewhere: &mut Elsewhere,
    ) -> usize {
        let in_base = match extent.object {
            Object::Memory(index) => self.memories.get(index as usize).copied().flatten(),
            content => Some(content),
        };
        let base = self.base.zip(in_base);
        let (mut length, mut at) = (0, 0);
        while at < bytes.len() {
            let page = at..(at + PAGE as usize).min(bytes.len());
            let address = extent.address + at as u64;
            at = page.end;
            if !extent.keep_zeroes && is_zero(&bytes[page.clone()]) {
                continue;
            }
            let run = PageRun { object: extent.object, address, length: page.len() as u32 };
            if self.hashes {
                let hash = hash(self.job, &bytes[page.clone()]);
                let there =
                    base.and_then(|(base, object)| base.same(object, address, page.len(), &hash));
                let there = there.or_else(|| self.seen.as_ref()?.place(&hash, page.len()));
                if let Some(place) = there {
                    refer(elsewhere, place, run);
                    continue;
                }
                kept.hashes.push(hash);
            }
            match kept.runs.last_mut() {
                Some(last) if is_next(last, run.object, address) => last.length += run.length,
                _ => kept.runs.push(run),
            }
            if length != page.start {
                bytes.copy_within(page.clone(), length);
            }
            length += page.len();
        }
        length
    }

    /// Remembers the pages of a block that has been written.
    pub(crate) fn remember(&self, block: BlockId, kept: &Kept) {
        let Some(seen) = &self.seen else { return };
        // Their ends are pages, too, but for the last of a file.
        let whole = kept.runs.iter().all(|run| u64::from(run.length).is_multiple_of(PAGE));
        if whole {
            for (number, hash) in (0u32..).zip(&kept.hashes) {
                seen.note(hash, Place { image: 0, block, at: number * PAGE as u32 });
            }
        }
    }
}

/// Where pages with these hashes are in the image that is being written.
pub(crate) struct Seen(Vec<Mutex<HashMap<Hash, Place, BuildHasherDefault<First>>>>);

/// A hash is a hash already.
#[derive(Default)]
pub(crate) struct First(u64);

impl Hasher for First {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.first_chunk().map_or(self.0, |eight| u64::from_le_bytes(*eight));
    }

    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Seen {
    pub(crate) fn new() -> Self {
        Self((0..SHARDS).map(|_| Mutex::default()).collect())
    }

    fn shard(&self, hash: &Hash) -> &Mutex<HashMap<Hash, Place, BuildHasherDefault<First>>> {
        &self.0[hash[15] as usize % SHARDS]
    }

    fn place(&self, hash: &Hash, length: usize) -> Option<Place> {
        if length as u64 != PAGE {
            return None;
        }
        let shard = self.shard(hash).lock().unwrap_or_else(PoisonError::into_inner);
        shard.get(hash).copied()
    }

    fn note(&self, hash: &Hash, place: Place) {
        let mut shard = self.shard(hash).lock().unwrap_or_else(PoisonError::into_inner);
        if shard.len() < REMEMBERED / SHARDS {
            shard.insert(*hash, place);
        }
    }
}

fn is_zero(page: &[u8]) -> bool {
    // Most pages that are not zero show it soon.
    let (chunks, rest) = page.as_chunks::<64>();
    chunks.iter().all(|chunk| *chunk == [0; 64]) && rest.iter().all(|&byte| byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: usize = PAGE as usize;

    fn sieve(seen: Option<Seen>) -> Sieve<'static> {
        let hashes = seen.is_some();
        Sieve { job: JobId(1), base: None, memories: Vec::new(), hashes, seen }
    }

    fn extent(object: u32, length: u64) -> Extent {
        let (object, address) = (Object::Memory(object), 0x10000);
        let (source, at, keep_zeroes, is_private) = (0, 0, false, true);
        Extent { object, address, length, source, at, keep_zeroes, is_private }
    }

    #[test]
    fn zero_pages_are_closed_up() {
        let mut bytes = vec![0u8; 4 * WHOLE];
        bytes[WHOLE] = 1;
        bytes[2 * WHOLE + 9] = 2;
        let (mut kept, mut elsewhere) = (Kept::default(), Elsewhere::new());
        let left = sieve(None).pass(&mut bytes, &extent(0, 4 * PAGE), &mut kept, &mut elsewhere);
        assert_eq!(left, 2 * WHOLE);
        assert_eq!((bytes[0], bytes[WHOLE + 9]), (1, 2));
        let wanted =
            PageRun { object: Object::Memory(0), address: 0x11000, length: 2 * PAGE as u32 };
        assert_eq!(kept.runs, [wanted]);
    }

    #[test]
    fn zero_pages_over_a_file_are_kept() {
        let mut bytes = vec![0u8; 3 * WHOLE];
        let (mut kept, mut elsewhere) = (Kept::default(), Elsewhere::new());
        let extent = Extent { keep_zeroes: true, ..extent(0, 3 * PAGE) };
        assert_eq!(sieve(None).pass(&mut bytes, &extent, &mut kept, &mut elsewhere), 3 * WHOLE);
        assert_eq!(kept.runs.len(), 1);
    }

    #[test]
    fn what_two_processes_have_is_kept_once() {
        let pages = |first: u8| {
            let mut bytes = vec![first; 3 * WHOLE];
            bytes[WHOLE..2 * WHOLE].fill(9);
            bytes[2 * WHOLE..].fill(8);
            bytes
        };
        let sieve = sieve(Some(Seen::new()));
        let (mut kept, mut elsewhere) = (Kept::default(), Elsewhere::new());
        let extents = [extent(0, 3 * PAGE), extent(1, 3 * PAGE)];
        assert_eq!(sieve.pass(&mut pages(1), &extents[0], &mut kept, &mut elsewhere), 3 * WHOLE);
        sieve.remember(BlockId(7), &kept);
        let mut kept = Kept::default();
        assert_eq!(sieve.pass(&mut pages(2), &extents[1], &mut kept, &mut elsewhere), WHOLE);
        let run = PageRun { object: Object::Memory(1), address: 0x11000, length: 2 * PAGE as u32 };
        assert_eq!(elsewhere[&(0, BlockId(7))], [Part { at: PAGE as u32, run }]);
    }
}
