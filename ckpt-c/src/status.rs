//! What became of a call.

use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::fmt::Display;

use ckpt_core::{Error, ErrorKind, Result};

/// What became of a call; the numbers are those with which the commands exit (sysexits.h).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ckpt_status {
    /// All is well.
    CKPT_OK = 0,
    /// The request itself makes no sense.
    CKPT_USAGE = 64,
    /// An image is damaged or not ours.
    CKPT_DAMAGED = 65,
    /// There is no such thing.
    CKPT_NOT_FOUND = 66,
    /// Something cannot be saved or brought back here.
    CKPT_UNSUPPORTED = 69,
    /// A defect of ckpt.
    CKPT_INTERNAL = 70,
    /// The kernel refused something it should not have.
    CKPT_OS = 71,
    /// A file could not be read or written, no space among others.
    CKPT_IO = 74,
    /// It may work on another try.
    CKPT_BUSY = 75,
    /// Permission denied.
    CKPT_PERMISSION = 77,
}

use ckpt_status::*;

fn status_of(kind: ErrorKind) -> ckpt_status {
    match kind.exit_code() {
        64 => CKPT_USAGE,
        65 => CKPT_DAMAGED,
        66 => CKPT_NOT_FOUND,
        69 => CKPT_UNSUPPORTED,
        71 => CKPT_OS,
        74 => CKPT_IO,
        75 => CKPT_BUSY,
        77 => CKPT_PERMISSION,
        _ => CKPT_INTERNAL,
    }
}

thread_local! {
    static WORDS: RefCell<CString> = RefCell::default();
}

/// What the last call of this thread that failed has said: what failed, on which object, why, and what to do.
/// Never NULL; valid until the next call of the same thread.
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_error() -> *const c_char {
    WORDS.with(|words| words.borrow().as_ptr())
}

/// The version of the library: "0.1.0".
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

fn remember(words: &impl Display) {
    let words = words.to_string().replace('\0', " ");
    WORDS.with(|place| *place.borrow_mut() = CString::new(words).unwrap_or_default());
}

/// Says what became of it.
pub(crate) fn told(result: Result<()>) -> ckpt_status {
    match result {
        Ok(()) => CKPT_OK,
        Err(error) => {
            remember(&error);
            status_of(error.kind())
        }
    }
}

pub(crate) fn usage(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Usage, what)
}

pub(crate) fn not_found(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::NotFound, what)
}
