//! Signals that are taken note of (sigaction(2)): the handler sets a bit, and that is all.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// `1 << (signal - 1)` for each that has come.
static CAME: AtomicU64 = AtomicU64::new(0);

extern "C" fn note(signal: libc::c_int) {
    CAME.fetch_or(bit(signal), Ordering::Relaxed);
}

fn bit(signal: libc::c_int) -> u64 {
    1u64.checked_shl(signal.wrapping_sub(1).cast_unsigned()).unwrap_or_default()
}

/// Has a signal taken note of from now on, instead of what it would do by itself. Calls that it interrupts
/// begin anew (`SA_RESTART`).
///
/// # Errors
///
/// `EEXIST` if the program handles it already, `EINVAL` if there is no such signal or it cannot be caught.
pub(crate) fn catch(signal: i32) -> io::Result<()> {
    // SAFETY: zeros are a valid sigaction; the kernel fills it in.
    let mut before: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: nothing is changed; `before` is ours.
    if unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut before) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let ours = note as extern "C" fn(libc::c_int) as usize;
    if before.sa_sigaction == ours {
        return Ok(());
    }
    if before.sa_sigaction != libc::SIG_DFL && before.sa_sigaction != libc::SIG_IGN {
        return Err(io::Error::from_raw_os_error(libc::EEXIST));
    }
    // SAFETY: as above.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = ours;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: the handler takes the one argument that it is called with, and only sets a bit, which is safe
    // wherever it interrupts.
    match unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether a signal has come since this was asked last.
pub(crate) fn has_come(signal: i32) -> bool {
    CAME.fetch_and(!bit(signal), Ordering::Relaxed) & bit(signal) != 0
}
