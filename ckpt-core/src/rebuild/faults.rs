//! Memory whose missing pages we bring ourselves, by a userfaultfd of the process: whole runs at a time,
//! which is quicker than to write through `/proc/PID/mem`, and at any time ([`super::lazy`]).

use std::collections::HashMap;
use std::io;

use super::body::Body;
use super::spans::{Span, overlapping, within};
use crate::error::{Error, Result};
use crate::kinds::memory::{Area, Backing};
use crate::os::thp;
use crate::os::uffd::{Mode, Uffd};
use crate::snapshot::Snapshot;
use crate::snapshot::pages::Located;

/// Areas that are shorter are written.
const LONG: u64 = 256 << 10;
/// A process that has less than this in such areas is sooner written than asked.
const MUCH: u64 = 16 << 20;

/// The userfaultfds of a job in the making. What is missing in their areas is zero once they are
/// dropped.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    by_process: HashMap<u32, Uffd>,
    areas: Vec<Span>,
}

impl Faults {
    /// Registers the long areas of large processes, which are mapped and empty. Where the kernel may give
    /// huge pages they are left out unless `all` are wanted, as here come small ones.
    ///
    /// # Errors
    ///
    /// This kernel refuses; nothing is registered then.
    pub(crate) fn of(
        snapshot: &Snapshot,
        bodies: &[Body<'_>],
        located: &[Located],
        all: bool,
    ) -> Result<Self> {
        let huge = !all && thp::by_default();
        let is_wanted = |area: &&Area| {
            may_wait(area) && (all || !(huge || area.advice.contains(&libc::MADV_HUGEPAGE)))
        };
        let mut this = Self::default();
        for (process, body) in indexed(snapshot, bodies) {
            let areas = body.live.space.areas.iter().filter(is_wanted);
            let span = |area: &Area| Span { process, start: area.start, end: area.end };
            this.areas.extend(areas.map(span));
        }
        this.areas.sort_unstable();
        let mut bytes: HashMap<u32, u64> = HashMap::new();
        for span in located.iter().flat_map(|block| &block.runs).filter_map(Span::of) {
            if within(&this.areas, span) {
                *bytes.entry(span.process).or_default() += span.length();
            }
        }
        this.areas.retain(|area| bytes.get(&area.process).is_some_and(|it| *it >= MUCH));
        for (process, body) in indexed(snapshot, bodies) {
            let mut its = this.areas.iter().filter(|area| area.process == process).peekable();
            if its.peek().is_none() {
                continue;
            }
            let uffd = body.userfault()?;
            for area in its {
                let registered = uffd.register(area.start, area.end, Mode::Missing);
                registered.map_err(|e| Error::os("cannot register memory", e))?;
            }
            this.by_process.insert(process, uffd);
        }
        Ok(this)
    }

    /// All areas, sorted.
    pub(crate) fn areas(&self) -> &[Span] {
        &self.areas
    }

    /// Brings what is in the areas of a run of pages, and gives the rest: addresses and bytes.
    ///
    /// # Errors
    ///
    /// As of [`Uffd::copy`].
    pub(crate) fn bring<'a>(
        &self,
        process: u32,
        start: u64,
        bytes: &'a [u8],
    ) -> io::Result<Vec<(u64, &'a [u8])>> {
        let Some(uffd) = self.of_process(process) else { return Ok(vec![(start, bytes)]) };
        let whole = Span { process, start, end: start + bytes.len() as u64 };
        let (mut at, mut rest, mut others) = (start, bytes, Vec::new());
        // Each within one area, as the kernel wants it.
        for span in overlapping(&self.areas, whole) {
            let (before, from) = rest.split_at((span.start - at) as usize);
            let (its, behind) = from.split_at(span.length() as usize);
            uffd.copy(span.start, its)?;
            others.push((at, before));
            (at, rest) = (span.end, behind);
        }
        others.push((at, rest));
        others.retain(|(_, bytes)| !bytes.is_empty());
        Ok(others)
    }

    /// The userfaultfd of a process, by its index in the snapshot.
    pub(crate) fn of_process(&self, process: u32) -> Option<&Uffd> {
        self.by_process.get(&process)
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Uffd)> {
        self.by_process.iter().map(|(process, uffd)| (*process, uffd))
    }
}

/// The bodies with their index in the snapshot.
pub(crate) fn indexed<'a, 'b>(
    snapshot: &Snapshot,
    bodies: &'a [Body<'b>],
) -> impl Iterator<Item = (u32, &'a Body<'b>)> {
    bodies.iter().filter_map(|body| {
        let index = snapshot.processes.iter().position(|it| it.pid == body.process.pid)?;
        Some((index as u32, body))
    })
}

/// Whether the kernel leaves an area alone between system calls, but for what is asked of each task.
fn may_wait(area: &Area) -> bool {
    area.backing == Backing::Anonymous
        && !(area.shared || area.grows_down || area.locked)
        && area.guards.is_empty()
        && area.end - area.start >= LONG
}
