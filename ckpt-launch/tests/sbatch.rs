//! `ckpt-launch sbatch`: what bash reads in its scripts, and what sbatch is given.

#![allow(missing_docs, reason = "a test program")]

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

mod common;

/// A program of this name in `dir`.
fn program(dir: &Path, name: &str, body: &str) {
    let path = dir.join(name);
    fs::write(&path, format!("#!/bin/bash\n{body}\n")).expect("the folder is ours");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
}

fn path_with(dir: &Path) -> OsString {
    let mut path = dir.as_os_str().to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    path
}

#[test]
fn every_word_arrives() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    program(dir.path(), "ckpt-launch", "printf '%s\\0' \"$@\"");
    let all: Vec<u8> = (1..=u8::MAX).collect();
    let payload =
        [b"./my $payload" as &[u8], b"", b"it's\n\"two\"\r\nlines", b"\xff1", b"--", &all];
    let payload = payload.map(|word| OsString::from_vec(word.to_vec()));

    let mut command = common::launcher();
    command.args(["sbatch", "-t", "10", "--ckptdir", "a b;c", "--"]).args(&payload);
    let out = command.output().expect("it runs");
    assert!(out.status.success(), "{out:?}");
    let script = String::from_utf8(out.stdout).expect("the script is text");
    assert!(!script.contains(|c: char| c.is_control() && c != '\n'), "{script}");

    let mut bash = Command::new("bash");
    bash.args(["-c", &script]).env("PATH", path_with(dir.path()));
    let out = bash.output().expect("bash runs");
    assert!(out.status.success() && out.stderr.is_empty(), "{out:?}");
    let mut words = vec![b"--slurm".as_slice(), b"--ckptdir", b"a b;c", b"--"];
    words.extend(payload.iter().map(|word| word.as_bytes()));
    let words: Vec<u8> = words.iter().flat_map(|word| [*word, b"\0"].concat()).collect();
    assert_eq!(String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&words));
    assert_eq!(out.stdout, words);
}

#[test]
fn submitted_is_what_is_printed() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    program(dir.path(), "sbatch", "cat; echo Submitted >&2; exit 3");
    let run = |more: &[&str], path: &OsString| {
        let mut command = common::launcher();
        command.arg("sbatch").args(more).args(["-t", "1:00:00", "./x", "y z"]).env("PATH", path);
        command.output().expect("it runs")
    };
    let path = path_with(dir.path());
    let (printed, submitted) = (run(&[], &path), run(&["--submit"], &path));
    assert!(printed.status.success());
    assert_eq!(submitted.status.code(), Some(3), "the exit status is sbatch's");
    assert_eq!(printed.stdout, submitted.stdout);
    assert_eq!(submitted.stderr, b"Submitted\n");

    program(dir.path(), "sbatch", "exec 0<&-; kill -9 $$");
    assert_eq!(run(&["--submit"], &path).status.code(), Some(137));
    let without = run(&["--submit"], &"/nowhere".into());
    assert_eq!(without.status.code(), Some(66));
    assert!(String::from_utf8_lossy(&without.stderr).contains("cannot run sbatch"), "{without:?}");
}

#[test]
fn nonsense_is_refused() {
    let mut command = common::launcher();
    let out = command.args(["sbatch", "-J", "a\nb", "x"]).output().expect("it runs");
    assert_eq!(out.status.code(), Some(64), "{out:?}");
    assert!(out.stdout.is_empty());
}
