//! Reads back what was set up and compares it with the snapshot, before the job is let go: a
//! restart is right or refused, never silently wrong.

use super::body::Body;
use crate::error::{Error, ErrorKind, Result};
use crate::kinds::credentials::Credentials;
use crate::kinds::file::{self, Descriptor};
use crate::kinds::memory::Area;
use crate::os::maps::{self, Kind};
use crate::os::{proc, ptrace, sched};
use crate::snapshot::Snapshot;

/// Compares one process.
///
/// # Errors
///
/// [`ErrorKind::Internal`], with the first difference.
pub(crate) fn process(body: &Body<'_>, snapshot: &Snapshot) -> Result<()> {
    let compared = areas(body)
        .and_then(|()| descriptors(body))
        .and_then(|()| status(body))
        .and_then(|()| identity(body))
        .and_then(|()| kinship(body, snapshot))
        .and_then(|()| limits(body));
    compared.map_err(|e| {
        e.whose(body.process).help("this is a defect of ckpt; the image is untouched: report it")
    })
}

fn differs<T: std::fmt::Debug>(what: &str, now: T, then: T) -> Error {
    let what = format!("{what} did not come back right: {now:x?} instead of {then:x?}");
    Error::new(ErrorKind::Internal, what)
}

/// Address ranges with protection and sharing, neighbours joined: the kernel joins and splits
/// areas at its own discretion.
fn joined(ranges: impl Iterator<Item = (u64, u64, u8, bool)>) -> Vec<(u64, u64, u8, bool)> {
    let mut out: Vec<(u64, u64, u8, bool)> = Vec::new();
    for range in ranges {
        match out.last_mut() {
            Some(last) if last.1 == range.0 && (last.2, last.3) == (range.2, range.3) => {
                last.1 = range.1;
            }
            _ => out.push(range),
        }
    }
    out
}

fn areas(body: &Body<'_>) -> Result<()> {
    let then =
        joined(body.live.space.areas.iter().map(
            |Area { start, end, protection, shared, .. }| (*start, *end, *protection, *shared),
        ));
    let scratch = body.scratch_range();
    let kernels = |kind: Kind| matches!(kind, Kind::Vdso | Kind::Vvar | Kind::Vsyscall);
    let maps = maps::read(body.pid)?;
    let vdso = body.live.space.vdso.0;
    let now = joined(
        maps.iter()
            .filter(|map| !kernels(map.kind) && map.start != scratch && map.start != vdso)
            .map(|map| (map.start, map.end, map.protection, map.shared)),
    );
    let difference = now.iter().zip(&then).find(|(now, then)| now != then);
    match difference {
        Some((now, then)) => Err(differs("the memory layout", *now, *then)),
        None if now.len() != then.len() => {
            Err(differs("the number of memory areas", now.len(), then.len()))
        }
        None => Ok(()),
    }
}

fn descriptors(body: &Body<'_>) -> Result<()> {
    let now = proc::descriptors(body.pid)?;
    let mut then: Vec<i32> = body.live.descriptors.iter().map(|d| d.fd).collect();
    then.sort_unstable();
    if now != then {
        return Err(differs("the list of file descriptors", now, then));
    }
    for Descriptor { fd, close_on_exec, .. } in &body.live.descriptors {
        let info = proc::read(body.pid, &format!("fdinfo/{fd}"))?;
        let (_, flags) = file::position_and_flags(&String::from_utf8_lossy(&info))
            .ok_or_else(|| Error::new(ErrorKind::Os, format!("no flags of descriptor {fd}")))?;
        let now = flags & libc::O_CLOEXEC != 0;
        if now != *close_on_exec {
            return Err(differs("FD_CLOEXEC", (fd, now), (fd, *close_on_exec)));
        }
    }
    Ok(())
}

fn status(body: &Body<'_>) -> Result<()> {
    let status = proc::status(body.pid)?;
    let mut caught = 0u64;
    let mut ignored = 0u64;
    for disposition in &body.live.dispositions {
        let bit = 1 << (disposition.signal - 1);
        match disposition.handler {
            0 => {}
            1 => ignored |= bit,
            _ => caught |= bit,
        }
    }
    let now = status.dispositions()?;
    if now != (caught, ignored) {
        return Err(differs("signal dispositions", now, (caught, ignored)));
    }
    if status.umask() != Some(body.live.attributes.umask) {
        return Err(differs("the umask", status.umask(), Some(body.live.attributes.umask)));
    }
    let cwd = proc::link(body.pid, "cwd")?;
    if cwd != body.live.attributes.cwd {
        return Err(differs("the working directory", &cwd, &body.live.attributes.cwd));
    }
    let mut now: Vec<i32> = body.tids().into_iter().map(proc::inner_pid).collect::<Result<_>>()?;
    let mut then: Vec<i32> = body.live.tasks.iter().map(|task| task.tid).collect();
    now.sort_unstable();
    then.sort_unstable();
    if now != then {
        return Err(differs("the numbers of the tasks", now, then));
    }
    Ok(())
}

/// Ids and signal masks. The groups are ours, as the host was checked to have the right ones.
fn identity(body: &Body<'_>) -> Result<()> {
    let ours = Credentials::of(std::process::id() as i32)?;
    let then = body.live.credentials.uids;
    for (task, tid) in body.live.tasks.iter().zip(body.tids()) {
        let now = Credentials::of(tid)?;
        if now.uids != then {
            return Err(differs("the user ids", now.uids, then));
        }
        if (now.gids, &now.groups) != (ours.gids, &ours.groups) {
            return Err(differs("the groups", now.groups, ours.groups));
        }
        let mask = ptrace::signal_mask(tid)
            .map_err(|e| Error::os(format!("cannot read the signal mask of task {tid}"), e))?;
        if mask != task.mask {
            return Err(differs("a signal mask", mask, task.mask));
        }
    }
    Ok(())
}

/// Parent, session and group, by the job's own numbers; those of the launcher may be others here.
fn kinship(body: &Body<'_>, snapshot: &Snapshot) -> Result<()> {
    let (process, launcher) = (body.process, &snapshot.launcher);
    let status = proc::status(body.pid)?;
    if snapshot.processes.iter().any(|other| other.pid == process.parent) {
        let now = proc::inner_pid(status.parent()?)?;
        if now != process.parent {
            return Err(differs("the parent", now, process.parent));
        }
    }
    let now = status.innermost("NSsid")?;
    if process.session != launcher.session && now != process.session {
        return Err(differs("the session", now, process.session));
    }
    let of_launcher = (process.session, process.group) == (launcher.session, launcher.group);
    let now = status.innermost("NSpgid")?;
    if !of_launcher && process.group != 0 && now != process.group {
        return Err(differs("the process group", now, process.group));
    }
    Ok(())
}

/// Resource limits; a hard limit that is lower here stays so, and was told of.
fn limits(body: &Body<'_>) -> Result<()> {
    let limits = sched::limits(body.pid).map_err(|e| Error::os("cannot read the limits", e))?;
    let then = &body.live.attributes.limits;
    let fits = |now: (u64, u64), then: (u64, u64)| {
        now == then || (now.1 < then.1 && now.0 == then.0.min(now.1))
    };
    match then.iter().zip(limits).find(|&(&then, now)| !fits(now, then)) {
        Some((&then, now)) => Err(differs("a resource limit", now, then)),
        None => Ok(()),
    }
}
