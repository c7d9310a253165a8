//! `ckpt`: asks running jobs; the verbs that look at images are in [`images`].
//!
//! What was asked for goes to stdout; what happens meanwhile, and the line of a checkpoint, which
//! may be taken from inside a payload whose stdout is its result, to stderr.

use std::io::Write;
use std::time::Duration;

use ckpt_core::progress::{self, Observer};
use ckpt_core::{Error, Result};

use crate::cli::{self, Ckpt, Verb, Which};
use crate::control::client::{Connection, Outcome};
use crate::control::protocol::{Event, Status};
use crate::doctor;
use crate::gc;
use crate::images;
use crate::itself;
use crate::slurm;
use crate::voice::{Relay, Voice};
use crate::words;

/// Does what `ckpt` is asked to; gives the exit status.
pub fn run(args: &Ckpt) -> u8 {
    let voice = Voice::new("ckpt", &args.talk);
    let result = match &args.verb {
        Verb::Checkpoint { which, full } => checkpoint(which, *full, &voice),
        Verb::Status(which) => status(which, &voice),
        Verb::Kill(which) => kill(which, &voice),
        Verb::Inspect { path } => images::inspect(path.as_deref(), &voice),
        Verb::Verify { path } => images::verify(path.as_deref(), &voice),
        Verb::Doctor { place, engine, container, command } => match container.container {
            Some(runtime) => {
                let job = (&*place.directory(), engine, &**command);
                let ended = doctor::run_in_container(runtime, container, job, &args.talk, &voice);
                return ended.unwrap_or_else(|error| voice.fail(&error));
            }
            None => doctor::run(&place.directory(), engine, command, &voice),
        },
        Verb::List { dir } => images::list(dir.as_deref(), &voice),
        Verb::Gc(args) => gc::run(args, &voice),
        Verb::Itself(args) => itself::run(args),
        Verb::Slurm(ask) => slurm::commands::run(ask, &voice),
    };
    result.map_or_else(|error| voice.fail(&error), |()| 0)
}

/// Writes to stdout.
///
/// # Errors
///
/// When nobody takes it.
pub fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|e| Error::os("cannot write to stdout", e))
}

fn connect(which: &Which) -> Result<Connection> {
    Connection::find(&cli::absolute(&which.place.directory())?, which.wanted())
}

fn checkpoint(which: &Which, full: bool, voice: &Voice) -> Result<()> {
    let connection = connect(which)?;
    let outcome = {
        let relay = Relay::new(voice, "checkpoint", &mut []);
        connection.checkpoint(full, &mut |event| hear(event, &relay))?
    };
    match outcome {
        Outcome::Taken(event) => voice.say(&event, taken_words(&event)),
        Outcome::CameBack(generation) => {
            let what = format!("the job was brought back from generation {generation}");
            voice.say(&Event::Chosen { what: what.clone() }, what);
        }
    }
    Ok(())
}

/// The supervisor's events, as if the engine ran here.
fn hear(event: &Event, relay: &Relay<'_>) {
    let seconds = |s: f64| Duration::try_from_secs_f64(s).unwrap_or_default();
    relay.event(match event {
        Event::Bytes { done, total } => progress::Event::Bytes { done: *done, total: *total },
        Event::Frozen { processes, tasks } => {
            progress::Event::Frozen { processes: *processes, tasks: *tasks }
        }
        Event::Released { frozen_s } => progress::Event::Released { frozen: seconds(*frozen_s) },
        Event::Chosen { what } => progress::Event::Chosen(what.clone()),
        Event::Warning { message } => progress::Event::Warning(message.clone()),
        _ => return,
    });
}

fn taken_words(event: &Event) -> String {
    match event {
        Event::Checkpoint { generation, path, frozen_s, total_s, bytes_stored, .. } => {
            let seconds = |s| words::duration(Duration::try_from_secs_f64(s).unwrap_or_default());
            format!(
                "generation {generation}: frozen {}, {} in all, stored {}, {path}",
                seconds(*frozen_s),
                seconds(*total_s),
                words::bytes(*bytes_stored)
            )
        }
        _ => String::new(),
    }
}

fn kill(which: &Which, voice: &Voice) -> Result<()> {
    let connection = connect(which)?;
    let job = connection.job();
    let processes = connection.kill()?;
    let many = if processes == 1 { "process" } else { "processes" };
    voice.say(&Event::Killed { processes }, format_args!("job {job}: killed {processes} {many}"));
    Ok(())
}

fn status(which: &Which, voice: &Voice) -> Result<()> {
    let status = connect(which)?.status()?;
    print(&if voice.json() {
        Event::Status(Box::new(status)).line()
    } else {
        status_words(&status)
    })
}

fn status_words(status: &Status) -> String {
    let seconds = |s| words::duration(Duration::try_from_secs_f64(s).unwrap_or_default());
    let mut lines = vec![
        ("job", format!("{} ({})", status.job, status.name)),
        ("pid", format!("{} (supervisor {})", status.pid, status.supervisor)),
        ("state", status.state.clone()),
        ("since", words::moment_and_age(status.since)),
        ("directory", status.dir.clone()),
    ];
    if let Some(generation) = status.restored_from {
        lines.push(("restored", format!("from generation {generation}")));
    }
    lines.push(("generation", status.generation.to_string()));
    let last = status.last.as_ref().map_or_else(
        || "none yet".to_owned(),
        |last| {
            let frozen =
                last.frozen_s.map_or_else(String::new, |s| format!(", frozen {}", seconds(s)));
            let (at, size) = (words::moment_and_age(last.at), words::bytes(last.bytes_stored));
            format!("{at}, {size}{frozen}, {}", last.path)
        },
    );
    lines.push(("last", last));
    if let Some(failure) = &status.last_failure {
        lines.push(("failure", failure.clone()));
    }
    lines.push(("interval", status.interval_s.map_or_else(|| "on request".to_owned(), seconds)));
    lines.extend(status.next_s.map(|next| ("next", format!("in {}", seconds(next)))));
    lines.into_iter().map(|(key, value)| format!("{key:<12} {value}\n")).collect()
}
