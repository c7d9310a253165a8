//! `ckpt-launch`: runs a job that can be checkpointed.

use std::process::ExitCode;

use ckpt_launch::cli::Launch;
use ckpt_launch::launch;
use clap::Parser;

fn main() -> ExitCode {
    ExitCode::from(launch::run(&Launch::parse()))
}
