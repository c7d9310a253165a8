//! The functions of DMTCP's `dmtcp.h`, with its return values.
//!
//! Programs declare them as weak symbols, and find them here when this object is loaded. Outside of
//! a job they say so. What is not offered (plugins, barriers, `dmtcp_set_ckpt_dir`) is not defined,
//! so that `dmtcp.h` itself reports it as not present.

use core::ffi::{c_char, c_int};

use crate::ask::{Answer, ask};
use crate::json::Line;
use crate::lock::Lock;
use crate::place::{DIR, JOB, is_in_job};
use crate::text::{Kept, Put, Text};
use crate::{environment, hold, sys};

const AFTER_CHECKPOINT: c_int = 1;
const AFTER_RESTART: c_int = 2;
const NOT_PRESENT: c_int = 3;
const IS_PRESENT: c_int = 4;
const FAILED: c_int = -1;
const RESTART_ENV_NULL_PTR: c_int = -5;

/// What was given away as a pointer.
static IMAGE: Kept<4096> = Kept::new();
static UNIQUE_PID: Kept<32> = Kept::new();
static STRINGS: Lock = Lock::new();

#[unsafe(no_mangle)]
pub extern "C" fn dmtcp_is_enabled() -> c_int {
    c_int::from(is_in_job())
}

/// Has a checkpoint taken; returns when it is durable, or in the job that was restored from it.
#[unsafe(no_mangle)]
pub extern "C" fn dmtcp_checkpoint() -> c_int {
    if !is_in_job() {
        return NOT_PRESENT;
    }
    let request = b"{\"version\":1,\"request\":\"checkpoint\",\"reply\":\"fd\"}\n";
    match ask(request) {
        Ok(mut answer) => {
            let result = outcome(&mut answer);
            // Whatever was said: an image may have been taken of us after that, too.
            if answer.came_back() { AFTER_RESTART } else { result }
        }
        Err(error) => -error,
    }
}

/// Reads events up to the last one.
fn outcome(answer: &mut Answer) -> c_int {
    let (mut key, mut value) = (Text::<16>::new(), Text::<16>::new());
    loop {
        let mut line = Line::new(answer);
        let (mut some, mut taken, mut failed, mut code) = (false, false, false, 0);
        while line.member(&mut key, &mut value) {
            some = true;
            if key.is(b"event") {
                taken = value.is(b"checkpoint");
                failed = value.is(b"failed");
            } else if key.is(b"code") {
                code = value.number() as c_int;
            }
        }
        match (taken, failed) {
            (true, _) => return AFTER_CHECKPOINT,
            (_, true) => return (-code).min(FAILED),
            // The end; what the supervisor sends are lines with something in them.
            _ if !some => return FAILED,
            _ => {}
        }
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn dmtcp_disable_ckpt() -> c_int {
    if !is_in_job() {
        return NOT_PRESENT;
    }
    hold::disable().map_or_else(|error| -error, |()| 1)
}

#[unsafe(no_mangle)]
pub extern "C" fn dmtcp_enable_ckpt() -> c_int {
    if !is_in_job() {
        return NOT_PRESENT;
    }
    if hold::enable() { 1 } else { FAILED }
}

/// What the supervisor says of the job.
#[derive(Default)]
struct Status {
    generation: Option<u32>,
    checkpoints: u32,
    restarts: u32,
    processes: u32,
    running: bool,
}

/// Asks how the job is doing, of which supervisor ever; the newest image's name goes to [`IMAGE`].
#[inline(never)]
fn status() -> Option<Status> {
    if !is_in_job() {
        return None;
    }
    let request = b"{\"version\":1,\"request\":\"status\",\"reply\":\"fd\"}\n";
    loop {
        let mut answer = ask(request).ok()?;
        let status = heard(&mut answer);
        if status.generation.is_some() {
            return Some(status);
        }
        if !answer.came_back() {
            return None;
        }
    }
}

#[inline(never)]
fn heard(answer: &mut Answer) -> Status {
    let mut line = Line::new(answer);
    let (mut key, mut value) = (Text::<16>::new(), Text::<4096>::new());
    let mut status = Status::default();
    while line.member(&mut key, &mut value) {
        if key.is(b"generation") && status.generation.is_none() {
            status.generation = Some(value.number());
        } else if key.is(b"checkpoints") {
            status.checkpoints = value.number();
        } else if key.is(b"restarts") {
            status.restarts = value.number();
        } else if key.is(b"processes") {
            status.processes = value.number();
        } else if key.is(b"state") {
            status.running = value.is(b"running");
        } else if key.is(b"path") {
            let _guard = STRINGS.lock();
            IMAGE.set(value.bytes());
        }
    }
    status
}

/// Writes to an int that the caller gave us, if it gave us any.
///
/// # Safety
///
/// It must be null or point to an int that may be written to.
unsafe fn put(to: *mut c_int, value: c_int) {
    if !to.is_null() {
        // SAFETY: the caller vouches for it.
        unsafe { to.write(value) };
    }
}

/// How many processes the job has, and whether it runs.
///
/// # Safety
///
/// Both must be null or point to ints that may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmtcp_get_coordinator_status(
    peers: *mut c_int,
    running: *mut c_int,
) -> c_int {
    let Some(status) = status() else { return NOT_PRESENT };
    // SAFETY: the caller vouches for both.
    unsafe {
        put(peers, status.processes as c_int);
        put(running, c_int::from(status.running));
    }
    IS_PRESENT
}

/// How often the job was checkpointed and restored to get to here.
///
/// # Safety
///
/// Both must be null or point to ints that may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmtcp_get_local_status(
    checkpoints: *mut c_int,
    restarts: *mut c_int,
) -> c_int {
    let Some(status) = status() else { return NOT_PRESENT };
    // SAFETY: the caller vouches for both.
    unsafe {
        put(checkpoints, status.checkpoints as c_int);
        put(restarts, status.restarts as c_int);
    }
    IS_PRESENT
}

#[unsafe(no_mangle)]
pub extern "C" fn dmtcp_get_generation() -> u32 {
    status().and_then(|status| status.generation).unwrap_or(0)
}

/// The newest image; empty before the first checkpoint.
#[unsafe(no_mangle)]
pub extern "C" fn dmtcp_get_ckpt_filename() -> *const c_char {
    let _ = status();
    IMAGE.as_ptr().cast()
}

#[unsafe(no_mangle)]
pub extern "C" fn dmtcp_get_ckpt_dir() -> *const c_char {
    DIR.as_ptr().cast()
}

/// Job and process, in the shape of DMTCP's: `<hex>-<pid>-<hex>`. The same after a restart.
#[unsafe(no_mangle)]
pub extern "C" fn dmtcp_get_uniquepid_str() -> *const c_char {
    let mut text = Text::<32>::new();
    JOB.iter().take(8).for_each(|byte| text.push(byte));
    text.push(b'-');
    text.add_number(sys::getpid());
    text.push(b'-');
    JOB.iter().skip(8).for_each(|byte| text.push(byte));
    let _guard = STRINGS.lock();
    UNIQUE_PID.set(text.bytes());
    UNIQUE_PID.as_ptr().cast()
}

/// The job's id.
#[unsafe(no_mangle)]
pub extern "C" fn dmtcp_get_computation_id_str() -> *const c_char {
    JOB.as_ptr().cast()
}

/// A variable of the environment in which the job was restored.
///
/// # Safety
///
/// `name` must be null or a C string, `value` null or the address of `room` bytes that may be
/// written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmtcp_get_restart_env(
    name: *const c_char,
    value: *mut c_char,
    room: usize,
) -> c_int {
    if name.is_null() || value.is_null() {
        return RESTART_ENV_NULL_PTR;
    }
    if !is_in_job() {
        return environment::NOT_FOUND;
    }
    // SAFETY: neither is null, and the caller vouches for both.
    unsafe { environment::get(name.cast(), value.cast(), room) }
}
