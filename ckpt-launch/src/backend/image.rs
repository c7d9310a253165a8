//! One image of DMTCP's, and whether it is whole.
//!
//! ```text
//! plain, or all of it in one gzip stream:
//!   header, header again        4096 bytes each: signature, processes, number of peers
//!   area, contents or nothing   4096 bytes: addresses, properties, name; then memory
//!   …
//!   area of address 0, size -1  the end
//! ```
//!
//! That is the layout of DMTCP 4.0 to 5.0 ("v4.0"). Nothing in it is a checksum: in a plain image
//! damage to memory's contents shows only against the sum in a manifest (see [`super::set`]). Of
//! other layouts nothing but gzip's frame can be checked.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use ckpt_core::{Error, ErrorKind, Result};
use flate2::bufread::GzDecoder;

use super::command::LOOK_EVERY;

const SIGNATURE: &[u8] = b"DMTCP_CHECKPOINT_IMAGE_v";
const KNOWN: &[u8] = b"DMTCP_CHECKPOINT_IMAGE_v4.0\n\0";
const GZIP: [u8; 2] = [0x1f, 0x8b];
const PAGE: usize = 4096;
/// gzip is given up when its output has not grown for so long.
const STALL: Duration = Duration::from_secs(60);

/// Area properties: no contents follow the header.
const ZERO_PAGES: u64 = 1;
const PARENT: u64 = 2;

/// What a header tells of the whole set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The job's name with DMTCP: the same in all its checkpoints and restarts.
    pub computation: String,
    /// The how-manieth checkpoint of it; images of different ones do not fit together.
    pub generation: u32,
    /// How many images the set has.
    pub peers: u32,
}

/// An image (or any file) that has been read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whole {
    /// The file's length.
    pub bytes: u64,
    /// The file's CRC-32.
    pub crc32: u32,
    /// The header, if it is of a layout that is known.
    pub head: Option<Head>,
}

/// Whether a file begins as an image of DMTCP's does, compressed or not.
pub fn is_dmtcp_image(path: &Path) -> bool {
    let begins = |reader: &mut dyn Read| {
        let mut bytes = [0; SIGNATURE.len()];
        reader.read_exact(&mut bytes).is_ok_and(|()| bytes == SIGNATURE)
    };
    let Ok(file) = open(path) else { return false };
    let mut file = BufReader::new(file);
    match file.fill_buf() {
        Ok(bytes) if bytes.starts_with(&GZIP) => begins(&mut GzDecoder::new(file)),
        Ok(_) => begins(&mut file),
        Err(_) => false,
    }
}

/// Reads an image to its end. With a `deadline` it may still be growing: DMTCP does not wait for
/// its gzip.
///
/// # Errors
///
/// [`ErrorKind::Damaged`] if it isn't whole; otherwise what read(2) says.
pub fn read(path: &Path, deadline: Option<Instant>) -> Result<Whole> {
    read_with(path, deadline, |reader| {
        if reader.fill_buf()?.starts_with(&GZIP) {
            let mut decoder = GzDecoder::new(&mut *reader);
            let head = walk(&mut decoder)?;
            drop(decoder);
            reader.get_mut().deadline = None;
            at_end(reader)?;
            return Ok(head);
        }
        // The process itself has written it before it said "done".
        reader.get_mut().deadline = None;
        walk(reader)
    })
}

/// Reads any file to its end.
///
/// # Errors
///
/// What open(2) and read(2) say.
pub(super) fn read_any(path: &Path) -> Result<Whole> {
    read_with(path, None, |reader| io::copy(reader, &mut io::sink()).map(|_| None))
}

fn read_with(
    path: &Path,
    deadline: Option<Instant>,
    how: impl FnOnce(&mut BufReader<Growing>) -> io::Result<Option<Head>>,
) -> Result<Whole> {
    let read = || {
        let (crc, bytes) = (crc32fast::Hasher::new(), 0);
        let growing = Growing { file: open(path)?, crc, bytes, deadline };
        let mut reader = BufReader::with_capacity(1 << 18, growing);
        let head = how(&mut reader)?;
        let Growing { crc, bytes, .. } = reader.into_inner();
        Ok(Whole { bytes, crc32: crc.finalize(), head })
    };
    read().map_err(|error: io::Error| {
        let kind = error.kind();
        use io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
        match kind {
            UnexpectedEof | InvalidData | InvalidInput => {
                let what = match kind {
                    UnexpectedEof => "it ends too early".into(),
                    _ => error.to_string(),
                };
                Error::new(ErrorKind::Damaged, format!("{} is damaged: {what}", path.display()))
            }
            _ => Error::os(format!("cannot read {}", path.display()), error),
        }
    })
}

/// Opens a plain file; one that is none (a FIFO would wait) is refused.
fn open(path: &Path) -> io::Result<File> {
    if !path.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not a file"));
    }
    File::open(path)
}

/// A file that may be growing while it is read.
struct Growing {
    file: File,
    crc: crc32fast::Hasher,
    bytes: u64,
    deadline: Option<Instant>,
}

impl Read for Growing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let stalled = Instant::now() + STALL;
        loop {
            let count = self.file.read(buffer)?;
            let until = self.deadline.map(|deadline| deadline.min(stalled));
            if count > 0 || until.is_none_or(|until| until <= Instant::now()) {
                self.crc.update(&buffer[..count]);
                self.bytes += count as u64;
                return Ok(count);
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// Goes through an image to its very end.
fn walk(reader: &mut impl Read) -> io::Result<Option<Head>> {
    let mut page = [0; PAGE];
    reader.read_exact(&mut page)?;
    if !page.starts_with(SIGNATURE) {
        return Err(invalid("it is not an image of DMTCP's"));
    }
    if !page.starts_with(KNOWN) {
        return io::copy(reader, &mut io::sink()).map(|_| None);
    }
    let head = head(&page);
    reader.read_exact(&mut page)?;
    if !page.starts_with(KNOWN) {
        return Err(invalid("its second header is wrong"));
    }
    loop {
        reader.read_exact(&mut page)?;
        let (address, end, size) = (u64_at(&page, 0), u64_at(&page, 8), u64_at(&page, 16));
        if address == 0 && size == u64::MAX {
            break;
        }
        if size == 0 || address.checked_add(size) != Some(end) {
            return Err(invalid("the header of a memory area is wrong"));
        }
        let (in_file, properties, name) = (u64_at(&page, 72), u64_at(&page, 80), page[88]);
        if properties & (ZERO_PAGES | PARENT) == 0 {
            // As mtcp_restart does: of a mapped file, no more than there is of the file.
            let of_file = name == b'/' && in_file != 0 && in_file.cast_signed() > 0;
            let contents = if of_file { in_file } else { size };
            if io::copy(&mut reader.by_ref().take(contents), &mut io::sink())? < contents {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
    at_end(reader).map(|()| Some(head))
}

/// Nothing may follow. (For gzip, its check sum is looked at here.)
fn at_end(reader: &mut impl Read) -> io::Result<()> {
    match reader.read(&mut [0])? {
        0 => Ok(()),
        _ => Err(invalid("it goes on after its end")),
    }
}

fn head(page: &[u8; PAGE]) -> Head {
    // After the signature and two names: the computation's (host, time, pid, generation).
    let (host, time, pid) = (u64_at(page, 80), u64_at(page, 88), u32_at(page, 96));
    Head {
        computation: format!("{host:x}-{pid}-{time:x}"),
        generation: u32_at(page, 100),
        peers: u32_at(page, 128),
    }
}

fn u64_at(page: &[u8; PAGE], at: usize) -> u64 {
    u64::from(u32_at(page, at)) | u64::from(u32_at(page, at + 4)) << 32
}

fn u32_at(page: &[u8; PAGE], at: usize) -> u32 {
    // A multiple of four below the page's size.
    u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]])
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    /// An image of one area.
    fn image() -> Vec<u8> {
        let mut bytes = vec![0; 2 * PAGE];
        for header in bytes.chunks_exact_mut(PAGE) {
            header[..KNOWN.len()].copy_from_slice(KNOWN);
            (header[80], header[88], header[96], header[100], header[128]) = (0xab, 0xcd, 7, 3, 1);
        }
        let words = |address: u64, size: u64| {
            let mut area = [0; PAGE];
            area[..8].copy_from_slice(&address.to_le_bytes());
            area[8..16].copy_from_slice(&address.wrapping_add(size).to_le_bytes());
            area[16..24].copy_from_slice(&size.to_le_bytes());
            area
        };
        bytes.extend(words(0x1000, 0x1000));
        bytes.extend([5; PAGE]);
        bytes.extend(words(0, u64::MAX));
        bytes
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn whole_and_broken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let head = Head { computation: "ab-7-cd".to_owned(), generation: 3, peers: 1 };
        for good in [image(), gzip(&image())] {
            fs::write(&path, &good).unwrap();
            assert!(is_dmtcp_image(&path));
            let whole = read(&path, None).unwrap();
            assert_eq!((whole.bytes, whole.head), (good.len() as u64, Some(head.clone())));
            let bad = |bytes: &[u8]| {
                fs::write(&path, bytes).unwrap();
                assert_eq!(read(&path, None).unwrap_err().kind(), ErrorKind::Damaged);
            };
            (0..good.len()).step_by(97).for_each(|length| bad(&good[..length]));
            bad(&[&good[..], b"x"].concat());
        }
        let mut flipped = gzip(&image());
        let at = flipped.len() - 6;
        flipped[at] ^= 1;
        fs::write(&path, &flipped).unwrap();
        assert_eq!(read(&path, None).unwrap_err().kind(), ErrorKind::Damaged);
        fs::write(&path, "DMTCP").unwrap();
        assert!(!is_dmtcp_image(&path) && !is_dmtcp_image(dir.path()));
    }

    #[test]
    fn a_growing_image_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let bytes = gzip(&image());
        let mut file = File::create(&path).unwrap();
        let reader = std::thread::spawn({
            let path = path.clone();
            move || read(&path, Some(Instant::now() + STALL))
        });
        for part in bytes.chunks(bytes.len() / 3) {
            std::thread::sleep(2 * LOOK_EVERY);
            file.write_all(part).unwrap();
        }
        assert_eq!(reader.join().unwrap().unwrap().bytes, bytes.len() as u64);
    }
}
