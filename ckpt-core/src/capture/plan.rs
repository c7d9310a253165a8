//! Which bytes go into the page stream: the memory plan.
//!
//! Never stored: absent pages, clean pages of mapped files that still exist, and zero pages but for
//! those that cover a file's own.

use std::fs::File;

use super::files::{Bytes, Collector, Place};
use crate::error::{Error, Result};
use crate::kinds::memory::Backing;
use crate::os::PAGE;
use crate::os::maps::Map;
use crate::os::pagemap::{Class, Pagemap, Run};
use crate::snapshot::{Mapped, Object};

/// A stretch of bytes to be read from one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Whose bytes they are.
    pub(crate) object: Object,
    /// Address or offset in that object.
    pub(crate) address: u64,
    /// Length in bytes.
    pub(crate) length: u64,
    /// Index in [`Plan::sources`].
    pub(crate) source: u32,
    /// Where in the source they are.
    pub(crate) at: u64,
    /// Zero pages are stored, too: what they are written to at a restart is not empty.
    pub(crate) keep_zeroes: bool,
}

/// What is to be read.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) extents: Vec<Extent>,
    pub(crate) sources: Vec<File>,
    /// Populated bytes that need no storing.
    pub(crate) skipped: u64,
}

/// The plan for one process' memory.
pub(crate) struct Pages<'a> {
    plan: &'a mut Plan,
    pagemap: Pagemap,
    object: Object,
    source: u32,
}

impl Plan {
    /// Begins with process `pid`, the `index`-th of the snapshot.
    pub(crate) fn process(&mut self, pid: i32, index: u32) -> Result<Pages<'_>> {
        let path = format!("/proc/{pid}/mem");
        let memory = File::open(&path).map_err(|e| Error::os(format!("cannot open {path}"), e))?;
        self.sources.push(memory);
        let source = self.sources.len() as u32 - 1;
        let pagemap = Pagemap::open(pid)?;
        Ok(Pages { plan: self, pagemap, object: Object::Memory(index), source })
    }

    /// Adds the nameless files. Those that are only mapped are read through a process' memory:
    /// their pages may be there though that process never touched them.
    pub(crate) fn contents(&mut self, files: &mut Collector) -> Result<()> {
        for (index, source) in std::mem::take(&mut files.sources).into_iter().enumerate() {
            let object = Object::Content(index as u32);
            match source {
                Bytes::File(fd) => {
                    let size = files.contents[index].size;
                    self.sources.push(File::from(fd));
                    let source = self.sources.len() as u32 - 1;
                    self.file(object, source, size)?;
                }
                Bytes::Mapped(places) => self.mapped(object, places)?,
            }
        }
        Ok(())
    }

    /// A nameless file that is only mapped: each part from one process that sees it. A private
    /// mapping shows the file only where the process has not written.
    fn mapped(&mut self, object: Object, mut places: Vec<Place>) -> Result<()> {
        places.sort_by_key(|place| (!place.shared, place.offset));
        let mut covered: Vec<(u64, u64)> = Vec::new();
        for place in places {
            let path = format!("/proc/{}/mem", place.pid);
            let memory =
                File::open(&path).map_err(|e| Error::os(format!("cannot open {path}"), e))?;
            self.sources.push(memory);
            let source = self.sources.len() as u32 - 1;
            let (start, end) = (place.start, place.start + place.length);
            let mut readable = match place.resident {
                Some(resident) => resident,
                None => vec![(start, end)],
            };
            if !place.shared {
                let runs = Pagemap::open(place.pid)?.runs(start, end)?;
                let own = runs.iter().filter(|run| run.class == Class::Data);
                readable = own.fold(readable, |left, run| without(&left, (run.start, run.end)));
            }
            let shift = |at: u64| at - start + place.offset;
            let mut parts: Vec<(u64, u64)> =
                readable.iter().map(|&(from, to)| (shift(from), shift(to))).collect();
            for &done in &covered {
                parts = without(&parts, done);
            }
            for (from, to) in parts {
                let (address, length) = (from, to - from);
                let at = from - place.offset + start;
                let keep_zeroes = false;
                self.extents.push(Extent { object, address, length, source, at, keep_zeroes });
            }
            // What a shared mapping shows and is not in memory is zero: nobody else need look.
            if place.shared {
                covered.push((place.offset, place.offset + place.length));
            }
        }
        Ok(())
    }

    /// The parts of a file that hold data (`SEEK_DATA`).
    fn file(&mut self, object: Object, source: u32, size: u64) -> Result<()> {
        let mut at = 0;
        while at < size {
            let file = &self.sources[source as usize];
            let start = match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(at)) {
                Ok(start) => start,
                // No more data behind this.
                Err(rustix::io::Errno::NXIO) => break,
                Err(e) => return Err(Error::os("cannot find the data of a nameless file", e)),
            };
            let end = rustix::fs::seek(file, rustix::fs::SeekFrom::Hole(start)).unwrap_or(size);
            let end = end.min(size);
            if start >= end {
                break;
            }
            let length = end - start;
            let (address, keep_zeroes) = (start, false);
            let extent = Extent { object, address, length, source, at: start, keep_zeroes };
            self.extents.push(extent);
            at = end;
        }
        Ok(())
    }

    /// Bytes that will be read.
    pub(crate) fn total(&self) -> u64 {
        self.extents.iter().map(|extent| extent.length).sum()
    }
}

/// The ranges less one range.
fn without(ranges: &[(u64, u64)], (from, to): (u64, u64)) -> Vec<(u64, u64)> {
    let parts =
        ranges.iter().flat_map(|&(start, end)| [(start, end.min(from)), (start.max(to), end)]);
    parts.filter(|(start, end)| start < end).collect()
}

impl Pages<'_> {
    /// Adds what must be saved of one mapping, and returns its guard regions.
    pub(crate) fn area(
        &mut self,
        map: &Map,
        backing: Backing,
        mapped: &[Mapped],
    ) -> Result<Vec<(u64, u64)>> {
        let mut guards = Vec::new();
        if map.shared {
            // A nameless file is saved by itself. A named one that the job writes through its
            // memory goes on changing after the checkpoint: all of it is kept.
            if let Backing::File(index) = backing
                && mapped.get(index as usize).is_some_and(|file| file.writable)
            {
                let size = mapped[index as usize].file.size;
                let inside = size.saturating_sub(map.offset).next_multiple_of(PAGE);
                self.push(map.start, map.end.min(map.start + inside), true);
            }
            return Ok(guards);
        }
        let on_file = backing != Backing::Anonymous;
        for Run { start, end, class } in self.pagemap.runs(map.start, map.end)? {
            match class {
                Class::Data => self.push(start, end, on_file),
                Class::Guard => guards.push((start, end)),
                // A clean page of the file, or of a nameless file that is saved by itself.
                Class::File | Class::Zero => self.plan.skipped += end - start,
            }
        }
        Ok(guards)
    }

    fn push(&mut self, start: u64, end: u64, keep_zeroes: bool) {
        if start < end {
            let (object, source) = (self.object, self.source);
            let (address, length) = (start, end - start);
            let extent = Extent { object, address, length, source, at: start, keep_zeroes };
            self.plan.extents.push(extent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut() {
        assert_eq!(without(&[(0, 10), (20, 30)], (5, 25)), [(0, 5), (25, 30)]);
        assert_eq!(without(&[(0, 10)], (3, 4)), [(0, 3), (4, 10)]);
        assert_eq!(without(&[(0, 10)], (10, 12)), [(0, 10)]);
    }
}
