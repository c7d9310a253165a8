//! What this host allows: tried out, not guessed, before a job depends on it.
//!
//! Each [`Fact`] says which way the engine will go, and what would open a better one.

use std::io;

use crate::os::pagemap::Pagemap;
use crate::os::{cpu, fds, ptrace, spawn};

/// How well something goes here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// The best way.
    Good,
    /// Another way, that serves.
    Fair,
    /// Not at all.
    Missing,
}

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// What it is for.
    pub what: &'static str,
    /// How well it goes.
    pub grade: Grade,
    /// Which way it will go.
    pub way: String,
    /// What would open a better way.
    pub fix: Option<String>,
}

fn fact(what: &'static str, grade: Grade, way: impl Into<String>, fix: Option<&str>) -> Fact {
    Fact { what, grade, way: way.into(), fix: fix.map(str::to_owned) }
}

/// Tries everything that the engine builds upon. Must be called while this process has a single
/// thread: it forks.
pub fn host() -> Vec<Fact> {
    let mut facts = vec![system(), tracing_allowed(), open_files(), pages()];
    facts.extend(numbers());
    facts.push(processor());
    facts
}

fn system() -> Fact {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    let number = |at: usize| release.split(['.', '-']).nth(at)?.parse::<u32>().ok();
    let version = (number(0).unwrap_or_default(), number(1).unwrap_or_default());
    let way = format!("Linux {release}");
    match version {
        (..5, _) | (5, ..11) => fact("kernel", Grade::Missing, way, Some("Linux 5.11 or later")),
        _ => fact("kernel", Grade::Good, way, None),
    }
}

/// A child of ours is like the job: traced by its ancestor.
fn tracing_allowed() -> Fact {
    let yama = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    let scope = match yama.trim() {
        "" => "no Yama".to_owned(),
        scope => format!("Yama scope {scope}"),
    };
    let tried = match spawn::fork(0, None) {
        Ok(spawn::Fork::Child) => loop {
            std::thread::sleep(std::time::Duration::from_secs(60));
        },
        Ok(spawn::Fork::Parent(pid)) => {
            let tried = ptrace::seize(pid, 0);
            spawn::kill(pid, libc::SIGKILL);
            let _ = spawn::reap(pid);
            tried
        }
        Err(error) => Err(error),
    };
    match tried {
        Ok(()) => {
            fact("tracing", Grade::Good, format!("descendants may be traced ({scope})"), None)
        }
        Err(error) => {
            let way = format!("refused: {error} ({scope})");
            let fix = "sysctl kernel.yama.ptrace_scope=1, or the container's own seccomp profile";
            fact("tracing", Grade::Missing, way, Some(fix))
        }
    }
}

fn open_files() -> Fact {
    match fds::may_compare() {
        Ok(()) => fact("open files", Grade::Good, "compared by kcmp", None),
        Err(error) => {
            let way = format!("compared by a mark (kcmp: {error})");
            fact("open files", Grade::Fair, way, Some("a seccomp profile that allows kcmp"))
        }
    }
}

fn pages() -> Fact {
    match Pagemap::open(std::process::id() as i32).map(|pagemap| pagemap.scans()) {
        Ok(true) => fact("pages", Grade::Good, "found by PAGEMAP_SCAN", None),
        Ok(false) => {
            fact("pages", Grade::Fair, "found by /proc/PID/pagemap", Some("Linux 6.7 or later"))
        }
        Err(error) => fact("pages", Grade::Missing, error.to_string(), None),
    }
}

/// The rungs of the ladder by which old PIDs come back, and the clocks.
fn numbers() -> [Fact; 2] {
    let namespaces = libc::CLONE_NEWUSER | libc::CLONE_NEWPID | libc::CLONE_NEWNS;
    let own = spawn::try_in_child(namespaces, || Ok(()));
    let user = rustix::process::geteuid().as_raw();
    let proc_too = || {
        spawn::try_in_child(namespaces, || {
            map_ids(user)?;
            spawn::mount_proc()
        })
    };
    let fix = "user namespaces (sysctl user.max_user_namespaces, \
               kernel.unprivileged_userns_clone, or the container's own seccomp profile)";
    let pids = match (spawn::may_choose_tids(), &own) {
        (true, Ok(())) => fact(
            "PIDs",
            Grade::Good,
            "clone3(set_tid) where they are free, else an own PID namespace",
            None,
        ),
        (false, Ok(())) if proc_too().is_ok() => {
            fact("PIDs", Grade::Good, "an own user and PID namespace", None)
        }
        (false, Ok(())) => {
            let way = "an own user and PID namespace, with the outer /proc";
            fact("PIDs", Grade::Fair, way, None)
        }
        (true, Err(_)) => fact("PIDs", Grade::Fair, "clone3(set_tid), if they are free", Some(fix)),
        (false, Err(error)) => {
            let way = format!("forking until they come by, if they are free ({error})");
            fact("PIDs", Grade::Fair, way, Some(fix))
        }
    };
    const NEWTIME: i32 = 0x80;
    let clocks = match spawn::try_in_child(libc::CLONE_NEWUSER, || spawn::unshare(NEWTIME)) {
        Ok(()) => fact("clocks", Grade::Good, "go on by a time namespace", None),
        Err(error) => {
            let way = format!("the monotonic clock jumps at a restart ({error})");
            fact("clocks", Grade::Fair, way, Some("Linux 5.6, and user namespaces"))
        }
    };
    [pids, clocks]
}

/// A process in a new user namespace may map its own user, whose number outside it must know.
fn map_ids(user: u32) -> io::Result<()> {
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("0 {user} 1\n"))
}

fn processor() -> Fact {
    let way =
        format!("x86-64-v{}, {} features that a job may use", cpu::level(), cpu::features().len());
    fact("processor", Grade::Good, way, Some("restart on a node with the same features or more"))
}
