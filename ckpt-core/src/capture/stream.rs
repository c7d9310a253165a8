//! The page stream: workers read, sieve, compress and append, as many at once as there are cores.
//!
//! Each worker takes the next stretch of the plan, reads it into its own buffer, leaves out what needs no
//! storing ([`Sieve`]), and appends a block whenever enough is left over. Memory is bounded by a block and
//! its compressed form for each worker.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::plan::{Clean, Extent, Plan, Source};
use super::sieve::{Elsewhere, Kept, Sieve, refer};
use crate::error::{Error, Result};
use crate::image::{MAX_BLOCK, Packer, Writer};
use crate::os::PAGE;
use crate::os::buffer::Buffer;
use crate::os::cpu::{in_parallel, workers};
use crate::os::sched::be_nice;
use crate::progress::{Event, Observer};
use crate::snapshot::pages::{BlockPages, Hash, Object, PageIndex, PageRun};

/// Bytes that are read at once.
const PIECE: u64 = 256 * 1024;
/// Bytes for each worker beside the job: with less one has done it all before another thread gets its turn.
const SHARE: u64 = 1 << 20;
/// How workers step back while the job runs: enough that it hardly notices, and little enough that a copy
/// of it does not stay for long.
const NICE: i32 = 5;

/// What it is done with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Means {
    /// Threads; 0 means one a core.
    pub(crate) workers: usize,
    /// The job runs meanwhile.
    pub(crate) beside: bool,
}

/// How much came of it, in bytes.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Streamed {
    pub(crate) read: u64,
    /// Read, and not stored: zero pages, and what is there already.
    pub(crate) left_out: u64,
    /// Known to be as in an earlier generation, read or not.
    pub(crate) unchanged: u64,
}

/// Where everything is.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) pages: PageIndex,
    /// A hash of each page of these, in their order.
    pub(crate) hashes: Vec<Hash>,
    pub(crate) elsewhere: Elsewhere,
}

/// Writes the bytes of the plan as blocks, and returns where they are.
pub(crate) fn write(
    plan: &Plan,
    image: &Writer,
    sieve: &Sieve<'_>,
    means: &Means,
    observer: &dyn Observer,
) -> Result<(Found, Streamed)> {
    let total = plan.total();
    let share = if means.beside { SHARE } else { PIECE };
    let count = workers(means.workers).min(total.div_ceil(share) as usize);
    let pieces = pieces(&plan.extents, PIECE);
    let shared = Shared {
        plan,
        image,
        sieve,
        pieces: &pieces,
        next: AtomicUsize::new(0),
        stop: AtomicBool::new(false),
        done: AtomicU64::new(0),
        stored: AtomicU64::new(0),
        total,
        found: Mutex::default(),
        observer,
    };
    in_parallel(count, || {
        if means.beside {
            be_nice(NICE);
        }
        shared.work()
    })?;
    let (read, stored) = (shared.done.into_inner(), shared.stored.into_inner());
    let mut found = shared.found.into_inner().unwrap_or_else(PoisonError::into_inner);
    plan.clean.iter().for_each(|clean| unwritten(sieve, clean, &mut found.elsewhere));
    let unchanged = found.elsewhere.iter().filter(|((image, _), _)| *image > 0);
    let unchanged = unchanged.flat_map(|(_, parts)| parts).map(|it| u64::from(it.run.length)).sum();
    Ok((found, Streamed { read, left_out: read - stored, unchanged }))
}

/// Refers to what the base has of memory that was not written to.
fn unwritten(sieve: &Sieve<'_>, clean: &Clean, elsewhere: &mut Elsewhere) {
    let memory = sieve.memories.get(clean.process as usize).copied().flatten();
    let Some((base, memory)) = sieve.base.zip(memory) else { return };
    for (place, address, length) in base.parts(memory, (clean.start, clean.end)) {
        refer(elsewhere, place, PageRun { object: Object::Memory(clean.process), address, length });
    }
}

/// Cuts and joins extents to pieces that are read at once.
fn pieces(extents: &[Extent], size: u64) -> Vec<Vec<Extent>> {
    let mut pieces: Vec<Vec<Extent>> = Vec::new();
    let mut room = 0;
    for extent in extents {
        let mut rest = *extent;
        while rest.length > 0 {
            if room == 0 {
                pieces.push(Vec::new());
                room = size;
            }
            let length = rest.length.min(room);
            if let Some(piece) = pieces.last_mut() {
                piece.push(Extent { length, ..rest });
            }
            rest.address += length;
            rest.at += length;
            rest.length -= length;
            // Pieces end where pages do, though a file may end within one.
            room = room.saturating_sub(length.next_multiple_of(PAGE));
        }
    }
    pieces
}

/// What the workers share.
struct Shared<'a> {
    plan: &'a Plan,
    image: &'a Writer,
    sieve: &'a Sieve<'a>,
    pieces: &'a [Vec<Extent>],
    next: AtomicUsize,
    stop: AtomicBool,
    done: AtomicU64,
    stored: AtomicU64,
    total: u64,
    found: Mutex<Found>,
    observer: &'a dyn Observer,
}

/// What a worker has read and not yet written.
struct Pending {
    packer: Packer,
    /// What is left over of several pieces.
    buffer: Buffer,
    filled: usize,
    kept: Kept,
    elsewhere: Elsewhere,
}

impl Shared<'_> {
    fn work(&self) -> Result<()> {
        let mut pending = Pending {
            packer: Packer::new()?,
            buffer: Buffer::default(),
            filled: 0,
            kept: Kept::default(),
            elsewhere: Elsewhere::new(),
        };
        let worked = self.work_on(&mut pending);
        if worked.is_err() {
            self.stop.store(true, Ordering::Relaxed);
        }
        worked
    }

    fn work_on(&self, pending: &mut Pending) -> Result<()> {
        while let Some(piece) = self.pieces.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            self.read(piece, pending)?;
            // zstd finds more in longer blocks.
            if pending.filled + PIECE as usize > MAX_BLOCK {
                self.append(pending)?;
            }
        }
        self.append(pending)?;
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        for (block, parts) in std::mem::take(&mut pending.elsewhere) {
            found.elsewhere.entry(block).or_default().extend(parts);
        }
        Ok(())
    }

    fn read(&self, piece: &[Extent], pending: &mut Pending) -> Result<()> {
        let mut read = 0;
        let buffer = pending.buffer.room(MAX_BLOCK).map_err(no_memory)?;
        for extent in piece {
            let source = &self.plan.sources[extent.source as usize];
            let room = &mut buffer[pending.filled..][..extent.length as usize];
            let got = read_whole(source, extent, room)?;
            read += extent.length;
            let (kept, elsewhere) = (&mut pending.kept, &mut pending.elsewhere);
            pending.filled += self.sieve.pass(&mut room[..got], extent, kept, elsewhere);
        }
        let done = self.done.fetch_add(read, Ordering::Relaxed) + read;
        self.observer.event(Event::Bytes { done, total: self.total });
        Ok(())
    }

    fn append(&self, pending: &mut Pending) -> Result<()> {
        let filled = std::mem::take(&mut pending.filled);
        if filled == 0 {
            return Ok(());
        }
        let bytes = pending.buffer.room(filled).map_err(no_memory)?;
        let block = self.image.append(bytes, &mut pending.packer)?;
        self.stored.fetch_add(filled as u64, Ordering::Relaxed);
        let kept = std::mem::take(&mut pending.kept);
        self.sieve.remember(block, &kept);
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.hashes.extend(kept.hashes);
        found.pages.blocks.push(BlockPages { block, runs: kept.runs });
        Ok(())
    }
}

fn no_memory(source: std::io::Error) -> Error {
    Error::os("cannot get memory for a block", source)
}

/// Reads an extent; what lies behind the end of a mapped or shortened file is left out.
pub(crate) fn read_whole(source: &Source, extent: &Extent, into: &mut [u8]) -> Result<usize> {
    let mut done = 0;
    while done < into.len() {
        match source.read_at(&mut into[done..], extent.at + done as u64) {
            Ok(0) => break,
            Ok(more) => done += more,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => {
                let (length, at) = (extent.length, extent.at);
                let what = match extent.object {
                    Object::Memory(_) => format!("cannot read {length} bytes of memory at {at:#x}"),
                    Object::Content(_) => format!("cannot read a nameless file at {at}"),
                };
                return Err(Error::os(what, e));
            }
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::JobId;
    use crate::snapshot::pages::hash;

    fn extent(address: u64, length: u64) -> Extent {
        let (object, at) = (Object::Memory(0), address);
        let (source, keep_zeroes, is_private) = (0, false, true);
        Extent { object, address, length, source, at, keep_zeroes, is_private }
    }

    /// Each page gets its own hash, whatever comes before it and wherever pieces end.
    #[test]
    fn pieces_end_where_pages_do() {
        let file = Extent { object: Object::Content(0), ..extent(0, 10) };
        let memory = Extent { at: 4096, ..extent(1 << 20, 3 * PIECE) };
        let plan = [file, memory];
        let page = |number: usize| vec![number as u8 + 1; PAGE as usize];
        let sieve =
            Sieve { job: JobId(3), base: None, memories: Vec::new(), hashes: true, seen: None };
        let (mut kept, mut elsewhere) = (Kept::default(), Elsewhere::new());
        for piece in pieces(&plan, PIECE) {
            for part in piece {
                let first = (part.address - if part.length == 10 { 0 } else { 1 << 20 }) / PAGE;
                let pages = part.length.div_ceil(PAGE) as usize;
                let mut bytes: Vec<u8> =
                    (0..pages).flat_map(|number| page(first as usize + number)).collect();
                bytes.truncate(part.length as usize);
                sieve.pass(&mut bytes, &part, &mut kept, &mut elsewhere);
            }
        }
        let mut wanted = vec![hash(JobId(3), &page(0)[..10])];
        wanted.extend((0..(3 * PIECE / PAGE) as usize).map(|number| hash(JobId(3), &page(number))));
        assert!(kept.hashes == wanted, "{} of {}", kept.hashes.len(), wanted.len());
        assert_eq!(kept.runs.len(), 2);
    }

    #[test]
    fn pieces_cover_every_byte_once() {
        let extents = [extent(0, 3 * PIECE + 5), extent(1 << 40, 7), extent(1 << 41, PIECE)];
        let pieces = pieces(&extents, PIECE);
        assert!(pieces.iter().all(|p| p.iter().map(|e| e.length).sum::<u64>() <= PIECE));
        let total: u64 = pieces.iter().flatten().map(|e| e.length).sum();
        assert_eq!(total, 4 * PIECE + 12);
    }
}
