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

/// How it is found what has changed since the last generation.
pub(super) fn changes(container: Container) -> Fact {
    match changes::by_write_protection() {
        Ok(()) => fact("changes", Grade::Good, "told by userfaultfd and PAGEMAP_SCAN", None),
        Err(error) => {
            let way = format!("found by comparing (userfaultfd: {})", words(&error));
            let fix = container.free_calls().unwrap_or("Linux 6.7 or later");
            fact("changes", Grade::Fair, way, Some(fix))
        }
    }
}

pub(super) fn processor() -> Fact {
    let way =
        format!("x86-64-v{}, {} features that a job may use", cpu::level(), cpu::features().len());
    fact("processor", Grade::Good, way, Some("restart on a node with the same features or more"))
}
