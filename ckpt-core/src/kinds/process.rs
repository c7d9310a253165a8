//! A process: what its tasks share besides memory, files and signals.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::Hand;
use super::asks::{Answers, Asks};
use crate::error::{Error, ErrorKind, Result};
use crate::os::status::Status;
use crate::os::{PAGE, proc, sched};

/// Attributes of a process.
#[derive(Debug, Clone, Default, bincode::Encode, bincode::Decode)]
pub struct Attributes {
    /// Working directory.
    pub cwd: Vec<u8>,
    /// Root directory.
    pub root: Vec<u8>,
    /// File mode creation mask.
    pub umask: u32,
    /// Soft and hard limit of each `RLIMIT_*`.
    pub limits: Vec<(u64, u64)>,
    /// personality(2).
    pub personality: u32,
    /// `PR_SET_THP_DISABLE`.
    pub thp_disabled: bool,
    /// `PR_SET_DUMPABLE`.
    pub dumpable: i32,
    /// `PR_SET_CHILD_SUBREAPER`.
    pub subreaper: bool,
    /// `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privs: bool,
    /// `/proc/PID/oom_score_adj`.
    pub oom_score_adj: i32,
    /// membarrier(2) registrations (`MEMBARRIER_CMD_GET_REGISTRATIONS`).
    pub membarrier: u32,
    /// Large processor states that the process has asked for (`ARCH_GET_XCOMP_PERM`): AMX tiles.
    pub large_states: u64,
    /// mlockall(2) of what is yet to be mapped: `MCL_FUTURE`, `MCL_ONFAULT`, or 0.
    pub locks_future: i32,
    /// The process is stopped by a signal (`SIGSTOP`, `SIGTSTP` …).
    pub stopped: bool,
}

/// `MEMBARRIER_CMD_GET_REGISTRATIONS` of linux/membarrier.h.
const GET_REGISTRATIONS: u64 = 1 << 9;
/// `ARCH_GET_XCOMP_PERM`, `ARCH_REQ_XCOMP_PERM` of asm/prctl.h.
const ARCH_GET_XCOMP_PERM: u64 = 0x1022;
const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
/// `XFEATURE_XTILE_DATA`.
const TILES: u64 = 18;

impl Attributes {
    /// Asks for what must be there before any other task is made.
    pub(crate) fn prepare(&self, hand: &Hand<'_>) -> Result<()> {
        if self.large_states & 1 << TILES != 0 {
            let arguments = [ARCH_REQ_XCOMP_PERM, TILES];
            hand.remote.try_call("permit AMX tiles", libc::SYS_arch_prctl, &arguments)?;
        }
        for command in (0..32).map(|bit| 1u64 << bit).filter(|c| self.membarrier as u64 & c != 0) {
            let what = "register for membarrier";
            hand.remote.try_call(what, libc::SYS_membarrier, &[command, 0, 0])?;
        }
        Ok(())
    }

    /// What procfs tells of them; `pid` is the process' number as seen from here.
    pub(crate) fn told(pid: i32) -> Result<Self> {
        let text = |file: &str| {
            Ok::<_, Error>(String::from_utf8_lossy(&proc::read(pid, file)?).trim().to_owned())
        };
        Ok(Self {
            cwd: directory(pid)?,
            root: proc::link(pid, "root")?,
            limits: sched::limits(pid).map_err(|e| Error::os("cannot read the limits", e))?,
            personality: u32::from_str_radix(&text("personality")?, 16).unwrap_or_default(),
            oom_score_adj: text("oom_score_adj")?.parse().unwrap_or_default(),
            ..Self::default()
        })
    }

    /// Finds out what a scratch page shows that nobody may have touched; `status` is from before it was there.
    pub(crate) fn capture(&mut self, hand: &Hand<'_>, pid: i32, status: &Status) -> Result<()> {
        self.locks_future = locks_future(hand, pid, status)?;
        self.umask = status.umask().unwrap_or(0o22);
        self.no_new_privs = status.number("NoNewPrivs") == Some(1);
        Ok(())
    }

    /// Asks for the others.
    pub(crate) fn ask(asks: &mut Asks) -> impl FnOnce(&mut Self, &Answers) -> Result<()> + use<> {
        let reaper = [libc::PR_GET_CHILD_SUBREAPER as u64, 0, 0, 0, 0];
        let reaper = asks.words("read the subreaper flag", libc::SYS_prctl, &reaper, (1, 1));
        let [thp, dumpable] = [libc::PR_GET_THP_DISABLE, libc::PR_GET_DUMPABLE]
            .map(|option| asks.value("read a flag", libc::SYS_prctl, &[option as u64, 0, 0, 0, 0]));
        let what = "read the membarrier registrations";
        let registered = asks.value(what, libc::SYS_membarrier, &[GET_REGISTRATIONS, 0, 0]);
        let what = "read the permitted processor states";
        let states = asks.words(what, libc::SYS_arch_prctl, &[ARCH_GET_XCOMP_PERM, 0], (1, 1));
        move |attributes, answers| {
            let [reaper] = answers.words(reaper)?;
            attributes.subreaper = reaper & 0xffff_ffff != 0;
            attributes.thp_disabled = answers.value(thp)? != 0;
            attributes.dumpable = answers.value(dumpable)? as i32;
            // Kernels before 6.3 cannot tell, those before 5.16 have no such states.
            attributes.membarrier = answers.result(registered).max(0) as u32;
            attributes.large_states = answers.words(states).map_or(0, |[states]| states);
            Ok(())
        }
    }

    /// Gives them to a process that is being made; `outer` is its number as seen from here.
    /// Limits come last ([`Self::limit`]): they could stand in the way of rebuilding.
    pub(crate) fn rebuild(&self, hand: &Hand<'_>, outer: i32) -> Result<()> {
        let cwd = hand.put_string(&self.cwd)?;
        let what = format!("change to the directory {}", String::from_utf8_lossy(&self.cwd));
        hand.remote.try_call(&what, libc::SYS_chdir, &[cwd])?;
        hand.remote.try_call("set the umask", libc::SYS_umask, &[self.umask.into()])?;
        let prctl = |what: &str, option: i32, value: u64| {
            let arguments = [option as u64, value, 0, 0, 0];
            hand.remote.try_call(what, libc::SYS_prctl, &arguments).map(drop)
        };
        if self.thp_disabled {
            prctl("set the THP flag", libc::PR_SET_THP_DISABLE, 1)?;
        }
        if self.subreaper {
            prctl("set the subreaper flag", libc::PR_SET_CHILD_SUBREAPER, 1)?;
        }
        if self.no_new_privs {
            prctl("set no_new_privs", libc::PR_SET_NO_NEW_PRIVS, 1)?;
        }
        if self.locks_future != 0 {
            let flags = [self.locks_future as u64];
            hand.remote.try_call("lock future memory", libc::SYS_mlockall, &flags)?;
        }
        let score = format!("/proc/{outer}/oom_score_adj");
        if let Err(error) = std::fs::write(score, self.oom_score_adj.to_string()) {
            tracing::debug!(%error, "oom_score_adj stays as it is");
        }
        Ok(())
    }

    /// Makes the process undumpable if it was: after all that asks for access to it, which is then
    /// root's alone.
    pub(crate) fn close(&self, hand: &Hand<'_>) -> Result<()> {
        if self.dumpable == 1 {
            return Ok(());
        }
        // 2, which execve(2) and a change of ids give, cannot be asked for; 0 is as strict.
        let arguments = [libc::PR_SET_DUMPABLE as u64, 0, 0, 0, 0];
        hand.remote.try_call("make it undumpable", libc::SYS_prctl, &arguments).map(drop)
    }

    /// Sets the resource limits, at the very end.
    pub(crate) fn limit(&self, outer: i32) -> Result<()> {
        let now = sched::limits(outer).map_err(|e| Error::os("cannot read the limits", e))?;
        for (resource, (&wanted, now)) in self.limits.iter().zip(now).enumerate() {
            if wanted == now {
                continue;
            }
            // A hard limit that is lower here than there cannot be raised; the soft one may be
            // out of reach, too.
            let fitting = (wanted.0.min(now.1), wanted.1.min(now.1));
            if fitting != wanted {
                tracing::warn!(resource, ?wanted, ?fitting, "a resource limit is lower here");
            }
            sched::set_limit(outer, resource as u32, fitting)
                .map_err(|e| Error::os(format!("cannot set resource limit {resource}"), e))?;
        }
        Ok(())
    }
}

/// What mlockall(2) has said of memory to come: it shows in a new page, which the scratch page is.
fn locks_future(hand: &Hand<'_>, pid: i32, before: &Status) -> Result<i32> {
    if proc::status(pid)?.bytes("VmLck") == before.bytes("VmLck") {
        return Ok(0);
    }
    // Without MCL_ONFAULT it is there before anybody has touched it; the kernel looks, then tells.
    let page = hand.scratch.address;
    hand.remote.try_call("ask for a new page", libc::SYS_mincore, &[page, PAGE, page])?;
    let mut there = [0];
    hand.memory.read_exact(page, &mut there)?;
    let lazily = if there[0] & 1 == 0 { libc::MCL_ONFAULT } else { 0 };
    Ok(libc::MCL_FUTURE | lazily)
}

/// The working directory of a process, which must still be there.
fn directory(pid: i32) -> Result<Vec<u8>> {
    let path = proc::link(pid, "cwd")?;
    let identity = |path: &Path| fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    // A directory may really be called so.
    if path.ends_with(b" (deleted)")
        && identity(Path::new(OsStr::from_bytes(&path)))
            != identity(Path::new(&format!("/proc/{pid}/cwd")))
    {
        let what = format!("the working directory {}", String::from_utf8_lossy(&path));
        return Err(Error::new(ErrorKind::Unsupported, format!("{what} cannot be entered again"))
            .help("change to a directory that stays before the checkpoint"));
    }
    Ok(path)
}
