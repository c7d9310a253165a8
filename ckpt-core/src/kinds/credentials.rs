//! Whose a process is (credentials(7)): checked, and never changed but by root, who restores with
//! the groups that the job had.

use rustix::process::Gid;

use crate::error::{Error, ErrorKind, Result};
use crate::os::proc;
use crate::os::status::Status;

/// What procfs shows for a group that is not mapped into the reader's user namespace
/// (`/proc/sys/kernel/overflowgid`).
const UNMAPPED: u32 = 65534;

/// Identity and privileges of a process.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Credentials {
    /// Real, effective, saved, file system user id.
    pub uids: [u32; 4],
    /// Real, effective, saved, file system group id.
    pub gids: [u32; 4],
    /// Supplementary groups, sorted.
    pub groups: Vec<u32>,
    /// Inheritable, permitted, effective, ambient capabilities.
    pub capabilities: [u64; 4],
    /// Seccomp mode: 0 none, 1 strict, 2 filters.
    pub seccomp: u32,
    /// Number of seccomp filters.
    pub filters: u32,
}

impl Credentials {
    /// Those of process `pid`, as seen from here.
    pub(crate) fn of(pid: i32) -> Result<Self> {
        Self::told(&proc::status(pid)?)
    }

    /// Those that a status tells of.
    pub(crate) fn told(status: &Status) -> Result<Self> {
        let mut groups = status.numbers("Groups")?;
        groups.sort_unstable();
        let names = ["CapInh", "CapPrm", "CapEff", "CapAmb"];
        let mut capabilities = [0; 4];
        for (set, name) in capabilities.iter_mut().zip(names) {
            *set = status.bits(name)?;
        }
        Ok(Self {
            groups,
            uids: status.ids("Uid")?,
            gids: status.ids("Gid")?,
            capabilities,
            seccomp: status.number("Seccomp").unwrap_or_default(),
            filters: status.number("Seccomp_filters").unwrap_or_default(),
        })
    }

    /// Whether a process with these has the groups that `other` has. Which are behind numbers that
    /// are not mapped cannot be told; the kernel keeps them.
    pub(crate) fn has_groups_of(&self, other: &Self) -> bool {
        let told = |credentials: &Self| !credentials.groups.contains(&UNMAPPED);
        self.gids[1] == other.gids[1]
            && (self.groups == other.groups || !told(self) || !told(other))
    }

    /// Takes these groups: for root.
    ///
    /// # Errors
    ///
    /// What setgroups(2) and setresgid(2) say.
    pub(crate) fn take_groups(&self) -> Result<()> {
        use rustix::thread::{set_thread_groups, set_thread_res_gid};
        let failed = |e| Error::os(format!("cannot take the groups {:?}", self.groups), e);
        let groups: Vec<Gid> = self.groups.iter().map(|&gid| Gid::from_raw(gid)).collect();
        let gid = Gid::from_raw(self.gids[1]);
        set_thread_groups(&groups).map_err(failed)?;
        set_thread_res_gid(gid, gid, gid).map_err(failed)
    }

    /// Refuses a process that could not be made again by the same means as its launcher: another
    /// user's, or one with seccomp filters of its own.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`], with what differs.
    pub fn check_against(&self, launcher: &Self) -> Result<()> {
        let refuse = |what: String, help: &str| {
            Err(Error::new(ErrorKind::Unsupported, what).help(help.to_owned()))
        };
        if self.uids.iter().any(|&uid| uid != launcher.uids[1])
            || self.gids.iter().any(|&gid| gid != launcher.gids[1])
        {
            let (uids, gids) = (self.uids, self.gids);
            return refuse(
                format!("cannot save the user and group ids {uids:?}, {gids:?}"),
                "only processes of the user who runs ckpt can be brought back",
            );
        }
        if self.groups != launcher.groups {
            let (groups, others) = (&self.groups, &launcher.groups);
            return refuse(
                format!(
                    "cannot save the groups {groups:?}, which are not the launcher's {others:?}"
                ),
                "start the launcher with the groups that the program gives itself",
            );
        }
        if self.seccomp != launcher.seccomp || self.filters != launcher.filters {
            return refuse(
                "cannot save the seccomp filters".into(),
                "switch the program's own sandbox off",
            );
        }
        Ok(())
    }
}
