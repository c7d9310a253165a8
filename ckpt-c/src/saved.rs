//! What there is in a version, of whichever rank: described and read.

use std::ffi::{CString, c_char, c_void};

use ckpt_core::regions::{Kind, Region, Version};
use ckpt_core::{Error, ErrorKind, Result};

use crate::arguments::{handle, put, room, text};
use crate::status::{ckpt_status, not_found, told, usage};
use crate::store::{ckpt_kind, ckpt_store, kind_of};

/// Dimensions of an array, at most.
pub const CKPT_MAX_DIMS: usize = 16;

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

impl ckpt_store {
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
