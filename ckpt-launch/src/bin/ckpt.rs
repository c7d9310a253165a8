//! `ckpt`: speaks to running jobs and looks at images.

use std::process::ExitCode;

use ckpt_launch::cli::Ckpt;
use ckpt_launch::commands;
use clap::Parser;

fn main() -> ExitCode {
    ExitCode::from(commands::run(&Ckpt::parse()))
}
