//! What the four commands say, word for word where scripts read it.
//!
//! `dmtcp_command`'s answers are DMTCP's to the letter. Usage texts are our own, made from the
//! tables, and begin as DMTCP's do.

use std::fmt;

use serde::Serialize;

use super::command::{Command, Request, WORDS};
use super::files::UniqueId;
use super::table::{Env, Meaning, Row, Takes, rows};
use super::{DEFAULT_PORT, Program};

/// Exit status of a usage text in place of an answer, and of the coordinator's own failures.
pub const USAGE: u8 = 1;
/// Exit status when the coordinator is not there, or refuses.
pub const REFUSED: u8 = 2;
/// Exit status of DMTCP's own failures, unless `DMTCP_FAIL_RC` says otherwise.
pub const FAILURE: u8 = 99;

/// How a request went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub enum Status {
    #[default]
    Success,
    InvalidCommand,
    NotRunning,
    NotFound,
}

/// What a client is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum State {
    Unknown,
    Running,
    Presuspend,
    Suspended,
    Checkpointing,
    Checkpointed,
    Restarting,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WorkerState::{}", format!("{self:?}").to_ascii_uppercase())
    }
}

/// A process, as the list shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Client {
    pub number: u32,
    pub program: String,
    pub virtual_pid: i32,
    pub real_pid: i32,
    pub host: String,
    pub unique_id: UniqueId,
    pub state: State,
}

/// The coordinator's reply.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Reply {
    pub status: Status,
    pub num_peers: u32,
    pub running: bool,
    /// Seconds; 0 for none.
    pub interval: u32,
    pub clients: Vec<Client>,
}

/// What is to be written, and the exit status.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Answer {
    pub stdout: String,
    pub stderr: String,
    pub code: u8,
}

/// `dmtcp_command`'s answer. The reply to a command that [is local](Command::is_local) is not
/// looked at.
pub fn answer(request: &Request, reply: &Reply) -> Answer {
    let status = match request.command {
        Command::Unknown => Status::InvalidCommand,
        command if command.is_local() => Status::Success,
        _ => reply.status,
    };
    if request.json {
        let code = if status == Status::Success { 0 } else { REFUSED };
        return Answer { stdout: json(request, status, reply), code, ..Answer::default() };
    }
    let code = match status {
        _ if request.command.is_local() => USAGE,
        Status::Success => 0,
        _ => REFUSED,
    };
    let out = |stdout: String| Answer { stdout, code, ..Answer::default() };
    let err = |stderr: &str| Answer { stderr: stderr.to_owned(), code, ..Answer::default() };
    match (status, request.command) {
        (_, Command::Help) => out(usage(Program::Command)),
        (_, Command::Version) => out(version(Program::Command)),
        (_, Command::Usage | Command::Unknown) => err(&usage(Program::Command)),
        (Status::NotFound, _) if request.port_given => {
            err("Coordinator not found. Please check port and host.\n")
        }
        (Status::NotFound, _) => err("Coordinator not found. Try specifying port with '--port'.\n"),
        (Status::InvalidCommand, _) => err("Unknown command, try 'dmtcp_command --help'\n"),
        (Status::NotRunning, Command::KillAfterCheckpoint) => {
            out("Computation was checkpointed and killed.\n".to_owned())
        }
        (Status::NotRunning, _) => {
            err("Error, computation not in running state.  Either a checkpoint is\n \
             currently happening or there are no connected processes.\n")
        }
        (Status::Success, Command::Status) => out(heading(request) + &status_block(reply)),
        (Status::Success, Command::List) => out(heading(request) + &list(&reply.clients)),
        (Status::Success, Command::Interval(n)) => out(format!("Interval changed to {n}\n")),
        (Status::Success, _) => out(String::new()),
    }
}

fn heading(request: &Request) -> String {
    let port = if request.port_given {
        request.port.to_string()
    } else {
        format!("{DEFAULT_PORT} (default port)")
    };
    format!("Coordinator:\n  Host: {}\n  Port: {port}\n", request.host)
}

fn status_block(reply: &Reply) -> String {
    let running = if reply.running { "yes" } else { "no" };
    let manually = if reply.interval == 0 { " (checkpoint manually)" } else { "" };
    format!(
        "Status...\n  NUM_PEERS={}\n  RUNNING={running}\n  CKPT_INTERVAL={}{manually}\n",
        reply.num_peers, reply.interval
    )
}

/// The list of clients; the coordinator prints it too.
pub fn list(clients: &[Client]) -> String {
    let line = |c: &Client| {
        let Client { number, program, virtual_pid, real_pid, host, unique_id, state } = c;
        format!("{number}, {program}[{virtual_pid}:{real_pid}]@{host}, {unique_id}, {state}, \n")
    };
    let lines: String = clients.iter().map(line).collect();
    format!(
        "Client List:\n#, PROG[virtPID:realPID]@HOST, DMTCP-UNIQUEPID, STATE, BARRIER\n{lines}\n"
    )
}

/// One answer; the order of the fields is that of the keys.
#[derive(Serialize)]
struct Line<'a> {
    schema_version: u32,
    command: &'a str,
    command_status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    coordinator_host: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    coordinator_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    num_peers: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    running: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    checkpoint_interval: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    workers: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
}

fn json(request: &Request, status: Status, reply: &Reply) -> String {
    use Command as C;
    let command = request.command;
    let ok = status == Status::Success;
    let place = !matches!(command, C::Version);
    let counts = matches!(
        command,
        C::Status | C::Checkpoint | C::BlockingCheckpoint | C::KillAfterCheckpoint
    );
    let line = Line {
        schema_version: 1,
        command: match command {
            C::Status => "DMT_STATUS",
            C::List => "DMT_LIST",
            C::Checkpoint => "DMT_CHECKPOINT",
            C::BlockingCheckpoint => "DMT_BLOCKING_CKPT",
            C::KillAfterCheckpoint => "DMT_KILL_AFTER_CKPT",
            C::Interval(_) => "DMT_UPDATE_CKPT_INTERVAL",
            C::Kill => "DMT_KILL",
            C::Quit => "DMT_QUIT",
            C::Help | C::Usage => "DMT_HELP",
            C::Version => "DMT_VERSION",
            C::Unknown => "DMT_INVALID_COORDINATOR_COMMAND",
        },
        command_status: match status {
            Status::Success => "DMT_COORD_SUCCESS",
            Status::InvalidCommand => "DMT_COORD_INVALID_COMMAND",
            Status::NotRunning => "DMT_COORD_NOT_RUNNING",
            Status::NotFound => "DMT_COORD_NOT_FOUND",
        },
        coordinator_host: place.then_some(request.host.as_str()),
        coordinator_port: place.then_some(request.port),
        num_peers: (ok && counts).then_some(reply.num_peers),
        running: (ok && command == C::Status).then_some(reply.running),
        checkpoint_interval: (ok && matches!(command, C::Status | C::Interval(_)))
            .then_some(reply.interval),
        workers: (ok && command == C::List).then(|| list(&reply.clients)),
        version: (command == C::Version).then(|| version(Program::Command)),
    };
    // Plain strings and numbers always have a JSON form.
    serde_json::to_string(&line).unwrap_or_default() + "\n"
}

/// The version text. Scripts look for the first line's "(DMTCP) 5.0".
pub fn version(program: Program) -> String {
    format!(
        "{program} (DMTCP) 5.0 compatible, ckpt {}\n\
         License MIT or Apache-2.0. This program comes with ABSOLUTELY NO WARRANTY.\n",
        env!("CARGO_PKG_VERSION")
    )
}

/// What `dmtcp_launch` and `dmtcp_restart` say when called without any argument.
pub fn introduction(program: Program) -> String {
    format!("{}(For help: {program} --help)\n\n", version(program))
}

/// The line that names what was given and has no effect, if there is something.
pub fn without_effect(ignored: &[&str]) -> Option<String> {
    (!ignored.is_empty()).then(|| format!("without effect here: {}", ignored.join(", ")))
}

/// The usage text.
pub fn usage(program: Program) -> String {
    let mut text = match program {
        Program::Launch => {
            "Usage: dmtcp_launch [OPTIONS] <command> [args...]\n\
             Run a command so that it can be checkpointed.\n"
        }
        Program::Restart => {
            "Usage: dmtcp_restart [OPTIONS] <ckpt1.dmtcp> [ckpt2.dmtcp...]\n\
             Usage: dmtcp_restart [OPTIONS] --restartdir DIR\n\
             Bring a job back from its images.\n"
        }
        Program::Coordinator => {
            "Usage: dmtcp_coordinator [OPTIONS] [port]\n\
             Answer for a job, and tell its processes when to checkpoint.\n"
        }
        Program::Command => {
            "Usage: dmtcp_command [OPTIONS] COMMAND [COMMAND...]\n\
             Send a command to a job's coordinator. Of several, the last one counts.\n"
        }
    }
    .to_owned();
    if program == Program::Command {
        text += "\nCommands (dashes may be left out):\n";
        let listed = WORDS.iter().filter(|word| !word.listed.is_empty());
        text.extend(listed.map(|word| entry(&word.listed.replace(' ', ", "), word.help)));
    }
    let (mute, heard): (Vec<&Row>, Vec<&Row>) = rows(program)
        .filter(|row| !row.listed.is_empty())
        .partition(|row| row.meaning == Meaning::Nothing);
    text += "\nOptions:\n";
    text.extend(heard.into_iter().map(|row| entry(&spelled(row), row.help)));
    if !mute.is_empty() {
        text += "\nAccepted, but without effect here:\n";
        text.extend(mute.into_iter().map(|row| format!("  {}\n", spelled(row))));
    }
    text
}

/// A name, and what there is to say about it, in lines of 80 characters.
fn entry(name: &str, help: &str) -> String {
    const MARGIN: &str = "\n             ";
    let mut text = format!("  {name}{MARGIN}");
    let mut column = MARGIN.len();
    for word in help.split_whitespace() {
        if column + word.len() >= 80 {
            text += MARGIN;
            column = MARGIN.len();
        }
        text += " ";
        text += word;
        column += 1 + word.len();
    }
    text + "\n"
}

/// "-p, --coord-port PORT_NUM (environment variable DMTCP_COORD_PORT)".
fn spelled(row: &Row) -> String {
    let mut text = row.listed.replace(' ', ", ");
    if let Takes::Number(what) | Takes::Text(what) = row.takes {
        text += &format!(" {what}");
    }
    match row.env.first() {
        Some(Env::Is(name, value)) => text += &format!(" (environment variable {name}={value})"),
        Some(env) => text += &format!(" (environment variable {})", env.name()),
        None => {}
    }
    text
}

#[cfg(test)]
mod tests;
