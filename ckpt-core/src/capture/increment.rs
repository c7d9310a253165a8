//! What a generation has that builds upon an earlier one: which one that is, what is compared, and the
//! sections that say where everything is.

use std::collections::{BTreeMap, HashMap};

use super::Options;
use super::base::Base;
use super::sieve::{Seen, Sieve};
use super::stream::Found;
use crate::error::Result;
use crate::image::{Directory, Importance, Needed, Tag, Writer};
use crate::job::{Job, JobId};
use crate::snapshot::Process;
use crate::snapshot::pages::{Located, MOST_HASHES, Object, PAGES, References};

/// The generation that a new one of `job` may build upon. Without one it is complete by itself.
pub(super) fn base(directory: &Directory, job: &Job, options: &Options) -> Option<Base> {
    if options.full || options.increments == 0 {
        return None;
    }
    Base::open(directory, job.id, options.increments)
        .inspect_err(|error| tracing::debug!(%error, "nothing to build upon"))
        .ok()
        .flatten()
}

/// What the pages of these processes are compared with.
pub(super) fn sieve<'a>(
    job: JobId,
    base: Option<&'a Base>,
    options: &Options,
    processes: &[Process],
) -> Sieve<'a> {
    let memories = base.map(|base| memories(base, processes)).unwrap_or_default();
    let several = processes.iter().filter(|process| process.live().is_some()).count() > 1;
    let hashes = options.increments > 0 || several;
    Sieve { job, base, memories, hashes, seen: several.then(Seen::new) }
}

/// Which memory in the base that of each process is compared with: its own, or, of one that is new, an
/// ancestor's, of which it most likely began as a copy.
fn memories(base: &Base, processes: &[Process]) -> Vec<Option<Object>> {
    let mut of: HashMap<i32, Object> = HashMap::new();
    // Parents come before their children.
    let likely = |process: &Process| {
        let memory = base.memory_of(process.pid).or_else(|| of.get(&process.parent).copied())?;
        of.insert(process.pid, memory);
        Some(memory)
    };
    processes.iter().map(likely).collect()
}

/// Writes where everything is; gives how many other images are needed.
pub(crate) fn write(writer: &mut Writer, found: Found, base: Option<&Base>) -> Result<usize> {
    let mut numbers: BTreeMap<u32, u32> = BTreeMap::new();
    for (image, _) in found.elsewhere.keys().filter(|(image, _)| *image > 0) {
        numbers.insert(*image, 0);
    }
    // The base is named even if nothing of it is the same, but only if anything is.
    if !numbers.is_empty() {
        numbers.insert(1, 0);
    }
    let mut needed: Vec<Needed> = Vec::new();
    for (image, number) in &mut numbers {
        needed.extend(base.and_then(|base| base.needed().get(*image as usize - 1)));
        *number = needed.len() as u32;
    }
    let number = |image: u32| numbers.get(&image).copied().unwrap_or(0);
    let mut blocks: Vec<Located> = found
        .elsewhere
        .into_iter()
        .map(|((image, block), runs)| Located { image: number(image), block, runs })
        .collect();
    blocks.sort_unstable_by_key(|located| (located.image, located.block));
    writer.need(&needed)?;
    if !blocks.is_empty() {
        writer.section(Tag::REFS, Importance::Critical, &References { blocks })?;
    }
    writer.section(PAGES, Importance::Critical, &found.pages)?;
    // It may be left out, and a section has its limit: no more can be built upon a job so large.
    if (1..=MOST_HASHES).contains(&found.hashes.len()) {
        writer.raw_section(Tag::HASH, Importance::Skippable, &found.hashes)?;
    }
    Ok(needed.len())
}
