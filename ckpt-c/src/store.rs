//! Named arrays of the program: protect, save, load.

use std::collections::BTreeMap;
use std::ffi::{CString, c_char, c_void};

use ckpt_core::Result;
use ckpt_core::regions::{Kind, Pending, Rank, Region, Restored, Store, Transaction, Version};

use crate::arguments::{array, handle, put, room, text};
use crate::options::{self, ckpt_options};
use crate::saved::CKPT_MAX_DIMS;
use crate::status::{ckpt_status, not_found, told, usage};

/// Higher than any version: the newest one is meant.
pub const CKPT_NEWEST: u64 = 9_223_372_036_854_775_807;

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

pub(crate) fn kind_of(number: u32) -> Result<Kind> {
    match number {
        0 => Ok(Kind::Bytes),
        1 => Ok(Kind::Signed),
        2 => Ok(Kind::Unsigned),
        3 => Ok(Kind::Float),
        _ => Err(usage(format!("{number} is no ckpt_kind"))),
    }
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
    pub(crate) version: Option<Version>,
    /// That of the region that was described last.
    pub(crate) name: CString,
    passed_over: usize,
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
            let opened = Store::open(dir, name, options::options(options.as_ref())?)?;
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
