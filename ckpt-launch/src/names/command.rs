//! `dmtcp_command`: asks a coordinator, and answers in DMTCP's words.

use std::ffi::OsString;
use std::io::Write;

use ckpt_core::ErrorKind;
use ckpt_core::job::JobId;

use super::image::unique_id;
use super::lookup;
use crate::coordinator::client;
use crate::coordinator::place::Address;
use crate::coordinator::secret;
use crate::coordinator::wire::{self, Stage, Worker};
use crate::dmtcp::command::{Command, Request, parse};
use crate::dmtcp::words::{self, Client, Reply, State, Status};

/// Does what the words say; gives the exit status.
pub fn run(args: impl IntoIterator<Item = OsString>) -> u8 {
    let request = parse(args, &lookup);
    let (reply, trouble) = ask(&request);
    let answer = words::answer(&request, &reply);
    // Nobody is left to be told when these fail.
    let _ = std::io::stdout().write_all(answer.stdout.as_bytes());
    let _ = std::io::stderr().write_all(answer.stderr.as_bytes());
    match trouble {
        Some(trouble) => {
            eprintln!("dmtcp_command: {trouble}");
            words::REFUSED
        }
        None => answer.code,
    }
}

/// The coordinator's reply, and what else is to be said.
fn ask(request: &Request) -> (Reply, Option<String>) {
    let Some(command) = asked(request.command) else { return (Reply::default(), None) };
    let secret = secret::path(request.secret_file.as_deref());
    let address = Address { host: request.host.clone(), port: request.port, secret };
    match client::ask(&address, command) {
        Ok(answer) => {
            let done = answer.done || answer.failure.is_some();
            let status = if done { Status::Success } else { Status::NotRunning };
            let trouble = answer.failure.as_ref().map(|f| format!("no checkpoint: {}", f.message));
            (reply(status, &answer), trouble)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => (not_found(), None),
        Err(error) => (not_found(), Some(error.to_string())),
    }
}

fn not_found() -> Reply {
    Reply { status: Status::NotFound, ..Reply::default() }
}

fn asked(command: Command) -> Option<wire::Command> {
    Some(match command {
        Command::Status => wire::Command::Status,
        Command::List => wire::Command::List,
        Command::Checkpoint => wire::Command::Checkpoint,
        Command::BlockingCheckpoint => wire::Command::CheckpointAndWait,
        Command::KillAfterCheckpoint => wire::Command::CheckpointAndKill,
        Command::Interval(seconds) => wire::Command::Interval(seconds.into()),
        Command::Kill => wire::Command::Kill,
        Command::Quit => wire::Command::Quit,
        Command::Help | Command::Version | Command::Usage | Command::Unknown => return None,
    })
}

/// The answer in DMTCP's terms.
pub fn reply(status: Status, answer: &wire::Answer) -> Reply {
    Reply {
        status,
        num_peers: u32::try_from(answer.processes).unwrap_or(u32::MAX),
        running: answer.running,
        interval: u32::try_from(answer.interval).unwrap_or(u32::MAX),
        clients: answer.workers.iter().zip(1..).map(client).collect(),
    }
}

fn client((worker, number): (&Worker, u32)) -> Client {
    let job = worker.job.parse().unwrap_or(JobId(0));
    let process = &worker.process;
    Client {
        number,
        program: process.name.clone(),
        virtual_pid: process.inner,
        real_pid: process.pid,
        host: worker.host.clone(),
        unique_id: unique_id(job, process.inner),
        state: match worker.stage {
            None => State::Running,
            Some(Stage::Frozen) => State::Suspended,
            Some(Stage::Captured) => State::Checkpointing,
            Some(Stage::Durable | Stage::Published | Stage::Named) => State::Checkpointed,
        },
    }
}
