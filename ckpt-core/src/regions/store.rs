//! A program's versions in a directory.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use super::catalog::Catalog;
use super::commit::Transaction;
use super::place::Place;
use super::staging::Staging;
use super::version::{Rank, Version};
use crate::capture::INCREMENTS;
use crate::error::{Error, ErrorKind, Result};
use crate::image::{Directory, Entry, ImageId, Level, Reader};
use crate::job::JobId;
use crate::program::defer;
use crate::progress::Silent;

/// Which versions are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// So many of the newest that all ranks have; at least 1.
    pub newest: usize,
    /// And each whose number this divides.
    pub every: Option<u64>,
}

/// How a store works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// How hard blocks are compressed.
    pub level: Level,
    /// Threads that compress and decompress; 0 means one a core.
    pub workers: usize,
    /// How many earlier versions one may refer to for what has not changed; 0 makes each complete by
    /// itself.
    pub increments: usize,
    /// Which versions are kept.
    pub keep: Keep,
    /// Which rank we are, from 0.
    pub rank: u32,
    /// Of how many.
    pub ranks: u32,
}

impl Default for Options {
    fn default() -> Self {
        let keep = Keep { newest: 2, every: None };
        Self {
            level: Level::default(),
            workers: 0,
            increments: INCREMENTS,
            keep,
            rank: 0,
            ranks: 1,
        }
    }
}

/// A program's versions in a directory.
#[derive(Debug)]
pub struct Store {
    pub(super) place: Place,
    /// The version that the next one follows.
    pub(super) newest: Option<u64>,
    /// Where arrays are copied to.
    pub(super) staging: Staging,
    /// The one that is being written.
    pub(super) running: Option<JoinHandle<()>>,
}

/// What [`Store::restore`] did.
#[derive(Debug)]
pub struct Restored {
    /// The version that was read.
    pub version: u64,
    /// Newer ones that turned out to be damaged.
    pub passed_over: Vec<PassedOver>,
}

/// A version that is damaged; its image was set aside (`*.bad`).
#[derive(Debug)]
pub struct PassedOver {
    /// Its number.
    pub version: u64,
    /// Why.
    pub error: Error,
}

impl Store {
    /// Opens the store of this name in a directory, which is made (mode 0700) if there is none.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Usage`] for an empty name or a rank that cannot be, otherwise what mkdir(2) says.
    pub fn open(dir: impl AsRef<Path>, name: &str, options: Options) -> Result<Self> {
        if name.is_empty() {
            return Err(Error::new(ErrorKind::Usage, "a store needs a name"));
        }
        if options.rank >= options.ranks {
            let what = format!("there is no rank {} of {}", options.rank, options.ranks);
            return Err(Error::new(ErrorKind::Usage, what));
        }
        let dir: PathBuf = std::path::absolute(dir.as_ref())
            .map_err(|e| Error::os("cannot tell which directory is meant", e))?;
        let place = Place { dir, name: name.to_owned(), options };
        let entries = place.directory()?.images()?;
        let newest = place.versions(&entries, options.rank).into_iter().max();
        Ok(Self { place, newest, staging: Staging::default(), running: None })
    }

    /// How it works.
    pub fn options(&self) -> Options {
        self.place.options
    }

    /// The versions that all ranks have, the newest first. Their blocks are not looked at.
    ///
    /// # Errors
    ///
    /// The directory cannot be listed, or an image in it not be read for another reason than damage.
    pub fn versions(&self) -> Result<Vec<u64>> {
        let directory = self.place.directory()?;
        let whole = whole(&self.place, &directory.images()?)?;
        Ok(whole.into_iter().map(|(version, _)| version).collect())
    }

    /// The newest version that all ranks have. Damage to its blocks is found when they are read
    /// ([`Store::restore`] goes on to the one before then).
    ///
    /// # Errors
    ///
    /// The directory cannot be listed.
    pub fn latest(&self) -> Result<Option<Version>> {
        let newest = self.versions()?.first().copied();
        newest.map(|version| self.version(version)).transpose()
    }

    /// This version.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if not all ranks have it, [`ErrorKind::Damaged`] if an image is not whole.
    pub fn version(&self, number: u64) -> Result<Version> {
        Version::open(&self.place, number)
    }

    /// Lets `take` read from the newest version. If that is damaged, it is set aside, and `take` is
    /// called again with the one before; so it must not mind what it has read already. `None` if there
    /// is no version. What our own rank has of newer ones is removed: it is of a past that is given up. (To
    /// look at a version without that there is [`Store::version`].)
    ///
    /// Ranks do not hear of each other: if there are several, let them compare the versions that they have
    /// read, and those that have a higher one, since others have found damage, call [`Store::restore_up_to`] with the
    /// lowest. No rank may begin a version before all have restored, or parts of two pasts might be taken for
    /// a whole. Collective communication of the program does that by itself.
    ///
    /// # Errors
    ///
    /// What `take` says, unless it is [`ErrorKind::Damaged`]; that if no version is whole.
    pub fn restore(
        &mut self,
        take: impl FnMut(&Version) -> Result<()>,
    ) -> Result<Option<Restored>> {
        self.restore_up_to(u64::MAX, take)
    }

    /// The same with versions up to `limit`.
    ///
    /// # Errors
    ///
    /// As of [`Self::restore`].
    pub fn restore_up_to(
        &mut self,
        limit: u64,
        mut take: impl FnMut(&Version) -> Result<()>,
    ) -> Result<Option<Restored>> {
        let _section = defer();
        self.wait();
        let directory = self.place.directory()?;
        let mut passed_over: Vec<PassedOver> = Vec::new();
        for (number, _) in found(&self.place, &directory.images()?)? {
            if number > limit {
                continue;
            }
            let read = self.version(number).and_then(|version| take(&version));
            match read {
                Ok(()) => {
                    give_up(&self.place, &directory, number.saturating_add(1))?;
                    self.newest = Some(number);
                    return Ok(Some(Restored { version: number, passed_over }));
                }
                Err(error) if error.kind() == ErrorKind::Damaged => {
                    tracing::warn!(version = number, %error, "damaged; the one before it is tried");
                    self.set_aside(number)?;
                    passed_over.push(PassedOver { version: number, error });
                }
                Err(error) => return Err(error),
            }
        }
        match passed_over.into_iter().next() {
            Some(first) => Err(first.error),
            // A version that not all ranks have is none.
            None => {
                if limit == u64::MAX {
                    give_up(&self.place, &directory, 0)?;
                }
                self.newest = None;
                Ok(None)
            }
        }
    }

    /// Begins a version; its number must be higher than that of the one before, or of the one that was
    /// restored.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Usage`] if it is not.
    pub fn begin<'d>(&mut self, version: u64) -> Result<Transaction<'_, 'd>> {
        self.wait();
        if let Some(newest) = self.newest.filter(|newest| version <= *newest) {
            let what = format!("version {version} cannot follow {newest}");
            return Err(Error::new(ErrorKind::Usage, what).help("numbers of versions go up"));
        }
        Ok(Transaction::new(self, version))
    }

    /// Waits until the version that is being written is durable or has failed.
    pub(super) fn wait(&mut self) {
        if let Some(running) = self.running.take() {
            // What came of it is told to whoever has the `Pending`.
            let _ = running.join();
        }
    }

    /// Looks at every byte of our own image of a version, and takes it out of the way (`*.bad`) if it is damaged.
    /// [`Store::restore`] does so by itself.
    ///
    /// # Errors
    ///
    /// What rename(2) says.
    pub fn set_aside(&self, version: u64) -> Result<()> {
        let path = self.place.dir.join(self.place.file_name(version));
        let seen = Reader::open(&path).and_then(|image| image.verify(&Silent, 1));
        match seen.and_then(|_| Rank::open(&Reader::open(&path)?, 1)) {
            Err(error) if error.kind() == ErrorKind::Damaged => {
                self.place.directory()?.set_aside(&path).map(drop)
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.wait();
    }
}

/// The versions that all ranks have, the newest first, with the number of ranks; `None` of one whose first
/// image is damaged.
///
/// # Errors
///
/// An image cannot be read for another reason: then it is not known what there is.
fn found(place: &Place, entries: &[Entry]) -> Result<Vec<(u64, Option<u32>)>> {
    let of_first = place.id_of(0);
    let mut found = Vec::new();
    let mut has: Vec<HashSet<u64>> = Vec::new();
    for entry in entries.iter().filter(|it| it.job() == Some(of_first) && it.is_trusted()) {
        let Some(version) = entry.generation() else { continue };
        let catalog = match Reader::open(&entry.path).and_then(|image| Catalog::of(&image)) {
            Ok(catalog) => catalog,
            Err(error) if error.kind() == ErrorKind::Damaged => {
                found.push((version, None));
                continue;
            }
            // Another rank has removed it meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        // Each of them would have an image here.
        if catalog.ranks as usize > entries.len() {
            continue;
        }
        while has.len() < catalog.ranks as usize {
            has.push(place.versions(entries, has.len() as u32).into_iter().collect());
        }
        if has[..catalog.ranks as usize].iter().all(|versions| versions.contains(&version)) {
            found.push((version, Some(catalog.ranks)));
        }
    }
    found.sort_unstable_by(|one, other| other.cmp(one));
    found.dedup_by_key(|(version, _)| *version);
    Ok(found)
}

/// Those of them that can be read.
pub(super) fn whole(place: &Place, entries: &[Entry]) -> Result<Vec<(u64, u32)>> {
    let found = found(place, entries)?.into_iter();
    Ok(found.filter_map(|(version, ranks)| Some((version, ranks?))).collect())
}

/// Removes our own images of a version and of later ones: after a restart from an earlier one they are of a
/// past that was given up.
///
/// # Errors
///
/// What getdents(2) and unlink(2) say.
pub(super) fn give_up(place: &Place, directory: &Directory, version: u64) -> Result<()> {
    let entries = directory.images()?;
    let its = entries.iter().filter(|it| it.job() == Some(place.id()) && it.is_trusted());
    // The newest first: no image ever lacks what it needs.
    for entry in its.filter(|it| it.generation().is_some_and(|its| its >= version)) {
        directory.remove(entry)?;
    }
    Ok(())
}

/// Removes our own images that are not to be kept. One that all ranks have stays until there are
/// enough newer ones of that kind: others may be behind. The first rank looks after those that are no more.
///
/// # Errors
///
/// What getdents(2) and unlink(2) say.
pub(super) fn prune(place: &Place, directory: &Directory) -> Result<()> {
    let Keep { newest, every } = place.options.keep;
    let entries = directory.images()?;
    let whole = whole(place, &entries)?;
    let Some((oldest, _)) = whole.get(newest.max(1) - 1) else { return Ok(()) };
    let is_kept = |version: u64| {
        version >= *oldest || every.is_some_and(|every| every > 0 && version.is_multiple_of(every))
    };
    let Options { rank, ranks, .. } = place.options;
    let most = whole.iter().map(|(_, ranks)| *ranks).max().unwrap_or(ranks);
    let gone = if rank == 0 { ranks..most.max(ranks) } else { 0..0 };
    let whose: HashSet<JobId> = gone.chain([rank]).map(|rank| place.id_of(rank)).collect();
    let is_its = |it: &&Entry| it.job().is_some_and(|job| whose.contains(&job)) && it.is_trusted();
    let (kept, others): (Vec<&Entry>, Vec<&Entry>) =
        entries.iter().filter(is_its).partition(|it| it.generation().is_none_or(is_kept));
    let mut needed: HashSet<ImageId> = HashSet::new();
    for entry in kept {
        needed.extend(Reader::open(&entry.path)?.needed()?.iter().map(|it| it.id));
    }
    let is_needed = |it: &Entry| it.header.as_ref().is_ok_and(|header| needed.contains(&header.id));
    for entry in others.into_iter().filter(|it| !is_needed(it)) {
        directory.remove(entry)?;
    }
    Ok(())
}
