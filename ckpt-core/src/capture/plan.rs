//! Which bytes go into the page stream: the memory plan.
//!
//! Never stored: absent pages, clean pages of mapped files that still exist, and zero pages but for
//! those that cover a file's own.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use memmap2::MmapMut;

use super::files::{Bytes, Collector, Place};
use crate::error::{Error, Result};
use crate::kinds::memory::Backing;
use crate::os::PAGE;
use crate::os::maps::Map;
use crate::os::pagemap::{Class, Pagemap, Run};
use crate::snapshot::pages::Object;
use crate::snapshot::{Life, Mapped, Process};

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
    /// A fork of the process has the same bytes.
    pub(crate) is_private: bool,
}

/// Where bytes are read from.
#[derive(Debug)]
pub(crate) enum Source {
    /// A file, or a process' memory.
    File(File),
    /// A copy that has been made already.
    Held(MmapMut),
}

impl Source {
    /// As pread(2).
    pub(crate) fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        match self {
            Self::File(file) => file.read_at(into, at),
            Self::Held(bytes) => {
                let from = bytes.get(at as usize..).unwrap_or_default();
                let length = from.len().min(into.len());
                into[..length].copy_from_slice(&from[..length]);
                Ok(length)
            }
        }
    }
}

/// What is to be read.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) extents: Vec<Extent>,
    pub(crate) sources: Vec<Source>,
    /// The processes, as seen from here, and which source is whose memory.
    pub(crate) memories: Vec<(i32, u32)>,
    /// What has not been looked at yet.
    pub(crate) later: Vec<Stretch>,
    /// Private memory that is copied in the pause, or read from a twin, as there is room.
    pub(crate) own: Vec<Extent>,
    /// What an earlier generation has.
    pub(crate) clean: Vec<Clean>,
    /// The memory of processes' copies, and which source each is to take the place of.
    pub(crate) twins: Vec<(u32, File)>,
    /// Populated bytes that need no storing.
    pub(crate) skipped: u64,
}

/// Private memory of an area that is looked at later, in a twin of its process.
#[derive(Debug)]
pub(crate) struct Stretch {
    /// The process' index.
    pub(crate) process: usize,
    /// The area's index.
    pub(crate) area: usize,
    start: u64,
    end: u64,
    pub(crate) on_file: bool,
}

/// Memory that was not written to since the base was made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clean {
    /// The process' index.
    pub(crate) process: u32,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

/// Which list of the plan is added to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Into {
    /// [`Plan::extents`].
    Extents,
    /// [`Plan::own`].
    Own,
}

impl Stretch {
    /// From where to where.
    pub(crate) fn range(&self) -> (u64, u64) {
        (self.start, self.end)
    }
}

/// The plan for one process' memory.
pub(crate) struct Pages<'a> {
    plan: &'a mut Plan,
    pagemap: Pagemap,
    index: u32,
    source: u32,
    /// Whether a walk over its private pages takes long enough to be put off.
    is_large: bool,
}

impl Plan {
    /// Begins with process `pid`, the `index`-th of the snapshot; `is_large` puts the walk over its
    /// private pages off ([`Self::look`]).
    pub(crate) fn process(&mut self, pid: i32, index: u32, is_large: bool) -> Result<Pages<'_>> {
        let path = format!("/proc/{pid}/mem");
        let memory = File::open(&path).map_err(|e| Error::os(format!("cannot open {path}"), e))?;
        let source = self.add(Source::File(memory));
        self.memories.push((pid, source));
        let pagemap = Pagemap::of_frozen(pid)?;
        Ok(Pages { plan: self, pagemap, index, source, is_large })
    }

    /// Looks at what was put off: in the process with the number `pid` gives, by index.
    pub(crate) fn look(
        &mut self,
        processes: &mut [Process],
        pid: impl Fn(usize) -> i32,
    ) -> Result<()> {
        let mut open: Option<(usize, Pagemap)> = None;
        for stretch in std::mem::take(&mut self.later) {
            let process = stretch.process;
            let pagemap = match open.take() {
                Some((known, pagemap)) if known == process => pagemap,
                _ => Pagemap::open(pid(process))?,
            };
            self.look_at(&pagemap, &stretch, processes, Into::Extents)?;
            open = Some((process, pagemap));
        }
        Ok(())
    }

    /// Looks at one stretch.
    pub(crate) fn look_at(
        &mut self,
        pagemap: &Pagemap,
        stretch: &Stretch,
        processes: &mut [Process],
        into: Into,
    ) -> Result<()> {
        let &Stretch { process, area, start, end, on_file } = stretch;
        let whose = (process as u32, self.source_of(process));
        let guards = self.private(pagemap, whose, (start, end), (on_file, true), into)?;
        if let Life::Alive(live) = &mut processes[process].life {
            live.space.areas[area].guards = guards;
        }
        Ok(())
    }

    /// The source that is this process' memory.
    fn source_of(&self, process: usize) -> u32 {
        self.memories.get(process).map_or(0, |&(_, source)| source)
    }

    /// Adds private pages of a stretch that were written to.
    pub(crate) fn written(&mut self, stretch: &Stretch, (start, end): (u64, u64)) {
        let process = stretch.process as u32;
        self.own.push(Extent {
            object: Object::Memory(process),
            address: start,
            length: end - start,
            source: self.source_of(stretch.process),
            at: start,
            keep_zeroes: stretch.on_file,
            is_private: true,
        });
    }

    /// Adds the private pages of a range, and returns its guard regions.
    fn private(
        &mut self,
        pagemap: &Pagemap,
        (index, source): (u32, u32),
        (start, end): (u64, u64),
        (keep_zeroes, is_private): (bool, bool),
        into: Into,
    ) -> Result<Vec<(u64, u64)>> {
        let object = Object::Memory(index);
        let mut guards = Vec::new();
        for Run { start, end, class } in pagemap.runs(start, end)? {
            match class {
                Class::Data => {
                    let (address, length, at) = (start, end - start, start);
                    let extent =
                        Extent { object, address, length, source, at, keep_zeroes, is_private };
                    match into {
                        Into::Extents => self.extents.push(extent),
                        Into::Own => self.own.push(extent),
                    }
                }
                Class::Guard => guards.push((start, end)),
                // A clean page of the file, or of a nameless file that is saved by itself.
                Class::File | Class::Zero => self.skipped += end - start,
            }
        }
        Ok(guards)
    }

    /// Adds a source, and gives its index.
    pub(crate) fn add(&mut self, source: Source) -> u32 {
        self.sources.push(source);
        self.sources.len() as u32 - 1
    }

    /// Adds the nameless files. Those that are only mapped are read through a process' memory:
    /// their pages may be there though that process never touched them.
    pub(crate) fn contents(&mut self, files: &mut Collector) -> Result<()> {
        for (index, source) in std::mem::take(&mut files.sources).into_iter().enumerate() {
            let object = Object::Content(index as u32);
            match source {
                Bytes::File(fd) => {
                    let size = files.contents[index].size;
                    self.file(object, File::from(fd), size)?;
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
            let source = self.add(Source::File(memory));
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
                let (keep_zeroes, is_private) = (false, false);
                let extent =
                    Extent { object, address, length, source, at, keep_zeroes, is_private };
                self.extents.push(extent);
            }
            // What a shared mapping shows and is not in memory is zero: nobody else need look.
            if place.shared {
                covered.push((place.offset, place.offset + place.length));
            }
        }
        Ok(())
    }

    /// The parts of a file that hold data (`SEEK_DATA`).
    fn file(&mut self, object: Object, file: File, size: u64) -> Result<()> {
        let source = self.sources.len() as u32;
        let mut at = 0;
        while at < size {
            let start = match rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(at)) {
                Ok(start) => start,
                // No more data behind this.
                Err(rustix::io::Errno::NXIO) => break,
                Err(e) => return Err(Error::os("cannot find the data of a nameless file", e)),
            };
            let end = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(start)).unwrap_or(size);
            let end = end.min(size);
            if start >= end {
                break;
            }
            let length = end - start;
            let (address, keep_zeroes, is_private) = (start, false, false);
            let at_start = start;
            let extent =
                Extent { object, address, length, source, at: at_start, keep_zeroes, is_private };
            self.extents.push(extent);
            at = end;
        }
        self.add(Source::File(file));
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
    /// Adds what must be saved of one mapping, the `area`-th of its process, and returns its guard
    /// regions as far as they are known.
    pub(crate) fn area(
        &mut self,
        area: usize,
        map: &Map,
        backing: Backing,
        mapped: &[Mapped],
        flags: &[[u8; 2]],
    ) -> Result<Vec<(u64, u64)>> {
        if map.shared {
            // A nameless file is saved by itself. A named one that the job writes through its
            // memory goes on changing after the checkpoint: all of it is kept.
            if let Backing::File(index) = backing
                && mapped.get(index as usize).is_some_and(|file| file.writable)
            {
                let size = mapped[index as usize].file.size;
                let inside = size.saturating_sub(map.offset).next_multiple_of(PAGE);
                self.whole(map.start, map.end.min(map.start + inside));
            }
            return Ok(Vec::new());
        }
        // MADV_DONTFORK, MADV_WIPEONFORK.
        let forks = !flags.contains(b"dc") && !flags.contains(b"wf");
        let on_file = backing != Backing::Anonymous;
        let (start, end) = (map.start, map.end);
        if self.is_large && forks {
            let process = self.index as usize;
            self.plan.later.push(Stretch { process, area, start, end, on_file });
            return Ok(Vec::new());
        }
        let whose = (self.index, self.source);
        self.plan.private(&self.pagemap, whose, (start, end), (on_file, forks), Into::Extents)
    }

    /// Adds all bytes of a range that is shared with a file.
    fn whole(&mut self, start: u64, end: u64) {
        if start < end {
            let (object, source) = (Object::Memory(self.index), self.source);
            let (address, length, at) = (start, end - start, start);
            let (keep_zeroes, is_private) = (true, false);
            let extent = Extent { object, address, length, source, at, keep_zeroes, is_private };
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
