//! The examples, killed and started again: they end with the same last bit as if nothing had happened.
#![allow(missing_docs, reason = "tests")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Cargo puts examples beside the folder of the tests.
fn example(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.ancestors().nth(2).unwrap().join("examples").join(name)
}

fn heat(dir: &Path, every: &str) -> Command {
    let mut command = Command::new(example("heat"));
    command.arg(dir).args(["60000", "3000", every]).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Lets it run to its end; its result.
fn ends(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Kills it when it has said so many lines; what the last of them was.
fn killed_after(mut command: Command, lines: usize) -> String {
    let mut child = command.spawn().unwrap();
    let said = BufReader::new(child.stderr.take().unwrap()).lines();
    let last = said.map_while(Result::ok).take(lines).last();
    child.kill().unwrap();
    child.wait().unwrap();
    last.expect("it says something")
}

#[test]
fn heat_goes_on() {
    let (alone, often) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let expected = ends(heat(alone.path(), "100000"));
    assert!(killed_after(heat(often.path(), "50"), 1).starts_with("version"));
    for lines in [2, 5, 3, 9] {
        let last = killed_after(heat(often.path(), "50"), lines);
        assert!(last.starts_with("version"), "{last}");
    }
    let mut last = heat(often.path(), "50").spawn().unwrap();
    let mut first = String::new();
    BufReader::new(last.stderr.take().unwrap()).read_line(&mut first).unwrap();
    assert!(first.starts_with("goes on from version"), "{first}");
    last.kill().unwrap();
    last.wait().unwrap();
    assert_eq!(ends(heat(often.path(), "50")), expected);
}
