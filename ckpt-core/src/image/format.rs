//! The fixed structures of an image: header, section header, trailer, and how damage to them is
//! told. All numbers are little-endian; nothing here needs a codec, so that any tool can read it.

use std::fmt;
use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Error, ErrorKind};
use crate::job::JobId;

/// The format version that this crate writes, and the newest that it reads.
pub const FORMAT_VERSION: u32 = 1;
/// The most plaintext bytes that one block holds.
pub const MAX_BLOCK: usize = 1 << 20;

/// A whole page, so that raw blocks of whole pages stay page-aligned in the file.
pub(super) const HEADER_LEN: usize = 4096;
pub(super) const SECTION_HEADER_LEN: usize = 32;
pub(super) const TRAILER_LEN: usize = 64;
/// Limits that are checked before memory is taken: bytes of one section (stored and plain), of
/// the whole manifest, and how many sections there may be.
pub(super) const MAX_SECTION: u64 = 1 << 30;
pub(super) const MAX_MANIFEST: u64 = 2 << 30;
pub(super) const MAX_SECTIONS: usize = 256;

/// As in PNG: the high bit shows a 7-bit channel, the line ends a text conversion.
const MAGIC: [u8; 12] = *b"\x89CKPTIMG\r\n\x1a\n";
const END_MAGIC: [u8; 12] = *b"CKPT.END\r\n\x1a\n";

const FLAG_CRITICAL: u32 = 1;
const FLAG_ZSTD: u32 = 2;

/// The name of a section, four ASCII bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tag(pub [u8; 4]);

impl Tag {
    /// The snapshot.
    pub const JOB: Self = Self(*b"JOB ");
    /// The page index: which block holds which memory.
    pub const PAGE: Self = Self(*b"PAGE");
    /// A summary for listings; may be skipped.
    pub const INFO: Self = Self(*b"INFO");
    /// What the job has been through; may be skipped.
    pub const HIST: Self = Self(*b"HIST");
    /// What a program's own checkpoint holds: its regions.
    pub const RGNS: Self = Self(*b"RGNS");
    /// The container around the job; may be skipped.
    pub const CTNR: Self = Self(*b"CTNR");
    /// The process number that the job's PID namespace had handed out last; may be skipped.
    pub const LAST: Self = Self(*b"LAST");
    /// The other images without which this one cannot be restored; written by
    /// [`Writer::need`](super::Writer::need).
    pub const NEED: Self = Self(*b"NEED");
    /// Which pages are in blocks of these, or in a block of this image for the second time.
    pub const REFS: Self = Self(*b"REFS");
    /// A hash of each page that this image's own blocks hold; may be skipped.
    pub const HASH: Self = Self(*b"HASH");
    /// The block table; written by the [`Writer`](super::Writer) itself.
    pub const BLKS: Self = Self(*b"BLKS");
}

/// The sections that this version understands; an unknown critical one makes an image unreadable.
pub const KNOWN_TAGS: [Tag; 11] = [
    Tag::JOB,
    Tag::PAGE,
    Tag::INFO,
    Tag::HIST,
    Tag::RGNS,
    Tag::CTNR,
    Tag::LAST,
    Tag::NEED,
    Tag::REFS,
    Tag::HASH,
    Tag::BLKS,
];

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// What a reader that does not know a section does about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Importance {
    /// It refuses the image.
    Critical,
    /// It passes over the section.
    Skippable,
}

/// An image's identity: 128 random bits, drawn when it is written. Written as 32 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, bincode::Encode, bincode::Decode)]
pub struct ImageId(pub u128);

impl ImageId {
    /// No image: the parent of an image that is complete by itself.
    pub const NONE: Self = Self(0);

    /// A new identity, never [`Self::NONE`].
    pub fn random() -> Self {
        let half = || u128::from(JobId::random().0);
        Self((half() << 64 | half()).max(1))
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// What the caller of [`Writer::create`](super::Writer::create) says about a new image.
#[derive(Debug, Clone, Copy)]
pub struct NewHeader {
    /// The job.
    pub job: JobId,
    /// The generation, from 1.
    pub generation: u64,
}

/// What an image's first bytes say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The job.
    pub job: JobId,
    /// The generation, from 1.
    pub generation: u64,
    /// This image.
    pub id: ImageId,
    /// The image that this one was compared with; [`ImageId::NONE`] if it needs no other.
    pub parent: ImageId,
    /// When it was begun: nanoseconds since 1970, UTC.
    pub created: u64,
    /// The machine, an ELF `e_machine` number (elf(5)): 62 is x86-64, 183 is AArch64.
    pub arch: u16,
    /// Bytes of a page there.
    pub page_size: u32,
    /// The version of the format.
    pub version: u32,
}

impl Header {
    pub(super) fn new(new: &NewHeader) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            job: new.job,
            generation: new.generation,
            id: ImageId::random(),
            parent: ImageId::NONE,
            created: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
            arch: machine(),
            page_size: u32::try_from(rustix::param::page_size()).unwrap_or(0),
            version: FORMAT_VERSION,
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_LEN);
        bytes.extend(MAGIC);
        bytes.extend(self.version.to_le_bytes());
        bytes.extend((HEADER_LEN as u32).to_le_bytes());
        bytes.extend(self.arch.to_le_bytes());
        bytes.extend([0; 2]);
        bytes.extend(self.page_size.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(self.job.0.to_le_bytes());
        bytes.extend(self.generation.to_le_bytes());
        bytes.extend(self.id.0.to_le_bytes());
        bytes.extend(self.parent.0.to_le_bytes());
        bytes.extend(self.created.to_le_bytes());
        bytes.resize(HEADER_LEN - 4, 0);
        seal(&mut bytes);
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Flaw> {
        let flaw = |why: &str| Flaw::damaged("header", why);
        if !bytes.starts_with(&MAGIC) {
            return Err(flaw("it does not begin with the mark of a checkpoint image"));
        }
        // Length and checksum come first: their place is the same in all versions.
        if bytes.len() != HEADER_LEN || !sealed(bytes) {
            return Err(flaw("its checksum is wrong"));
        }
        let fields = Self::fields(bytes).ok_or_else(|| flaw("it is too short"))?;
        match fields.version {
            FORMAT_VERSION => Ok(fields),
            0 => Err(flaw("it names format version 0")),
            newer => Err(Flaw::unknown(format!("image format version {newer}"))),
        }
    }

    fn fields(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes.get(MAGIC.len()..)?;
        let version = u32::from_le_bytes(take(&mut rest)?);
        let _length: [u8; 4] = take(&mut rest)?;
        let arch = u16::from_le_bytes(take(&mut rest)?);
        let _reserved: [u8; 2] = take(&mut rest)?;
        let page_size = u32::from_le_bytes(take(&mut rest)?);
        let _reserved: [u8; 4] = take(&mut rest)?;
        Some(Self {
            version,
            arch,
            page_size,
            job: JobId(u64::from_le_bytes(take(&mut rest)?)),
            generation: u64::from_le_bytes(take(&mut rest)?),
            id: ImageId(u128::from_le_bytes(take(&mut rest)?)),
            parent: ImageId(u128::from_le_bytes(take(&mut rest)?)),
            created: u64::from_le_bytes(take(&mut rest)?),
        })
    }
}

/// This build's `e_machine`; 0 (`EM_NONE`) for machines that the engine does not know.
fn machine() -> u16 {
    match std::env::consts::ARCH {
        "x86_64" => 62,
        "aarch64" => 183,
        "riscv64" => 243,
        "powerpc64" => 21,
        "s390x" => 22,
        _ => 0,
    }
}

/// What stands before each section's bytes in the manifest.
#[derive(Debug, Clone, Copy)]
pub(super) struct SectionHeader {
    pub(super) tag: Tag,
    pub(super) flags: u32,
    /// Bytes in the file.
    pub(super) stored: u64,
    /// Bytes after decompression.
    pub(super) plain: u64,
    /// Of the stored bytes.
    pub(super) crc: u32,
}

impl SectionHeader {
    pub(super) fn flags(importance: Importance, zstd: bool) -> u32 {
        let critical = if importance == Importance::Critical { FLAG_CRITICAL } else { 0 };
        critical | if zstd { FLAG_ZSTD } else { 0 }
    }

    pub(super) fn zstd(&self) -> bool {
        self.flags & FLAG_ZSTD != 0
    }

    pub(super) fn critical(&self) -> bool {
        self.flags & FLAG_CRITICAL != 0
    }

    /// Whether this version can make sense of it.
    pub(super) fn known(&self) -> bool {
        KNOWN_TAGS.contains(&self.tag) && self.flags & !(FLAG_CRITICAL | FLAG_ZSTD) == 0
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(SECTION_HEADER_LEN);
        bytes.extend(self.tag.0);
        bytes.extend(self.flags.to_le_bytes());
        bytes.extend(self.stored.to_le_bytes());
        bytes.extend(self.plain.to_le_bytes());
        bytes.extend(self.crc.to_le_bytes());
        seal(&mut bytes);
        bytes
    }

    /// `None` if the bytes do not match their checksum or a length is beyond the limits.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let this = Self {
            tag: Tag(take(&mut rest)?),
            flags: u32::from_le_bytes(take(&mut rest)?),
            stored: u64::from_le_bytes(take(&mut rest)?),
            plain: u64::from_le_bytes(take(&mut rest)?),
            crc: u32::from_le_bytes(take(&mut rest)?),
        };
        let sizes = this.stored <= MAX_SECTION && this.plain <= MAX_SECTION;
        (sealed(bytes) && sizes).then_some(this)
    }
}

/// The last bytes of a complete image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trailer {
    /// Where the manifest begins, which is where the blocks end.
    pub(super) offset: u64,
    pub(super) length: u64,
    /// Of the whole manifest.
    pub(super) crc: u32,
    /// As in the header: halves of two images do not make one.
    pub(super) id: ImageId,
}

impl Trailer {
    /// Length of the file that this trailer ends.
    pub(super) fn file_len(&self) -> Option<u64> {
        self.offset.checked_add(self.length)?.checked_add(TRAILER_LEN as u64)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(TRAILER_LEN);
        bytes.extend(self.offset.to_le_bytes());
        bytes.extend(self.length.to_le_bytes());
        bytes.extend(self.id.0.to_le_bytes());
        bytes.extend(self.crc.to_le_bytes());
        bytes.extend([0; 12]);
        seal(&mut bytes);
        bytes.extend(END_MAGIC);
        bytes
    }

    pub(super) fn decode(bytes: &[u8], id: ImageId, file_len: u64) -> Result<Self, Flaw> {
        let flaw = |why: &str| Flaw::damaged("trailer", why);
        let Some(body) = bytes.strip_suffix(&END_MAGIC) else {
            return Err(flaw("the end mark is missing: the file was cut or added to"));
        };
        let this = Self::fields(body).filter(|_| sealed(body));
        let this = this.ok_or_else(|| flaw("its checksum is wrong"))?;
        if this.id != id {
            return Err(flaw("it belongs to another image than the header"));
        }
        if this.offset < HEADER_LEN as u64 || this.file_len() != Some(file_len) {
            return Err(flaw("the manifest is not where it says: the file was cut or added to"));
        }
        if this.length > MAX_MANIFEST {
            return Err(flaw("the manifest's length is beyond all measure"));
        }
        Ok(this)
    }

    fn fields(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let offset = u64::from_le_bytes(take(&mut rest)?);
        let length = u64::from_le_bytes(take(&mut rest)?);
        let id = ImageId(u128::from_le_bytes(take(&mut rest)?));
        Some(Self { offset, length, id, crc: u32::from_le_bytes(take(&mut rest)?) })
    }
}

/// Appends the checksum of all that is there.
fn seal(bytes: &mut Vec<u8>) {
    let crc = crc32fast::hash(bytes);
    bytes.extend(crc.to_le_bytes());
}

/// Whether the last four bytes are the checksum of the others.
fn sealed(bytes: &[u8]) -> bool {
    bytes.split_last_chunk().is_some_and(|(body, crc)| crc32fast::hash(body).to_le_bytes() == *crc)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(*head)
}

/// What is wrong with an image, before it is known which file it is.
#[derive(Debug)]
pub(super) enum Flaw {
    /// A part of it, and in what way.
    Damaged { part: String, why: String },
    /// Something of a later version.
    Unknown(String),
    /// The file could not be read, and where.
    Read(String, io::Error),
}

impl Flaw {
    pub(super) fn damaged(part: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Damaged { part: part.into(), why: why.into() }
    }

    pub(super) fn unknown(what: impl Into<String>) -> Self {
        Self::Unknown(what.into())
    }

    /// A failed read of `part`; an early end of the file is damage.
    pub(super) fn read(part: impl Into<String>, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::UnexpectedEof {
            return Self::damaged(part, "the file ends before it does");
        }
        Self::Read(part.into(), source)
    }

    /// The error for the user.
    pub(super) fn of(self, path: &Path) -> Error {
        let path = path.display();
        match self {
            Self::Damaged { part, why } => {
                Error::new(ErrorKind::Damaged, format!("{path} is damaged: {part}: {why}"))
                    .help("use an earlier generation")
            }
            Self::Unknown(what) => {
                Error::new(ErrorKind::Unsupported, format!("{path} has an unknown {what}"))
                    .help("restore it with the version of ckpt that wrote it")
            }
            Self::Read(part, source) => io_error(format!("cannot read {path} ({part})"), source),
        }
    }
}

/// A failed read or write of a file, of kind [`ErrorKind::Io`] unless the errno says more.
pub(super) fn io_error(what: impl Into<String>, source: impl Into<io::Error>) -> Error {
    let error = Error::os(what, source);
    if error.kind() == ErrorKind::Os { error.kind_is(ErrorKind::Io) } else { error }
}
