//! Whose a process is (credentials(7)): checked, never changed.

use crate::error::{Error, ErrorKind, Result};
use crate::os::proc;

/// Identity and privileges of a process.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Credentials {
    /// Real, effective, saved, file system user id.
    pub uids: [u32; 4],
    /// Real, effective, saved, file system group id.
    pub gids: [u32; 4],
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
        let status = proc::status(pid)?;
        let number =
            |name| Ok::<_, Error>(proc::status_field(pid, name)?.and_then(|v| v.parse().ok()));
        Ok(Self {
            uids: [status.ruid, status.euid, status.suid, status.fuid],
            gids: [status.rgid, status.egid, status.sgid, status.fgid],
            capabilities: [
                status.capinh,
                status.capprm,
                status.capeff,
                status.capamb.unwrap_or_default(),
            ],
            seccomp: status.seccomp.unwrap_or_default(),
            filters: number("Seccomp_filters")?.unwrap_or_default(),
        })
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
        if self.seccomp != launcher.seccomp || self.filters != launcher.filters {
            return refuse(
                "cannot save the seccomp filters".into(),
                "switch the program's own sandbox off",
            );
        }
        Ok(())
    }
}
