//! `cargo xtask test`: all of them, on what the machine has or gets.

use std::path::Path;

use crate::{Result, built, cargo, dist, library, must, needs, python, set};

/// Fewer rounds, and not the largest ones.
const SHORT: &str = "not test(large_memory)";

/// Runs them; `--short` for a quick look, anything else is a filter.
pub fn run(words: &[&str]) -> Result {
    let (flags, filters): (Vec<&str>, Vec<&str>) = words.iter().partition(|w| w.starts_with('-'));
    if let Some(flag) = flags.iter().find(|&&flag| flag != "--short") {
        return Err(format!("unknown option {flag}"));
    }
    needs::meet()?;
    // The tests run the commands that lie beside them.
    must(cargo().args(["build", "--release", "-p", "ckpt-launch", "-p", "ckpt-restore"]))?;
    // Those in containers run this one.
    set::put(&dist::folder(), true)?;
    // Those in C and Python use what is installed.
    library::put(&built().parent().unwrap_or(Path::new("target")).join("library"))?;
    python::put()?;
    let mut nextest = cargo();
    nextest.args(["nextest", "run", "--release", "--workspace", "--exclude", "ckpt-preload"]);
    if !flags.is_empty() {
        nextest.args(["-E", SHORT]).env("CKPT_TEST_ROUNDS", "5");
    }
    must(nextest.args(filters))?;
    must(cargo().args(["test", "--release", "--doc", "--workspace", "--exclude", "ckpt-preload"]))
}
