//! How a job's memory and open files are told apart.

use super::pids::words;
use super::surroundings::Container;
use super::{Fact, Grade, fact};
use crate::os::pagemap::Pagemap;
use crate::os::{changes, cpu, fds};

pub(super) fn open_files(container: Container) -> Fact {
    match fds::may_compare() {
        Ok(()) => fact("open files", Grade::Good, "compared by kcmp", None),
        Err(error) => {
            let way = format!("compared by a mark (kcmp: {})", words(&error));
            let fix = container.free_calls().unwrap_or("a seccomp profile that allows kcmp");
            fact("open files", Grade::Fair, way, Some(fix))
        }
    }
}

pub(super) fn pages() -> Fact {
    match Pagemap::open(std::process::id().cast_signed()).map(|pagemap| pagemap.scans()) {
        Ok(true) => fact("pages", Grade::Good, "found by PAGEMAP_SCAN", None),
        Ok(false) => {
            fact("pages", Grade::Fair, "found by /proc/PID/pagemap", Some("Linux 6.7 or later"))
        }
        Err(error) => fact("pages", Grade::Missing, error.to_string(), None),
    }
}

/// What checkpoints of changes only could build upon. Nothing does as yet, so nothing is missing.
pub(super) fn changes() -> Fact {
    let by = match (changes::by_write_protection(), changes::by_soft_dirty()) {
        (Ok(()), _) => "userfaultfd and PAGEMAP_SCAN".to_owned(),
        (Err(_), Ok(())) => "soft-dirty bits".to_owned(),
        (Err(error), Err(_)) => format!("comparing only (userfaultfd: {})", words(&error)),
    };
    fact("changes", Grade::Good, format!("could be told by {by}; not used yet"), None)
}

pub(super) fn processor() -> Fact {
    let way =
        format!("x86-64-v{}, {} features that a job may use", cpu::level(), cpu::features().len());
    fact("processor", Grade::Good, way, Some("restart on a node with the same features or more"))
}
