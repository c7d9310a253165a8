//! Who descends from whom: the little that the supervisor must know of the job's processes.

use std::collections::HashMap;
use std::fs;

use crate::coordinator::wire::Process;
use crate::os;

/// What `/proc/PID/stat` says of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// State letter: R, S, D, T, t, Z, X …
    pub state: u8,
    /// Its parent.
    pub parent: i32,
}

/// Reads `/proc/PID/stat`; nothing if the process is gone.
pub fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(stat: &[u8]) -> Option<Stat> {
    // The name is in parentheses and may itself hold anything.
    let after = stat.iter().rposition(|&b| b == b')')? + 1;
    let mut fields = std::str::from_utf8(stat.get(after..)?).ok()?.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    Some(Stat { state, parent: fields.next()?.parse().ok()? })
}

/// Whether `pid` descends from `ancestor`.
pub fn descends_from(mut pid: i32, ancestor: i32) -> bool {
    // A chain that changes under our hands may be a circle.
    for _ in 0..4096 {
        match stat(pid) {
            Some(stat) if stat.parent == ancestor => return true,
            Some(stat) if stat.parent > 0 => pid = stat.parent,
            _ => return false,
        }
    }
    false
}

/// The living descendants of `ancestor`, zombies left out.
pub fn descendants(ancestor: i32) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let mut children: HashMap<i32, Vec<(i32, u8)>> = HashMap::new();
    for pid in entries.flatten().filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok()) {
        if let Some(stat) = stat(pid) {
            children.entry(stat.parent).or_default().push((pid, stat.state));
        }
    }
    let (mut found, mut todo) = (Vec::new(), vec![ancestor]);
    while let Some(parent) = todo.pop() {
        for (pid, state) in children.remove(&parent).unwrap_or_default() {
            todo.push(pid);
            if !matches!(state, b'Z' | b'X') {
                found.push(pid);
            }
        }
    }
    found
}

/// Name, PID, and PID as it sees itself, of every living descendant of `ancestor`.
pub fn processes(ancestor: i32) -> Vec<Process> {
    let mut pids = descendants(ancestor);
    pids.sort_unstable();
    let process = |pid: i32| {
        let status = fs::read(format!("/proc/{pid}/status")).ok()?;
        let status = String::from_utf8_lossy(&status);
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        let inner = field("NSpid:")?.split_ascii_whitespace().next_back()?.parse().ok()?;
        Some(Process { name: field("Name:")?.trim().to_owned(), pid, inner })
    };
    pids.into_iter().filter_map(process).collect()
}

/// Bytes of memory that the living descendants of `ancestor` have of their own, about.
pub fn resident(ancestor: i32) -> u64 {
    let pages = |pid: i32| {
        let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
        let mut fields = statm.split(' ').skip(1).map(|field| field.parse::<u64>().unwrap_or(0));
        // Resident, less what is shared with a file.
        Some(fields.next()?.saturating_sub(fields.next()?))
    };
    let pages: u64 = descendants(ancestor).into_iter().filter_map(pages).sum();
    pages * rustix::param::page_size() as u64
}

/// Kills every living descendant of this process, as seen at this moment; says which.
pub fn kill_descendants() -> Vec<i32> {
    let mut found = descendants(std::process::id().cast_signed());
    // One that ended meanwhile needs no killing.
    found.retain(|&pid| os::kill(pid, libc::SIGKILL).is_ok());
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_names() {
        let stat = parse_stat(b"12 (a) R 1 (b) S 34 12 12 0");
        assert_eq!(stat, Some(Stat { state: b'S', parent: 34 }));
        assert_eq!(parse_stat(b"12 (half"), None);
    }
}
