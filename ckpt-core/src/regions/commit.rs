//! A version being written: all of it gets there, or nothing.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::catalog::{Catalog, Region};
use super::element::Element;
use super::place::Place;
use super::staging::{Data, Input, Staging};
use super::store::{self, Store};
use crate::capture::base::Base;
use crate::capture::increment;
use crate::capture::plan::{Extent, Plan};
use crate::capture::sieve::Sieve;
use crate::capture::stream::{self, Means};
use crate::error::{Error, ErrorKind, Result};
use crate::image::{Importance, NewHeader, Tag, Writer};
use crate::program::{Section, defer};
use crate::progress::Silent;
use crate::snapshot::pages::Object;

/// What a version's commit did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Its number.
    pub version: u64,
    /// Our own rank's image.
    pub path: PathBuf,
    /// Bytes of all regions.
    pub bytes: u64,
    /// Bytes of the image.
    pub bytes_stored: u64,
    /// Bytes that earlier versions have.
    pub bytes_unchanged: u64,
    /// How many earlier versions it refers to.
    pub needs: usize,
    /// How long it took until all was durable.
    pub total: Duration,
}

/// A version in the making. Nothing of it is on disk before [`Transaction::commit`]; dropped before, it
/// leaves nothing behind.
#[derive(Debug)]
#[must_use = "nothing is saved before it is committed"]
pub struct Transaction<'s, 'd> {
    store: &'s mut Store,
    version: u64,
    catalog: Catalog,
    data: Vec<Data<'d>>,
}

impl<'s, 'd> Transaction<'s, 'd> {
    pub(super) fn new(store: &'s mut Store, version: u64) -> Self {
        let (rank, ranks) = (store.place.options.rank, store.place.options.ranks);
        let catalog = Catalog { rank, ranks, regions: Vec::new() };
        Self { store, version, catalog, data: Vec::new() }
    }

    /// Adds an array.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Usage`] if there is one of that name already.
    pub fn add<T: Element>(&mut self, name: &str, elements: &'d [T]) -> Result<&mut Self> {
        self.add_shaped(name, elements, &[elements.len() as u64])
    }

    /// Adds an array of several dimensions, the slowest first.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Usage`] if there is one of that name already, or the elements are not as many as the
    /// shape says.
    pub fn add_shaped<T: Element>(
        &mut self,
        name: &str,
        elements: &'d [T],
        shape: &[u64],
    ) -> Result<&mut Self> {
        let region = Region::new::<T>(name, shape);
        self.add_bytes(region, bytemuck::must_cast_slice(elements))
    }

    /// Adds an array that need not be copied by [`Self::commit_async`], as it is given away.
    ///
    /// # Errors
    ///
    /// As of [`Self::add`].
    pub fn add_owned<T: Element + Send>(
        &mut self,
        name: &str,
        elements: Vec<T>,
    ) -> Result<&mut Self> {
        let region = Region::new::<T>(name, &[elements.len() as u64]);
        self.push(region, Data::Owned(Box::new(elements)))
    }

    /// Adds an array of which only the bytes are at hand: one of another language, or of a type that the
    /// compiler cannot vouch for. (Bytes of such a one take `unsafe` to come by, see
    /// [`std::slice::from_raw_parts`].)
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Usage`] if there is one of that name already, or the bytes are not as many as the region
    /// says.
    pub fn add_bytes(&mut self, region: Region, bytes: &'d [u8]) -> Result<&mut Self> {
        region.must_have(bytes.len())?;
        self.push(region, Data::Borrowed(bytes))
    }

    /// Adds a single value.
    ///
    /// # Errors
    ///
    /// As of [`Self::add`].
    pub fn add_value<T: Element + Send>(&mut self, name: &str, value: T) -> Result<&mut Self> {
        self.push(Region::new::<T>(name, &[]), Data::Owned(Box::new(vec![value])))
    }

    /// The same with bytes that are given away, see [`Self::add_owned`].
    ///
    /// # Errors
    ///
    /// As of [`Self::add_bytes`].
    pub fn add_owned_bytes(&mut self, region: Region, bytes: Vec<u8>) -> Result<&mut Self> {
        region.must_have(bytes.len())?;
        self.push(region, Data::Owned(Box::new(bytes)))
    }

    fn push(&mut self, region: Region, data: Data<'d>) -> Result<&mut Self> {
        if self.catalog.find(&region.name).is_some() {
            let what = format!("there are two regions named {:?}", region.name);
            return Err(Error::new(ErrorKind::Usage, what));
        }
        self.catalog.regions.push(region);
        self.data.push(data);
        Ok(self)
    }

    /// Writes the version, and returns when it is durable.
    ///
    /// # Errors
    ///
    /// What the file system says; the versions before are as they were.
    pub fn commit(self) -> Result<Report> {
        let _section = defer();
        let (input, staging) = (Input::in_place(&self.data)?, &self.store.staging);
        let report =
            write(&self.store.place, self.version, &self.catalog, (input, staging), false)?;
        self.store.newest = Some(self.version);
        Ok(report)
    }

    /// Copies all arrays that are borrowed, so that they may be changed as soon as this returns (they are
    /// *staged*), and writes the copy meanwhile, until it is *durable*. The next version begins then. The memory of
    /// the copy stays with the store for the next one.
    ///
    /// # Errors
    ///
    /// There is no memory for the copy, or no thread.
    pub fn commit_async(self) -> Result<Pending> {
        let (place, catalog, version) = (self.store.place.clone(), self.catalog, self.version);
        let staging = self.store.staging.clone();
        let input = Input::copied(self.data, &staging, place.options.workers)?;
        let outcome = Arc::new((Mutex::new(None), Condvar::new()));
        let mut tell = Tell { outcome: Arc::clone(&outcome), written: None };
        // A file that is being written would be part of a checkpoint of the whole program.
        let section = Section::enter();
        let work = move || {
            tell.written = Some(write(&place, version, &catalog, (input, &staging), true));
            drop(section);
            drop(tell);
        };
        let thread = std::thread::Builder::new().name("ckpt-regions".into()).spawn(work);
        let thread = thread.map_err(|e| Error::os("cannot start a thread", e))?;
        self.store.running = Some(thread);
        self.store.newest = Some(version);
        Ok(Pending { outcome })
    }
}

type Outcome = Arc<(Mutex<Option<Result<Report>>>, Condvar)>;

/// Tells what came of it, whatever did.
struct Tell {
    outcome: Outcome,
    written: Option<Result<Report>>,
}

impl Drop for Tell {
    fn drop(&mut self) {
        let lost =
            || Err(Error::new(ErrorKind::Internal, "the thread that writes a version ended"));
        let written = self.written.take().unwrap_or_else(lost);
        *self.outcome.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(written);
        self.outcome.1.notify_all();
    }
}

/// A version that is being written from a copy. Dropped, it is written all the same.
#[derive(Debug)]
pub struct Pending {
    outcome: Outcome,
}

impl Pending {
    /// Waits until it is durable.
    ///
    /// # Errors
    ///
    /// As of [`Transaction::commit`].
    pub fn wait(self) -> Result<Report> {
        let (outcome, told) = &*self.outcome;
        let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match outcome.take() {
                Some(written) => return written,
                None => outcome = told.wait(outcome).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Whether [`Self::wait`] would return at once.
    pub fn is_over(&self) -> bool {
        self.outcome.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

/// Writes our own rank's image of a version.
fn write(
    place: &Place,
    version: u64,
    catalog: &Catalog,
    (input, staging): (Input, &Staging),
    beside: bool,
) -> Result<Report> {
    let begun = Instant::now();
    let options = place.options;
    let directory = place.directory()?;
    store::give_up(place, &directory, version)?;
    let base = match options.increments {
        0 => None,
        limit => Base::of_any(&directory, place.id(), limit)
            .inspect_err(|error| tracing::debug!(%error, "nothing to build upon"))
            .ok()
            .flatten(),
    };
    let header = NewHeader { job: place.id(), generation: version };
    let mut writer = Writer::create(&place.dir, &place.file_name(version), &header, options.level)?;
    let (sources, places, kept) = input.into_parts();
    let mut plan = Plan { sources, ..Plan::default() };
    for (number, (source, at, length)) in (0u32..).zip(places) {
        let (object, address) = (Object::Memory(number), 0);
        let (keep_zeroes, is_private) = (false, false);
        plan.extents.push(Extent { object, address, length, source, at, keep_zeroes, is_private });
    }
    let bytes = plan.total();
    let sieve = Sieve {
        job: place.id(),
        base: base.as_ref(),
        memories: memories(catalog, base.as_ref()),
        hashes: options.increments > 0,
        seen: None,
    };
    let means = Means { workers: options.workers, beside };
    let streamed = stream::write(&plan, &writer, &sieve, &means, &Silent);
    Input::done(plan.sources, kept, staging);
    let (found, streamed) = streamed?;
    writer.section(Tag::RGNS, Importance::Critical, catalog)?;
    let needs = increment::write(&mut writer, found, base.as_ref())?;
    let published = writer.finish()?.publish()?;
    drop(base);
    if let Err(error) = store::prune(place, &directory) {
        tracing::warn!(%error, "older versions stay");
    }
    Ok(Report {
        version,
        path: published.path,
        bytes,
        bytes_stored: published.bytes,
        bytes_unchanged: streamed.unchanged,
        needs,
        total: begun.elapsed(),
    })
}

/// Which region of the base each one is compared with: that of the same name and kind.
fn memories(catalog: &Catalog, base: Option<&Base>) -> Vec<Option<Object>> {
    let before = base.and_then(|base| Catalog::of(base.image()).ok()).unwrap_or_default();
    let same = |region: &Region| {
        let (number, then) = before.find(&region.name)?;
        ((then.kind, then.size) == (region.kind, region.size)).then_some(Object::Memory(number))
    };
    catalog.regions.iter().map(same).collect()
}
