//! How much more memory a process may take before somebody must go: of the machine, and of its
//! control groups (cgroups(7), version 1 and 2).

use std::fs;
use std::path::{Path, PathBuf};

/// Bytes that are left to process `pid`; a limit that cannot be seen from here is none.
pub(crate) fn left(pid: i32) -> u64 {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let limits = groups.lines().flat_map(directories).filter_map(|group| left_in(&group));
    limits.chain(available()).min().unwrap_or(u64::MAX)
}

/// `MemAvailable` of proc_meminfo(5).
fn available() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_ascii_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The memory group that a line of /proc/PID/cgroup names, and those above it.
fn directories(line: &str) -> Vec<PathBuf> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { return Vec::new() };
    let root = match controllers {
        "" => Path::new("/sys/fs/cgroup"),
        _ if controllers.split(',').any(|it| it == "memory") => Path::new("/sys/fs/cgroup/memory"),
        _ => return Vec::new(),
    };
    let group = root.join(path.trim_start_matches('/'));
    group.ancestors().take_while(|it| it.starts_with(root)).map(Path::to_path_buf).collect()
}

fn left_in(group: &Path) -> Option<u64> {
    let read = |name: &str| fs::read_to_string(group.join(name)).ok();
    let number = |text: String| text.trim().parse::<u64>().ok();
    let limit = read("memory.max").or_else(|| read("memory.limit_in_bytes")).and_then(number)?;
    let used = read("memory.current").or_else(|| read("memory.usage_in_bytes")).and_then(number)?;
    // The page cache gives way.
    let stat = read("memory.stat").unwrap_or_default();
    let cache = |name: &str| {
        let line = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|bytes| bytes.parse::<u64>().ok()).unwrap_or_default()
    };
    let cache = cache("inactive_file") + cache("active_file");
    Some(limit.saturating_sub(used.saturating_sub(cache)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_those_above() {
        let names = |line| {
            let all = directories(line).into_iter();
            all.map(|path| path.display().to_string()).collect::<Vec<_>>()
        };
        let root = "/sys/fs/cgroup";
        assert_eq!(names("0::/a/b"), [format!("{root}/a/b"), format!("{root}/a"), root.into()]);
        assert_eq!(
            names("4:memory,cpu:/j"),
            [format!("{root}/memory/j"), format!("{root}/memory")]
        );
        assert!(names("5:cpuset:/j").is_empty() && names("nonsense").is_empty());
    }

    #[test]
    fn limits_count_and_the_page_cache_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        assert_eq!(left_in(dir.path()), None);
        write("memory.max", "max\n");
        write("memory.current", "600\n");
        assert_eq!(left_in(dir.path()), None);
        write("memory.max", "1000\n");
        assert_eq!(left_in(dir.path()), Some(400));
        write("memory.stat", "anon 1\ninactive_file 100\nactive_file 50\n");
        assert_eq!(left_in(dir.path()), Some(550));
        assert!(left(std::process::id() as i32) > 0);
    }
}
