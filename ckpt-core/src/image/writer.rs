//! Writes an image: blocks as they come, from any number of threads, then the manifest, and at last the
//! header, which says whether others are needed.
//!
//! A block is compressed and written without any lock; only its place in the file, a push on the
//! block table, is taken under one. So the table is in order of offset and the blocks have no gaps.

use std::fmt::Display;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bincode::Encode;

use super::ancestors::Needed;
use super::block::{BlockId, Codec, Packed, Packer, Row, Unpacker};
use super::codec;
use super::format::{
    HEADER_LEN, Header, Importance, MAX_BLOCK, MAX_MANIFEST, MAX_SECTION, MAX_SECTIONS, NewHeader,
    SECTION_HEADER_LEN, SectionHeader, TRAILER_LEN, Tag, Trailer, io_error,
};
use super::level::{Effort, Level};
use super::outflow::Outflow;
use super::reader::Reader;
use super::temp::Temp;
use crate::error::{Error, ErrorKind, Result};

/// An image being written. Dropped before [`Writer::commit`], it leaves nothing behind.
#[derive(Debug)]
pub struct Writer {
    temp: Temp,
    header: Header,
    /// Blocks' and sections'.
    effort: Effort,
    outflow: Outflow,
    rows: Mutex<Vec<Row>>,
    /// A block's place was taken but its bytes did not get there: the image must not be published.
    torn: AtomicBool,
    sections: Vec<(SectionHeader, Vec<u8>)>,
}

/// An image that is complete and durable but for its name. Dropped, it leaves nothing behind.
#[derive(Debug)]
pub struct Finished {
    temp: Temp,
    bytes: u64,
}

impl Finished {
    /// Gives the file its name; one that had this name is replaced.
    ///
    /// # Errors
    ///
    /// What rename(2) and fsync(2) say. A file that had the name is untouched then. Only if the
    /// directory's fsync fails is the new one there, but perhaps not after a crash.
    pub fn publish(self) -> Result<Published> {
        let bytes = self.bytes;
        self.temp.publish().map(|path| Published { path, bytes })
    }
}

/// An image that is complete and durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Where it is.
    pub path: PathBuf,
    /// Bytes of the file.
    pub bytes: u64,
}

impl Writer {
    /// Begins the image that [`Writer::commit`] will put at `dir/name` (rename(2)), mode 0600.
    /// Temporary files that dead writers left in `dir` are removed. `name` is a plain file name
    /// that ends in `.ckpt`, see [`file_name`](super::file_name).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Usage`] for an impossible name, [`ErrorKind::Busy`] if this name is being
    /// written at the moment, otherwise what open(2) and write(2) say.
    pub fn create(dir: &Path, name: &str, header: &NewHeader, level: Level) -> Result<Self> {
        let temp = Temp::create(dir, name)?;
        let (header, rows, torn) = (Header::new(header), Mutex::default(), AtomicBool::new(false));
        let (effort, outflow) = (Effort::new(level), Outflow::default());
        Ok(Self { temp, header, effort, outflow, rows, torn, sections: Vec::new() })
    }

    /// Says without which other images this one cannot be restored; the first is the one that it was
    /// compared with. [`Directory::prune`](super::Directory::prune) keeps what a kept one needs.
    ///
    /// # Errors
    ///
    /// As [`Writer::section`].
    pub fn need(&mut self, needed: &[Needed]) -> Result<()> {
        if let Some(first) = needed.first() {
            self.header.parent = first.id;
            self.section(Tag::NEED, Importance::Critical, &needed.to_vec())?;
        }
        Ok(())
    }

    /// Gives the image the time of another one, whose contents it has.
    pub fn made_at(&mut self, created: u64) {
        self.header.created = created;
    }

    /// Appends a block of another image as it is stored there, once its checksum was seen to be right.
    ///
    /// # Errors
    ///
    /// As [`Reader::read_block`] and [`Writer::append`].
    pub fn copy_block(
        &self,
        from: &Reader,
        id: BlockId,
        unpacker: &mut Unpacker,
    ) -> Result<BlockId> {
        let (packed, plain) = from.stored_block(id, unpacker)?;
        self.put(plain, &packed)
    }

    /// Takes over all sections of another image but these; those that the other's version knew and we
    /// do not are passed over.
    ///
    /// # Errors
    ///
    /// As [`Writer::section`] and [`Reader::section`].
    pub fn copy_sections(&mut self, from: &Reader, but: &[Tag]) -> Result<()> {
        for (header, stored) in from.stored_sections(but)? {
            self.admit(header.tag)?;
            self.sections.push((*header, stored.into_owned()));
        }
        Ok(())
    }

    /// What the image says about itself.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Compresses `plain` (1 to [`MAX_BLOCK`] bytes) if that pays, and writes it (pwrite(2)). Any
    /// number of threads may call this at once, each with its own `packer`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`] if there is no space, or what pwrite(2) says; the image can then no
    /// longer be committed. [`ErrorKind::Internal`] for an impossible length.
    pub fn append(&self, plain: &[u8], packer: &mut Packer) -> Result<BlockId> {
        if plain.is_empty() || plain.len() > MAX_BLOCK {
            let what = format!("a block of {} bytes was to be written", plain.len());
            return Err(Error::new(ErrorKind::Internal, what));
        }
        let on_disk = self.outflow.on_disk();
        let level = self.effort.of_next(on_disk.map(|there| self.length().saturating_sub(there)));
        let packed = packer.pack(plain, level)?;
        self.effort.written(plain.len(), level, packed.codec == Codec::Zstd);
        self.put(plain.len(), &packed)
    }

    fn put(&self, plain: usize, packed: &Packed<'_>) -> Result<BlockId> {
        let (id, offset) = self.reserve(plain, packed)?;
        let written = self.write_at(packed.stored, offset);
        if written.is_err() {
            self.torn.store(true, Ordering::Release);
        }
        self.outflow.grown(self.temp.file(), offset, offset + packed.stored.len() as u64);
        written.map(|()| id)
    }

    /// Bytes so far.
    fn length(&self) -> u64 {
        self.rows().last().map_or(HEADER_LEN as u64, Row::end)
    }

    fn rows(&self) -> MutexGuard<'_, Vec<Row>> {
        // The lock protects one push, so a panic elsewhere cannot leave the table half changed.
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reserve(&self, plain: usize, packed: &Packed) -> Result<(BlockId, u64)> {
        let mut rows = self.rows();
        let offset = rows.last().map_or(HEADER_LEN as u64, Row::end);
        let Ok(id) = u32::try_from(rows.len()) else {
            return Err(Error::new(ErrorKind::Unsupported, "an image cannot hold 2^32 blocks"));
        };
        rows.push(Row {
            offset,
            // Both are at most MAX_BLOCK.
            stored: packed.stored.len() as u32,
            plain: plain as u32,
            codec: packed.codec,
            crc: packed.crc,
        });
        Ok((BlockId(id), offset))
    }

    /// Adds the section `tag`. It is held in memory until [`Writer::commit`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Internal`] if there is such a section already, if the value cannot be encoded
    /// or has more than 1 GiB.
    pub fn section(&mut self, tag: Tag, importance: Importance, value: &impl Encode) -> Result<()> {
        self.add(tag, importance, value, self.effort.of_sections())
    }

    /// As [`Writer::section`], for what cannot be compressed.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn raw_section(
        &mut self,
        tag: Tag,
        importance: Importance,
        value: &impl Encode,
    ) -> Result<()> {
        self.add(tag, importance, value, 0)
    }

    fn add(
        &mut self,
        tag: Tag,
        importance: Importance,
        value: &impl Encode,
        level: i32,
    ) -> Result<()> {
        self.admit(tag)?;
        let plain = codec::encode(value).map_err(|source| self.mistake(tag, source))?;
        let length = plain.len() as u64;
        if length > MAX_SECTION {
            return Err(self.mistake(tag, format!("{length} bytes are too many")));
        }
        let (stored, zstd) = codec::squeeze(plain, level);
        let header = SectionHeader {
            tag,
            flags: SectionHeader::flags(importance, zstd),
            stored: stored.len() as u64,
            plain: length,
            crc: crc32fast::hash(&stored),
        };
        self.sections.push((header, stored));
        Ok(())
    }

    /// Whether there may be one more section, of this tag.
    fn admit(&self, tag: Tag) -> Result<()> {
        if self.sections.iter().any(|(header, _)| header.tag == tag) {
            return Err(self.mistake(tag, "it is there already"));
        }
        if self.sections.len() == MAX_SECTIONS {
            return Err(self.mistake(tag, format!("there are {MAX_SECTIONS} already")));
        }
        Ok(())
    }

    fn mistake(&self, tag: Tag, why: impl Display) -> Error {
        let what = format!("cannot write section {tag:?} of {}", self.temp.path().display());
        Error::new(ErrorKind::Internal, format!("{what}: {why}"))
    }

    /// [`Writer::finish`] and [`Finished::publish`] in one.
    ///
    /// # Errors
    ///
    /// Those of the two.
    pub fn commit(self) -> Result<Published> {
        self.finish()?.publish()
    }

    /// Writes the manifest and makes all durable (fsync(2)).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`] if a block could not be written before, or if there is no space now;
    /// otherwise what write(2) and fsync(2) say. The image is then gone.
    pub fn finish(mut self) -> Result<Finished> {
        if self.torn.load(Ordering::Acquire) {
            let what = format!("cannot write {}: a block is missing", self.temp.path().display());
            return Err(Error::new(ErrorKind::Io, what));
        }
        let rows = std::mem::take(self.rows.get_mut().unwrap_or_else(PoisonError::into_inner));
        let offset = rows.last().map_or(HEADER_LEN as u64, Row::end);
        self.section(Tag::BLKS, Importance::Critical, &rows)?;
        let bytes = self.write_manifest(offset)?;
        self.write_at(&self.header.encode(), 0)?;
        self.outflow.close().map_err(|source| self.failed(source))?;
        self.temp.sync()?;
        Ok(Finished { temp: self.temp, bytes })
    }

    /// Writes sections and trailer; gives the length of the file.
    fn write_manifest(&self, offset: u64) -> Result<u64> {
        let mut at = offset;
        let mut crc = crc32fast::Hasher::new();
        for (header, stored) in &self.sections {
            let header = header.encode();
            crc.update(&header);
            crc.update(stored);
            self.write_at(&header, at)?;
            self.write_at(stored, at + SECTION_HEADER_LEN as u64)?;
            at += (SECTION_HEADER_LEN + stored.len()) as u64;
        }
        let length = at - offset;
        if length > MAX_MANIFEST {
            let what = format!("cannot write {}", self.temp.path().display());
            let why = format!("{what}: {length} bytes of sections are too many");
            return Err(Error::new(ErrorKind::Internal, why));
        }
        let trailer = Trailer { offset, length, crc: crc.finalize(), id: self.header.id };
        self.write_at(&trailer.encode(), at)?;
        Ok(at + TRAILER_LEN as u64)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.temp.file().write_all_at(bytes, offset).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> Error {
        io_error(format!("cannot write {}", self.temp.path().display()), source)
    }
}
