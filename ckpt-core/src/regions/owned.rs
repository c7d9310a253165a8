//! Arrays that are named once and from then on saved and restored together.

use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Index, IndexMut};

use super::commit::{Pending, Report, Transaction};
use super::element::Element;
use super::store::{Restored, Store};
use super::version::Rank;
use crate::error::{Error, ErrorKind, Result};

/// What a [`Regions`] may own: arrays, which come back as long as they were saved, and single values.
trait Owned: Any + Send {
    fn add<'d>(&'d self, name: &str, next: &mut Transaction<'_, 'd>) -> Result<()>;
    fn read(&mut self, name: &str, from: &Rank) -> Result<()>;
}

impl<T: Element + Send> Owned for Vec<T> {
    fn add<'d>(&'d self, name: &str, next: &mut Transaction<'_, 'd>) -> Result<()> {
        next.add(name, self).map(drop)
    }

    fn read(&mut self, name: &str, from: &Rank) -> Result<()> {
        if from.region(name)?.elements() == Some(self.len() as u64) {
            return from.read(name, self);
        }
        *self = from.read_vec(name)?;
        Ok(())
    }
}

/// A single value.
struct Single<T>(T);

impl<T: Element + Send> Owned for Single<T> {
    fn add<'d>(&'d self, name: &str, next: &mut Transaction<'_, 'd>) -> Result<()> {
        next.add_value(name, self.0).map(drop)
    }

    fn read(&mut self, name: &str, from: &Rank) -> Result<()> {
        self.0 = from.value(name)?;
        Ok(())
    }
}

/// Named arrays and values that a program has given into its care; a [`Handle`] leads to each. They may grow and
/// shrink.
///
/// ```
/// use ckpt_core::regions::{Options, Regions, Store};
/// # let folder = tempfile::tempdir().unwrap();
/// # let dir = folder.path();
///
/// let mut regions = Regions::new();
/// let field = regions.protect("field", vec![0.0f64; 100])?;
/// let step = regions.protect_value("step", 0u64)?;
/// let mut store = Store::open(dir, "solver", Options::default())?;
/// regions.restore(&mut store)?;
/// while regions[step] < 10 {
///     regions[field].push(1.5);
///     regions[step] += 1;
///     regions.save(&mut store, regions[step])?;
/// }
/// # regions[field].clear();
/// assert_eq!(regions.restore(&mut store)?.map(|restored| restored.version), Some(10));
/// assert_eq!(regions[field].len(), 110);
/// # Ok::<(), ckpt_core::Error>(())
/// ```
#[derive(Default)]
pub struct Regions {
    all: Vec<(String, Box<dyn Owned>)>,
}

impl fmt::Debug for Regions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all.iter().map(|(name, _)| name)).finish()
    }
}

/// Leads to an array or value of the [`Regions`] that has given it out. Used with another one it panics, or leads
/// to something else of the same type.
pub struct Handle<T> {
    index: usize,
    kind: PhantomData<fn() -> T>,
}

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Handle<T> {}

impl<T> fmt::Debug for Handle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "region {}", self.index)
    }
}

impl Regions {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes an array into care.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Usage`] if there is one of that name already.
    pub fn protect<T: Element + Send>(
        &mut self,
        name: &str,
        elements: Vec<T>,
    ) -> Result<Handle<Vec<T>>> {
        self.push(name, Box::new(elements))
    }

    /// Takes a single value into care.
    ///
    /// # Errors
    ///
    /// As of [`Self::protect`].
    pub fn protect_value<T: Element + Send>(&mut self, name: &str, value: T) -> Result<Handle<T>> {
        self.push(name, Box::new(Single(value)))
    }

    fn push<T>(&mut self, name: &str, owned: Box<dyn Owned>) -> Result<Handle<T>> {
        if self.all.iter().any(|(other, _)| other == name) {
            let what = format!("there are two regions named {name:?}");
            return Err(Error::new(ErrorKind::Usage, what));
        }
        self.all.push((name.to_owned(), owned));
        Ok(Handle { index: self.all.len() - 1, kind: PhantomData })
    }

    fn begin<'s, 'd>(&'d self, store: &'s mut Store, version: u64) -> Result<Transaction<'s, 'd>> {
        let mut next = store.begin(version)?;
        for (name, owned) in &self.all {
            owned.add(name, &mut next)?;
        }
        Ok(next)
    }

    /// Writes all as a version, and returns when it is durable.
    ///
    /// # Errors
    ///
    /// As of [`Store::begin`] and [`Transaction::commit`].
    pub fn save(&self, store: &mut Store, version: u64) -> Result<Report> {
        self.begin(store, version)?.commit()
    }

    /// Copies all, and writes the copy meanwhile; see [`Transaction::commit_async`].
    ///
    /// # Errors
    ///
    /// As of [`Store::begin`] and [`Transaction::commit_async`].
    pub fn save_async(&self, store: &mut Store, version: u64) -> Result<Pending> {
        self.begin(store, version)?.commit_async()
    }

    /// Reads all from the newest version that is whole; see [`Store::restore`].
    ///
    /// # Errors
    ///
    /// As there. Some of them may have been read already then.
    pub fn restore(&mut self, store: &mut Store) -> Result<Option<Restored>> {
        store.restore(|version| self.read(version.own()?))
    }

    /// Reads all from what a rank has saved.
    ///
    /// # Errors
    ///
    /// As of [`Rank::read`]. Some of them may have been read already then.
    pub fn read(&mut self, from: &Rank) -> Result<()> {
        self.all.iter_mut().try_for_each(|(name, owned)| owned.read(name, from))
    }
}

impl<T: Element + Send> Index<Handle<Vec<T>>> for Regions {
    type Output = Vec<T>;

    fn index(&self, handle: Handle<Vec<T>>) -> &Vec<T> {
        let owned: &dyn Any = &*self.all[handle.index].1;
        owned.downcast_ref().expect(STRANGE)
    }
}

impl<T: Element + Send> IndexMut<Handle<Vec<T>>> for Regions {
    fn index_mut(&mut self, handle: Handle<Vec<T>>) -> &mut Vec<T> {
        let owned: &mut dyn Any = &mut *self.all[handle.index].1;
        owned.downcast_mut().expect(STRANGE)
    }
}

impl<T: Element + Send> Index<Handle<T>> for Regions {
    type Output = T;

    fn index(&self, handle: Handle<T>) -> &T {
        let owned: &dyn Any = &*self.all[handle.index].1;
        &owned.downcast_ref::<Single<T>>().expect(STRANGE).0
    }
}

impl<T: Element + Send> IndexMut<Handle<T>> for Regions {
    fn index_mut(&mut self, handle: Handle<T>) -> &mut T {
        let owned: &mut dyn Any = &mut *self.all[handle.index].1;
        &mut owned.downcast_mut::<Single<T>>().expect(STRANGE).0
    }
}

const STRANGE: &str = "the handle is of other regions";
