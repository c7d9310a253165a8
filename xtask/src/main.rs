//! The README's commands: `cargo xtask demo`, `test`, `install`, `dist`; and `bench`.

mod demo;
mod dist;
mod install;
mod library;
mod needs;
mod python;
mod set;
mod test;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const USAGE: &str = "\
usage: cargo xtask demo                    a job is checkpointed, killed, and finishes nevertheless
       cargo xtask test [--short] [FILTER] all tests, or those whose names hold FILTER
       cargo xtask install [--prefix DIR] [--dmtcp-names] [--library]
                                           the commands into DIR/bin [default: /usr/local]; DMTCP's names
                                           for them; the library for C into DIR/lib and DIR/include
       cargo xtask dist [--out DIR]        the commands in one folder for containers, and a tar
                                           [default: target/dist]
       cargo xtask bench [MIB [PART]]      whole checkpoints beside their rivals; the tables go into
                                           docs/performance.md (one part alone is printed)";

/// What went wrong, in words.
pub type Result<T = ()> = std::result::Result<T, String>;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["demo"] => demo::run(),
        ["test", ref rest @ ..] => test::run(rest),
        ["dist", ref rest @ ..] => dist::run(rest),
        ["bench", ref rest @ ..] => bench(rest),
        ["install", ref rest @ ..] => install::run(rest),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(64);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

fn bench(words: &[&str]) -> Result {
    must(cargo().args(["build", "--release", "-p", "ckpt-launch", "-p", "ckpt-restore"]))?;
    must(
        cargo()
            .args(["run", "--release", "-q", "-p", "ckpt-benches", "--bin", "whole"])
            .args(words),
    )
}

/// The workspace's folder.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Where cargo puts what `--release` builds.
pub fn built() -> PathBuf {
    // This program lies in target/PROFILE itself.
    let own = std::env::current_exe().unwrap_or_default();
    own.ancestors().nth(2).unwrap_or(Path::new("target")).join("release")
}

/// The cargo that runs us.
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace());
    cargo
}

/// Runs it; anything but success is an error.
pub fn must(command: &mut Command) -> Result {
    let text = format!("{command:?}").replace('"', "");
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{status}: {text}")),
        Err(error) => Err(format!("cannot run {text}: {error}")),
    }
}
