//! `ckpt doctor --container RUNTIME --image IMAGE`: the facts outside, and then a doctor inside, since
//! what is possible is for the container to say.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ckpt_core::job::JobId;
use ckpt_core::probe::{Fact, Grade};
use ckpt_core::{Error, Result};

use super::{fact, judge, show, slurm};
use crate::cli::{self, Talk, With};
use crate::container::enter;
use crate::container::flags::InContainer;
use crate::container::runtime::{Run, Runtime};
use crate::run;
use crate::voice::Voice;

/// How long a runtime may take to say its version.
const PATIENCE: Duration = Duration::from_secs(30);

/// Looks at what is outside, then inside; gives the inside's exit status.
///
/// # Errors
///
/// When there is no inside to look at.
pub fn run(
    runtime: Runtime,
    flags: &InContainer,
    (dir, with, command): (&Path, &With, &[OsString]),
    talk: &Talk,
    voice: &Voice,
) -> Result<u8> {
    let facts = [version(runtime), programs(), slurm()];
    show(&facts, voice)?;
    judge(&facts, "jobs cannot be started in containers here")?;

    let dir = cli::absolute(dir)?;
    let (mut container, _) = enter::described(flags, runtime)?;
    let here = enter::with_current(&mut container, runtime)?;
    enter::add(&mut container, &dir)?;
    let mut words: Vec<OsString> = vec!["doctor".into(), "--ckptdir".into(), dir.into()];
    words.extend(with.words());
    words.extend(talk.words().into_iter().map(Into::into));
    if !command.is_empty() {
        words.push("--".into());
        words.extend(command.iter().cloned());
    }
    let programs = enter::programs()?;
    let name = format!("ckpt-doctor-{}", JobId::random());
    let (program, stdin, umask) = ("ckpt", false, enter::umask());
    let (programs, name, here) = (&programs, &name, &here);
    let inside = Run { programs, name, here, stdin, umask, program, words };
    let mut inside = runtime.command(&container, &inside)?;
    tracing::info!(command = ?inside, "entering the container");
    let status = inside.stdin(Stdio::null()).status();
    let status = status.map_err(|e| Error::os(format!("cannot run {}", runtime.name()), e))?;
    let by_signal = status.signal().map(|signal| 128 + signal);
    Ok(status.code().or(by_signal).and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

fn version(runtime: Runtime) -> Fact {
    const WHAT: &str = "runtime";
    let said = runtime.program().and_then(|program| {
        let here = program.display().to_string();
        let mut command = Command::new(&program);
        let said = run::run(command.arg("--version"), Instant::now() + PATIENCE)?;
        // Shifter and podman-hpc know no such question.
        let line = said.text.lines().find(|line| line.contains("version"));
        Ok(line.filter(|_| said.status.success()).map_or(here, str::to_owned))
    });
    refused_or(WHAT, said)
}

fn programs() -> Fact {
    let found = enter::programs();
    refused_or("programs", found.map(|dir| format!("static, in {}", dir.display())))
}

fn refused_or(what: &'static str, way: Result<String>) -> Fact {
    match way {
        Ok(way) => fact(what, Grade::Good, way, None),
        Err(error) => {
            let (whole, fix) = (error.to_string(), error.guidance());
            // The guidance stands behind the rest.
            let way = whole.strip_suffix(fix.unwrap_or_default()).unwrap_or(&whole);
            fact(what, Grade::Missing, way.trim_end_matches("; ").into(), fix.map(str::to_owned))
        }
    }
}
