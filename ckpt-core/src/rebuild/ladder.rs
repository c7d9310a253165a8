//! The ladder: ways to give processes their old numbers, tried in order.
//!
//! 1. `clone3(set_tid)`, for root and `CAP_CHECKPOINT_RESTORE`, where the numbers are free.
//! 2. An own PID namespace: every number is free there. Without privilege it takes an own user
//!    namespace around it; with privilege there must be none, as a job of root would lose its rights
//!    over everything that is not in there.
//! 3. Forking until the number comes by, where it is free.
//! 4. Other numbers: refused, as programs and the C library remember their own.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::Pids;
use super::alone::Alone;
use super::body::Tids;
use super::skeleton::{Choice, Legacy, Recipe, Skeleton, Within};
use super::tree::{self, Outside};
use crate::error::{Error, ErrorKind, Result};
use crate::os::{numbers, proc, spawn};
use crate::progress::{Event, Observer};
use crate::snapshot::Snapshot;

/// How long a number may belong to a zombie.
const REAPED_WITHIN: Duration = Duration::from_secs(10);

/// What came of it.
pub(crate) struct Grown {
    pub(crate) skeleton: Skeleton,
    pub(crate) tids: Tids,
    pub(crate) numbers: Numbers,
}

/// Whose PID namespace the job is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Numbers {
    /// Its own.
    Own,
    /// Others' as well.
    Shared,
}

/// Climbs as far as needed, or takes the one rung that is asked for.
pub(crate) fn climb(
    (snapshot, last_number): (&Snapshot, i32),
    programs: &[(CString, u32)],
    socket: (&OwnedFd, i32),
    legacy: Legacy<'_>,
    wanted: Pids,
    observer: &dyn Observer,
) -> Result<Grown> {
    let rungs = match wanted {
        Pids::Auto => &[Pids::SetTid, Pids::Namespace, Pids::Cycle][..],
        Pids::SetTid => &[Pids::SetTid],
        Pids::Namespace => &[Pids::Namespace],
        Pids::Cycle => &[Pids::Cycle],
    };
    let within = if spawn::may_make_namespaces() { Within::Ours } else { Within::Own };
    let mut refused = Vec::new();
    for &rung in rungs {
        let _alone = (rung == Pids::Cycle).then(Alone::wait);
        let grown = possible(snapshot, rung).and_then(|()| {
            if rung == Pids::Cycle {
                announce(observer);
            }
            let namespace = (rung == Pids::Namespace).then_some(within);
            let inherited = namespace.is_none();
            let outside = if inherited { Outside::Inherited } else { Outside::Numbered };
            let tree = tree::plan(snapshot, outside)?;
            let cycle = rung == Pids::Cycle;
            Skeleton::grow(&Recipe {
                tree: &tree,
                choice: if cycle { Choice::Cycle } else { Choice::SetTid },
                namespace,
                last_number,
                clocks: (snapshot.host.monotonic, snapshot.host.boottime),
                programs,
                root: snapshot.launcher.root,
                socket,
                legacy,
            })
        });
        match grown {
            Ok(skeleton) => {
                observer.event(Event::Chosen(format!("PIDs: {}", name(rung, within))));
                if rung == Pids::Namespace && within == Within::Own && has_privileges(snapshot) {
                    tracing::warn!(
                        "the job has privileges, and within its new user namespace only: what is \
                         not in there it may no longer change (see PIDs in `ckpt doctor`)"
                    );
                }
                let tids = if rung == Pids::Cycle { Tids::Cycled } else { Tids::Chosen };
                let own = rung == Pids::Namespace;
                let numbers = if own { Numbers::Own } else { Numbers::Shared };
                return Ok(Grown { skeleton, tids, numbers });
            }
            Err(error) if error.kind() == ErrorKind::Damaged => return Err(error),
            Err(error) => refused.push(format!("{}: {error}", name(rung, within))),
        }
    }
    let what = format!(
        "the job's processes cannot get their old numbers here, and other numbers are not safe \
         ({})",
        refused.join("; ")
    );
    Err(Error::new(ErrorKind::Unsupported, what)
        .help("restart where user namespaces are allowed, or where those numbers are free"))
}

/// Says how long it may take, where that is long.
fn announce(observer: &dyn Observer) {
    const LONG: f64 = 3.0;
    let Ok(pace) = numbers::pace() else { return };
    let turn = pace.as_secs_f64() * f64::from(numbers::pid_max());
    if turn > LONG {
        let what = format!(
            "the job's process numbers are waited for, and come by once in about {turn:.0} s: some \
             times as long may pass"
        );
        observer.event(Event::Warning(what));
    }
}

fn has_privileges(snapshot: &Snapshot) -> bool {
    snapshot.alive().any(|(_, live)| live.credentials.capabilities[2] != 0)
}

fn name(rung: Pids, within: Within) -> &'static str {
    match rung {
        Pids::SetTid => "clone3(set_tid)",
        Pids::Namespace if within == Within::Ours => "own PID namespace",
        Pids::Namespace => "own user and PID namespace",
        Pids::Cycle => "fork until they come by",
        Pids::Auto => "any way",
    }
}

/// What can be told beforehand.
fn possible(snapshot: &Snapshot, rung: Pids) -> Result<()> {
    if rung == Pids::SetTid && !spawn::may_choose_tids() {
        let what = "needs CAP_CHECKPOINT_RESTORE";
        return Err(Error::new(ErrorKind::Permission, what));
    }
    if rung == Pids::Namespace {
        return Ok(());
    }
    let tasks = snapshot.alive().flat_map(|(_, live)| live.tasks.iter().map(|task| task.tid));
    let wanted: Vec<i32> = tasks.chain(snapshot.processes.iter().map(|it| it.pid)).collect();
    let max = numbers::pid_max();
    if let Some(number) = wanted.iter().find(|&&number| rung == Pids::Cycle && number >= max) {
        let what = format!("the number {number} is beyond this host's kernel.pid_max, {max}");
        return Err(Error::new(ErrorKind::Unsupported, what));
    }
    match wanted.into_iter().find(|&number| stays_in_use(number)) {
        Some(number) => {
            let name = proc::comm(number);
            let ours = number == std::process::id() as i32;
            let who = match name.as_str() {
                _ if ours => "this command itself: run it again, and it gets another",
                "" => "a process group",
                name => name,
            };
            Err(Error::new(ErrorKind::Busy, format!("the number {number} is in use by {who}")))
        }
        None => Ok(()),
    }
}

/// Whether somebody has the number and keeps it. A job that was just killed, in a container or by the
/// end of its launcher, waits for init to reap it, which not every init does at once.
fn stays_in_use(tid: i32) -> bool {
    let deadline = Instant::now() + REAPED_WITHIN;
    while numbers::in_use(tid) {
        let is_zombie = proc::is_zombie(tid);
        if !is_zombie && numbers::in_use(tid) || Instant::now() >= deadline {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}
