//! The page stream: readers compress and append blocks, as many at once as there are workers.
//!
//! Each worker takes the next stretch of the plan, reads it into its own buffer, closes up the
//! zero pages, and appends what is left as one block. Memory is bounded by one block a worker.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use super::plan::{Extent, Plan, Source};
use crate::error::{Error, Result};
use crate::image::{Packer, Writer};
use crate::os::PAGE;
use crate::os::cpu::{in_parallel, workers};
use crate::progress::{Event, Observer};
use crate::snapshot::{BlockPages, Object, PageIndex, PageRun};

/// Plaintext bytes of a full block.
const BLOCK: u64 = 512 * 1024;

/// How much came of it, in bytes.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Streamed {
    pub(crate) read: u64,
    pub(crate) zero: u64,
}

/// Writes the bytes of the plan as blocks, and returns where they are.
pub(crate) fn write(
    plan: &Plan,
    image: &Writer,
    level: i32,
    wanted: usize,
    observer: &dyn Observer,
) -> Result<(PageIndex, Streamed)> {
    let pieces = pieces(&plan.extents);
    let shared = Shared {
        plan,
        image,
        pieces: &pieces,
        next: AtomicUsize::new(0),
        stop: AtomicBool::new(false),
        done: AtomicU64::new(0),
        zero: AtomicU64::new(0),
        total: plan.total(),
        index: Mutex::new(PageIndex::default()),
        observer,
    };
    let count = workers(wanted).min(pieces.len().max(1));
    in_parallel(count, || shared.work(level))?;
    let (read, zero) = (shared.done.into_inner(), shared.zero.into_inner());
    let index = shared.index.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    Ok((index, Streamed { read, zero }))
}

/// Cuts and joins extents to pieces of a block's length each.
fn pieces(extents: &[Extent]) -> Vec<Vec<Extent>> {
    let mut pieces: Vec<Vec<Extent>> = Vec::new();
    let mut room = 0;
    for extent in extents {
        let mut rest = *extent;
        while rest.length > 0 {
            if room == 0 {
                pieces.push(Vec::new());
                room = BLOCK;
            }
            let length = rest.length.min(room);
            if let Some(piece) = pieces.last_mut() {
                piece.push(Extent { length, ..rest });
            }
            rest.address += length;
            rest.at += length;
            rest.length -= length;
            room -= length;
        }
    }
    pieces
}

/// What the workers share.
struct Shared<'a> {
    plan: &'a Plan,
    image: &'a Writer,
    pieces: &'a [Vec<Extent>],
    next: AtomicUsize,
    stop: AtomicBool,
    done: AtomicU64,
    zero: AtomicU64,
    total: u64,
    index: Mutex<PageIndex>,
    observer: &'a dyn Observer,
}

impl Shared<'_> {
    fn work(&self, level: i32) -> Result<()> {
        let mut packer = Packer::new(level)?;
        let mut buffer = vec![0u8; BLOCK as usize];
        while let Some(piece) = self.pieces.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            if let Err(error) = self.piece(piece, &mut buffer, &mut packer) {
                self.stop.store(true, Ordering::Relaxed);
                return Err(error);
            }
        }
        Ok(())
    }

    fn piece(&self, piece: &[Extent], buffer: &mut [u8], packer: &mut Packer) -> Result<()> {
        let mut runs = Vec::new();
        let mut filled = 0;
        let mut read = 0;
        for extent in piece {
            let length = extent.length as usize;
            let source = &self.plan.sources[extent.source as usize];
            let room = &mut buffer[filled..filled + length];
            let got = read_whole(source, extent, room)?;
            read += extent.length;
            filled += close_up(&mut room[..got], extent, &mut runs);
        }
        self.zero.fetch_add(read - filled as u64, Ordering::Relaxed);
        if filled > 0 {
            let block = self.image.append(&buffer[..filled], packer)?;
            let mut index = self.index.lock().unwrap_or_else(|e| e.into_inner());
            index.blocks.push(BlockPages { block, runs });
        }
        let done = self.done.fetch_add(read, Ordering::Relaxed) + read;
        self.observer.event(Event::Bytes { done, total: self.total });
        Ok(())
    }
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

/// Moves the pages that are to be kept together, notes them as runs, and returns their bytes.
fn close_up(bytes: &mut [u8], extent: &Extent, runs: &mut Vec<PageRun>) -> usize {
    let mut kept = 0;
    let mut at = 0;
    while at < bytes.len() {
        let end = (at + PAGE as usize).min(bytes.len());
        if extent.keep_zeroes || !is_zero(&bytes[at..end]) {
            let address = extent.address + at as u64;
            let length = (end - at) as u32;
            match runs.last_mut() {
                Some(last)
                    if last.object == extent.object
                        && last.address + u64::from(last.length) == address =>
                {
                    last.length += length;
                }
                _ => runs.push(PageRun { object: extent.object, address, length }),
            }
            if kept != at {
                bytes.copy_within(at..end, kept);
            }
            kept += end - at;
        }
        at = end;
    }
    kept
}

fn is_zero(page: &[u8]) -> bool {
    // Most pages that are not zero show it soon.
    let (chunks, rest) = page.as_chunks::<64>();
    chunks.iter().all(|chunk| *chunk == [0; 64]) && rest.iter().all(|&byte| byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(address: u64, length: u64) -> Extent {
        let (object, at) = (Object::Memory(0), address);
        let (source, keep_zeroes, is_private) = (0, false, true);
        Extent { object, address, length, source, at, keep_zeroes, is_private }
    }

    #[test]
    fn pieces_cover_every_byte_once() {
        let extents = [extent(0, 3 * BLOCK + 5), extent(1 << 40, 7), extent(1 << 41, BLOCK)];
        let pieces = pieces(&extents);
        assert!(pieces.iter().all(|p| p.iter().map(|e| e.length).sum::<u64>() <= BLOCK));
        let total: u64 = pieces.iter().flatten().map(|e| e.length).sum();
        assert_eq!(total, 4 * BLOCK + 12);
    }

    #[test]
    fn zero_pages_are_closed_up() {
        let page = PAGE as usize;
        let mut bytes = vec![0u8; 4 * page];
        bytes[page] = 1;
        bytes[2 * page + 9] = 2;
        let mut runs = Vec::new();
        let kept = close_up(&mut bytes, &extent(0x10000, 4 * PAGE), &mut runs);
        assert_eq!(kept, 2 * page);
        assert_eq!((bytes[0], bytes[page + 9]), (1, 2));
        let wanted =
            PageRun { object: Object::Memory(0), address: 0x11000, length: 2 * PAGE as u32 };
        assert_eq!(runs, [wanted]);
    }

    #[test]
    fn zero_pages_over_a_file_are_kept() {
        let mut bytes = vec![0u8; 3 * PAGE as usize];
        let mut runs = Vec::new();
        let extent = Extent { keep_zeroes: true, ..extent(0x10000, 3 * PAGE) };
        assert_eq!(close_up(&mut bytes, &extent, &mut runs), 3 * PAGE as usize);
        assert_eq!(runs.len(), 1);
    }
}
