//! Processes seen through /proc: a job's, and how to make an end of all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

fn processes() -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted");
    entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
}

/// State letter and parent of a process that is there.
fn stat(pid: i32) -> Option<(char, i32)> {
    let bytes = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let end = bytes.iter().rposition(|&b| b == b')')?;
    let text = String::from_utf8_lossy(&bytes[end + 1..]).into_owned();
    let mut words = text.split_whitespace();
    Some((words.next()?.chars().next()?, words.next()?.parse().ok()?))
}

/// All children of `root`, theirs, and so on, zombies among them.
pub fn descendants(root: i32) -> Vec<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for pid in processes() {
        if let Some((_, parent)) = stat(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut open = vec![root];
    while let Some(pid) = open.pop() {
        let own = children.remove(&pid).unwrap_or_default();
        found.extend(&own);
        open.extend(own);
    }
    found
}

/// All living processes whose environment holds `tag`: also those that have lost their parents.
pub fn tagged(tag: &str) -> Vec<i32> {
    let own = std::process::id() as i32;
    let has = |pid: &i32| {
        *pid != own
            && stat(*pid).is_some_and(|(state, _)| !matches!(state, 'Z' | 'X'))
            && has_variable(*pid, tag)
    };
    processes().into_iter().filter(has).collect()
}

/// Whether a process has this, as `NAME=VALUE`, in its environment.
pub fn has_variable(pid: i32, variable: &str) -> bool {
    fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|environment| environment.split(|&b| b == 0).any(|it| it == variable.as_bytes()))
}

/// All living processes whose current folder is `folder` or below it.
pub fn inside(folder: &Path) -> Vec<i32> {
    let is = |pid: &i32| {
        fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(folder))
    };
    processes().into_iter().filter(is).collect()
}

/// All living processes that have to do with `folder`, which has a name like no other: it is in their
/// command line or environment, or they work there. (Seen from outside of a chroot, what comes before
/// it may differ.)
pub fn naming(folder: &str) -> Vec<i32> {
    let own = std::process::id().cast_signed();
    let has = |pid: &i32| {
        let holds = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).contains(folder);
        let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let cwd = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
        holds(read("cmdline"))
            || holds(read("environ"))
            || holds(cwd.into_os_string().into_encoded_bytes())
    };
    let lives = |pid: &i32| stat(*pid).is_some_and(|(state, _)| !matches!(state, 'Z' | 'X'));
    processes().into_iter().filter(|pid| *pid != own && lives(pid) && has(pid)).collect()
}

/// SIGKILL for these.
pub fn kill_each(pids: &[i32]) {
    for &pid in pids {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// Reaps what has fallen to us and ended.
pub fn reap_orphans() {
    let flags = WaitPidFlag::WNOHANG | WaitPidFlag::__WALL;
    while waitpid(None, Some(flags)).is_ok_and(|status| status.pid().is_some()) {}
}

/// Makes this process the one that orphans below it fall to, so that it can reap them.
pub fn adopt_orphans() {
    nix::sys::prctl::set_child_subreaper(true).expect("any process may adopt orphans");
}

/// Kills the process `root` first, then all below it and all that have `tag`, until none is left.
///
/// # Panics
///
/// When some cannot be got rid of.
pub fn kill_all(root: i32, tag: &str) {
    let mut seen: BTreeSet<i32> = descendants(root).into_iter().collect();
    let _ = kill(Pid::from_raw(root), Signal::SIGKILL);
    let mut all = seen.clone();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        // New ones may have been born while we looked.
        seen.extend(descendants(root));
        let living = tagged(tag);
        seen.extend(&living);
        for &pid in seen.iter().filter(|&&pid| pid != root) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        all.extend(&seen);
        let left = reap(&mut seen, root);
        if living.is_empty() && left == 0 {
            all.remove(&root);
            return bury(&mut all);
        }
        assert!(Instant::now() < deadline, "cannot be killed:\n{}", describe(&seen));
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Kills what has `tag`, as far as one look goes.
pub fn kill_tagged(tag: &str) {
    for pid in tagged(tag) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// Reaps those of `seen` that have fallen to us; gives how many still live, and forgets the others,
/// lest a later process of the same number suffer.
fn reap(seen: &mut BTreeSet<i32>, root: i32) -> usize {
    seen.remove(&root);
    seen.retain(|&pid| {
        let gone = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL));
        let reaped = gone.is_ok_and(|status| status.pid().is_some());
        !reaped && stat(pid).is_some_and(|(state, _)| !matches!(state, 'Z' | 'X'))
    });
    seen.len()
}

/// Reaps the dead as they fall to us: their numbers are to be free.
fn bury(dead: &mut BTreeSet<i32>) {
    let deadline = Instant::now() + Duration::from_secs(2);
    while !dead.is_empty() && Instant::now() < deadline {
        dead.retain(|&pid| {
            let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL));
            stat(pid).is_some_and(|(state, _)| matches!(state, 'Z' | 'X'))
        });
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// What these processes are doing, for a report.
pub fn describe<'a>(pids: impl IntoIterator<Item = &'a i32>) -> String {
    let mut text = String::new();
    for pid in pids {
        let read = |name: &str| {
            let bytes = fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
            String::from_utf8_lossy(&bytes).replace('\0', " ").trim().to_owned()
        };
        let status = read("status");
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name));
            line.map_or("", |line| &line[name.len()..]).trim().to_owned()
        };
        text += &format!(
            "  {pid} {} [{}] parent {} tracer {} threads {} wchan {} syscall {} pending {}\n",
            read("cmdline"),
            field("State:"),
            field("PPid:"),
            field("TracerPid:"),
            field("Threads:"),
            read("wchan"),
            read("syscall"),
            field("ShdPnd:"),
        );
    }
    text
}
