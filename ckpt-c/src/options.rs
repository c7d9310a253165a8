//! How a store works, in numbers.

use ckpt_core::Result;
use ckpt_core::image::Level;
use ckpt_core::regions::{Keep, Options};

use crate::arguments::put;
use crate::status::{ckpt_status, told, usage};

/// Compressed as hard as keeps the disk busy; for ckpt_options.level.
pub const CKPT_LEVEL_AUTO: i32 = 1000;
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
