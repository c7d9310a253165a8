//! Shared by the tests of the commands: how they are started and spoken to.
#![allow(dead_code, missing_docs, reason = "each test program uses its part of this")]

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

pub fn launcher() -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("ckpt-launch"));
    clean(&mut command);
    command
}

pub fn ckpt() -> assert_cmd::Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("ckpt"));
    clean(&mut command);
    assert_cmd::Command::from_std(command)
}

fn clean(command: &mut Command) {
    command.env_remove("CKPT_DIR").env_remove("CKPT_JOB_ID");
}

/// A launcher in a process group of its own, whose payload is a shell script.
pub struct Running {
    pub child: Child,
    pub lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Running {
    /// Starts `script` and waits for its first line, "ready".
    pub fn start(dir: &Path, script: &str) -> Self {
        let mut command = launcher();
        command.arg("--ckptdir").arg(dir).args(["--", "sh", "-c", script]);
        Self::start_command(command)
    }

    pub fn start_command(mut command: Command) -> Self {
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("spawn");
        let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
        assert_eq!(lines.next().expect("a line").expect("utf-8"), "ready");
        Self { child, lines }
    }

    pub fn signal(&self, name: &str) {
        let status =
            Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(status.expect("kill").success());
    }

    pub fn line(&mut self) -> String {
        self.lines.next().expect("a line").expect("utf-8")
    }

    /// Waits; the exit status and what was said on stderr.
    pub fn end(mut self) -> (Option<i32>, String) {
        let status = self.child.wait().expect("wait");
        // Not to its end: orphans may still hold the pipe.
        let mut said = String::new();
        if let Some(stderr) = self.child.stderr.take() {
            let flags = rustix::fs::fcntl_getfl(&stderr).expect("flags");
            rustix::fs::fcntl_setfl(&stderr, flags | rustix::fs::OFlags::NONBLOCK).expect("flags");
            let mut bytes = Vec::new();
            let _ = std::io::Read::read_to_end(&mut { stderr }, &mut bytes);
            said = String::from_utf8_lossy(&bytes).into_owned();
        }
        (status.code(), said)
    }
}
