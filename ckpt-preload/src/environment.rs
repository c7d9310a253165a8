//! The environment of `ckpt-restore`: the restored program still has that of its first start.

use core::ffi::c_int;

use crate::json::Source;
use crate::place::{self, FileBytes};
use crate::sys::ENOENT;
use crate::text::Put;

/// What `dmtcp_get_restart_env` gives.
pub(crate) const NOT_FOUND: c_int = -1;
const TOO_LONG: c_int = -2;
const INTERNAL_ERROR: c_int = -4;

/// A C string in the caller's memory.
struct Value {
    at: *mut u8,
    room: usize,
    cut: bool,
}

impl Put for Value {
    fn clear(&mut self) {}

    fn push(&mut self, byte: u8) {
        if self.room < 2 {
            self.cut = true;
            return;
        }
        // SAFETY: `room` is at least 2: this byte and a 0 behind it fit.
        unsafe {
            self.at.write(byte);
            self.at = self.at.add(1);
            self.at.write(0);
        }
        self.room -= 1;
    }
}

/// Looks for a variable and writes its value to `at`: always a C string, cut if it is too long.
///
/// # Safety
///
/// `name` must be the address of a C string, and `room` bytes at `at` the caller's to write to.
pub(crate) unsafe fn get(name: *const u8, at: *mut u8, room: usize) -> c_int {
    if room == 0 {
        return TOO_LONG;
    }
    // SAFETY: there is room for a byte at least.
    unsafe { at.write(0) };
    let file = match place::open(b".env\0") {
        Ok(file) => file,
        Err(ENOENT) => return NOT_FOUND,
        Err(_) => return INTERNAL_ERROR,
    };
    let mut bytes = FileBytes::new(file);
    let mut value = Value { at, room, cut: false };
    let mut length = 0;
    // SAFETY: the caller vouches for a 0, and all before it was looked at. (CStr would call strlen.)
    while unsafe { name.add(length).read() } != 0 {
        length += 1;
    }
    // SAFETY: these are the bytes that the loop went over.
    let name = unsafe { core::slice::from_raw_parts(name, length) };
    match search(name, &mut bytes, &mut value) {
        _ if bytes.failed => INTERNAL_ERROR,
        false => NOT_FOUND,
        true if value.cut => TOO_LONG,
        true => 0,
    }
}

/// Goes through entries `NAME=VALUE`, each with a 0 behind it.
fn search(name: &[u8], bytes: &mut FileBytes, value: &mut Value) -> bool {
    loop {
        let mut wanted = name.iter();
        // Up to where the entry is no longer the one that is meant.
        let mut last = bytes.next();
        while let Some(byte) = last
            && wanted.as_slice().first() == Some(&byte)
        {
            wanted.next();
            last = bytes.next();
        }
        if last == Some(b'=') && wanted.as_slice().is_empty() {
            while let Some(byte) = bytes.next().filter(|&byte| byte != 0) {
                value.push(byte);
            }
            return true;
        }
        while let Some(byte) = last
            && byte != 0
        {
            last = bytes.next();
        }
        if last.is_none() {
            return false;
        }
    }
}
