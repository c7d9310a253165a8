//! `cargo xtask test`: all of them, on what the machine has or gets.

use crate::{Result, cargo, dist, must, needs, set};

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
    let mut nextest = cargo();
    nextest.args(["nextest", "run", "--release", "--workspace", "--exclude", "ckpt-preload"]);
    if !flags.is_empty() {
        nextest.args(["-E", SHORT]).env("CKPT_TEST_ROUNDS", "5");
    }
    must(nextest.args(filters))?;
    must(cargo().args(["test", "--release", "--doc", "--workspace", "--exclude", "ckpt-preload"]))
}
