//! Puts the page stream back: workers decode blocks and write them straight into place.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use super::body::Body;
use crate::error::{Error, ErrorKind, Result};
use crate::image::{Reader, Unpacker};
use crate::os::cpu::{in_parallel, workers};
use crate::progress::{Event, Observer};
use crate::snapshot::{BlockPages, Object, PageIndex};

/// Where bytes go.
pub(crate) struct Places<'a> {
    /// The body of each of the snapshot's processes, where it lives.
    pub(crate) bodies: Vec<Option<&'a Body<'a>>>,
    pub(crate) contents: Vec<File>,
}

/// Writes all pages; returns how many bytes that were.
pub(crate) fn fill(
    image: &Reader,
    index: &PageIndex,
    places: &Places<'_>,
    wanted: usize,
    observer: &dyn Observer,
) -> Result<u64> {
    let total = index.blocks.iter().flat_map(|b| &b.runs).map(|run| u64::from(run.length)).sum();
    let next = AtomicUsize::new(0);
    let done = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let work = || -> Result<()> {
        let mut unpacker = Unpacker::new()?;
        while let Some(block) = index.blocks.get(next.fetch_add(1, Ordering::Relaxed)) {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let put = image.read_block(block.block, &mut unpacker).and_then(|bytes| {
                places.put(block, bytes)?;
                Ok(bytes.len() as u64)
            });
            let length = match put {
                Ok(length) => length,
                Err(error) => {
                    stop.store(true, Ordering::Relaxed);
                    return Err(error);
                }
            };
            let done = done.fetch_add(length, Ordering::Relaxed) + length;
            observer.event(Event::Bytes { done, total });
        }
        Ok(())
    };
    in_parallel(workers(wanted).min(index.blocks.len().max(1)), work)?;
    Ok(total)
}

impl Places<'_> {
    fn put(&self, block: &BlockPages, bytes: &[u8]) -> Result<()> {
        let mut rest = bytes;
        for run in &block.runs {
            let Some((now, later)) = rest.split_at_checked(run.length as usize) else {
                return Err(Error::new(ErrorKind::Damaged, "a block is shorter than its runs"));
            };
            rest = later;
            match run.object {
                Object::Memory(process) => {
                    let body = self.bodies.get(process as usize).copied().flatten();
                    body.ok_or_else(stray)?.memory.write_all(run.address, now)?;
                }
                Object::Content(content) => {
                    let file = self.contents.get(content as usize).ok_or_else(stray)?;
                    file.write_all_at(now, run.address)
                        .map_err(|e| Error::os("cannot fill a nameless file", e))?;
                }
            }
        }
        if rest.is_empty() {
            Ok(())
        } else {
            Err(Error::new(ErrorKind::Damaged, "a block is longer than its runs"))
        }
    }
}

fn stray() -> Error {
    Error::new(ErrorKind::Damaged, "the image has pages of a process that it does not list")
}
