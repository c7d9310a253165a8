//! How old process numbers and clocks come back here.

use std::fs;
use std::io;

use super::surroundings::Container;
use super::{Fact, Grade, fact};
use crate::os::spawn::{self, Fork};
use crate::os::{clock, numbers};

const NEWTIME: i32 = 0x80;
const ALONE: i32 = libc::CLONE_NEWPID | libc::CLONE_NEWNS;

/// The namespaces that a restart would make, each tried.
pub(super) struct Namespaces {
    /// With a process in it that gets the number it should.
    pid: io::Result<()>,
    /// A /proc of its own there.
    proc: io::Result<()>,
    /// Clocks of its own.
    time: io::Result<()>,
}

impl Namespaces {
    pub(super) fn try_all() -> Self {
        let pid = with_numbers(false);
        let proc = if pid.is_ok() { with_numbers(true) } else { Ok(()) };
        Self { pid, proc, time: clocks_of_its_own() }
    }

    pub(super) fn fact(&self, container: Container) -> Fact {
        const WHAT: &str = "namespaces";
        let (pid, proc, time) = (&self.pid, &self.proc, &self.time);
        match (pid, proc, time) {
            (Ok(()), Ok(()), Ok(())) => {
                fact(WHAT, Grade::Good, "user, PID and time, and a /proc inside", None)
            }
            (Ok(()), Ok(()), Err(error)) => {
                let way = format!(
                    "user and PID, with a /proc inside; no time namespace ({})",
                    words(error)
                );
                fact(WHAT, Grade::Fair, way, None)
            }
            (Ok(()), Err(error), _) => {
                let way = format!("user and PID; no new /proc inside ({})", words(error));
                fact(WHAT, Grade::Fair, way, container.unmasked_proc())
            }
            (Err(error), ..) => {
                let way = format!("none may be made ({})", words(error));
                fact(WHAT, Grade::Fair, way, Some(&mend(container, error)))
            }
        }
    }

    /// The rung of the ladder that a restart here will stand on.
    pub(super) fn numbers(&self) -> Fact {
        const WHAT: &str = "PIDs";
        match (spawn::may_choose_tids(), &self.pid) {
            (true, Ok(())) => {
                let way = "clone3(set_tid) where they are free, else an own PID namespace";
                fact(WHAT, Grade::Good, way, None)
            }
            (false, Ok(())) if self.proc.is_ok() => {
                fact(WHAT, Grade::Good, "an own user and PID namespace", None)
            }
            (false, Ok(())) => {
                let way = "an own user and PID namespace, with the outer /proc";
                fact(WHAT, Grade::Fair, way, None)
            }
            (true, Err(_)) => fact(WHAT, Grade::Fair, "clone3(set_tid), where they are free", None),
            (false, Err(_)) => by_turns(WHAT),
        }
    }

    pub(super) fn clocks(&self) -> Fact {
        match &self.time {
            Ok(()) => fact("clocks", Grade::Good, "go on where they were", None),
            Err(error) => {
                let way = format!("the monotonic clock jumps at a restart ({})", words(error));
                fact("clocks", Grade::Fair, way, None)
            }
        }
    }
}

/// The third rung: its chance, and what it costs.
fn by_turns(what: &'static str) -> Fact {
    let max = numbers::pid_max();
    // "… 1/88 4711": tasks that run, tasks, the number given last.
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let tasks = load.split(['/', ' ']).nth(4).and_then(|word| word.parse::<u32>().ok());
    let taken = tasks.map_or_else(String::new, |tasks| format!(" ({tasks} of {max} are taken)"));
    let way = match numbers::pace() {
        Ok(pace) => {
            let turn = pace.as_secs_f64() * f64::from(max);
            format!("waited for, if all are free{taken}; a turn takes {turn:.1} s")
        }
        Err(error) => return fact(what, Grade::Missing, format!("no process: {error}"), None),
    };
    let fix = "restart on another node or after the job's end: its numbers must be free";
    fact(what, Grade::Poor, way, Some(fix))
}

/// As a restart does it: our own ids mapped, and a child with a number of our choice.
fn with_numbers(proc: bool) -> io::Result<()> {
    const NUMBER: i32 = 4711;
    let own = !spawn::may_make_namespaces();
    let ids = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let user = if own { libc::CLONE_NEWUSER } else { 0 };
    spawn::try_in_child(ALONE | user, || {
        if own {
            map_ids(ids)?;
        }
        match spawn::fork(0, Some(NUMBER))? {
            Fork::Child => spawn::exit(0),
            Fork::Parent(pid) => drop(spawn::reap(pid)?),
        }
        if proc { spawn::mount_proc() } else { Ok(()) }
    })
}

fn clocks_of_its_own() -> io::Result<()> {
    let user = if spawn::may_make_namespaces() { 0 } else { libc::CLONE_NEWUSER };
    spawn::try_in_child(user, || {
        spawn::unshare(NEWTIME)?;
        let (monotonic, boottime) = clock::of_process(std::process::id().cast_signed());
        fs::write("/proc/self/timens_offsets", clock::offsets_for(monotonic, boottime))
    })
}

/// A process in a new user namespace may map its own ids, whose numbers outside it must know.
fn map_ids((user, group): (u32, u32)) -> io::Result<()> {
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("{user} {user} 1\n"))?;
    fs::write("/proc/self/gid_map", format!("{group} {group} 1\n"))
}

/// What would open the way to namespaces here.
fn mend(container: Container, error: &io::Error) -> String {
    let is = |name: &str, value: &str| {
        fs::read_to_string(format!("/proc/sys/{name}")).is_ok_and(|text| text.trim() == value)
    };
    if is("kernel/unprivileged_userns_clone", "0") {
        return "sysctl kernel.unprivileged_userns_clone=1".into();
    }
    if is("kernel/apparmor_restrict_unprivileged_userns", "1") {
        return "sysctl kernel.apparmor_restrict_unprivileged_userns=0".into();
    }
    match error.raw_os_error() {
        Some(libc::ENOSPC) => "sysctl user.max_user_namespaces=10000".into(),
        Some(libc::EINVAL | libc::ENOSYS) if container.free_calls().is_none() => {
            "a kernel with user and PID namespaces".into()
        }
        _ => match container.free_calls() {
            Some(argument) => argument.to_owned(),
            None if container == Container::Shifter => {
                "Shifter's chroot forbids them; podman-hpc and Apptainer have them".into()
            }
            None => {
                "they are refused in a chroot, and by seccomp profiles: run outside of those".into()
            }
        },
    }
}

/// An error without its number, which says nothing to people.
pub(super) fn words(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}
