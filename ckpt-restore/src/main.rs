//! `ckpt-restore`: brings a job back and stays with it, as `ckpt-launch` did.

mod choose;
mod cli;
mod restore;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    ExitCode::from(restore::run(&cli::Restore::parse()))
}
