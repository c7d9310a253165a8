//! `ckpt`: speaks to running jobs and looks at images. As `dmtcp_command`, speaks to a coordinator.

use std::process::ExitCode;

use ckpt_launch::cli::Ckpt;
use ckpt_launch::{commands, names};
use clap::Parser;

fn main() -> ExitCode {
    ExitCode::from(match names::called().to_str() {
        Some("dmtcp_command") => names::command::run(std::env::args_os().skip(1)),
        _ => commands::run(&Ckpt::parse()),
    })
}
