//! All of an image but its blocks, read and checked: from the header to the trailer at the end,
//! from there to the manifest, its sections, and the block table among them. What is long and may be
//! skipped is only read when it is wanted, so that a restart's time does not grow with it.

use std::borrow::Cow;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bincode::Decode;

use super::block::{Row, check_tiling};
use super::codec;
use super::format::{
    Flaw, HEADER_LEN, Header, MAX_SECTIONS, SECTION_HEADER_LEN, SectionHeader, TRAILER_LEN, Tag,
    Trailer,
};
use super::reader::Summary;
use super::temp::open_regular;

/// An image without its blocks.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) header: Header,
    /// Bytes of the file.
    pub(super) length: u64,
    pub(super) rows: Vec<Row>,
    manifest: Vec<u8>,
    sections: Vec<Section>,
}

/// A section and where its stored bytes are.
#[derive(Debug)]
struct Section {
    header: SectionHeader,
    at: Place,
}

/// A section as it is stored.
pub(super) type Stored<'a> = (&'a SectionHeader, Cow<'a, [u8]>);

#[derive(Debug, Clone)]
enum Place {
    /// In the manifest that was read.
    Read(Range<usize>),
    /// From this offset of the file on.
    OnDisk(u64),
}

/// Manifests up to this are read at once.
const SHORT: u64 = 1 << 20;
/// From this on, a section that may be skipped is only read when it is wanted.
const LONG: u64 = 256 << 10;

impl Contents {
    /// Reads and checks what a restart may need.
    pub(super) fn load(file: &File) -> Result<Self, Flaw> {
        Self::read(file, |trailer| match trailer.length {
            ..=SHORT => read_manifest(file, trailer),
            _ => read_in_parts(file, trailer),
        })
    }

    /// Reads and checks everything.
    pub(super) fn load_all(file: &File) -> Result<Self, Flaw> {
        Self::read(file, |trailer| read_manifest(file, trailer))
    }

    fn read(
        file: &File,
        manifest: impl FnOnce(&Trailer) -> Result<(Vec<u8>, Vec<Section>), Flaw>,
    ) -> Result<Self, Flaw> {
        let header = read_header(file)?;
        let metadata = file.metadata().map_err(|source| Flaw::read("length", source))?;
        let length = metadata.len();
        let trailer = read_trailer(file, header.id, length)?;
        let (manifest, sections) = manifest(&trailer)?;
        let mut this = Self { header, length, rows: Vec::new(), manifest, sections };
        let table = "block table (section BLKS)";
        this.rows =
            this.section(file, Tag::BLKS)?.ok_or_else(|| Flaw::damaged(table, "there is none"))?;
        check_tiling(&this.rows, trailer.offset).map_err(|why| Flaw::damaged(table, why))?;
        Ok(this)
    }

    pub(super) fn section<T: Decode<()>>(&self, file: &File, tag: Tag) -> Result<Option<T>, Flaw> {
        let Some(section) = self.sections.iter().find(|section| section.header.tag == tag) else {
            return Ok(None);
        };
        let flaw = |why: String| Flaw::damaged(format!("section {tag:?}"), why);
        let stored = self.stored(file, section)?;
        let value = if section.header.zstd() {
            let plain = codec::expand(&stored, section.header.plain);
            codec::decode(&plain.map_err(|source| flaw(source.to_string()))?)
        } else {
            codec::decode(&stored)
        };
        value.map(Some).map_err(|source| flaw(source.to_string()))
    }

    fn stored(&self, file: &File, section: &Section) -> Result<Cow<'_, [u8]>, Flaw> {
        match &section.at {
            Place::Read(at) => Ok(self.manifest.get(at.clone()).unwrap_or_default().into()),
            Place::OnDisk(offset) => {
                let mut stored = Vec::new();
                append(file, &mut stored, *offset, section.header.stored)?;
                check_section(&section.header, &stored)?;
                Ok(stored.into())
            }
        }
    }

    /// The headers of all sections.
    pub(super) fn headers(&self) -> impl Iterator<Item = &SectionHeader> {
        self.sections.iter().map(|section| &section.header)
    }

    /// Those sections that are wanted, as they are stored.
    pub(super) fn sections(
        &self,
        file: &File,
        wanted: impl Fn(&SectionHeader) -> bool,
    ) -> Result<Vec<Stored<'_>>, Flaw> {
        let those = self.sections.iter().filter(|section| wanted(&section.header));
        those.map(|section| Ok((&section.header, self.stored(file, section)?))).collect()
    }

    pub(super) fn summary(&self) -> Summary {
        Summary {
            sections: self.sections.len(),
            blocks: self.rows.len(),
            plain: self.rows.iter().map(|row| u64::from(row.plain)).sum(),
            stored: self.rows.iter().map(|row| u64::from(row.stored)).sum(),
            bytes: self.length,
        }
    }
}

pub(super) fn read_header(file: &File) -> Result<Header, Flaw> {
    let mut bytes = [0; HEADER_LEN];
    file.read_exact_at(&mut bytes, 0).map_err(|source| Flaw::read("header", source))?;
    Header::decode(&bytes)
}

/// Whether a file has header and trailer of one image, whose length it has.
pub(super) fn is_uncut(path: &Path) -> bool {
    let looked = || {
        let file = open_regular(None, path).ok()?;
        let length = file.metadata().ok()?.len();
        read_trailer(&file, read_header(&file).ok()?.id, length).ok()
    };
    looked().is_some()
}

fn read_trailer(file: &File, id: super::ImageId, length: u64) -> Result<Trailer, Flaw> {
    let mut bytes = [0; TRAILER_LEN];
    // A file without room for a trailer gives bytes of the header, which are no end mark.
    let offset = length.saturating_sub(TRAILER_LEN as u64);
    file.read_exact_at(&mut bytes, offset).map_err(|source| Flaw::read("trailer", source))?;
    Trailer::decode(&bytes, id, length)
}

/// Reads a stretch of the file, behind what is there.
fn append(file: &File, bytes: &mut Vec<u8>, offset: u64, length: u64) -> Result<(), Flaw> {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if bytes.try_reserve_exact(length).is_err() {
        return Err(Flaw::Read("manifest".into(), std::io::ErrorKind::OutOfMemory.into()));
    }
    let start = bytes.len();
    bytes.resize(start + length, 0);
    file.read_exact_at(&mut bytes[start..], offset).map_err(|source| Flaw::read("manifest", source))
}

/// Reads section by section, but for those that are long and may be skipped. Each has its own checksum; that
/// of the whole manifest is for who reads all of it.
fn read_in_parts(file: &File, trailer: &Trailer) -> Result<(Vec<u8>, Vec<Section>), Flaw> {
    let (mut manifest, mut sections) = (Vec::new(), Vec::new());
    let end = trailer.offset.saturating_add(trailer.length);
    let mut offset = trailer.offset;
    while offset < end {
        let here = || format!("section header at offset {offset}");
        let mut bytes = Vec::new();
        append(file, &mut bytes, offset, SECTION_HEADER_LEN as u64)?;
        let header = SectionHeader::decode(&bytes);
        let header = header.ok_or_else(|| Flaw::damaged(here(), "its checksum is wrong"))?;
        let start = offset + SECTION_HEADER_LEN as u64;
        let behind = start.saturating_add(header.stored);
        if behind > end {
            return Err(Flaw::damaged(here(), "it is longer than the rest"));
        }
        let at = if header.critical() || header.stored < LONG {
            let begin = manifest.len();
            append(file, &mut manifest, start, header.stored)?;
            check_section(&header, &manifest[begin..])?;
            Place::Read(begin..manifest.len())
        } else {
            Place::OnDisk(start)
        };
        add(&mut sections, Section { header, at }, here)?;
        offset = behind;
    }
    Ok((manifest, sections))
}

/// Adds a section to those that there are.
fn add(
    sections: &mut Vec<Section>,
    section: Section,
    here: impl Fn() -> String,
) -> Result<(), Flaw> {
    let tag = section.header.tag;
    if sections.len() == MAX_SECTIONS {
        return Err(Flaw::damaged(here(), "there are too many"));
    }
    if sections.iter().any(|section| section.header.tag == tag) {
        return Err(Flaw::damaged(here(), format!("{tag:?} is there twice")));
    }
    sections.push(section);
    Ok(())
}

fn read_manifest(file: &File, trailer: &Trailer) -> Result<(Vec<u8>, Vec<Section>), Flaw> {
    let mut manifest = Vec::new();
    append(file, &mut manifest, trailer.offset, trailer.length)?;
    let sections = parse(&manifest, trailer.offset)?;
    // Last, because the checks before it can tell which part is damaged.
    if crc32fast::hash(&manifest) != trailer.crc {
        return Err(Flaw::damaged("manifest", "its checksum is wrong"));
    }
    Ok((manifest, sections))
}

/// Finds the sections of a manifest that lies at `offset` in the file.
fn parse(manifest: &[u8], offset: u64) -> Result<Vec<Section>, Flaw> {
    let mut sections: Vec<Section> = Vec::new();
    let mut at = 0;
    while at < manifest.len() {
        let here = || format!("section header at offset {}", offset + at as u64);
        let start = at + SECTION_HEADER_LEN;
        let header = manifest.get(at..start).and_then(SectionHeader::decode);
        let header = header.ok_or_else(|| Flaw::damaged(here(), "its checksum is wrong"))?;
        let end = start.saturating_add(usize::try_from(header.stored).unwrap_or(usize::MAX));
        let stored = manifest.get(start..end);
        let stored = stored.ok_or_else(|| Flaw::damaged(here(), "it is longer than the rest"))?;
        check_section(&header, stored)?;
        add(&mut sections, Section { header, at: Place::Read(start..end) }, here)?;
        at = end;
    }
    Ok(sections)
}

fn check_section(header: &SectionHeader, stored: &[u8]) -> Result<(), Flaw> {
    let tag = header.tag;
    let flaw = |why: &str| Err(Flaw::damaged(format!("section {tag:?}"), why));
    if crc32fast::hash(stored) != header.crc {
        return flaw("its checksum is wrong");
    }
    if !header.known() && header.critical() {
        return Err(Flaw::unknown(format!("section {tag:?}")));
    }
    if !header.zstd() && header.plain != header.stored {
        return flaw("its two lengths differ");
    }
    Ok(())
}
