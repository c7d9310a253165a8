//! Several launchers in one step (`srun ckpt-launch --slurm …`): how they find each other, and which
//! generation all of them have.
//!
//! The first task starts a coordinator, looks for the newest generation that all have, and writes
//! both to `meeting.json` in the job's directory, which is on a file system that all share. The
//! others wait for it. The coordinator's secret lies beside it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::{Duration, Instant};

use ckpt_core::image::{Directory, Reader};
use ckpt_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use super::here::Here;
use super::record::Record;
use crate::control::place::host;
use crate::coordinator::place::Address;
use crate::coordinator::start;
use crate::voice::Voice;

/// How long the others wait for the first.
const PATIENCE: Duration = Duration::from_secs(180);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Where the tasks meet.
#[derive(Debug, Clone)]
pub struct Meeting {
    /// The coordinator.
    pub address: Address,
    /// The generation to go on from; nothing if the job begins.
    pub generation: Option<u64>,
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
}

/// Meets the other tasks.
///
/// # Errors
///
/// The coordinator does not start; the first task leaves no word; no address of its host answers.
pub fn meet(here: &Here, dir: &Path, voice: &Voice) -> Result<Meeting> {
    let of = format!(
        "{}.{}.{}",
        here.job,
        std::env::var("SLURM_STEP_ID").unwrap_or_default(),
        here.restarts
    );
    let path = dir.join("meeting.json");
    let secret = dir.join("secret");
    if here.leads() {
        let generation = if here.restarts > 0 { common(here, dir, voice)? } else { None };
        let bind = if here.nodes > 1 { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::LOCALHOST };
        let words = [("--secret-file", &secret), ("--ckptdir", &dir.to_path_buf())];
        let words: Vec<String> = words
            .iter()
            .flat_map(|(name, value)| [(*name).to_owned(), value.to_string_lossy().into_owned()])
            .collect();
        let port = start::start(IpAddr::V4(bind), 0, &words)?;
        let note = Note { of, hosts: hosts(), port, generation };
        write(&path, &note)?;
        let address = Address { host: "localhost".into(), port, secret };
        return Ok(Meeting { address, generation });
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let note = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
        if let Some(note) = note.filter(|note: &Note| note.of == of) {
            let address = reached(&note, &secret)?;
            return Ok(Meeting { address, generation: note.generation });
        }
        if Instant::now() >= deadline {
            let what = format!("the first task has left no word in {}", path.display());
            return Err(Error::new(ErrorKind::Busy, what)
                .help("the checkpoint directory must be on a file system that all nodes share"));
        }
        std::thread::sleep(LOOK_EVERY);
    }
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
    let spare = path.with_extension("new");
    std::fs::write(&spare, serde_json::to_vec(note).unwrap_or_default()).map_err(failed)?;
    std::fs::rename(&spare, path).map_err(failed)
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
    if newest.is_none() {
        voice.warn("no round before this one has come to a checkpoint: the job begins anew");
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
