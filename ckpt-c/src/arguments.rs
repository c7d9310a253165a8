//! What C hands over: strings, arrays, places for results.

use std::ffi::{CStr, c_char, c_void};

use ckpt_core::Result;

use crate::status::usage;

/// A string.
///
/// # Safety
///
/// It is NULL or ends with a zero byte, and stays as it is for as long as the result is used.
pub(crate) unsafe fn text<'a>(text: *const c_char, what: &str) -> Result<&'a str> {
    if text.is_null() {
        return Err(usage(format!("{what} is NULL")));
    }
    // SAFETY: it is not NULL; the rest is the caller's word.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map_err(|e| usage(format!("{what} is not UTF-8")).source(e))
}

/// What a handle leads to.
///
/// # Safety
///
/// It is NULL or was made by us, has not been freed, and nobody else uses it meanwhile.
pub(crate) unsafe fn handle<'a, T>(handle: *mut T, what: &str) -> Result<&'a mut T> {
    // SAFETY: the caller's word.
    unsafe { handle.as_mut() }.ok_or_else(|| usage(format!("{what} is NULL")))
}

/// A place for a result.
///
/// # Safety
///
/// It is NULL or a value of the type may be written there.
pub(crate) unsafe fn put<T>(place: *mut T, value: T, what: &str) -> Result<()> {
    if place.is_null() {
        return Err(usage(format!("{what} is NULL")));
    }
    // SAFETY: it is not NULL; the rest is the caller's word. What was there is not dropped.
    unsafe { place.write(value) };
    Ok(())
}

/// An array that is only read.
///
/// # Safety
///
/// It is NULL or has so many elements, which stay as they are for as long as the result is used.
pub(crate) unsafe fn array<'a, T>(first: *const T, count: usize, what: &str) -> Result<&'a [T]> {
    if count == 0 {
        return Ok(&[]);
    }
    if first.is_null() || isize::try_from(count.saturating_mul(size_of::<T>())).is_err() {
        return Err(usage(format!("{what} is NULL or too long")));
    }
    // SAFETY: neither NULL nor too long; the rest is the caller's word.
    Ok(unsafe { std::slice::from_raw_parts(first, count) })
}

/// Bytes that are written to.
///
/// # Safety
///
/// It is NULL or has so many bytes, which nobody else uses meanwhile.
pub(crate) unsafe fn room<'a>(
    first: *mut c_void,
    bytes: usize,
    what: &str,
) -> Result<&'a mut [u8]> {
    if bytes == 0 {
        return Ok(&mut []);
    }
    if first.is_null() || isize::try_from(bytes).is_err() {
        return Err(usage(format!("{what} is NULL or too long")));
    }
    // SAFETY: neither NULL nor too long; the rest is the caller's word. Bytes have no alignment, and any are valid.
    Ok(unsafe { std::slice::from_raw_parts_mut(first.cast(), bytes) })
}
