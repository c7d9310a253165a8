//! Files of procfs that belong to a process, as `/proc/self/maps`: their paths hold its number, and numbers mean
//! something only in the PID namespace that the procfs was mounted for (proc(5), pid_namespaces(7)).
//!
//! An image has the number by which the job knows the process. A checkpoint finds that one, whichever procfs the
//! job has opened, and a restart opens the file by the number that the process now has as seen from here.

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
/// `link` is where a descriptor leads, `device` the file's, `job` the job's processes as seen from here.
///
/// # Errors
///
/// Why it could not be opened again, and what can be done about it.
pub(crate) fn captured(
    link: &[u8],
    device: u64,
    job: &[i32],
) -> Result<Option<Vec<u8>>, (&'static str, &'static str)> {
    let Some((number, rest)) = split(link) else { return Ok(None) };
    let ours = std::fs::metadata("/proc").is_ok_and(|meta| meta.dev() == device);
    let numbers = |&pid: &i32| Some((pid, proc::inner_pid(pid).ok()?));
    let found = job
        .iter()
        .filter_map(numbers)
        .find(|&(outer, inner)| number == if ours { outer } else { inner });
    let Some((_, inner)) = found else {
        return Err((
            "is of a process that does not belong to the job, or is no more",
            "close it before the checkpoint",
        ));
    };
    if rest.starts_with(b"/task/") {
        return Err(("is a thread's file in procfs", "close it before the checkpoint"));
    }
    Ok(Some(joined(inner, rest)))
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
        (std::process::id().cast_signed(), std::fs::metadata("/proc").unwrap().dev())
    }

    #[test]
    fn of_a_process_of_the_job() {
        let (pid, device) = own();
        let inner = proc::inner_pid(pid).unwrap();
        let maps = |pid: i32| format!("/proc/{pid}/maps").into_bytes();
        assert_eq!(captured(&maps(pid), device, &[pid]), Ok(Some(maps(inner))));
        // Of another procfs: of the job's PID namespace.
        assert_eq!(captured(&maps(inner), device + 1, &[pid]), Ok(Some(maps(inner))));
        assert_eq!(here(&maps(inner), &|_| Some(7)), Some(maps(7)));
        let folder = format!("/proc/{pid}").into_bytes();
        let found = captured(&folder, device, &[pid]);
        assert_eq!(found, Ok(Some(format!("/proc/{inner}").into_bytes())));
    }

    #[test]
    fn of_no_process() {
        let (pid, device) = own();
        for path in ["/proc/meminfo", "/proc", "/proc/sys/kernel/pid_max", "/proceedings/7/a"] {
            assert_eq!(captured(path.as_bytes(), device, &[pid]), Ok(None));
            assert_eq!(here(path.as_bytes(), &|_| Some(7)), None);
        }
    }

    #[test]
    fn of_others_and_of_threads() {
        let (pid, device) = own();
        let refused =
            |path: String, job: &[i32]| captured(path.as_bytes(), device, job).unwrap_err().0;
        assert!(refused("/proc/1/stat".into(), &[pid]).contains("belong"));
        assert!(refused(format!("/proc/{pid}/task/{pid}/stat"), &[pid]).contains("thread"));
    }
}
