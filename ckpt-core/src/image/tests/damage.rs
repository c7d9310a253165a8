//! Whatever happens to the bytes is noticed, named, and costs neither a panic nor much memory.

use std::ops::Range;
use std::os::unix::fs::FileExt;

use proptest::prelude::*;

use super::*;
use crate::ErrorKind;
use crate::image::block::{Codec, Row};
use crate::image::codec;
use crate::image::format::{HEADER_LEN, SECTION_HEADER_LEN, SectionHeader, TRAILER_LEN, Trailer};

/// The parts of the image that [`small`] writes, by offset, with what an error calls them.
fn parts(bytes: &[u8]) -> Vec<(Range<usize>, String)> {
    let end = bytes.len() - TRAILER_LEN;
    let manifest = u64::from_le_bytes(bytes[end..end + 8].try_into().unwrap()) as usize;
    let mut parts =
        vec![(0..HEADER_LEN, ": header: ".into()), (end..bytes.len(), ": trailer: ".into())];
    let mut at = manifest;
    while at < end {
        let header = SectionHeader::decode(&bytes[at..at + SECTION_HEADER_LEN]).unwrap();
        let (start, stored) = (at + SECTION_HEADER_LEN, header.stored as usize);
        parts.push((at..start, format!(": section header at offset {at}: ")));
        parts.push((start..start + stored, format!(": section {:?}: ", header.tag)));
        at = start + stored;
        if header.tag == Tag::BLKS {
            let rows: Vec<Row> = codec::decode(&bytes[start..at]).unwrap();
            for (n, row) in rows.iter().enumerate() {
                let range = row.offset as usize..row.end() as usize;
                parts.push((range, format!(": block {n} at offset {}: ", row.offset)));
            }
        }
    }
    parts
}

#[test]
fn every_flipped_byte_is_found_and_its_part_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = small(dir.path(), &new(1));
    let bytes = std::fs::read(&path).unwrap();
    let parts = parts(&bytes);
    assert_eq!(parts.iter().map(|(range, _)| range.len()).sum::<usize>(), bytes.len());
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    for (range, part) in parts {
        for at in range {
            for flip in [0x01, 0x80, 0xff] {
                file.write_all_at(&[bytes[at] ^ flip], at as u64).unwrap();
                let error = check(&path).expect_err(&format!("byte {at} ({part})"));
                assert_eq!(error.kind(), ErrorKind::Damaged, "byte {at}: {error}");
                assert!(error.to_string().contains(&part), "byte {at}, {part}, {error}");
            }
            file.write_all_at(&bytes[at..at + 1], at as u64).unwrap();
        }
    }
    check(&path).unwrap();
}

#[test]
fn damage_after_opening_is_found_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = small(dir.path(), &new(1));
    let bytes = std::fs::read(&path).unwrap();
    let reader = Reader::open(&path).unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    for (range, part) in parts(&bytes) {
        let at = range.start;
        file.write_all_at(&[!bytes[at]], at as u64).unwrap();
        let error = reader.verify(&Silent, 2).unwrap_err();
        assert!(error.to_string().contains(&part), "{part}, {error}");
        if part.contains("block 1 ") {
            let mut unpacker = Unpacker::new().unwrap();
            let error = reader.read_block(BlockId(1), &mut unpacker).unwrap_err();
            assert!(error.to_string().contains(&part), "{part}, {error}");
        }
        file.write_all_at(&bytes[at..at + 1], at as u64).unwrap();
    }
}

#[test]
fn the_first_of_several_damaged_blocks_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Writer::create(dir.path(), &name(1), &new(1), 0.into()).unwrap();
    let mut packer = Packer::new().unwrap();
    for _ in 0..50 {
        writer.append(&[1; 64], &mut packer).unwrap();
    }
    let path = writer.commit().unwrap().path;
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[0; 43 * 64], (HEADER_LEN + 7 * 64) as u64).unwrap();
    for workers in 0..5 {
        let error = Reader::open(&path).unwrap().verify(&Silent, workers).unwrap_err();
        assert!(error.to_string().contains(": block 7 at offset 4544: "), "{error}");
    }
}

#[test]
fn every_truncation_and_anything_appended_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = small(dir.path(), &new(1));
    let bytes = std::fs::read(&path).unwrap();
    for length in 0..bytes.len() {
        std::fs::write(&path, &bytes[..length]).unwrap();
        let error = Reader::open(&path).expect_err(&format!("length {length}"));
        let part = if length < HEADER_LEN { ": header: " } else { ": trailer: " };
        assert_eq!(error.kind(), ErrorKind::Damaged);
        assert!(error.to_string().contains(part), "length {length}: {error}");
    }
    let trailer = &bytes[bytes.len() - TRAILER_LEN..];
    for garbage in [&b"\0"[..], b"\n", &[0; 64], trailer, &bytes, &noise(1, 5000)] {
        std::fs::write(&path, [&bytes, garbage].concat()).unwrap();
        let error = Reader::open(&path).unwrap_err();
        assert!(error.to_string().contains(": trailer: "), "{error}");
    }
}

#[test]
fn an_unknown_section_is_refused_or_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let write = |importance| {
        let mut writer = Writer::create(dir.path(), &name(1), &new(1), 1.into()).unwrap();
        writer.section(Tag(*b"NEW\n"), importance, &vec![1u8; 1000]).unwrap();
        writer.section(Tag::JOB, Importance::Critical, &5u32).unwrap();
        writer.commit().unwrap().path
    };
    let reader = Reader::open(write(Importance::Skippable)).unwrap();
    assert_eq!(reader.section::<u32>(Tag::JOB).unwrap(), Some(5));
    let error = Reader::open(write(Importance::Critical)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains(r#"unknown section "NEW\n""#), "{error}");
}

#[test]
fn a_later_version_is_refused_by_its_number() {
    let dir = tempfile::tempdir().unwrap();
    let path = small(dir.path(), &new(1));
    let header = Reader::open(&path).unwrap().header().clone();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&Header { version: 2, ..header }.encode(), 0).unwrap();
    let error = Reader::open(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("image format version 2"), "{error}");
}

#[test]
fn a_section_of_another_type_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let reader = Reader::open(small(dir.path(), &new(1))).unwrap();
    assert!(reader.section::<Vec<(String, u64)>>(Tag::JOB).is_err());
    let error = reader.section::<u8>(Tag::JOB).unwrap_err();
    assert!(error.to_string().contains(r#"section "JOB ""#), "{error}");
}

#[test]
fn a_claimed_length_gets_no_memory() {
    // Four bytes that claim to be a vector of 2^64 - 1, or of 2^32 - 1, elements.
    let huge = [253, 255, 255, 255, 255, 255, 255, 255, 255];
    assert!(codec::decode::<Vec<u8>>(&huge).is_err());
    assert!(codec::decode::<Vec<[u64; 8]>>(&huge).is_err());
    assert!(codec::decode::<String>(&[252, 255, 255, 255, 255]).is_err());
    // A compressed section that is larger, or smaller, than it says.
    let (packed, zstd) = codec::squeeze(vec![0; 1 << 20], 1);
    assert!(zstd && packed.len() < 1000);
    assert!(codec::expand(&packed, 1000).is_err());
    assert!(codec::expand(&packed, u64::MAX).is_err());
    assert_eq!(codec::expand(&packed, 1 << 20).unwrap().len(), 1 << 20);
}

#[test]
fn large_sections_come_back() {
    // Larger than the window that the reader allows.
    let plain: Vec<u8> = (0..20u64).flat_map(|n| noise(n / 2, 1 << 20)).collect();
    for level in [1, 3, 22] {
        let (packed, zstd) = codec::squeeze(plain.clone(), level);
        assert_eq!(zstd, packed.len() < plain.len());
        if zstd {
            assert!(codec::expand(&packed, plain.len() as u64).unwrap() == plain);
        }
    }
}

/// A file whose checksums are all right and whose numbers are the caller's.
fn forged(header: &Header, blocks: &[u8], manifest: &[u8], trailer: Trailer) -> Vec<u8> {
    [&header.encode(), blocks, manifest, &trailer.encode()].concat()
}

fn forged_section(tag: Tag, flags: u32, lengths: (u64, u64), stored: &[u8]) -> Vec<u8> {
    let crc = crc32fast::hash(stored);
    let header = SectionHeader { tag, flags, stored: lengths.0, plain: lengths.1, crc };
    [&header.encode(), stored].concat()
}

fn open_forged(rows: &[Row], blocks: &[u8], lengths: Option<(u64, u64)>) -> Result<Summary> {
    let table = codec::encode(&rows.to_vec()).unwrap();
    let length = table.len() as u64;
    let manifest = forged_section(Tag::BLKS, 1, lengths.unwrap_or((length, length)), &table);
    let header = Header::new(&new(1));
    let trailer = Trailer {
        offset: (HEADER_LEN + blocks.len()) as u64,
        length: manifest.len() as u64,
        crc: crc32fast::hash(&manifest),
        id: header.id,
    };
    open_bytes(&forged(&header, blocks, &manifest, trailer))
}

fn open_bytes(bytes: &[u8]) -> Result<Summary> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("forged.ckpt");
    std::fs::write(&path, bytes).unwrap();
    check(&path)
}

fn row(offset: u64, stored: u32, plain: u32, codec: Codec, bytes: &[u8]) -> Row {
    Row { offset, stored, plain, codec, crc: crc32fast::hash(bytes) }
}

#[test]
fn blocks_must_tile_the_file() {
    let blocks = [5; 100];
    let at = HEADER_LEN as u64;
    let first = row(at, 60, 60, Codec::Raw, &blocks[..60]);
    let second = row(at + 60, 40, 40, Codec::Raw, &blocks[60..]);
    assert_eq!(open_forged(&[first, second], &blocks, None).unwrap().plain, 100);
    let max = u32::MAX;
    for rows in [
        vec![],
        vec![first],
        vec![second],
        vec![first, first],
        vec![second, first],
        vec![first, Row { offset: at + 59, ..second }],
        vec![first, Row { offset: u64::MAX, ..second }],
        vec![first, Row { stored: 39, plain: 39, ..second }],
        vec![first, Row { stored: 41, plain: 41, ..second }],
        vec![first, Row { plain: 41, ..second }],
        vec![first, Row { plain: max, ..second }],
        vec![first, Row { codec: Codec::Zstd, ..second }],
        vec![first, Row { codec: Codec::Zstd, plain: max, ..second }],
        vec![first, Row { stored: max, plain: max, ..second }],
        vec![first, Row { stored: 0, plain: 0, ..second }, second],
        vec![row(at, 100, 100, Codec::Raw, &blocks), Row { stored: 0, offset: at + 100, ..second }],
    ] {
        let error = open_forged(&rows, &blocks, None).unwrap_err();
        assert!(error.to_string().contains("block table"), "{rows:?}: {error}");
    }
    // The table is well-formed but the bytes are no zstd frame.
    let rows = [row(at, 100, 2000, Codec::Zstd, &blocks)];
    let error = open_forged(&rows, &blocks, None).unwrap_err();
    assert!(error.to_string().contains(": block 0 at offset 4096: "), "{error}");
}

#[test]
fn absurd_lengths_are_refused() {
    let max = u64::MAX;
    for lengths in
        [(max, max), (max, 1), (1, max), (1 << 30, 1 << 30), (1 << 40, 5), (0, 0), (1, 0)]
    {
        assert!(open_forged(&[], &[], Some(lengths)).is_err(), "{lengths:?}");
    }
    let header = Header::new(&new(1));
    for (offset, length) in [(max, max), (max, 1), (0, 4096), (4096, max), (1 << 62, 1 << 62)] {
        let trailer = Trailer { offset, length, crc: 0, id: header.id };
        let error = open_bytes(&forged(&header, &[], &[], trailer)).unwrap_err();
        assert!(error.to_string().contains(": trailer: "), "{error}");
    }
    let trailer = Trailer { offset: 4096, length: 0, crc: 0, id: ImageId::random() };
    let error = open_bytes(&forged(&header, &[], &[], trailer)).unwrap_err();
    assert!(error.to_string().contains("another image"), "{error}");
}

#[test]
fn a_sparse_giant_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sparse.ckpt");
    let header = Header::new(&new(1));
    let file = std::fs::File::create(&path).unwrap();
    let length = 1 << 42;
    let trailer = Trailer { offset: 4096, length, crc: 0, id: header.id };
    file.write_all_at(&header.encode(), 0).unwrap();
    file.write_all_at(&trailer.encode(), 4096 + length).unwrap();
    let error = Reader::open(&path).unwrap_err();
    assert!(error.to_string().contains(": trailer: "), "{error}");
}

#[test]
fn a_section_cannot_be_there_twice_nor_too_many() {
    let header = Header::new(&new(1));
    let open = |manifest: &[u8]| {
        let (length, crc) = (manifest.len() as u64, crc32fast::hash(manifest));
        open_bytes(&forged(
            &header,
            &[],
            manifest,
            Trailer { offset: 4096, length, crc, id: header.id },
        ))
    };
    let table = forged_section(Tag::BLKS, 1, (1, 1), &[0]);
    open(&table).unwrap();
    assert!(open(&[]).unwrap_err().to_string().contains("there is none"));
    assert!(open(&table.repeat(2)).unwrap_err().to_string().contains("twice"));
    let other = |n: u32| forged_section(Tag(n.to_le_bytes()), 0, (0, 0), &[]);
    let many: Vec<u8> = (0..300).flat_map(other).chain(table.clone()).collect();
    assert!(open(&many).unwrap_err().to_string().contains("too many"));
    // A known section with a flag of a later version is not read as if it had none.
    let error = open(&forged_section(Tag::BLKS, 1 | 8, (1, 1), &[0])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn random_corruption_is_found(
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..20),
        cut in proptest::option::of(any::<proptest::sample::Index>()),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = small(dir.path(), &new(1));
        let bytes = std::fs::read(&path).unwrap();
        let mut changed = bytes.clone();
        for (at, value) in edits {
            changed[at.index(bytes.len())] = value;
        }
        changed.truncate(cut.map_or(bytes.len(), |cut| cut.index(bytes.len())));
        std::fs::write(&path, &changed).unwrap();
        prop_assert_eq!(check(&path).is_ok(), changed == bytes);
    }

    #[test]
    fn random_bytes_behind_right_checksums_do_not_panic(
        table in proptest::collection::vec(any::<u8>(), 0..200),
        plain in any::<u64>(),
        flags in 0u32..8,
        blocks in proptest::collection::vec(any::<u8>(), 0..50),
    ) {
        let header = Header::new(&new(1));
        let length = table.len() as u64;
        let manifest = forged_section(Tag::BLKS, flags, (length, plain), &table);
        let trailer = Trailer {
            offset: (HEADER_LEN + blocks.len()) as u64,
            length: manifest.len() as u64,
            crc: crc32fast::hash(&manifest),
            id: header.id,
        };
        let _ = open_bytes(&forged(&header, &blocks, &manifest, trailer));
        let _ = codec::decode::<Vec<Row>>(&table);
        let _ = codec::decode::<Vec<Vec<String>>>(&table);
        let _ = codec::expand(&table, plain);
    }
}

/// It is not even read by who does not want it.
#[test]
fn in_a_long_section_that_may_be_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::create(dir.path(), &name(1), &new(1), 0.into()).unwrap();
    writer.append(&[7; 3000], &mut Packer::new().unwrap()).unwrap();
    let hashes: Vec<[u8; 16]> = noise(1, 16 * 100_000).as_chunks::<16>().0.to_vec();
    writer.section(Tag::JOB, Importance::Critical, &vec![42u64; 500]).unwrap();
    writer.raw_section(Tag::HASH, Importance::Skippable, &hashes).unwrap();
    writer.section(Tag::HIST, Importance::Skippable, &5u32).unwrap();
    let path = writer.commit().unwrap().path;
    let read = |image: &Reader| image.section::<Vec<[u8; 16]>>(Tag::HASH);
    let image = Reader::open(&path).unwrap();
    assert!(read(&image).unwrap().unwrap() == hashes);
    check(&path).unwrap();

    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let image = Reader::open(&path).unwrap();
    assert_eq!(image.section::<u32>(Tag::HIST).unwrap(), Some(5));
    assert_eq!(image.section::<Vec<u64>>(Tag::JOB).unwrap().unwrap().len(), 500);
    assert_eq!(read(&image).unwrap_err().kind(), ErrorKind::Damaged);
    assert_eq!(check(&path).unwrap_err().kind(), ErrorKind::Damaged);
}
