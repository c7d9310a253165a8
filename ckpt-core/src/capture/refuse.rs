//! What is refused before anything of a frozen process is touched: to ask such a process would
//! harm it, or its image could not be restored rightly.

use super::freeze::FrozenProcess;
use super::states::{NAMESPACES, States};
use crate::error::{Error, ErrorKind, Result};
use crate::kinds::credentials::Credentials;
use crate::os::maps::Map;
use crate::os::{fds, proc, ptrace};

/// The code segment of 64-bit programs.
const USER_CS: u64 = 0x33;

/// Checks every task of a process against its leader, and the process against its `parent`.
///
/// # Errors
///
/// [`ErrorKind::Unsupported`], with what it is and what to do.
pub(crate) fn check(
    process: &FrozenProcess,
    parent: i32,
    launcher: &Credentials,
    states: &States,
) -> Result<()> {
    let refuse = |what: &str, help: &str| {
        Err(Error::new(ErrorKind::Unsupported, what).help(help.to_owned()))
    };
    let status = states.status(process.pid)?;
    let leader = Credentials::told(&status)?;
    leader.check_against(launcher)?;
    for task in &process.tasks {
        let tid = task.tid();
        if task.registers()?.cs != USER_CS {
            return refuse("cannot save a 32-bit process", "use a 64-bit build of the program");
        }
        if tid != process.pid && Credentials::told(&*states.status(tid)?)? != leader {
            return refuse(
                "cannot save a task with credentials or seccomp filters of its own",
                "switch the program's own sandbox off",
            );
        }
        if ptrace::dispatches_syscalls(tid) {
            return refuse(
                "cannot save a task that uses syscall user dispatch",
                "run the program without that emulation layer",
            );
        }
        if fds::shares_less(process.pid, tid) {
            return refuse(
                "cannot save a task whose descriptors or directories are apart from its process'",
                "avoid unshare(CLONE_FILES) and unshare(CLONE_FS) in threads",
            );
        }
    }
    if fds::shares_with(process.pid, parent) {
        return refuse(
            "cannot save a process that shares memory or descriptors with its parent",
            "avoid clone(CLONE_VM) and clone(CLONE_FILES) without CLONE_THREAD",
        );
    }
    own_namespaces(process.pid, parent, states)
}

/// Namespaces that the job made for itself are not brought back yet.
fn own_namespaces(pid: i32, parent: i32, states: &States) -> Result<()> {
    let (own, parents) = (states.namespaces(pid)?, states.namespaces(parent)?);
    for ((kind, own), parents) in NAMESPACES.into_iter().zip(own.iter()).zip(parents.iter()) {
        // What a process' children get may be another than its own.
        let other = matches!(kind, "pid" | "time")
            .then(|| proc::link(parent, &format!("ns/{kind}_for_children")).ok());
        if *own != other.flatten().unwrap_or_else(|| parents.clone()) {
            let what = format!("cannot save the {kind} namespace, which is the process' own");
            return Err(Error::new(ErrorKind::Unsupported, what)
                .help("start the launcher inside of that namespace"));
        }
    }
    Ok(())
}

/// Refuses areas whose contents or rights cannot be brought back.
///
/// # Errors
///
/// [`ErrorKind::Unsupported`], with the area.
pub(crate) fn area(map: &Map, flags: &[[u8; 2]], watched: bool) -> Result<()> {
    const KINDS: [(&[u8; 2], &str); 4] = [
        (b"ss", "is a shadow stack"),
        (b"um", "is watched by userfaultfd"),
        (b"uw", "is watched by userfaultfd"),
        (b"ht", "is made of huge pages of hugetlbfs"),
    ];
    let ours = |flag: &[u8; 2]| watched && flag == b"uw";
    match KINDS.iter().find(|(flag, _)| flags.contains(flag) && !ours(flag)) {
        Some((_, why)) => {
            let what = format!("the memory at {:#x} {why}, which cannot be saved yet", map.start);
            Err(Error::new(ErrorKind::Unsupported, what))
        }
        None => Ok(()),
    }
}
