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

/// Arrays that grow and shrink.
#[test]
fn particles_go_on() {
    let particles = |dir: &Path, every: &str| {
        let mut command = Command::new(example("particles"));
        command.arg(dir).args(["1500", every]).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let (alone, often) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let expected = ends(particles(alone.path(), "100000"));
    let mut counts = Vec::new();
    for lines in [1, 3, 2, 6, 4] {
        let last = killed_after(particles(often.path(), "40"), lines);
        counts.push(last.split_whitespace().rev().nth(1).unwrap().to_owned());
    }
    counts.dedup();
    assert!(counts.len() > 1, "they grow and shrink: {counts:?}");
    assert_eq!(ends(particles(often.path(), "40")), expected);
}

/// Four processes save together, are killed, and go on as two, as eight, and as one.
#[test]
fn ranks_of_another_number_go_on() {
    let rank = |dir: &Path, rank: usize, ranks: usize| {
        let mut command = Command::new(example("ranks"));
        command.arg(dir).arg(rank.to_string()).arg(ranks.to_string()).args(["400", "20"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let (alone, together) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let expected = ends(rank(alone.path(), 0, 1));
    let mut seen = 0;
    for ranks in [4, 2, 8] {
        let mut all: Vec<_> =
            (0..ranks).map(|it| rank(together.path(), it, ranks).spawn().unwrap()).collect();
        // Killed at different moments: only what all have counts.
        for (number, child) in all.iter_mut().enumerate() {
            let mut said =
                BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
            if seen > 0 {
                let first = said.next().expect("it says something");
                let from = first.strip_prefix("goes on from version ").expect(&first);
                assert!(from.parse::<u64>().unwrap() >= seen, "{first}");
            }
            let last = said.take(2 + number % 2).last().expect("it says something");
            assert!(last.starts_with("version "), "{last}");
        }
        for child in &mut all {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let options = ckpt_core::regions::Options::default();
        let store = ckpt_core::regions::Store::open(together.path(), "ranks", options).unwrap();
        let newest = store.latest().unwrap().expect("all have some version").number();
        assert!(newest > seen, "{newest}");
        seen = newest;
    }
    assert_eq!(ends(rank(together.path(), 0, 1)), expected);
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
