//! Several launchers in one step (`srun ckpt-launch --slurm …`): how they find each other, and which
//! generation all of them have.
//!
//! The first task starts a coordinator, looks for the newest generation that all have, and writes
//! both to `meeting.json` in the job's directory, which is on a file system that all share. The
//! others wait for it. The coordinator's secret lies beside it.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ckpt_core::image::{Directory, Reader};
use ckpt_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use super::here::Here;
use super::place::{Go, Place, name};
use super::record::Record;
use crate::control::place::host;
use crate::coordinator::place::Address;
use crate::coordinator::start;
use crate::voice::Voice;

/// How long the others wait for the first.
const PATIENCE: Duration = Duration::from_secs(180);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The coordinator's secret.
const SECRET: &str = "secret";

/// Where the tasks meet.
#[derive(Debug, Clone)]
pub struct Meeting {
    /// The coordinator.
    pub address: Address,
    /// The generation to go on from; nothing if the job begins.
    pub generation: Option<u64>,
}

impl Meeting {
    /// What a task is to do.
    ///
    /// # Errors
    ///
    /// Those of [`Place::go`].
    pub fn go(&self, place: &Place, here: &Here, voice: &Voice) -> Result<Go> {
        match (here.restarts, Record::read(&place.dir)?.and_then(|record| record.finished())) {
            (1.., Some(status)) => Ok(Go::Ended(status)),
            (1.., None) if self.generation.is_some() => Ok(Go::On),
            (1.., None) => {
                if here.leads() {
                    voice.warn("no earlier round has come to a checkpoint: the job begins anew");
                }
                Ok(Go::Begin)
            }
            (0, _) => Ok(Go::Begin),
        }
    }
}

/// `meeting.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    /// Job, step and round: a note of another is none.
    of: String,
    /// The coordinator's host by its name, and by its addresses.
    hosts: Vec<String>,
    port: u16,
    generation: Option<u64>,
    /// Why there is no meeting.
    failure: Option<String>,
}

const NOTE: &str = "meeting.json";

/// Meets the other tasks; gives our place as well.
///
/// # Errors
///
/// The coordinator does not start; the first task leaves no word, or a bad one; no address of its host
/// answers.
pub fn meet(
    here: &Here,
    base: &Path,
    command: &[String],
    start: Option<u64>,
    voice: &Voice,
) -> Result<(Place, Option<Meeting>)> {
    let step = std::env::var("SLURM_STEP_ID").unwrap_or_default();
    let of = format!("{}.{step}.{}", here.job, here.restarts);
    if here.leads() {
        let place = Place::find(here, base, command, start, voice)?;
        let begun = begin(here, &of, &place.job_dir, voice);
        if let Err(error) = &begun {
            let failure = Some(error.to_string());
            let note = Note { of, hosts: Vec::new(), port: 0, generation: None, failure };
            write(&place.job_dir.join(NOTE), &note)?;
        }
        return Ok((place, Some(begun?)));
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some((job_dir, note)) = noted(here, base, &of) {
            let place = Place::of_task(here, &job_dir)?;
            if let Some(failure) = note.failure {
                return Err(Error::new(ErrorKind::Gone, format!("the first task: {failure}")));
            }
            let address = reached(&note, &job_dir.join(SECRET))?;
            return Ok((place, Some(Meeting { address, generation: note.generation })));
        }
        if Instant::now() >= deadline {
            let what = format!("the first task has left no word in {}", base.display());
            return Err(Error::new(ErrorKind::Busy, what)
                .help("the checkpoint directory must be on a file system that all nodes share"));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// The first task's word, and where it is.
fn noted(here: &Here, base: &Path, of: &str) -> Option<(PathBuf, Note)> {
    let dirs = (1..).map(|n| base.join(name(&here.job, n))).take_while(|dir| dir.exists());
    dirs.into_iter().find_map(|dir| {
        let text = std::fs::read(dir.join(NOTE)).ok()?;
        let note: Note = serde_json::from_slice(&text).ok()?;
        (note.of == of).then_some((dir, note))
    })
}

/// Looks for the common generation, starts the coordinator, and leaves word for the others.
fn begin(here: &Here, of: &str, dir: &Path, voice: &Voice) -> Result<Meeting> {
    let secret = dir.join(SECRET);
    let generation = if here.restarts > 0 { common(here, dir, voice)? } else { None };
    let bind = if here.nodes > 1 { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::LOCALHOST };
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let words = [
        ("--secret-file", path(&secret)),
        ("--ckptdir", path(dir)),
        ("--peers", (here.tasks - ended(here, dir)?).to_string()),
    ];
    let words: Vec<String> =
        words.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect();
    let port = start::start(IpAddr::V4(bind), 0, &words)?;
    let (of, hosts) = (of.to_owned(), hosts());
    write(&dir.join(NOTE), &Note { of, hosts, port, generation, failure: None })?;
    let address = Address { host: "localhost".into(), port, secret };
    Ok(Meeting { address, generation })
}

/// The first address at which the coordinator answers.
fn reached(note: &Note, secret: &Path) -> Result<Address> {
    let mut first = None;
    for host in &note.hosts {
        let address = Address { host: host.clone(), port: note.port, secret: secret.to_path_buf() };
        match address.connect() {
            Ok(_) => return Ok(address),
            Err(error) => drop(first.get_or_insert(error)),
        }
    }
    let unknown = || Error::new(ErrorKind::NotFound, "the coordinator's host has no address");
    Err(first.unwrap_or_else(unknown))
}

/// This host's name and addresses, that of the loopback interface left out.
fn hosts() -> Vec<String> {
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let addresses = interfaces.filter_map(|interface| {
        let address = interface.address?;
        let address = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        address.filter(|ip| !ip.is_loopback())
    });
    let addresses: BTreeSet<String> = addresses.map(|ip| ip.to_string()).collect();
    std::iter::once(host()).chain(addresses).collect()
}

fn write(path: &Path, note: &Note) -> Result<()> {
    let failed = |e| Error::os(format!("cannot write {}", path.display()), e);
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut spare = tempfile::NamedTempFile::new_in(dir).map_err(failed)?;
    spare.write_all(&serde_json::to_vec(note).unwrap_or_default()).map_err(failed)?;
    spare.persist(path).map(drop).map_err(|e| failed(e.error))
}

/// Whether the payloads of all tasks have ended, in this round or an earlier one.
///
/// # Errors
///
/// A record cannot be read.
pub fn all_have_ended(here: &Here, dir: &Path) -> Result<bool> {
    Ok(here.restarts > 0 && ended(here, dir)? == here.tasks)
}

/// How many tasks' payloads have ended.
fn ended(here: &Here, dir: &Path) -> Result<u32> {
    let mut ended = 0;
    for task in (0..here.tasks).filter(|_| here.restarts > 0) {
        let record = Record::read(&dir.join(format!("task-{task}")))?;
        ended += u32::from(record.is_some_and(|record| record.finished().is_some()));
    }
    Ok(ended)
}

/// The newest generation of which every task has a good image; nothing if none has come to one.
fn common(here: &Here, dir: &Path, voice: &Voice) -> Result<Option<u64>> {
    let mut common: Option<BTreeSet<u64>> = None;
    let mut all: BTreeSet<u64> = BTreeSet::new();
    for task in 0..here.tasks {
        let dir = dir.join(format!("task-{task}"));
        // One that has ended is in no later generation.
        if Record::read(&dir)?.is_some_and(|record| record.finished().is_some()) {
            continue;
        }
        let found = generations(&dir, voice);
        all.extend(&found);
        common = Some(match common {
            Some(before) => before.intersection(&found).copied().collect(),
            None => found,
        });
    }
    let newest = common.and_then(|common| common.last().copied());
    if newest.is_none() && !all.is_empty() {
        let what = format!("the {} tasks have no generation in common", here.tasks);
        return Err(Error::new(ErrorKind::NotFound, what).help(format!(
            "see `ckpt list {}/task-*`; the step must have as many tasks as before",
            dir.display()
        )));
    }
    Ok(newest)
}

/// The generations with a good image in a task's directory, as far as its manifest tells.
fn generations(dir: &Path, voice: &Voice) -> BTreeSet<u64> {
    let images = Directory::open(dir).and_then(|dir| dir.images()).unwrap_or_default();
    let good = images.iter().filter_map(|image| match Reader::open(&image.path) {
        Ok(_) => image.generation(),
        Err(error) => {
            voice.warn(format_args!("passed over: {error}"));
            None
        }
    });
    good.collect()
}
