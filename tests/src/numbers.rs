//! Process numbers of one's own. A restart that waits for numbers uses all others up in a fraction of a second:
//! whoever on this machine remembers the number of a process that is no more would soon find another there.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::tree::descendants;
use crate::user::User;

/// The namespace's first process: it reaps orphans until nobody holds its input any more. A turn is to be as
/// long as the machine's own (from Linux 6.14 on it is four million numbers otherwise), and those below 300
/// are handed out once only.
const INIT: &str = "\
    cd /proc/sys/kernel && echo $1 >pid_max && echo 1000 >ns_last_pid && echo ready && read -r _";

/// A PID namespace with a procfs of its own (pid_namespaces(7)); all in it end when this is dropped.
#[derive(Debug)]
pub struct Numbers {
    outside: Child,
    init: i32,
}

impl Numbers {
    /// Makes one; None where only root could, and the machine's own numbers must do.
    ///
    /// # Panics
    ///
    /// When root cannot.
    pub fn new() -> Option<Self> {
        User::root()?;
        let mut unshare = Command::new("unshare");
        let max = fs::read_to_string("/proc/sys/kernel/pid_max").expect("/proc is mounted");
        unshare.args(["--pid", "--fork", "--mount-proc", "bash", "-c", INIT, "init", max.trim()]);
        unshare.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut outside = unshare.spawn().expect("unshare(1) is there");
        let mut ready = String::new();
        let said = outside.stdout.take().expect("it is a pipe");
        BufReader::new(said).read_line(&mut ready).expect("it can be read");
        assert_eq!(ready, "ready\n", "a PID namespace");
        let init = descendants(outside.id().cast_signed())[0];
        Some(Self { outside, init })
    }

    /// What goes before a command that this user gives in there.
    pub fn words(&self, user: &User) -> Vec<String> {
        let (init, uid, gid) = (self.init, user.uid(), user.gid());
        let as_user = match uid {
            0 => String::new(),
            _ => format!("setpriv --reuid {uid} --regid {gid} --clear-groups"),
        };
        let enter = format!("exec nsenter -t {init} -p -m env -C \"$PWD\" {as_user} \"$@\"");
        ["sh", "-c", &enter, "sh"].map(str::to_owned).to_vec()
    }
}

impl Drop for Numbers {
    fn drop(&mut self) {
        drop(self.outside.stdin.take());
        let _ = self.outside.wait();
    }
}
