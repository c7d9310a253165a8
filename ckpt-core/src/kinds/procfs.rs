//! Files of procfs that belong to a process, as `/proc/self/maps`: their paths hold its number, and numbers mean
//! something only in the PID namespace that the procfs was mounted for (proc(5), pid_namespaces(7)).
//!
//! An image has the number by which the job knows the process. A checkpoint finds that one, whichever procfs the
//! job has opened, and a restart opens the file by the number that the process now has as seen from here.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::os::proc;

const ROOT: &[u8] = b"/proc/";

/// The process that a path in procfs is of, and the rest of the path from the next slash on.
fn split(path: &[u8]) -> Option<(i32, &[u8])> {
    let path = path.strip_prefix(ROOT)?;
    let end = path.iter().position(|&byte| byte == b'/').unwrap_or(path.len());
    let pid = std::str::from_utf8(&path[..end]).ok()?.parse().ok()?;
    Some((pid, &path[end..]))
}

fn joined(pid: i32, rest: &[u8]) -> Vec<u8> {
    [ROOT, pid.to_string().as_bytes(), rest].concat()
}

/// The path with the number by which the job knows the process; none for a file of no process.
///
/// `link` is where a descriptor of process `holder` leads, `device` the file's, `job` the job's processes as seen
/// from here.
///
/// # Errors
///
/// Why it could not be opened again.
pub(crate) fn captured(
    link: &[u8],
    device: u64,
    (holder, job): (i32, &[i32]),
) -> Result<Option<Vec<u8>>, &'static str> {
    let Some((number, rest)) = split(link) else { return Ok(None) };
    let numbers = |&pid: &i32| Some((pid, proc::inner_pid(pid).ok()?));
    let ours = numbered_as_ours(device, holder)?;
    let is_it = |&(outer, inner): &(i32, i32)| number == if ours { outer } else { inner };
    let Some((_, inner)) = job.iter().filter_map(numbers).find(is_it) else {
        return Err("is of no process of the job's");
    };
    if rest.starts_with(b"/task/") {
        return Err("is a thread's file in procfs");
    }
    Ok(Some(joined(inner, rest)))
}

/// Whether a procfs numbers processes as ours does, or as the job's, which `holder` has at /proc.
fn numbered_as_ours(device: u64, holder: i32) -> Result<bool, &'static str> {
    let is_at = |root: &str| fs::metadata(root).is_ok_and(|meta| meta.dev() == device);
    let theirs = format!("/proc/{holder}/root/proc");
    if is_at("/proc") {
        return Ok(true);
    }
    if !is_at(&theirs) {
        return Err("is of another procfs than that at /proc");
    }
    // Each mount may have a device of its own. We are in there by our number, by another, or not at all.
    let own = std::process::id().to_string();
    Ok(fs::read_link(format!("{theirs}/self")).is_ok_and(|it| it.as_os_str() == own.as_str()))
}

/// The path by the number that the process has as seen from here; `outer` knows the job's.
pub(crate) fn here(path: &[u8], outer: &dyn Fn(i32) -> Option<i32>) -> Option<Vec<u8>> {
    let (inner, rest) = split(path)?;
    Some(joined(outer(inner)?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> (i32, u64) {
        (std::process::id().cast_signed(), fs::metadata("/proc").unwrap().dev())
    }

    #[test]
    fn of_a_process_of_the_job() {
        let (pid, device) = own();
        let inner = proc::inner_pid(pid).unwrap();
        let maps = |pid: i32| format!("/proc/{pid}/maps").into_bytes();
        assert_eq!(captured(&maps(pid), device, (pid, &[pid])), Ok(Some(maps(inner))));
        assert_eq!(here(&maps(inner), &|_| Some(7)), Some(maps(7)));
        let folder = format!("/proc/{pid}").into_bytes();
        let found = captured(&folder, device, (pid, &[pid]));
        assert_eq!(found, Ok(Some(format!("/proc/{inner}").into_bytes())));
    }

    #[test]
    fn of_no_process() {
        let (pid, device) = own();
        for path in ["/proc/meminfo", "/proc", "/proc/sys/kernel/pid_max", "/proceedings/7/a"] {
            assert_eq!(captured(path.as_bytes(), device, (pid, &[pid])), Ok(None));
            assert_eq!(here(path.as_bytes(), &|_| Some(7)), None);
        }
    }

    #[test]
    fn of_others_and_of_threads() {
        let (pid, device) = own();
        let refused = |path: String, device: u64| {
            captured(path.as_bytes(), device, (pid, &[pid])).unwrap_err()
        };
        assert!(refused("/proc/1/stat".into(), device).contains("no process"));
        assert!(refused(format!("/proc/{pid}/task/{pid}/stat"), device).contains("thread"));
        assert!(refused(format!("/proc/{pid}/stat"), device + 1).contains("another procfs"));
    }
}
