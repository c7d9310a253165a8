//! Blocks: pieces of memory, each compressed and checked by itself, so that they can be written
//! and read in any order by any number of threads.
//!
//! A worker owns one [`Packer`] or [`Unpacker`] and uses it for all its blocks: zstd's contexts
//! and the buffers are made once. Raw blocks are never copied on their way out.

use std::fs::File;
use std::os::unix::fs::FileExt;

use bincode::{Decode, Encode};

use super::format::{Flaw, HEADER_LEN, MAX_BLOCK, io_error};
use super::level::LEVEL;
use crate::error::{Error, ErrorKind, Result};
use crate::os::buffer::Buffer;

/// A block's index in the block table of its image, from 0 in order of file offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct BlockId(pub u32);

/// How a block's bytes are stored. Its numbers in the format follow the order here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(super) enum Codec {
    Raw,
    Zstd,
}

/// One line of the block table.
#[derive(Debug, Clone, Copy, Encode, Decode)]
pub(super) struct Row {
    pub(super) offset: u64,
    pub(super) stored: u32,
    pub(super) plain: u32,
    pub(super) codec: Codec,
    /// Of the stored bytes.
    pub(super) crc: u32,
}

impl Row {
    pub(super) fn end(&self) -> u64 {
        self.offset.saturating_add(u64::from(self.stored))
    }

    /// What it is called where it is damaged.
    fn part(&self, id: BlockId) -> String {
        format!("block {} at offset {}", id.0, self.offset)
    }

    fn sane(&self) -> bool {
        let plain = (1..=MAX_BLOCK as u32).contains(&self.plain);
        plain
            && match self.codec {
                Codec::Raw => self.stored == self.plain,
                Codec::Zstd => (1..self.plain).contains(&self.stored),
            }
    }
}

/// Whether the blocks fill exactly what is between header and manifest; else what is wrong.
pub(super) fn check_tiling(rows: &[Row], manifest: u64) -> Result<(), String> {
    if u32::try_from(rows.len()).is_err() {
        return Err(format!("{} blocks are too many", rows.len()));
    }
    let mut end = HEADER_LEN as u64;
    for (index, row) in rows.iter().enumerate() {
        if row.offset != end || !row.sane() {
            return Err(format!("block {index} has impossible place or length"));
        }
        end = row.end();
    }
    if end == manifest {
        Ok(())
    } else {
        Err(format!("the blocks end at {end}, the manifest begins at {manifest}"))
    }
}

/// A worker's means to compress blocks: a zstd context and the buffer it fills.
pub struct Packer {
    context: zstd::bulk::Compressor<'static>,
    level: i32,
    packed: Buffer,
}

/// A block ready to be written.
pub(super) struct Packed<'a> {
    pub(super) stored: &'a [u8],
    pub(super) codec: Codec,
    pub(super) crc: u32,
}

impl Packer {
    /// Makes one.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Internal`] if zstd has no memory.
    pub fn new() -> Result<Self> {
        let context = zstd::bulk::Compressor::new(LEVEL).map_err(|source| {
            Error::new(ErrorKind::Internal, "cannot make a zstd context").source(source)
        })?;
        Ok(Self { context, level: LEVEL, packed: Buffer::default() })
    }

    /// Compresses by zstd's `level` if that pays; 0 leaves all as it is.
    pub(super) fn pack<'a>(&'a mut self, plain: &'a [u8], level: i32) -> Result<Packed<'a>> {
        // The output has only as much room as pays; when zstd runs out of it the block stays raw.
        let room = worthwhile(plain.len());
        let packed = if level == 0 { None } else { self.squeeze(plain, level, room)? };
        let (stored, codec) = match packed {
            Some(packed) => (packed, Codec::Zstd),
            None => (plain, Codec::Raw),
        };
        Ok(Packed { stored, codec, crc: crc32fast::hash(stored) })
    }

    fn squeeze(&mut self, plain: &[u8], level: i32, room: usize) -> Result<Option<&[u8]>> {
        if level != self.level {
            self.context.set_compression_level(level).map_err(|source| {
                let what = format!("zstd does not take the level {level}");
                Error::new(ErrorKind::Internal, what).source(source)
            })?;
            self.level = level;
        }
        let (context, room) = (&mut self.context, self.packed.room(room).map_err(no_memory)?);
        if plain.len() >= SHORT && !samples(plain).any(|sample| pays(context, sample, room)) {
            return Ok(None);
        }
        let length = context.compress_to_buffer(plain, room).ok();
        Ok(length.and_then(|length| room.get(..length)))
    }
}

/// Bytes of a sample of a block.
const SAMPLE: usize = 8 << 10;

/// How many of them, over the whole block.
const SAMPLES: usize = 4;
/// A block that is shorter is tried as a whole.
const SHORT: usize = 16 * SAMPLE;

/// What of a block is tried first: it takes zstd long to find out that nothing can be saved.
fn samples(plain: &[u8]) -> impl Iterator<Item = &[u8]> {
    let last = plain.len().saturating_sub(SAMPLE);
    (0..SAMPLES).filter_map(move |n| plain.get(last * n / (SAMPLES - 1)..)?.get(..SAMPLE))
}

fn pays(context: &mut zstd::bulk::Compressor<'_>, sample: &[u8], room: &mut [u8]) -> bool {
    let Some(room) = room.get_mut(..worthwhile(sample.len())) else { return true };
    context.compress_to_buffer(sample, room).is_ok()
}

/// The most bytes that a block of `plain` bytes may take to be worth decompressing.
fn worthwhile(plain: usize) -> usize {
    plain - plain.div_ceil(16)
}

/// A worker's means to read blocks: a zstd context and the two buffers on its sides.
pub struct Unpacker {
    context: zstd::bulk::Decompressor<'static>,
    stored: Buffer,
    plain: Buffer,
}

impl std::fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unpacker").finish_non_exhaustive()
    }
}

impl Unpacker {
    /// Makes one.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Internal`] if zstd has no memory.
    pub fn new() -> Result<Self> {
        let context = zstd::bulk::Decompressor::new().map_err(|source| {
            io_error("cannot make a zstd context", source).kind_is(ErrorKind::Internal)
        })?;
        Ok(Self { context, stored: Buffer::default(), plain: Buffer::default() })
    }

    /// Reads the stored bytes of the block of `row`, which stay in this object's buffer.
    /// `row` must have passed [`check_tiling`], which bounds its lengths.
    pub(super) fn stored(&mut self, file: &File, id: BlockId, row: &Row) -> Result<&[u8], Flaw> {
        stored(&mut self.stored, file, id, row)
    }

    /// Reads the block of `row` and gives its plaintext, which stays in this object's buffer.
    pub(super) fn read(&mut self, file: &File, id: BlockId, row: &Row) -> Result<&[u8], Flaw> {
        let part = || row.part(id);
        let stored = stored(&mut self.stored, file, id, row)?;
        if row.codec == Codec::Raw {
            return Ok(stored);
        }
        let room = self.plain.room(row.plain as usize);
        let plain = room.map_err(|source| Flaw::read(part(), source))?;
        match self.context.decompress_to_buffer(stored, plain) {
            Ok(length) if length == plain.len() => Ok(plain),
            Ok(_) => Err(Flaw::damaged(part(), "its length is not what was said")),
            Err(source) => Err(Flaw::damaged(part(), source.to_string())),
        }
    }
}

fn stored<'a>(
    buffer: &'a mut Buffer,
    file: &File,
    id: BlockId,
    row: &Row,
) -> Result<&'a [u8], Flaw> {
    let failed = |source| Flaw::read(row.part(id), source);
    let stored = buffer.room(row.stored as usize).map_err(failed)?;
    file.read_exact_at(stored, row.offset).map_err(failed)?;
    if crc32fast::hash(stored) != row.crc {
        return Err(Flaw::damaged(row.part(id), "its checksum is wrong"));
    }
    Ok(stored)
}

fn no_memory(source: std::io::Error) -> Error {
    io_error("cannot get memory for a block", source).kind_is(ErrorKind::Internal)
}
