//! The bytes of a version on their way to the page stream: in their place, or copied so that the program may
//! go on.

use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};

use memmap2::{Advice, MmapMut};

use super::element::Element;
use crate::capture::plan::Source;
use crate::error::{Error, Result};
use crate::os::PAGE;
use crate::os::cpu::{in_parallel, workers};

/// Bytes that one thread copies at once.
const PIECE: usize = 4 << 20;

/// An array of one of these has bytes, wherever it is moved.
pub(super) trait Bytes: Send {
    fn bytes(&self) -> &[u8];
}

impl<T: Element + Send> Bytes for Vec<T> {
    fn bytes(&self) -> &[u8] {
        bytemuck::must_cast_slice(self)
    }
}

/// The bytes of a region.
pub(super) enum Data<'d> {
    Borrowed(&'d [u8]),
    /// They stay as they are until they are written.
    Owned(Box<dyn Bytes>),
}

impl std::fmt::Debug for Data<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.bytes().len())
    }
}

impl Data<'_> {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Owned(owned) => owned.bytes(),
        }
    }
}

/// Where the page stream finds the bytes of each region.
pub(super) struct Input {
    pub(super) sources: Vec<Source>,
    /// Of each region.
    pub(super) places: Vec<Place>,
    /// What must live until they are read.
    kept: Kept,
}

/// Arrays that were given away.
pub(super) type Kept = Vec<Box<dyn Bytes>>;
/// The source, the place there, and the length of a region.
type Place = (u32, u64, u64);

impl Input {
    /// All in their place: by way of our own `/proc/self/mem`, as another process' memory is read.
    pub(super) fn in_place(data: &[Data<'_>]) -> Result<Self> {
        let places = data.iter().map(|data| place(data.bytes())).collect();
        Ok(Self { sources: vec![own_memory()?], places, kept: Vec::new() })
    }

    /// What is borrowed is copied; what is owned is kept.
    pub(super) fn copied(data: Vec<Data<'_>>, staging: &Staging, threads: usize) -> Result<Input> {
        let borrowed: Vec<&[u8]> = data
            .iter()
            .filter_map(|data| match data {
                Data::Borrowed(bytes) => Some(*bytes),
                Data::Owned(_) => None,
            })
            .collect();
        let copy = staging.copied(&borrowed, threads)?;
        let (mut places, mut kept, mut at) = (Vec::new(), Vec::new(), 0);
        for data in data {
            match data {
                Data::Borrowed(bytes) => {
                    places.push((1, at, bytes.len() as u64));
                    at += (bytes.len() as u64).next_multiple_of(PAGE);
                }
                Data::Owned(owned) => {
                    places.push(place(owned.bytes()));
                    kept.push(owned);
                }
            }
        }
        Ok(Self { sources: vec![own_memory()?, Source::Held(copy)], places, kept })
    }

    /// When all is read.
    pub(super) fn done(sources: Vec<Source>, kept: Kept, staging: &Staging) {
        drop(kept);
        for source in sources {
            if let Source::Held(copy) = source {
                staging.give_back(copy);
            }
        }
    }

    /// The parts of it.
    pub(super) fn into_parts(self) -> (Vec<Source>, Vec<Place>, Kept) {
        (self.sources, self.places, self.kept)
    }
}

/// In the first source.
fn place(bytes: &[u8]) -> Place {
    (0, bytes.as_ptr().addr() as u64, bytes.len() as u64)
}

fn own_memory() -> Result<Source> {
    let memory = File::open("/proc/self/mem");
    memory.map(Source::File).map_err(|e| Error::os("cannot open /proc/self/mem", e))
}

/// Memory for copies, kept from version to version: to get pages from the kernel takes as long as the copy.
#[derive(Debug, Clone, Default)]
pub(super) struct Staging(Arc<Mutex<Option<MmapMut>>>);

impl Staging {
    fn take(&self, length: usize) -> Result<MmapMut> {
        let spare = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(spare) = spare.filter(|spare| spare.len() >= length) {
            return Ok(spare);
        }
        // A map cannot be empty.
        let map = MmapMut::map_anon(length.max(1))
            .map_err(|e| Error::os("there is no memory for a copy of the regions", e))?;
        // Best effort: fewer faults.
        let _ = map.advise(Advice::HugePage);
        Ok(map)
    }

    fn give_back(&self, copy: MmapMut) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(copy);
    }

    /// A copy of these, one behind the other, each beginning at a page.
    fn copied(&self, parts: &[&[u8]], threads: usize) -> Result<MmapMut> {
        let room = |part: &&[u8]| part.len().next_multiple_of(PAGE as usize);
        let mut copy = self.take(parts.iter().map(room).sum())?;
        let (mut rest, mut pieces) = (&mut copy[..], Vec::new());
        for part in parts {
            let (to, behind) = rest.split_at_mut(room(part));
            rest = behind;
            pieces.extend(to[..part.len()].chunks_mut(PIECE).zip(part.chunks(PIECE)));
        }
        let count = workers(threads).min(pieces.len()).max(1);
        let left = Mutex::new(pieces.into_iter());
        in_parallel(count, || {
            loop {
                let next = left.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some((to, from)) = next else { return Ok(()) };
                to.copy_from_slice(from);
            }
        })?;
        drop(left);
        Ok(copy)
    }
}
