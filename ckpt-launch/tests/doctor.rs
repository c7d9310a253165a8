//! `ckpt doctor` tells what is possible, and which engine a command would get.
#![allow(missing_docs, reason = "tests")]

mod common;

use common::ckpt;

fn facts(words: &[&str], dir: &std::path::Path, code: i32) -> Vec<serde_json::Value> {
    let run = ckpt()
        .args(["doctor", "--json", "--ckptdir"])
        .arg(dir)
        .args(words)
        .env("HOME", dir)
        .env("PATH", "/usr/bin:/bin")
        .env_remove("DMTCP_HOME")
        .assert()
        .code(code);
    let text = String::from_utf8_lossy(&run.get_output().stdout).into_owned();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn way<'a>(facts: &'a [serde_json::Value], what: &str) -> &'a str {
    let fact = facts.iter().find(|fact| fact["what"] == what).expect(what);
    fact["way"].as_str().unwrap()
}

#[test]
fn a_host_like_this_one_will_do() {
    let dir = tempfile::tempdir().unwrap();
    let facts = facts(&["--", "sh", "-c", "true"], dir.path(), 0);
    assert!(way(&facts, "kernel").starts_with("Linux "));
    assert!(way(&facts, "directory").contains("free"));
    assert!(way(&facts, "engine").starts_with("our own engine"));
    let changes = way(&facts, "changes");
    assert!(changes.starts_with("told by ") || changes.starts_with("found by "), "{changes}");
    for what in ["container", "tracing", "open files", "pages", "namespaces", "PIDs", "clocks"] {
        assert!(!way(&facts, what).is_empty());
    }
    // What is missing comes with its cure.
    for fact in facts.iter().filter(|fact| fact["what"] == "DMTCP" && fact["grade"] == "fair") {
        assert!(fact["fix"].as_str().unwrap().contains("spack install dmtcp"));
    }
}

#[test]
fn what_cannot_work_is_said_beforehand() {
    let dir = tempfile::tempdir().unwrap();
    let command = ["--dmtcp", "/nowhere", "--", "mpirun", "--host", "a,b", "./x"];
    let facts = facts(&command, dir.path(), 69);
    assert!(way(&facts, "engine").contains("MPI across nodes"));
    let launch = common::launcher()
        .args(["--dmtcp", "/nowhere", "--ckptdir"])
        .arg(dir.path())
        .args(["--", "mpirun", "--host", "a,b", "./x"])
        .output()
        .unwrap();
    assert_eq!(launch.status.code(), Some(69), "{launch:?}");
    let missing = dir.path().join("missing");
    ckpt().args(["doctor", "--ckptdir"]).arg(missing).assert().code(69);
}

#[test]
fn a_container_that_cannot_be_had() {
    let dir = tempfile::tempdir().unwrap();
    let container = ["--container", "shifter", "--image", "x"];
    let facts = facts(&container, dir.path(), 69);
    assert!(way(&facts, "runtime").contains("no shifter in $PATH"));
    // Nothing was asked inside.
    assert!(facts.iter().all(|fact| fact["what"] != "tracing"));
    ckpt().args(["doctor", "--container", "shifter"]).assert().failure();
}
