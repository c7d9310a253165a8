//! When it is time for a checkpoint.

use std::time::Duration;

use ckpt_core::program::{Policy, Reason};

use crate::arguments::handle;
use crate::status::{ckpt_status, told, usage};

/// Why it is time.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ckpt_reason {
    /// It is not.
    CKPT_NOT_NOW = 0,
    /// The last one was long ago.
    CKPT_INTERVAL = 1,
    /// Slurm will end the job soon. Told once.
    CKPT_END = 2,
    /// A signal has come that was named.
    CKPT_SIGNAL = 3,
}

/// When checkpoints are taken.
pub struct ckpt_policy(Policy);

/// A policy that says so `every` seconds (0: never for that), and `margin` seconds before Slurm ends the job (0:
/// not). Free it with ckpt_policy_free(). NULL, and ckpt_error(), for times that make no sense.
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_policy_new(every: f64, margin: f64) -> *mut ckpt_policy {
    let seconds = |value: f64| {
        Duration::try_from_secs_f64(value).map_err(|e| usage(format!("{value} seconds")).source(e))
    };
    let made = seconds(every).and_then(|every| {
        let margin = seconds(margin)?;
        let policy = Policy::new();
        let policy = if every.is_zero() { policy } else { policy.every(every) };
        Ok(if margin.is_zero() { policy } else { policy.before_end(margin) })
    });
    match made {
        Ok(policy) => Box::into_raw(Box::new(ckpt_policy(policy))),
        Err(error) => {
            told(Err(error));
            std::ptr::null_mut()
        }
    }
}

/// Says so as well when this signal has come, of which note is taken from now on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_policy_on_signal(
    policy: *mut ckpt_policy,
    signal: i32,
) -> ckpt_status {
    // SAFETY: C's word: a handle.
    told(unsafe { handle(policy, "policy") }.and_then(|policy| {
        policy.0 = policy.0.clone().on_signal(signal)?;
        Ok(())
    }))
}

/// Whether it is time: a ckpt_reason. Each is told once: whoever asks is expected to act upon it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_should_checkpoint(policy: *mut ckpt_policy) -> ckpt_reason {
    // SAFETY: C's word: a handle.
    let reason = unsafe { policy.as_mut() }.and_then(|policy| policy.0.should_checkpoint());
    match reason {
        None => ckpt_reason::CKPT_NOT_NOW,
        Some(Reason::Interval) => ckpt_reason::CKPT_INTERVAL,
        Some(Reason::End) => ckpt_reason::CKPT_END,
        Some(Reason::Signal(_)) => ckpt_reason::CKPT_SIGNAL,
    }
}

/// Tells how many seconds a checkpoint took: the end must leave time for it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_policy_took(policy: *mut ckpt_policy, seconds: f64) -> ckpt_status {
    // SAFETY: C's word: a handle.
    told(unsafe { handle(policy, "policy") }.and_then(|policy| {
        let took = Duration::try_from_secs_f64(seconds);
        policy.0.took(took.map_err(|e| usage(format!("{seconds} seconds")).source(e))?);
        Ok(())
    }))
}

/// Frees it. NULL is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_policy_free(policy: *mut ckpt_policy) {
    if !policy.is_null() {
        // SAFETY: C's word: it came from ckpt_policy_new() and is not used again.
        drop(unsafe { Box::from_raw(policy) });
    }
}
