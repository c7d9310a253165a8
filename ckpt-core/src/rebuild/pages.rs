//! Puts the page stream back: workers decode blocks and write them straight into place.
//!
//! What lands in files of the user's comes in a pass of its own: until nothing can stand in the
//! restart's way any more, such files stay as they are.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use super::body::Body;
use super::faults::Faults;
use super::spans::{Span, cut, within};
use crate::error::{Error, ErrorKind, Result};
use crate::image::{Ancestors, Reader, Unpacker, Whose};
use crate::kinds::memory::Backing;
use crate::os::PAGE;
use crate::os::cpu::{in_parallel, workers};
use crate::os::mem::Memory;
use crate::progress::{Event, Observer};
use crate::snapshot::Mapped;
use crate::snapshot::pages::{Located, Object, Part, whereabouts};

/// Where bytes go.
pub(crate) struct Places<'a> {
    /// The body of each of the snapshot's processes, where it lives.
    pub(crate) bodies: Vec<Option<&'a Body<'a>>>,
    /// Memory that is not written, but brought.
    pub(crate) faults: &'a Faults,
    pub(crate) contents: Vec<File>,
    /// The named files that are mapped, open if they may be written to.
    pub(crate) mapped: Vec<(&'a Mapped, Option<File>)>,
}

/// Where all pages of an image are, and the images that have them.
#[derive(Debug)]
pub(crate) struct Pages {
    image: Reader,
    ancestors: Ancestors,
    pub(crate) located: Vec<Located>,
}

impl Pages {
    /// Opens the images that `image` needs.
    pub(crate) fn open(image: &Reader, whose: Whose) -> Result<Self> {
        let ancestors = Ancestors::of(image, whose)?;
        Ok(Self { image: image.clone(), ancestors, located: whereabouts(image)? })
    }

    /// Tells the kernel of the blocks that will be read soon: those that do not lie in these areas.
    pub(crate) fn expect_all_but(&self, areas: &[Span]) {
        let is_among = |part: &Part| Span::of(part).is_some_and(|span| within(areas, span));
        for block in self.located.iter().filter(|block| !block.runs.iter().all(is_among)) {
            if let Some(image) = self.ancestors.get(block.image, &self.image) {
                image.expect_block(block.block);
            }
        }
    }

    /// Writes the pages of all blocks but those `left_out`, and none of the user's own files. Returns how many bytes there are.
    pub(crate) fn fill(
        &self,
        left_out: &dyn Fn(usize) -> bool,
        places: &Places<'_>,
        wanted: usize,
        observer: &dyn Observer,
    ) -> Result<u64> {
        let all = self.located.iter().enumerate();
        let blocks: Vec<&Located> =
            all.filter(|(index, _)| !left_out(*index)).map(|(_, block)| block).collect();
        let put = |block: &Located, bytes: &[u8]| places.put(block, bytes, false);
        self.decode(&blocks, wanted, observer, &put)
    }

    /// Writes the pages of the user's own files, where they have changed.
    pub(crate) fn fill_files(
        &self,
        places: &Places<'_>,
        wanted: usize,
        observer: &dyn Observer,
    ) -> Result<()> {
        let to_files = |block: &&Located| {
            block.runs.iter().any(|Part { run, .. }| match run.object {
                Object::Memory(process) => places.files_of(process).any(|part| {
                    let end = run.address.saturating_add(run.length.into());
                    part.start < end && run.address < part.end
                }),
                Object::Content(_) => false,
            })
        };
        let blocks: Vec<&Located> = self.located.iter().filter(to_files).collect();
        if blocks.is_empty() {
            return Ok(());
        }
        let put = |block: &Located, bytes: &[u8]| places.put(block, bytes, true);
        self.decode(&blocks, wanted, observer, &put).map(drop)
    }

    /// The image.
    pub(crate) fn image(&self) -> &Reader {
        &self.image
    }

    /// The bytes of a block.
    pub(crate) fn read<'a>(&self, block: &Located, unpacker: &'a mut Unpacker) -> Result<&'a [u8]> {
        let image = self.ancestors.get(block.image, &self.image).ok_or_else(stray)?;
        image.read_block(block.block, unpacker)
    }

    /// Hands each block's bytes to `put`.
    fn decode(
        &self,
        blocks: &[&Located],
        wanted: usize,
        observer: &dyn Observer,
        put: &(dyn Fn(&Located, &[u8]) -> Result<()> + Sync),
    ) -> Result<u64> {
        let total = blocks.iter().map(|block| block.bytes()).sum();
        let next = AtomicUsize::new(0);
        let done = AtomicU64::new(0);
        let stop = AtomicBool::new(false);
        let work = || -> Result<()> {
            let mut unpacker = Unpacker::new()?;
            while let Some(block) = blocks.get(next.fetch_add(1, Ordering::Relaxed)) {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let read = self.read(block, &mut unpacker);
                if let Err(error) = read.and_then(|bytes| put(block, bytes)) {
                    stop.store(true, Ordering::Relaxed);
                    return Err(error);
                }
                let length = block.bytes();
                let done = done.fetch_add(length, Ordering::Relaxed) + length;
                observer.event(Event::Bytes { done, total });
            }
            Ok(())
        };
        in_parallel(workers(wanted).min(blocks.len().max(1)), work)?;
        Ok(total)
    }
}

impl Places<'_> {
    /// The parts of a process' memory that are the user's own files.
    fn files_of(&self, process: u32) -> impl Iterator<Item = FilePart> + Clone {
        let body = self.bodies.get(process as usize).copied().flatten();
        let areas = body.map_or(&[][..], |body| &body.live.space.areas).iter();
        areas.filter(|area| area.shared).filter_map(|area| match area.backing {
            Backing::File(index) => {
                let file = index as usize;
                let own = self.mapped.get(file).is_some_and(|(mapped, _)| mapped.writable);
                let (start, end, offset) = (area.start, area.end, area.offset);
                own.then_some(FilePart { start, end, file, offset })
            }
            Backing::Anonymous | Backing::Content(_) => None,
        })
    }

    /// Writes the pages of a file that differ: a hole stays one. Not through the memory, which may
    /// be read-only at the moment.
    fn write_changed(&self, part: FilePart, bytes: &[u8]) -> Result<()> {
        let Some((mapped, Some(file))) = self.mapped.get(part.file) else { return Err(stray()) };
        let failed = |e| Error::os(format!("cannot write to {}", mapped.file.shown()), e);
        let inside = mapped.file.size.saturating_sub(part.offset).min(bytes.len() as u64);
        let bytes = &bytes[..inside as usize];
        let mut now = vec![0; bytes.len()];
        file.read_exact_at(&mut now, part.offset).map_err(failed)?;
        let pages = bytes.chunks(PAGE as usize).zip(now.chunks(PAGE as usize));
        for (number, (page, _)) in pages.enumerate().filter(|(_, (page, now))| page != now) {
            file.write_all_at(page, part.offset + number as u64 * PAGE).map_err(failed)?;
        }
        Ok(())
    }

    /// Brings what may be brought, and writes the rest.
    fn write(&self, process: u32, memory: &Memory, at: u64, bytes: &[u8]) -> Result<()> {
        for (at, bytes, registered) in cut(self.faults.areas(), process, at, bytes) {
            if registered {
                let what = || format!("cannot fill {} bytes of memory at {at:#x}", bytes.len());
                let brought = self.faults.bring(process, at, bytes);
                brought.map_err(|e| Error::os(what(), e))?;
            } else {
                memory.write_all(at, bytes)?;
            }
        }
        Ok(())
    }

    /// Writes what of a block goes `to_files` of the user's own, or what does not.
    fn put(&self, block: &Located, bytes: &[u8], to_files: bool) -> Result<()> {
        for part in &block.runs {
            let run = part.run;
            let now = part.of(bytes)?;
            match run.object {
                Object::Memory(process) => {
                    let body = self.bodies.get(process as usize).copied().flatten();
                    let memory = &body.ok_or_else(stray)?.memory;
                    for (at, part, file) in split(run.address, now, self.files_of(process)) {
                        match file {
                            None if !to_files => self.write(process, memory, at, part)?,
                            Some(file) if to_files => self.write_changed(file, part)?,
                            _ => {}
                        }
                    }
                }
                Object::Content(_) if to_files => {}
                Object::Content(content) => {
                    let file = self.contents.get(content as usize).ok_or_else(stray)?;
                    file.write_all_at(now, run.address)
                        .map_err(|e| Error::os("cannot fill a nameless file", e))?;
                }
            }
        }
        Ok(())
    }
}

/// Memory in which one of the user's files is mapped, from an offset on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FilePart {
    start: u64,
    end: u64,
    file: usize,
    offset: u64,
}

/// Cuts a run where the user's files begin and end; tells which parts are theirs.
fn split(
    address: u64,
    bytes: &[u8],
    files: impl Iterator<Item = FilePart> + Clone,
) -> Vec<(u64, &[u8], Option<FilePart>)> {
    let mut parts = Vec::new();
    let (mut at, mut rest) = (address, bytes);
    while !rest.is_empty() {
        // The areas stand in order: the first that ends behind this place holds it or follows.
        let next = files.clone().find(|part| at < part.end);
        let within = next.filter(|part| part.start <= at);
        let until = within.map_or(next.map_or(u64::MAX, |part| part.start), |part| part.end);
        let (now, later) = rest.split_at((until - at).min(rest.len() as u64) as usize);
        let within =
            within.map(|part| FilePart { offset: part.offset + (at - part.start), ..part });
        parts.push((at, now, within));
        at += now.len() as u64;
        rest = later;
    }
    parts
}

fn stray() -> Error {
    Error::new(ErrorKind::Damaged, "the image has pages of a process that it does not list")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_cut_where_files_begin_and_end() {
        let part = |start, end, offset| FilePart { start, end, file: 0, offset };
        let files = [part(2, 4, 100), part(4, 5, 200), part(8, 20, 300)];
        let parts = split(1, b"abcdefghij", files.into_iter());
        let found: Vec<_> =
            parts.iter().map(|(at, bytes, part)| (*at, *bytes, part.map(|p| p.offset))).collect();
        let wanted: [(u64, &[u8], Option<u64>); 5] = [
            (1, b"a", None),
            (2, b"bc", Some(100)),
            (4, b"d", Some(200)),
            (5, b"efg", None),
            (8, b"hij", Some(300)),
        ];
        assert_eq!(found, wanted);
        assert_eq!(split(30, b"x", files.into_iter()), [(30, &b"x"[..], None)]);
        assert_eq!(split(9, b"x", files.into_iter())[0].2, Some(part(8, 20, 301)));
    }
}
