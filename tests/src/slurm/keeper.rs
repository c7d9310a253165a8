//! A cluster starts jobs again by itself: nothing of it may outlive its test, not even one that is
//! killed and can clean up nothing.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::tree;

/// Waits until somebody says "done" or can say nothing any more, and then kills whatever works in
/// the folder or has the variable in its environment.
const SCRIPT: &str = r#"
    read -r word
    [ "$word" = done ] && exit
    again=1
    while [ "$again" ]; do
        again=
        for p in /proc/[0-9]*; do
            case $(readlink "$p/cwd") in
                "$1" | "$1"/*) ;;
                *) grep -qzxF "$2" "$p/environ" || continue ;;
            esac
            kill -9 "${p#/proc/}" && again=1
        done
    done"#;

/// The process that does so.
#[derive(Debug)]
pub(super) struct Keeper(Child);

impl Keeper {
    pub(super) fn new(base: &Path, tag: &str) -> Self {
        // In a session of its own: what ends a test ends its process group first.
        let mut setsid = Command::new("setsid");
        setsid.args(["sh", "-c", SCRIPT, "keeper"]).arg(base).arg(tag).current_dir("/");
        setsid.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(setsid.spawn().expect("it can be run"))
    }

    pub(super) fn dismiss(&mut self) {
        if let Some(mut stdin) = self.0.stdin.take() {
            let _ = stdin.write_all(b"done\n");
        }
        let _ = self.0.wait();
    }
}

/// Everything of a cluster and its jobs, but for the test itself. A slurmstepd's environment cannot
/// be read, and jobs work in many folders.
pub(super) fn left(base: &Path, tag: &str) -> Vec<i32> {
    let mut left = tree::tagged(tag);
    left.extend(tree::inside(base));
    left.sort_unstable();
    left.dedup();
    left.retain(|&pid| pid != std::process::id() as i32);
    left
}

/// Kills all of that; gives what cannot be killed.
pub(super) fn clear(base: &Path, tag: &str) -> Vec<i32> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let left = left(base, tag);
        if left.is_empty() || Instant::now() > deadline {
            return left;
        }
        for &pid in &left {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The end of a file, with its name.
pub(super) fn show(path: &Path, lines: usize) {
    let text = String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    let all: Vec<&str> = text.lines().collect();
    eprintln!("--- {}\n{}", path.display(), all[all.len().saturating_sub(lines)..].join("\n"));
}
