//! `ckpt doctor`: on one screen, what is possible here, which way each thing will go, and what would
//! mend what is missing.

use std::ffi::OsString;
use std::path::Path;

use ckpt_core::probe::{self, Container, Fact, Grade};
use ckpt_core::{Error, ErrorKind, Result};
use serde_json::json;

use crate::cli::With;
use crate::commands::print;
use crate::coordinator::secret::{self, Secret};
use crate::voice::Voice;
use crate::{backend, engine};

mod contained;

pub use contained::run as run_in_container;

/// Looks at this host, at the checkpoint directory, and at `command` if there is one.
///
/// # Errors
///
/// [`ErrorKind::Unsupported`] if jobs cannot be checkpointed here.
pub fn run(dir: &Path, with: &With, command: &[OsString], voice: &Voice) -> Result<()> {
    let mut facts = probe::host();
    facts.push(directory(dir));
    facts.push(the_secret());
    facts.push(dmtcp(with));
    facts.push(slurm());
    if !command.is_empty() {
        facts.push(for_command(with, command));
    }
    show(&facts, voice)?;
    judge(&facts, "jobs cannot be checkpointed here")
}

fn show(facts: &[Fact], voice: &Voice) -> Result<()> {
    let line = if voice.json() { as_json } else { in_words };
    print(&facts.iter().map(line).collect::<String>())
}

fn judge(facts: &[Fact], verdict: &str) -> Result<()> {
    let missing: Vec<&str> =
        facts.iter().filter(|fact| fact.grade == Grade::Missing).map(|fact| fact.what).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let what = format!("{verdict}: {}", missing.join(", "));
    Err(Error::new(ErrorKind::Unsupported, what))
}

/// Where the words begin.
const MARGIN: usize = 17;

fn in_words(fact: &Fact) -> String {
    let mark = match fact.grade {
        Grade::Good => "ok",
        Grade::Fair => "--",
        Grade::Poor => "?",
        Grade::Missing => "NO",
    };
    let line = wrapped(&format!("{mark:<3} {:<12} ", fact.what), &fact.way);
    match (&fact.fix, fact.grade) {
        (Some(fix), Grade::Fair | Grade::Poor | Grade::Missing) => {
            line + &wrapped(&format!("{:MARGIN$}better: ", ""), fix)
        }
        _ => line,
    }
}

/// Text behind its beginning, in lines that fit on a screen.
fn wrapped(beginning: &str, text: &str) -> String {
    const WIDTH: usize = 100;
    let (mut lines, mut line) = (String::new(), beginning.to_owned());
    for (at, word) in text.split(' ').enumerate() {
        if at > 0 && line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines += &format!("{line}\n");
            line = format!("{:MARGIN$}{word}", "");
        } else {
            line += if at > 0 { " " } else { "" };
            line += word;
        }
    }
    lines + &line + "\n"
}

fn as_json(fact: &Fact) -> String {
    let grade = format!("{:?}", fact.grade).to_lowercase();
    let fact = json!({ "what": fact.what, "grade": grade, "way": fact.way, "fix": fact.fix });
    format!("{fact}\n")
}

fn fact(what: &'static str, grade: Grade, way: String, fix: Option<String>) -> Fact {
    Fact { what, grade, way, fix }
}

/// Whether images can be written there, and whether a lock there keeps two jobs apart.
fn directory(dir: &Path) -> Fact {
    const WHAT: &str = "directory";
    let here = dir.display();
    let space = rustix::fs::statvfs(dir).map(|fs| fs.f_bavail * fs.f_frsize).unwrap_or_default();
    let file = tempfile::tempfile_in(dir);
    match file.map(|file| file.try_lock().is_ok()) {
        Ok(true) => {
            let way = format!("{here}, {} free", crate::words::bytes(space));
            fact(WHAT, Grade::Good, way, None)
        }
        Ok(false) => {
            let way =
                format!("{here} has no file locks: two restarts of one job are not kept apart");
            fact(WHAT, Grade::Fair, way, Some("a file system with flock".to_owned()))
        }
        Err(error) => {
            let fix = "name a folder of your own with --ckptdir".to_owned();
            fact(WHAT, Grade::Missing, format!("{here} cannot be written to: {error}"), Some(fix))
        }
    }
}

fn the_secret() -> Fact {
    const WHAT: &str = "secret";
    let path = secret::path(None);
    if !path.exists() {
        let way = format!("{} is made when a coordinator is first used", path.display());
        return fact(WHAT, Grade::Good, way, None);
    }
    match Secret::of(&path) {
        Ok(_) => fact(WHAT, Grade::Good, path.display().to_string(), None),
        Err(error) => {
            let fix = error.guidance().map(str::to_owned);
            fact(WHAT, Grade::Fair, format!("of no use: {error}"), fix)
        }
    }
}

fn dmtcp(with: &With) -> Fact {
    match engine::dmtcp(with) {
        Ok(found) => {
            let way = format!("{} in {}, for MPI across nodes", found.version, found.bin.display());
            fact("DMTCP", Grade::Good, way, None)
        }
        Err(_) => {
            let fix = "spack install dmtcp, EPEL's dmtcp or a module; then --dmtcp or $DMTCP_HOME";
            let way = "none found; needed for MPI across nodes only".into();
            fact("DMTCP", Grade::Fair, way, Some(fix.into()))
        }
    }
}

fn slurm() -> Fact {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = std::env::split_paths(&path).any(|dir| dir.join("scontrol").is_file());
    let job = std::env::var("SLURM_JOB_ID").ok();
    let way = match (there, job) {
        (true, Some(job)) => format!("scontrol is here, and this is job {job}"),
        (true, None) => "scontrol is here".to_owned(),
        (false, Some(job)) if Container::here() != Container::None => {
            format!("job {job}; spoken to from outside the container (--slurm --container …)")
        }
        (false, Some(job)) => format!("this is job {job}, and there is no scontrol"),
        (false, None) if Container::here() != Container::None => {
            "spoken to from outside the container (--slurm --container …)".to_owned()
        }
        (false, None) => "none".to_owned(),
    };
    fact("Slurm", Grade::Good, way, None)
}

fn for_command(with: &With, command: &[OsString]) -> Fact {
    let choice = engine::choose(with, command);
    let needs = choice.backend == backend::Backend::Dmtcp && engine::dmtcp(with).is_err();
    let grade = if needs { Grade::Missing } else { Grade::Good };
    let fix = needs.then(|| "install DMTCP, or insist on our own engine: --backend native".into());
    fact("engine", grade, choice.why, fix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit_on_a_screen() {
        let long = fact("PIDs", Grade::Poor, "word ".repeat(40), Some("remedy ".repeat(30)));
        let text = in_words(&long);
        assert!(text.starts_with("?   PIDs         word word"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        assert!(text.lines().skip(1).all(|line| line.starts_with(&" ".repeat(MARGIN))), "{text}");
        let good = Fact { grade: Grade::Good, way: "fine".into(), ..long };
        assert_eq!(in_words(&good), "ok  PIDs         fine\n");
    }
}
