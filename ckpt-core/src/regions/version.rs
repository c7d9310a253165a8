//! A version on disk, and how it is read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::catalog::{Catalog, Region};
use super::element::Element;
use super::place::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::image::{Reader, Unpacker, Whose};
use crate::os::cpu::{in_parallel, workers};
use crate::rebuild::pages::Pages;
use crate::snapshot::pages::Object;

/// A version that all ranks have. What a rank has saved is opened when it is asked for, and stays open: drop
/// it before a checkpoint of the whole program, which would have to find the file again.
#[derive(Debug)]
pub struct Version {
    number: u64,
    /// Our own rank, and how many ranks we are.
    own: (u32, u32),
    ranks: Vec<(PathBuf, OnceLock<Rank>)>,
    workers: usize,
}

/// What one rank has saved.
#[derive(Debug)]
pub struct Rank {
    catalog: Catalog,
    pages: Pages,
    workers: usize,
}

impl Version {
    pub(super) fn open(place: &Place, number: u64) -> Result<Self> {
        let entries = place.directory()?.images()?;
        let path = |rank: u32| {
            let id = place.id_of(rank);
            let entry = entries.iter().find(|it| {
                it.job() == Some(id) && it.generation() == Some(number) && it.is_trusted()
            });
            entry.map(|entry| entry.path.clone()).ok_or_else(|| {
                let what = format!("rank {rank} has no version {number} of {}", place.name);
                Error::new(ErrorKind::NotFound, what)
            })
        };
        let count = Catalog::of(&Reader::open(&path(0)?)?)?.ranks;
        let ranks = (0..count).map(|rank| Ok((path(rank)?, OnceLock::new())));
        let own = (place.options.rank, place.options.ranks);
        let ranks: Vec<_> = ranks.collect::<Result<_>>()?;
        let version = Self { number, own, ranks, workers: place.options.workers };
        // What is ours is likely to be wanted.
        if own.0 < count {
            version.rank(own.0)?;
        }
        Ok(version)
    }

    /// Its number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// How many ranks have made it.
    pub fn ranks(&self) -> u32 {
        self.ranks.len() as u32
    }

    /// What that rank has saved.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if there was no such rank, [`ErrorKind::Damaged`] if its image is not whole.
    pub fn rank(&self, rank: u32) -> Result<&Rank> {
        let Some((path, opened)) = self.ranks.get(rank as usize) else {
            let (number, ranks) = (self.number, self.ranks());
            let what = format!("version {number} is of {ranks} ranks: there is no rank {rank}");
            return Err(Error::new(ErrorKind::NotFound, what));
        };
        if let Some(opened) = opened.get() {
            return Ok(opened);
        }
        let found = Rank::open(&Reader::open(path)?, self.workers)?;
        let (theirs, ours) = ((found.catalog.rank, found.catalog.ranks), (rank, self.ranks()));
        if theirs != ours {
            let what = format!(
                "version {} of rank {rank} is of another past, of {} ranks and not of {}",
                self.number, theirs.1, ours.1
            );
            return Err(Error::new(ErrorKind::Damaged, what));
        }
        Ok(opened.get_or_init(|| found))
    }

    /// What our own rank has saved.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Usage`] if the version is of another number of ranks than we are.
    pub fn own(&self) -> Result<&Rank> {
        let (rank, ranks) = self.own;
        if ranks == self.ranks() {
            return self.rank(rank);
        }
        let what = format!("version {} is of {} ranks, not of {ranks}", self.number, self.ranks());
        Err(Error::new(ErrorKind::Usage, what)
            .help("say whose regions are wanted: version.rank(n)"))
    }

    /// As [`Rank::regions`] of our own rank.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Usage`] if the version is of another number of ranks.
    pub fn regions(&self) -> Result<&[Region]> {
        self.own().map(Rank::regions)
    }

    /// As [`Rank::read`] of our own rank.
    ///
    /// # Errors
    ///
    /// As there, and [`ErrorKind::Usage`] if the version is of another number of ranks.
    pub fn read<T: Element>(&self, name: &str, into: &mut [T]) -> Result<()> {
        self.own()?.read(name, into)
    }

    /// As [`Rank::region`] of our own rank.
    ///
    /// # Errors
    ///
    /// As of [`Self::read`].
    pub fn region(&self, name: &str) -> Result<&Region> {
        self.own()?.region(name)
    }

    /// As [`Rank::read_bytes`] of our own rank.
    ///
    /// # Errors
    ///
    /// As of [`Self::read`].
    pub fn read_bytes(&self, name: &str, start: u64, into: &mut [u8]) -> Result<()> {
        self.own()?.read_bytes(name, start, into)
    }

    /// As [`Rank::read_vec`] of our own rank.
    ///
    /// # Errors
    ///
    /// As of [`Self::read`].
    pub fn read_vec<T: Element>(&self, name: &str) -> Result<Vec<T>> {
        self.own()?.read_vec(name)
    }

    /// As [`Rank::value`] of our own rank.
    ///
    /// # Errors
    ///
    /// As of [`Self::read`].
    pub fn value<T: Element>(&self, name: &str) -> Result<T> {
        self.own()?.value(name)
    }
}

impl Rank {
    pub(super) fn open(image: &Reader, workers: usize) -> Result<Self> {
        image.check_owner()?;
        // One that lacks what it needs is no better than one that lacks a part of its own.
        let pages = Pages::open(image, Whose::Trusted).map_err(|error| match error.kind() {
            ErrorKind::NotFound => error.kind_is(ErrorKind::Damaged),
            _ => error,
        })?;
        Ok(Self { catalog: Catalog::of(image)?, pages, workers })
    }

    /// Its image.
    pub fn path(&self) -> &Path {
        self.pages.image().path()
    }

    /// All regions, in the order in which they were added.
    pub fn regions(&self) -> &[Region] {
        &self.catalog.regions
    }

    /// Reads a whole array into one of the same length.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if there is none of that name, [`ErrorKind::Usage`] if it is another kind or
    /// length, [`ErrorKind::Damaged`] if the image is.
    pub fn read<T: Element>(&self, name: &str, into: &mut [T]) -> Result<()> {
        let (number, region) = self.find::<T>(name)?;
        if region.elements() != Some(into.len() as u64) {
            let what = format!("{region}, not {} elements", into.len());
            return Err(Error::new(ErrorKind::Usage, what)
                .help("read_vec gives an array of the right length, read_part a part"));
        }
        self.fill(number, 0, bytemuck::must_cast_slice_mut(into))
    }

    /// Reads elements from the one numbered `first` on.
    ///
    /// # Errors
    ///
    /// As of [`Self::read`]; [`ErrorKind::Usage`] if there are not so many.
    pub fn read_part<T: Element>(&self, name: &str, first: u64, into: &mut [T]) -> Result<()> {
        let (number, region) = self.find::<T>(name)?;
        let end = first.checked_add(into.len() as u64);
        if end.is_none() || end > region.elements() {
            let what = format!("{region}: there are no {} elements from {first} on", into.len());
            return Err(Error::new(ErrorKind::Usage, what));
        }
        self.fill(number, first * u64::from(region.size), bytemuck::must_cast_slice_mut(into))
    }

    /// Reads a whole array.
    ///
    /// # Errors
    ///
    /// As of [`Self::read`].
    pub fn read_vec<T: Element>(&self, name: &str) -> Result<Vec<T>> {
        let (_, region) = self.find::<T>(name)?;
        let length = region.elements().and_then(|length| usize::try_from(length).ok());
        let mut all = Vec::new();
        let has_room = length.is_some_and(|length| all.try_reserve_exact(length).is_ok());
        let Some(length) = length.filter(|_| has_room) else {
            let what = format!("{region}: there is no memory for that");
            return Err(Error::new(ErrorKind::Os, what));
        };
        all.resize(length, T::zeroed());
        self.read(name, &mut all)?;
        Ok(all)
    }

    /// Reads a single value.
    ///
    /// # Errors
    ///
    /// As of [`Self::read`].
    pub fn value<T: Element>(&self, name: &str) -> Result<T> {
        let mut value = [T::zeroed()];
        self.read(name, &mut value)?;
        let [value] = value;
        Ok(value)
    }

    /// What there is of this name.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`].
    pub fn region(&self, name: &str) -> Result<&Region> {
        self.named(name).map(|(_, region)| region)
    }

    /// Reads bytes of an array, whatever its elements are, from the one numbered `start` on.
    ///
    /// # Errors
    ///
    /// As of [`Self::read_part`], but for the kind.
    pub fn read_bytes(&self, name: &str, start: u64, into: &mut [u8]) -> Result<()> {
        let (number, region) = self.named(name)?;
        let end = start.checked_add(into.len() as u64);
        if end.is_none() || end > region.bytes() {
            let what = format!("{region}: there are no {} bytes from {start} on", into.len());
            return Err(Error::new(ErrorKind::Usage, what));
        }
        self.fill(number, start, into)
    }

    fn named(&self, name: &str) -> Result<(u32, &Region)> {
        self.catalog.find(name).ok_or_else(|| {
            let names: Vec<&str> = self.regions().iter().map(|it| it.name.as_str()).collect();
            let what = format!("there is no region {name:?}, only {}", names.join(", "));
            Error::new(ErrorKind::NotFound, what)
        })
    }

    fn find<T: Element>(&self, name: &str) -> Result<(u32, &Region)> {
        let (number, region) = self.named(name)?;
        if region.is_of::<T>() {
            return Ok((number, region));
        }
        let wanted = Region::new::<T>("these", &[]);
        let what = format!("{region}, not {:?} of {} bytes", wanted.kind, wanted.size);
        Err(Error::new(ErrorKind::Usage, what))
    }

    /// Puts the bytes of a region from `start` on into place.
    fn fill(&self, number: u32, start: u64, into: &mut [u8]) -> Result<()> {
        let end = start + into.len() as u64;
        let mut runs = Vec::new();
        for (index, located) in self.pages.located.iter().enumerate() {
            for part in located.runs.iter().filter(|it| it.run.object == Object::Memory(number)) {
                let (from, to) = (part.run.address, part.run.address + u64::from(part.run.length));
                if from < end && start < to {
                    let skipped = start.saturating_sub(from);
                    runs.push((
                        from.max(start),
                        to.min(end),
                        index,
                        part.at as usize + skipped as usize,
                    ));
                }
            }
        }
        runs.sort_unstable();
        // Each block is read once; what is in none is zero.
        let mut blocks: BTreeMap<usize, Vec<(usize, &mut [u8])>> = BTreeMap::new();
        let (mut at, mut rest) = (start, into);
        for (from, to, index, place) in runs {
            let Some(gap) = from.checked_sub(at) else {
                return Err(Error::new(
                    ErrorKind::Damaged,
                    "the image has bytes of a region twice",
                ));
            };
            let (zeros, behind) = rest.split_at_mut(gap as usize);
            let (part, behind) = behind.split_at_mut((to - from) as usize);
            zeros.fill(0);
            blocks.entry(index).or_default().push((place, part));
            (at, rest) = (to, behind);
        }
        rest.fill(0);
        let count = workers(self.workers).min(blocks.len().max(1));
        let left = Mutex::new(blocks.into_iter());
        in_parallel(count, || {
            let mut unpacker = Unpacker::new()?;
            loop {
                let next = left.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some((index, parts)) = next else { return Ok(()) };
                let bytes = self.pages.read(&self.pages.located[index], &mut unpacker)?;
                for (place, part) in parts {
                    let from = bytes.get(place..place + part.len());
                    let short =
                        || Error::new(ErrorKind::Damaged, "a block is shorter than its runs");
                    part.copy_from_slice(from.ok_or_else(short)?);
                }
            }
        })
    }
}
