//! What this host allows: tried out, not guessed, before a job depends on it.
//!
//! Each [`Fact`] says which way the engine will go, and what would open a better one.

mod memory;
mod pids;
mod surroundings;

use pids::{Namespaces, words};
pub use surroundings::Container;

use crate::os::{ptrace, spawn};

/// How well something goes here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// The best way.
    Good,
    /// Another way, that serves.
    Fair,
    /// A way that depends on luck.
    Poor,
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
    let container = Container::here();
    let namespaces = Namespaces::try_all();
    vec![
        system(),
        surroundings::container(container),
        tracing_allowed(container),
        memory::open_files(container),
        memory::pages(),
        memory::changes(container),
        namespaces.fact(container),
        namespaces.numbers(),
        namespaces.clocks(),
        memory::processor(),
    ]
}

/// What decides whether a job that is begun here can come back here: tracing and numbers, in some
/// milliseconds. As for [`host`], there must be a single thread.
pub fn restart_here() -> Vec<Fact> {
    let numbers = Namespaces::try_all().numbers();
    vec![tracing_allowed(Container::here()), numbers]
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
fn tracing_allowed(container: Container) -> Fact {
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
            let way = format!("refused: {} ({scope})", words(&error));
            let fix = match (yama.trim(), container.free_calls()) {
                ("2" | "3", _) => "sysctl kernel.yama.ptrace_scope=1",
                (_, Some(argument)) => argument,
                _ => "a seccomp profile that allows ptrace, or --backend dmtcp",
            };
            fact("tracing", Grade::Missing, way, Some(fix))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fact_is_short_and_stands_once() {
        // The kernel's answers differ from host to host; their form does not.
        let facts =
            [surroundings::container(Container::Podman), memory::changes(Container::Podman)];
        for fact in &facts {
            assert!(fact.way.len() < 84, "{}", fact.way);
        }
        assert!(facts[0].way.starts_with("podman, "));
    }
}
