//! The generation that a new one builds upon: what of the job's memory is on disk already, and where.
//!
//! It is opened before the freeze, and held ([`Reader::hold`]) until the new image has its name. Pages
//! are known by process and address; what is there is told by their hashes, so that any earlier image
//! of the job serves, even one that is not the newest any more after a restart from an older one.

use std::collections::HashMap;

use crate::error::{Error, ErrorKind, Result};
use crate::image::{Ancestors, BlockId, Directory, ImageId, Needed, Reader, Whose};
use crate::job::JobId;
use crate::os::PAGE;
use crate::snapshot::Snapshot;
use crate::snapshot::pages::{Hash, Hashes, Located, Object, PageRun, Part, whereabouts};

/// A job whose images have less than this is stored whole each time: that no image needs another is
/// worth more then.
pub(crate) const SMALL: u64 = 8 << 20;

/// What is on disk already.
#[derive(Debug)]
pub(crate) struct Base {
    /// Kept open, and locked.
    reader: Reader,
    /// The base itself, then what it needs.
    needed: Vec<Needed>,
    /// Which object a process' memory is there, by the PID that it has for itself.
    processes: HashMap<i32, u32>,
    objects: HashMap<Object, Vec<Known>>,
    /// The hashes of each image of `needed`.
    hashes: Vec<Hashes>,
}

/// A run of bytes that is in a block already.
#[derive(Debug, Clone, Copy)]
struct Known {
    address: u64,
    length: u32,
    /// Which of `needed` has it, from 1.
    image: u32,
    block: BlockId,
    at: u32,
    /// Index of the first page's hash.
    hash: Option<u32>,
}

/// Where a page is already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Which image, as in [`Located`].
    pub(crate) image: u32,
    pub(crate) block: BlockId,
    pub(crate) at: u32,
}

impl Base {
    /// Opens the newest generation of `job` in this directory, if a new one may build upon it: those
    /// that it needs, itself included, are at most `limit`. The processes' memories are known.
    ///
    /// # Errors
    ///
    /// It is damaged, or has no hashes; then a complete generation is due.
    pub(crate) fn open(directory: &Directory, job: JobId, limit: usize) -> Result<Option<Self>> {
        let Some(mut this) = Self::of_any(directory, job, limit)? else { return Ok(None) };
        let snapshot = Snapshot::of(&this.reader)?;
        let living = (0u32..).zip(&snapshot.processes).filter(|(_, it)| it.live().is_some());
        this.processes = living.map(|(index, process)| (process.pid, index)).collect();
        Ok(Some(this))
    }

    /// The same, whatever its objects are.
    ///
    /// # Errors
    ///
    /// As of [`Self::open`].
    pub(crate) fn of_any(directory: &Directory, job: JobId, limit: usize) -> Result<Option<Self>> {
        let reader = directory.newest_good(Some(job), Whose::Trusted, &mut |_, _| ())?;
        let mut needed =
            vec![Needed { id: reader.header().id, generation: reader.header().generation }];
        needed.extend(reader.needed()?);
        let ancestors = Ancestors::of(&reader, Whose::Trusted)?;
        let bytes: u64 = ancestors.iter().map(Reader::file_len).sum();
        if needed.len() > limit || bytes + reader.file_len() < SMALL || !reader.hold() {
            return Ok(None);
        }
        let images = std::iter::once(&reader).chain(ancestors.iter());
        let hashes: Vec<Hashes> = images.map(Hashes::of).collect::<Result<_>>()?;
        let mut objects: HashMap<Object, Vec<Known>> = HashMap::new();
        for Located { image, block, runs } in whereabouts(&reader)? {
            for Part { at, run: PageRun { object, address, length } } in runs {
                let hash = hashes.get(image as usize).and_then(|it| it.index(block, at));
                let known = Known { address, length, image: image + 1, block, at, hash };
                objects.entry(object).or_default().push(known);
            }
        }
        for known in objects.values_mut() {
            known.sort_unstable_by_key(|it| it.address);
            let end = |it: &Known| it.address + u64::from(it.length);
            if known.windows(2).any(|pair| end(&pair[0]) > pair[1].address) {
                let what = format!("{} has pages twice", reader.path().display());
                return Err(Error::new(ErrorKind::Damaged, what));
            }
        }
        Ok(Some(Self { reader, needed, processes: HashMap::new(), objects, hashes }))
    }

    /// The image itself.
    pub(crate) fn image(&self) -> &Reader {
        &self.reader
    }

    /// Which image it is.
    pub(crate) fn id(&self) -> ImageId {
        self.reader.header().id
    }

    /// The base and what it needs, in the order of [`Place::image`].
    pub(crate) fn needed(&self) -> &[Needed] {
        &self.needed
    }

    /// The memory of the process with this PID of its own.
    pub(crate) fn memory_of(&self, pid: i32) -> Option<Object> {
        self.processes.get(&pid).copied().map(Object::Memory)
    }

    fn known(&self, object: Object) -> &[Known] {
        self.objects.get(&object).map_or(&[], Vec::as_slice)
    }

    /// Where this page is already, if one with this hash was there.
    pub(crate) fn same(
        &self,
        object: Object,
        address: u64,
        length: usize,
        hash: &Hash,
    ) -> Option<Place> {
        let known = self.known(object);
        let index = known.partition_point(|it| it.address <= address).checked_sub(1)?;
        let known = known.get(index)?;
        let into = u32::try_from(address - known.address).ok()?;
        let left = known.length.checked_sub(into)?;
        let page = known.hash?.checked_add(into / PAGE as u32)?;
        let stored = self.hashes.get(known.image as usize - 1)?.get(page)?;
        // A page of another length, at the end of a file, is another one.
        let is_same = stored == hash
            && into.is_multiple_of(PAGE as u32)
            && length == (left as usize).min(PAGE as usize);
        is_same.then_some(Place { image: known.image, block: known.block, at: known.at + into })
    }

    /// Where the bytes from `start` to `end` are; nowhere means zeros.
    pub(crate) fn parts(
        &self,
        object: Object,
        (start, end): (u64, u64),
    ) -> impl Iterator<Item = (Place, u64, u32)> {
        let known = self.known(object);
        let first = known.partition_point(|it| it.address + u64::from(it.length) <= start);
        let those = known[first..].iter().take_while(move |it| it.address < end);
        those.map(move |it| {
            let from = it.address.max(start);
            let to = (it.address + u64::from(it.length)).min(end);
            let into = (from - it.address) as u32;
            (Place { image: it.image, block: it.block, at: it.at + into }, from, (to - from) as u32)
        })
    }
}
