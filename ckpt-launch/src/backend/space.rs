//! Whether a checkpoint has room. DMTCP writes until the disk is full, and then the job is lost.

use std::fs;
use std::path::Path;

use ckpt_core::{Error, ErrorKind, Result};

use crate::words;

/// What DMTCP adds to a process: its own libraries and tables, 9 MB for a shell.
const OWN: u64 = 16 << 20;

/// Refuses if images of `processes`, uncompressed, may not fit where `dir` is. Compression isn't
/// counted on: nobody knows what it will bring.
pub(super) fn check(dir: &Path, processes: &[i32]) -> Result<()> {
    let needed = processes.iter().map(|&pid| memory(pid).saturating_add(OWN)).sum::<u64>();
    let stat = rustix::fs::statvfs(dir)
        .map_err(|e| Error::os(format!("cannot tell the room in {}", dir.display()), e))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free >= needed {
        return Ok(());
    }
    let (needed, free) = (words::bytes(needed), words::bytes(free));
    let what = format!("{} has {free} free, and {needed} may be needed", dir.display());
    Err(Error::new(ErrorKind::Io, what).help(
        "DMTCP loses the job on a full disk, so no checkpoint was begun; free some space there, \
         or name another folder with --ckptdir",
    ))
}

/// What DMTCP may write of a process: of mapped files all that is mapped, of other memory what is
/// there. A process that is gone by now counts nothing.
fn memory(pid: i32) -> u64 {
    sum(&fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap_or_default())
}

fn sum(smaps: &str) -> u64 {
    let (mut total, mut mapped_file) = (0u64, false);
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let (first, second) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let counts = match first {
            "Size:" => mapped_file,
            "Rss:" | "Swap:" => !mapped_file,
            _ => {
                if !first.ends_with(':') {
                    let name = words.nth(3).unwrap_or("");
                    mapped_file = name.starts_with('/')
                        && !line.ends_with(" (deleted)")
                        && !second.starts_with("---");
                }
                false
            }
        };
        if counts {
            total = total.saturating_add(second.parse::<u64>().unwrap_or(0) << 10);
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts() {
        let area = |perms: &str, name: &str| {
            format!("1000-2000 {perms} 0 00:01 7  {name}\nSize: 100 kB\nRss: 10 kB\nSwap: 1 kB\n")
        };
        assert_eq!(sum(&area("r-xp", "/lib/a b.so")), 100 << 10);
        assert_eq!(sum(&area("---p", "/lib/a.so")), 11 << 10);
        assert_eq!(sum(&area("rw-p", "[heap]")), 11 << 10);
        assert_eq!(sum(&area("rw-s", "/x (deleted)")), 11 << 10);
        assert_eq!(sum(&[area("rw-p", ""), area("r--p", "/y")].concat()), 111 << 10);
        assert!(memory(std::process::id().cast_signed()) > 1 << 20);
    }

    #[test]
    fn no_room() {
        let ours = [std::process::id().cast_signed()];
        assert!(check(Path::new("/"), &ours).is_ok());
        // A file system that never has any.
        assert_eq!(check(Path::new("/proc"), &ours).unwrap_err().kind(), ErrorKind::Io);
    }
}
