//! What procfs tells of a process besides its memory (proc_pid(5)).

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;

use procfs::FromRead;
use procfs::process::Stat;

use super::status::Status;
use crate::error::{Error, ErrorKind, Result};

/// An error about `/proc/PID/FILE`.
fn failed(pid: i32, file: &str, error: io::Error) -> Error {
    Error::os(format!("cannot read /proc/{pid}/{file}"), error)
}

/// The procfs crate's errors in this crate's words.
fn converted(pid: i32, file: &str, error: procfs::ProcError) -> Error {
    match error {
        procfs::ProcError::PermissionDenied(_) => {
            failed(pid, file, io::Error::from_raw_os_error(libc::EACCES))
        }
        procfs::ProcError::NotFound(_) => {
            failed(pid, file, io::Error::from_raw_os_error(libc::ESRCH))
        }
        procfs::ProcError::Io(error, _) => failed(pid, file, error),
        other => Error::new(ErrorKind::Os, format!("cannot read /proc/{pid}/{file}: {other}")),
    }
}

/// `/proc/PID/FILE` as bytes.
pub(crate) fn read(pid: i32, file: &str) -> Result<Vec<u8>> {
    contents(&format!("/proc/{pid}/{file}")).map_err(|e| failed(pid, file, e))
}

/// The whole of a file of procfs, in few reads: `fs::read` asks for the size, which is always 0, and
/// begins with a few bytes.
fn contents(path: &str) -> io::Result<Vec<u8>> {
    const USUAL: usize = 4096;
    let mut file = fs::File::open(path)?;
    let mut bytes = vec![0; USUAL];
    let mut filled = 0;
    loop {
        match file.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        if filled == bytes.len() {
            bytes.resize(2 * filled, 0);
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// `/proc/PID/LINK` as it reads.
pub(crate) fn link(pid: i32, file: &str) -> Result<Vec<u8>> {
    let target = fs::read_link(format!("/proc/{pid}/{file}")).map_err(|e| failed(pid, file, e))?;
    Ok(OsString::from(target).into_vec())
}

/// `/proc/PID/stat`, parsed.
pub(crate) fn stat(pid: i32) -> Result<Stat> {
    let text = read(pid, "stat")?;
    Stat::from_read(text.as_slice()).map_err(|e| converted(pid, "stat", e))
}

/// `/proc/PID/status`. Works for the tid of any task, too.
pub(crate) fn status(pid: i32) -> Result<Status> {
    Status::of(pid)
}

/// One field of it.
pub(crate) fn status_field(pid: i32, name: &str) -> Result<Option<String>> {
    Ok(status(pid)?.field(name).map(str::to_owned))
}

/// About how many bytes of private memory a process has; 0 if it is gone.
pub(crate) fn private_bytes(pid: i32) -> u64 {
    status(pid).map_or(0, |status| status.private_bytes())
}

/// The command name, for messages; empty if the process is gone.
pub(crate) fn comm(pid: i32) -> String {
    let name = read(pid, "comm").unwrap_or_default();
    String::from_utf8_lossy(&name).trim_end().to_owned()
}

/// Names of a numbered folder's entries, sorted.
fn numbers(pid: i32, folder: &str) -> Result<Vec<i32>> {
    let entries =
        fs::read_dir(format!("/proc/{pid}/{folder}")).map_err(|e| failed(pid, folder, e))?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| failed(pid, folder, e))?;
        found.extend(entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    found.sort_unstable();
    Ok(found)
}

/// The tids of a process, the leader's first.
pub(crate) fn tasks(pid: i32) -> Result<Vec<i32>> {
    let mut tids = numbers(pid, "task")?;
    tids.sort_unstable_by_key(|&tid| (tid != pid, tid));
    Ok(tids)
}

/// Open file descriptors of a process.
pub(crate) fn descriptors(pid: i32) -> Result<Vec<i32>> {
    numbers(pid, "fd")
}

/// Children of all tasks of a process, zombies included, each behind the task that has it; none if
/// the process is gone.
fn children_by_task(pid: i32) -> Vec<(i32, i32)> {
    let mut found = Vec::new();
    for tid in tasks(pid).unwrap_or_default() {
        let text = read(pid, &format!("task/{tid}/children")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let children = text.split_ascii_whitespace().filter_map(|word| word.parse::<i32>().ok());
        found.extend(children.map(|child| (tid, child)));
    }
    found.sort_unstable_by_key(|&(_, child)| child);
    found
}

/// Children of all tasks of a process, zombies included; none if it is gone.
pub(crate) fn children(pid: i32) -> Vec<i32> {
    children_by_task(pid).into_iter().map(|(_, child)| child).collect()
}

/// Processes that belong together. We ourselves never belong to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// All descendants of this process.
    Below(i32),
    /// This process, which was started at that time (`/proc/PID/stat`), and its descendants.
    Of(i32, u64),
}

impl Family {
    /// Its processes, parents before children, and the tasks among them that have children.
    pub(crate) fn members(self) -> (Vec<i32>, HashSet<i32>) {
        let own = std::process::id().cast_signed();
        let mut found = match self {
            Self::Below(pid) => children(pid),
            Self::Of(pid, _) => vec![pid],
        };
        let (mut parents, mut next) = (HashSet::new(), 0);
        while next < found.len() {
            for (tid, child) in children_by_task(found[next]) {
                parents.insert(tid);
                found.extend(Some(child).filter(|&child| child != own));
            }
            next += 1;
        }
        let mut seen = HashSet::new();
        found.retain(|pid| seen.insert(*pid));
        (found, parents)
    }

    /// Fails where the number of its first process is free or another's by now: the process is gone.
    pub(crate) fn must_be_there(self) -> Result<()> {
        let Self::Of(pid, begun) = self else { return Ok(()) };
        match stat(pid) {
            Ok(stat) if stat.starttime == begun => Ok(()),
            Err(e) if !matches!(e.kind(), ErrorKind::Gone | ErrorKind::NotFound) => Err(e),
            _ => Err(Error::new(ErrorKind::Gone, "the program ended before its checkpoint")),
        }
    }

    /// Its processes, parents before children.
    pub(crate) fn pids(self) -> Vec<i32> {
        self.members().0
    }
}

/// A zombie, dead, or no more.
pub(crate) fn is_dying(tid: i32) -> bool {
    stat(tid).map_or(true, |stat| matches!(stat.state, 'Z' | 'X' | 'x'))
}

/// A process that has ended, and whose parent has not asked for its status yet.
pub(crate) fn is_zombie(pid: i32) -> bool {
    stat(pid).is_ok_and(|stat| stat.state == 'Z')
}

/// The task that traces this one; 0 for none.
pub(crate) fn tracer(tid: i32) -> i32 {
    let tracer = status_field(tid, "TracerPid").ok().flatten();
    tracer.and_then(|word| word.parse().ok()).unwrap_or_default()
}

/// Whether a task is the first of its process; of one that is no more that is as good as true.
pub(crate) fn is_leader(tid: i32) -> bool {
    let leader = status_field(tid, "Tgid").ok().flatten().and_then(|word| word.parse().ok());
    leader.is_none_or(|leader: i32| leader == tid)
}

/// The number of a process or task in the innermost PID namespace that it is in.
pub(crate) fn inner_pid(pid: i32) -> Result<i32> {
    status(pid)?.inner_pid()
}
