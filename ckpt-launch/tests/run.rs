//! The launcher is invisible: exit status, signals, environment and descriptors are as without it.
#![allow(missing_docs, reason = "tests")]

mod common;

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use common::{Running, launcher};

fn status_of(command: &[&str]) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().unwrap();
    let out = launcher().arg("--ckptdir").arg(dir.path()).args(command).output().unwrap();
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
}

#[test]
fn exit_status() {
    assert_eq!(status_of(&["true"]), (Some(0), String::new()));
    assert_eq!(status_of(&["sh", "-c", "exit 3"]), (Some(3), String::new()));
    assert_eq!(status_of(&["sh", "-c", "exit 255"]).0, Some(255));
    let (code, said) = status_of(&["sh", "-c", "kill -SEGV $$"]);
    assert_eq!(code, Some(128 + 11));
    assert!(said.contains("SIGSEGV"), "{said}");
    assert_eq!(status_of(&["sh", "-c", "kill -KILL $$"]).0, Some(137));
    assert_eq!(status_of(&["sh", "-c", "kill -INT $$"]), (Some(130), String::new()));
    assert_eq!(status_of(&["sh", "-c", "kill -40 $$"]).0, Some(168));
}

#[test]
fn commands_that_do_not_run() {
    let (code, said) = status_of(&["/no/such/program"]);
    assert_eq!(code, Some(127));
    assert!(said.contains("/no/such/program"), "{said}");
    assert_eq!(status_of(&["no-such-program-in-path"]).0, Some(127));
    assert_eq!(status_of(&["/etc/passwd"]).0, Some(126));
    assert_eq!(status_of(&["/"]).0, Some(126));
    assert_eq!(status_of(&["--no-such-flag", "true"]).0, Some(2));
}

#[test]
fn a_directory_that_is_of_no_use_is_told_at_once() {
    let mut command = launcher();
    let out = command.args(["--ckptdir", "/proc/nowhere", "true"]).output().unwrap();
    assert!(matches!(out.status.code(), Some(66 | 71 | 74 | 77)), "{out:?}");
}

#[test]
fn the_payload_finds_the_signals_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    for ignored in ["", "trap '' PIPE HUP USR1 CHLD;"] {
        let run = |before: &str| {
            let program = assert_cmd::cargo::cargo_bin!("ckpt-launch");
            let script =
                format!("{ignored} exec {before} grep -E 'Sig(Blk|Ign|Cgt)' /proc/self/status");
            let script = script.replace("LAUNCH", &program.display().to_string());
            Command::new("bash").args(["-c", &script]).current_dir(dir.path()).output().unwrap()
        };
        let (without, with) = (run(""), run("LAUNCH --"));
        assert!(!without.stdout.is_empty());
        assert_eq!(without.stdout, with.stdout, "{}", String::from_utf8_lossy(&with.stdout));
    }
}

#[test]
fn the_payload_finds_its_descriptors_and_group() {
    let dir = tempfile::tempdir().unwrap();
    let look = "ls /proc/self/fd | wc -l; ulimit -n; cut -d' ' -f5,6 /proc/$$/stat; exit 0";
    let run = |mut command: Command| {
        command.args(["sh", "-c", look]).stdin(Stdio::null()).current_dir(dir.path());
        command.output().unwrap().stdout
    };
    let with = run(launcher());
    let without = run(Command::new("env"));
    assert!(!with.is_empty());
    assert_eq!(with, without);
}

#[test]
fn the_environment_leads_back() {
    let dir = tempfile::tempdir().unwrap();
    let out = launcher()
        .args(["--ckptdir", "a/b", "sh", "-c", "echo $CKPT_DIR; echo $CKPT_JOB_ID"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let (path, id) = text.trim().split_once('\n').unwrap();
    assert_eq!(std::path::Path::new(path), dir.path().canonicalize().unwrap().join("a/b"));
    assert_eq!(id.len(), 16);
}

#[test]
fn signals_are_passed_on() {
    let dir = tempfile::tempdir().unwrap();
    for (signal, number) in
        [("TERM", 15), ("HUP", 1), ("USR1", 10), ("INT", 2), ("QUIT", 3), ("40", 40)]
    {
        let script = format!("trap 'kill $!; exit {number}' {signal}; sleep 60 & echo ready; wait");
        let job = Running::start(dir.path(), &script);
        job.signal(signal);
        assert_eq!(job.end().0, Some(number), "{signal}");
    }
    let job = Running::start(dir.path(), "echo ready; exec sleep 60");
    job.signal("TERM");
    assert_eq!(job.end().0, Some(128 + 15));
}

#[test]
fn a_signal_of_the_job_to_its_group_comes_once() {
    let dir = tempfile::tempdir().unwrap();
    // TERM is sent after USR1 and only to the launcher: an echo of USR1 would come before it.
    let script = "trap 'echo usr1' USR1; trap 'echo term; exit 4' TERM; echo ready
                  kill -USR1 0; while :; do sleep 0.05; done";
    let mut command = launcher();
    command.arg("--ckptdir").arg(dir.path()).args(["--", "sh", "-c", script]);
    let mut job = Running::start_command(command);
    assert_eq!(job.line(), "usr1");
    job.signal("TERM");
    assert_eq!(job.line(), "term");
    assert_eq!(job.end().0, Some(4));
}

#[test]
fn orphans_do_not_hold_the_launcher_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut job = Running::start(dir.path(), "echo ready; sleep 60 >&- 2>&- & echo $!; exit 6");
    let orphan = job.line();
    assert_eq!(job.end().0, Some(6));
    assert!(Command::new("kill").arg(&orphan).status().unwrap().success(), "it lives on");
}

#[test]
fn orphans_are_reaped() {
    let dir = tempfile::tempdir().unwrap();
    let script = "echo ready; (sh -c 'echo $$; exit 0' &); sleep 60 & wait";
    let mut job = Running::start(dir.path(), script);
    let orphan = job.line();
    // The launcher answers requests only after it has reaped.
    while std::path::Path::new(&format!("/proc/{orphan}")).exists() {
        common::ckpt().arg("status").arg("--ckptdir").arg(dir.path()).assert().success();
    }
    common::ckpt().arg("kill").arg("--ckptdir").arg(dir.path()).assert().success();
    assert_eq!(job.end().0, Some(137));
}

#[test]
fn ctrl_c_comes_from_the_terminal_once() {
    let dir = tempfile::tempdir().unwrap();
    let master =
        rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY)
            .unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    let name = rustix::pty::ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let slave = || {
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
        Stdio::from(rustix::fs::open(name.as_str(), flags, rustix::fs::Mode::empty()).unwrap())
    };
    let script = "trap 'echo int' INT; trap 'echo term; exit 9' TERM; echo ready
                  while :; do sleep 0.05; done";
    let mut child = Command::new("setsid")
        .arg("-c")
        .arg(launcher().get_program())
        .arg("--ckptdir")
        .arg(dir.path())
        .args(["--", "sh", "-c", script])
        .stdin(slave())
        .stdout(slave())
        .stderr(slave())
        .spawn()
        .unwrap();
    let mut terminal = std::fs::File::from(master);
    let mut seen = String::new();
    let mut wait_for = |terminal: &mut std::fs::File, what: &str| {
        while !seen.contains(what) {
            let mut bytes = [0; 256];
            match terminal.read(&mut bytes) {
                Ok(got) if got > 0 => seen += &String::from_utf8_lossy(&bytes[..got]),
                _ => panic!("{what} did not come: {seen:?}"),
            }
        }
        seen.clone()
    };
    wait_for(&mut terminal, "ready");
    terminal.write_all(b"\x03").unwrap();
    wait_for(&mut terminal, "int");
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let seen = wait_for(&mut terminal, "term");
    assert_eq!(seen.matches("int").count(), 1, "{seen:?}");
    assert_eq!(child.wait().unwrap().code(), Some(9));
}

#[test]
fn events_for_scripts() {
    let (code, said) = status_of(&["--json", "sh", "-c", "exit 3"]);
    assert_eq!(code, Some(3));
    let events: Vec<serde_json::Value> =
        said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(events[0]["event"], "launched");
    assert_eq!(events[1]["event"], "ended");
    assert_eq!(events[1]["code"], 3);
}
