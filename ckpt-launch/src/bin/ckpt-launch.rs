//! `ckpt-launch`: runs a job that can be checkpointed, or writes a batch script that does. Under
//! DMTCP's names, its launcher and its coordinator.

use std::process::ExitCode;

use ckpt_launch::cli::Launch;
use ckpt_launch::slurm::script::{self, Sbatch};
use ckpt_launch::{launch, names};
use clap::Parser;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1).peekable();
    ExitCode::from(match names::called().to_str() {
        Some("dmtcp_launch") => names::launch::run(args),
        Some("dmtcp_coordinator") => names::coordinator::run(args),
        Some("dmtcp_nocheckpoint") => names::launch::run_plain(args),
        _ if args.next_if(|arg| arg == "--coordinator").is_some() => names::coordinator::run(args),
        _ if args.next_if(|arg| arg == "sbatch").is_some() => {
            let name = std::iter::once("ckpt-launch sbatch".into());
            script::run(&Sbatch::parse_from(name.chain(args)))
        }
        _ => launch::run(&Launch::parse()),
    })
}
