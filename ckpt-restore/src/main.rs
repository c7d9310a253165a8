//! `ckpt-restore`: brings a job back and stays with it, as `ckpt-launch` did. As `dmtcp_restart`, with
//! DMTCP's options.

mod choose;
mod cli;
mod contained;
mod dmtcp;
mod names;
mod restore;
mod twin;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    ExitCode::from(match ckpt_launch::names::called().to_str() {
        Some("dmtcp_restart") => names::run(std::env::args_os().skip(1)),
        _ => restore::run(&cli::Restore::parse()),
    })
}
