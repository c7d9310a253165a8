//! Who runs the job.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{Gid, Uid};

const ACCOUNT: &str = "ckpttest";

/// A user of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    uid: u32,
    gid: u32,
    /// Login name.
    pub name: String,
    /// Home folder.
    pub home: PathBuf,
}

impl User {
    /// Root, if the tests are run by it; otherwise says that the test is left out.
    pub fn root() -> Option<Self> {
        if Uid::effective().is_root() {
            return Some(Self { uid: 0, gid: 0, name: "root".into(), home: "/root".into() });
        }
        eprintln!("left out: only root can do this");
        None
    }

    /// An ordinary user without capabilities: whoever runs the tests or, if that is root, one that
    /// is made for the purpose.
    ///
    /// # Panics
    ///
    /// When the account cannot be made.
    pub fn ordinary() -> Self {
        if !Uid::effective().is_root() {
            let user = nix::unistd::User::from_uid(Uid::effective()).ok().flatten();
            return Self::of(user.expect("the user that runs the tests has an account"));
        }
        let find = || nix::unistd::User::from_name(ACCOUNT).ok().flatten();
        if find().is_none() {
            let file =
                std::fs::File::create("/tmp/ckpt-tests-account.lock").expect("/tmp is there");
            let _lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| e);
            if find().is_none() {
                let made =
                    Command::new("useradd").args(["-m", "-s", "/bin/bash", ACCOUNT]).status();
                assert!(made.is_ok_and(|s| s.success()), "useradd -m {ACCOUNT} failed");
            }
        }
        Self::of(find().expect("the account was made"))
    }

    fn of(user: nix::unistd::User) -> Self {
        let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
        Self { uid, gid, name: user.name, home: user.dir }
    }

    /// Its number.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Its group's number.
    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// A command that this user gives, with nothing in its environment but what is usual.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            .env("LANG", "C.UTF-8")
            .env("USER", &self.name)
            .env("HOME", &self.home);
        if Uid::effective().as_raw() != self.uid {
            // As root, std drops the supplementary groups along with these.
            command.uid(self.uid).gid(self.gid);
        }
        command
    }

    /// Makes `path` this user's own.
    pub fn own(&self, path: &Path) {
        if Uid::effective().is_root() {
            let ids = (Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)));
            nix::unistd::chown(path, ids.0, ids.1).expect("root may give files away");
        }
    }
}
