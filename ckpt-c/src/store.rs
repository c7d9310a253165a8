//! Named arrays of the program: protect, save, load.

use std::collections::BTreeMap;
use std::ffi::{CString, c_char, c_void};

use ckpt_core::image::Level;
use ckpt_core::regions::{
    Keep, Kind, Options, Pending, Rank, Region, Restored, Store, Transaction, Version,
};
use ckpt_core::{Error, ErrorKind, Result};

use crate::arguments::{array, handle, put, room, text};
use crate::status::{ckpt_status, told, usage};

/// Compressed as hard as keeps the disk busy; for ckpt_options.level.
pub const CKPT_LEVEL_AUTO: i32 = 1000;
/// Higher than any version: the newest one is meant.
pub const CKPT_NEWEST: u64 = 9_223_372_036_854_775_807;
/// Dimensions of an array, at most.
pub const CKPT_MAX_DIMS: usize = 16;

/// What an array is made of. Numbers are little-endian.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ckpt_kind {
    /// Bytes of which nothing else is known; also structures of the program's own.
    CKPT_BYTES = 0,
    /// Signed integers.
    CKPT_SIGNED = 1,
    /// Unsigned integers.
    CKPT_UNSIGNED = 2,
    /// IEEE 754 floating point numbers.
    CKPT_FLOAT = 3,
}

fn kind_of(number: u32) -> Result<Kind> {
    match number {
        0 => Ok(Kind::Bytes),
        1 => Ok(Kind::Signed),
        2 => Ok(Kind::Unsigned),
        3 => Ok(Kind::Float),
        _ => Err(usage(format!("{number} is no ckpt_kind"))),
    }
}

/// How a store works. ckpt_options_init() fills in the usual.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ckpt_options {
    /// sizeof(ckpt_options), by which a later library knows an earlier program.
    pub size: usize,
    /// zstd's, from -7 to 22; 0 stores the bytes as they are, or CKPT_LEVEL_AUTO.
    pub level: i32,
    /// Threads that compress and decompress; 0: one a core.
    pub workers: u32,
    /// How many earlier versions one may refer to for what has not changed.
    pub increments: u32,
    /// How many of the newest versions are kept, at least 1.
    pub keep: u32,
    /// And each whose number this divides; 0: no others.
    pub keep_every: u64,
    /// Which rank we are, from 0.
    pub rank: u32,
    /// Of how many.
    pub ranks: u32,
}

/// An array in a version.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ckpt_region {
    /// Its name; valid until the next call with the same store.
    pub name: *const c_char,
    /// A ckpt_kind.
    pub kind: u32,
    /// Bytes of an element.
    pub size: u32,
    /// Elements in all.
    pub elements: u64,
    /// Dimensions, the slowest first; the rest are 0. A single value has none.
    pub dims: usize,
    /// Elements along each.
    pub shape: [u64; CKPT_MAX_DIMS],
}

/// A protected array.
struct Protected {
    region: Region,
    data: *mut c_void,
}

/// A program's versions in a directory.
pub struct ckpt_store {
    store: Store,
    protected: BTreeMap<String, Protected>,
    pending: Option<Pending>,
    /// The version that was looked at last.
    version: Option<Version>,
    name: CString,
    passed_over: usize,
}

pub(crate) fn options(given: Option<&ckpt_options>) -> Result<Options> {
    let usual = Options::default();
    let Some(given) = given else { return Ok(usual) };
    if given.size != size_of::<ckpt_options>() {
        let what = format!("ckpt_options of {} bytes are of another version", given.size);
        return Err(usage(what).help("set them by ckpt_options_init()"));
    }
    let level = match given.level {
        CKPT_LEVEL_AUTO => Level::Auto,
        level => level.to_string().parse().map_err(|why| usage(format!("level {level}: {why}")))?,
    };
    Ok(Options {
        level,
        workers: given.workers as usize,
        increments: given.increments as usize,
        keep: Keep {
            newest: given.keep as usize,
            every: Some(given.keep_every).filter(|&every| every > 0),
        },
        rank: given.rank,
        ranks: given.ranks,
    })
}

/// Sets the usual options: level 3, a thread a core, 8 increments, 2 versions, rank 0 of 1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_options_init(options: *mut ckpt_options) -> ckpt_status {
    let usual = Options::default();
    let level = match usual.level {
        Level::Fixed(level) => level,
        Level::Auto => CKPT_LEVEL_AUTO,
    };
    let value = ckpt_options {
        size: size_of::<ckpt_options>(),
        level,
        workers: usual.workers as u32,
        increments: usual.increments as u32,
        keep: usual.keep.newest as u32,
        keep_every: usual.keep.every.unwrap_or(0),
        rank: usual.rank,
        ranks: usual.ranks,
    };
    // SAFETY: C's word: a place for options.
    told(unsafe { put(options, value, "options") })
}

/// Opens the store of this name in a directory, which is made if there is none. `options` may be NULL for the
/// usual ones. Close it with ckpt_close().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_open(
    dir: *const c_char,
    name: *const c_char,
    options: *const ckpt_options,
    store: *mut *mut ckpt_store,
) -> ckpt_status {
    // SAFETY: C's word: two strings, options or NULL, a place for a handle.
    told(unsafe {
        text(dir, "dir").and_then(|dir| {
            let name = text(name, "name")?;
            let opened = Store::open(dir, name, self::options(options.as_ref())?)?;
            let new = ckpt_store {
                store: opened,
                protected: BTreeMap::new(),
                pending: None,
                version: None,
                name: CString::default(),
                passed_over: 0,
            };
            if store.is_null() {
                return Err(usage("store is NULL"));
            }
            put(store, Box::into_raw(Box::new(new)), "store")
        })
    })
}

/// Waits until a version that is being written is durable, and closes the store. NULL is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_close(store: *mut ckpt_store) {
    if !store.is_null() {
        // SAFETY: C's word: it came from ckpt_open() and is not used again.
        drop(unsafe { Box::from_raw(store) });
    }
}

/// From now on the array is part of each version, under this name, until ckpt_unprotect(). `kind` is a
/// ckpt_kind, `size` the bytes of an element, `shape` the number of elements along `dims` dimensions, the slowest
/// first (none for a single value). Called again with the same name, the array has moved or grown.
///
/// It must stay where it is until it is unprotected or protected anew, and nobody may write to it during
/// ckpt_save(), ckpt_save_async() and ckpt_load().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_protect(
    store: *mut ckpt_store,
    name: *const c_char,
    kind: u32,
    size: u32,
    shape: *const u64,
    dims: usize,
    data: *mut c_void,
) -> ckpt_status {
    // SAFETY: C's word: a handle, a string, an array.
    told(unsafe {
        handle(store, "store").and_then(|store| {
            let (name, shape) = (text(name, "name")?, array(shape, dims, "shape")?);
            if dims > CKPT_MAX_DIMS {
                return Err(usage(format!("{dims} dimensions are too many")));
            }
            let (name, kind, shape) = (name.to_owned(), kind_of(kind)?, shape.to_vec());
            let region = Region { name: name.clone(), kind, size, shape };
            match region.bytes().map(|bytes| (bytes, isize::try_from(bytes))) {
                Some((bytes, Ok(_))) if bytes == 0 || !data.is_null() => {}
                Some((_, Ok(_))) => return Err(usage(format!("{region}: data is NULL"))),
                _ => return Err(usage(format!("{region}: no memory is as large"))),
            }
            store.protected.insert(name, Protected { region, data });
            Ok(())
        })
    })
}

/// The array is no part of later versions.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_unprotect(
    store: *mut ckpt_store,
    name: *const c_char,
) -> ckpt_status {
    // SAFETY: C's word: a handle, a string.
    told(unsafe {
        handle(store, "store").and_then(|store| {
            let name = text(name, "name")?;
            let gone = store.protected.remove(name).map(drop);
            gone.ok_or_else(|| not_found(format!("no array {name:?} is protected")))
        })
    })
}

fn not_found(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::NotFound, what)
}

/// Refuses what was saved otherwise than it is protected, or not at all.
fn fits(saved: &Rank, region: &Region) -> Result<()> {
    let Ok(there) = saved.region(&region.name) else {
        let what = format!("{region} is protected, and was not saved");
        return Err(usage(what).help("unprotect what later versions have only, and load again"));
    };
    if (there.kind, there.size, there.elements()) == (region.kind, region.size, region.elements()) {
        return Ok(());
    }
    let what = format!("{there} is what was saved, and this was protected: {region}");
    Err(usage(what).help("ckpt_describe() tells how large it was; protect one of the same size"))
}

impl ckpt_store {
    /// A version of all that is protected, or of those that are wanted.
    ///
    /// # Safety
    ///
    /// The arrays are where they were said to be.
    pub(crate) unsafe fn save(
        &mut self,
        version: u64,
        is_wanted: impl Fn(&str) -> bool,
        finish: impl FnOnce(Transaction<'_, '_>) -> Result<Option<Pending>>,
    ) -> Result<()> {
        self.finished()?;
        // It would keep files open that are removed now.
        self.version = None;
        let mut next = self.store.begin(version)?;
        for Protected { region, data } in
            self.protected.values().filter(|it| is_wanted(&it.region.name))
        {
            // SAFETY: what ckpt_protect() demands: there are so many bytes, and nobody writes to them meanwhile.
            let bytes =
                unsafe { array(data.cast::<u8>(), region.bytes().unwrap_or(0) as usize, "data") }?;
            next.add_bytes(region.clone(), bytes)?;
        }
        self.pending = finish(next)?;
        Ok(())
    }

    /// Waits for what is being written.
    pub(crate) fn finished(&mut self) -> Result<()> {
        self.pending.take().map_or(Ok(()), |pending| pending.wait().map(drop))
    }

    pub(crate) fn is_over(&self) -> bool {
        self.pending.as_ref().is_none_or(Pending::is_over)
    }

    /// Reads those protected arrays that are wanted, from the newest version up to `limit`.
    ///
    /// # Safety
    ///
    /// As of [`Self::save`].
    pub(crate) unsafe fn load(
        &mut self,
        limit: u64,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Result<u64> {
        // What came of it was told, or is of no interest any more.
        let _ = self.finished();
        self.version = None;
        let limit = if limit >= CKPT_NEWEST { u64::MAX } else { limit };
        let protected: Vec<&Protected> =
            self.protected.values().filter(|it| is_wanted(&it.region.name)).collect();
        let restored = self.store.restore_up_to(limit, |version| {
            let saved = version.own()?;
            // Nothing is written to before all are known to fit.
            protected.iter().try_for_each(|it| fits(saved, &it.region))?;
            for Protected { region, data } in &protected {
                // SAFETY: as in `save`.
                let into = unsafe { room(*data, region.bytes().unwrap_or(0) as usize, "data") }?;
                saved.read_bytes(&region.name, 0, into)?;
            }
            Ok(())
        })?;
        let Restored { version, passed_over } =
            restored.ok_or_else(|| not_found("there is no version that all ranks have"))?;
        self.passed_over = passed_over.len();
        Ok(version)
    }

    pub(crate) fn latest(&self, limit: u64) -> Result<Option<u64>> {
        Ok(self.store.versions()?.into_iter().find(|version| *version <= limit))
    }

    /// What a rank has saved.
    pub(crate) fn saved(&mut self, version: u64, rank: u32) -> Result<&Rank> {
        if self.version.as_ref().is_none_or(|it| it.number() != version) {
            self.version = Some(self.store.version(version)?);
        }
        self.version.as_ref().ok_or_else(|| not_found("there is no such version"))?.rank(rank)
    }

    fn described(&mut self, region: Region) -> Result<ckpt_region> {
        if region.shape.len() > CKPT_MAX_DIMS {
            let what = format!("{region}: that has more dimensions than {CKPT_MAX_DIMS}");
            return Err(Error::new(ErrorKind::Unsupported, what));
        }
        self.name = CString::new(region.name.replace('\0', " ")).unwrap_or_default();
        let mut shape = [0; CKPT_MAX_DIMS];
        shape[..region.shape.len()].copy_from_slice(&region.shape);
        let kind = match region.kind {
            Kind::Bytes => ckpt_kind::CKPT_BYTES,
            Kind::Signed => ckpt_kind::CKPT_SIGNED,
            Kind::Unsigned => ckpt_kind::CKPT_UNSIGNED,
            Kind::Float => ckpt_kind::CKPT_FLOAT,
        };
        let elements = region.elements().unwrap_or(u64::MAX);
        let (name, kind, dims) = (self.name.as_ptr(), kind as u32, region.shape.len());
        Ok(ckpt_region { name, kind, size: region.size, elements, dims, shape })
    }
}

/// Writes all protected arrays as a version, whose number is higher than the one before; returns when it is
/// durable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_save(store: *mut ckpt_store, version: u64) -> ckpt_status {
    // SAFETY: C's word: a handle, and arrays as they were protected.
    told(unsafe {
        handle(store, "store")
            .and_then(|store| store.save(version, |_| true, |next| next.commit().map(|_| None)))
    })
}

/// Copies all protected arrays, and writes the copy meanwhile: they may be written to as soon as this returns.
/// It is durable when ckpt_wait() has said so. Waits for one that is being written already, and fails if that
/// did.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_save_async(store: *mut ckpt_store, version: u64) -> ckpt_status {
    // SAFETY: C's word: a handle, and arrays as they were protected.
    told(unsafe {
        handle(store, "store")
            .and_then(|store| store.save(version, |_| true, |next| next.commit_async().map(Some)))
    })
}

/// Waits until what ckpt_save_async() has begun is durable, or tells why it will never be.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_wait(store: *mut ckpt_store) -> ckpt_status {
    // SAFETY: C's word: a handle.
    told(unsafe { handle(store, "store") }.and_then(ckpt_store::finished))
}

/// Whether ckpt_wait() would return at once: 1, or 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_is_over(store: *mut ckpt_store) -> i32 {
    // SAFETY: C's word: a handle.
    i32::from(unsafe { store.as_ref() }.is_none_or(ckpt_store::is_over))
}

/// The newest version up to `limit` (CKPT_NEWEST) that all ranks have; CKPT_NOT_FOUND if there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_latest(
    store: *mut ckpt_store,
    limit: u64,
    version: *mut u64,
) -> ckpt_status {
    // SAFETY: C's word: a handle, a place for a number.
    told(unsafe {
        handle(store, "store").and_then(|store| {
            let latest = store.latest(limit)?;
            put(version, latest.ok_or_else(|| not_found("there is no version"))?, "version")
        })
    })
}

/// Reads all protected arrays from the newest version up to `limit` (CKPT_NEWEST), and tells which that was. A
/// damaged one is set aside, and the one before it is read (ckpt_passed_over() tells how many). CKPT_NOT_FOUND if
/// there is none; CKPT_USAGE, with nothing written to, if an array was not saved, or is of another size now, or the
/// version is of another number of ranks (ckpt_read() reads any rank's). `loaded` may be NULL.
///
/// What our rank has of newer versions is removed, as it is of a past that is given up. Ranks do not hear of each
/// other: let them compare what they have loaded, and those with a higher version load the lowest; none may save
/// before all have loaded.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_load(
    store: *mut ckpt_store,
    limit: u64,
    loaded: *mut u64,
) -> ckpt_status {
    // SAFETY: C's word: a handle, arrays as they were protected, a place for a number or NULL.
    told(unsafe {
        handle(store, "store").and_then(|store| {
            let version = store.load(limit, |_| true)?;
            if loaded.is_null() { Ok(()) } else { put(loaded, version, "loaded") }
        })
    })
}

/// How many damaged versions the last ckpt_load() has passed over.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_passed_over(store: *mut ckpt_store) -> usize {
    // SAFETY: C's word: a handle.
    unsafe { store.as_ref() }.map_or(0, |store| store.passed_over)
}

/// Looks at every byte of our own rank's image of a version, and takes it out of the way (*.bad) if it is damaged, as
/// ckpt_read() may have said. ckpt_load() does so by itself.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_set_aside(store: *mut ckpt_store, version: u64) -> ckpt_status {
    // SAFETY: C's word: a handle.
    told(unsafe { handle(store, "store") }.and_then(|store| {
        store.version = None;
        store.store.set_aside(version)
    }))
}

/// How many ranks have made a version.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_ranks(
    store: *mut ckpt_store,
    version: u64,
    ranks: *mut u32,
) -> ckpt_status {
    // SAFETY: C's word: a handle, a place for a number.
    told(unsafe {
        handle(store, "store").and_then(|store| {
            store.saved(version, 0)?;
            put(ranks, store.version.as_ref().map_or(0, Version::ranks), "ranks")
        })
    })
}

/// The array of this name that a rank has saved in a version.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_describe(
    store: *mut ckpt_store,
    version: u64,
    rank: u32,
    name: *const c_char,
    region: *mut ckpt_region,
) -> ckpt_status {
    // SAFETY: C's word: a handle, a string, a place for a region.
    told(unsafe {
        handle(store, "store").and_then(|store| {
            let found = store.saved(version, rank)?.region(text(name, "name")?)?.clone();
            put(region, store.described(found)?, "region")
        })
    })
}

/// The arrays that a rank has saved in a version, by their number from 0; CKPT_NOT_FOUND behind the last.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_region_at(
    store: *mut ckpt_store,
    version: u64,
    rank: u32,
    index: usize,
    region: *mut ckpt_region,
) -> ckpt_status {
    // SAFETY: C's word: a handle, a place for a region.
    told(unsafe {
        handle(store, "store").and_then(|store| {
            let found = store.saved(version, rank)?.regions().get(index).cloned();
            let found =
                found.ok_or_else(|| not_found(format!("there is no array number {index}")))?;
            put(region, store.described(found)?, "region")
        })
    })
}

/// Reads `count` elements of an array that a rank has saved in a version, from the one numbered `first` on. `kind`
/// and `size` must be those of the array.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_read(
    store: *mut ckpt_store,
    version: u64,
    rank: u32,
    name: *const c_char,
    kind: u32,
    size: u32,
    first: u64,
    count: u64,
    into: *mut c_void,
) -> ckpt_status {
    // SAFETY: C's word: a handle, a string, room for so many elements.
    told(unsafe {
        handle(store, "store").and_then(|store| {
            let (name, kind, saved) =
                (text(name, "name")?, kind_of(kind)?, store.saved(version, rank)?);
            let region = saved.region(name)?;
            if (region.kind, region.size) != (kind, size) {
                return Err(usage(format!("{region}, not {kind:?} of {size} bytes")));
            }
            let end = first.checked_add(count);
            if end.is_none() || end > region.elements() {
                return Err(usage(format!(
                    "{region}: there are no {count} elements from {first} on"
                )));
            }
            let size = u64::from(size);
            saved.read_bytes(name, first * size, room(into, (count * size) as usize, "into")?)
        })
    })
}
