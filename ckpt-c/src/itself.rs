//! Checkpoints of the whole program.

use std::cell::RefCell;
use std::ffi::{c_char, c_void};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use ckpt_core::program::{self, Deferral, Hook, Moment, Options, Outcome};

use crate::arguments::{put, text};
use crate::options::{self, ckpt_options};
use crate::status::{ckpt_status, told, usage};

/// Takes a checkpoint of this program, all its threads and its children, into `dir`, and returns when the image
/// is durable, with `*restarted` = 0. In the program that `ckpt-restore` brings back from it returns as well, with
/// `*restarted` = 1. In a job that ckpt-launch or ckpt-restore watches over, the checkpoint is one of the whole
/// job, in its own directory.
///
/// Of the options level, workers, increments and keep count; NULL for the usual ones. The program `ckpt` must be in
/// $PATH, or named by $CKPT_HELPER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_checkpoint_self(
    dir: *const c_char,
    options: *const ckpt_options,
    restarted: *mut i32,
) -> ckpt_status {
    // SAFETY: C's word: a string, options or NULL, a place for a number.
    told(unsafe {
        text(dir, "dir").and_then(|dir| {
            if restarted.is_null() {
                return Err(usage("restarted is NULL"));
            }
            let given = options::options(options.as_ref())?;
            let options = Options {
                level: given.level,
                workers: given.workers,
                increments: given.increments,
                keep: given.keep.newest,
                ..Options::new(dir)
            };
            let outcome = program::checkpoint_self(&options)?;
            put(restarted, i32::from(outcome == Outcome::Restarted), "restarted")
        })
    })
}

thread_local! {
    static SECTIONS: RefCell<Vec<Deferral>> = const { RefCell::new(Vec::new()) };
}

/// Begins a critical section of this thread: no checkpoint is taken of the program until ckpt_defer_end() was
/// called as often. Waits until one that has begun is over.
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_defer_begin() {
    let section = program::defer();
    SECTIONS.with(|sections| sections.borrow_mut().push(section));
}

/// Ends the critical section that this thread began last.
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_defer_end() -> ckpt_status {
    let ended = SECTIONS.with(|sections| sections.borrow_mut().pop());
    told(ended.map(drop).ok_or_else(|| usage("this thread is in no critical section")))
}

/// When a hook runs.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ckpt_moment {
    /// Before a checkpoint.
    CKPT_BEFORE = 0,
    /// After it, in the same life, whether there is an image or not.
    CKPT_RESUMED = 1,
    /// In a life that was restored from it.
    CKPT_RESTARTED = 2,
}

/// What the program wants to be given.
struct Argument(*mut c_void);

// SAFETY: it is only handed back to the program, in the thread that takes the checkpoint, as the header says.
unsafe impl Send for Argument {}

impl Argument {
    fn get(&self) -> *mut c_void {
        self.0
    }
}

static HOOKS: Mutex<Vec<(u64, Hook)>> = Mutex::new(Vec::new());
/// No number is given twice.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// Has `work(argument)` run at every ckpt_checkpoint_self() from now on, in the thread that calls it; `moment` is a
/// ckpt_moment. Returns a number for ckpt_unhook(), or 0. Those before run in the order in which they were made,
/// those after in the opposite one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_hook(
    moment: u32,
    work: Option<unsafe extern "C" fn(*mut c_void)>,
    argument: *mut c_void,
) -> u64 {
    let moment = match moment {
        0 => Moment::Before,
        1 => Moment::Resumed,
        2 => Moment::Restarted,
        _ => {
            told(Err(usage(format!("{moment} is no ckpt_moment"))));
            return 0;
        }
    };
    let Some(work) = work else {
        told(Err(usage("work is NULL")));
        return 0;
    };
    let argument = Argument(argument);
    let hook = program::hook(moment, move || {
        // SAFETY: C's word: a function that takes what it was given along with, in the thread of the checkpoint.
        unsafe { work(argument.get()) }
    });
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    HOOKS.lock().unwrap_or_else(PoisonError::into_inner).push((number, hook));
    number
}

/// The hook of this number runs no more. One that runs in another thread at this moment comes to its end first.
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_unhook(number: u64) -> ckpt_status {
    let mut hooks = HOOKS.lock().unwrap_or_else(PoisonError::into_inner);
    let at = hooks.iter().position(|(its, _)| *its == number);
    let gone = at.map(|at| hooks.remove(at));
    // It may have to wait for a hook that comes here itself.
    drop(hooks);
    told(gone.map(drop).ok_or_else(|| usage(format!("there is no hook {number}"))))
}
