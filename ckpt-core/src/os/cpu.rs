//! Processors: how many for our own work, and what instructions compiled code may rely on.

use std::fs;
use std::num::NonZero;

use crate::error::{Error, ErrorKind, Result};

/// Beginnings of those names in `/proc/cpuinfo` that stand for instructions.
const INSTRUCTIONS: [&str; 26] = [
    "sse",
    "ssse3",
    "pni",
    "avx",
    "fma",
    "bmi",
    "abm",
    "movbe",
    "popcnt",
    "aes",
    "vaes",
    "pclmulqdq",
    "vpclmulqdq",
    "sha_ni",
    "sha512",
    "gfni",
    "adx",
    "rdrand",
    "rdseed",
    "f16c",
    "amx_",
    "movdir",
    "rtm",
    "xsave",
    "3dnow",
    "cmpccxadd",
];

/// The features of this machine, sorted.
pub(crate) fn features() -> Vec<String> {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let names = line.split_once(':').map_or("", |(_, names)| names).split_ascii_whitespace();
    let mut found: Vec<String> = names
        .filter(|name| INSTRUCTIONS.iter().any(|prefix| name.starts_with(prefix)))
        .map(str::to_owned)
        .collect();
    found.sort_unstable();
    found
}

/// The highest x86-64 level (psABI: v1 to v4) whose instructions are all here.
pub(crate) fn level() -> u8 {
    const LEVELS: [&[&str]; 3] = [
        &["popcnt", "pni", "sse4_1", "sse4_2", "ssse3"],
        &["abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"],
        &["avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"],
    ];
    let here = features();
    let has = |names: &&&[&str]| names.iter().all(|name| here.iter().any(|f| f == name));
    1 + LEVELS.iter().take_while(has).count() as u8
}

/// Lets several threads do the same work, which they share among themselves; the calling thread
/// does its part, and all of it where no thread can be had.
pub(crate) fn in_parallel(count: usize, work: impl Fn() -> Result<()> + Sync) -> Result<()> {
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..count)
            .map_while(|_| std::thread::Builder::new().spawn_scoped(scope, &work).ok())
            .collect();
        let own = work();
        let lost = || Error::new(ErrorKind::Internal, "a worker ended");
        let joined = others.into_iter().map(|t| t.join().unwrap_or_else(|_| Err(lost())));
        own.and(joined.collect())
    })
}

/// How many workers to start: as many as wanted, or one a core that we may run on.
pub(crate) fn workers(wanted: usize) -> usize {
    match wanted {
        0 => std::thread::available_parallelism().map_or(1, NonZero::get),
        n => n,
    }
}
