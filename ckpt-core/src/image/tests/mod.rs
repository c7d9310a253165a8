//! Tests of the image as a whole, and what they share.

mod damage;
mod directory;
mod publish;

use std::path::{Path, PathBuf};

use super::*;
use crate::error::Result;
use crate::job::JobId;
use crate::progress::{Event, Observer, Silent};

const JOB: JobId = JobId(0x0123_4567_89ab_cdef);

fn new(generation: u64) -> NewHeader {
    NewHeader { job: JOB, generation }
}

fn name(generation: u64) -> String {
    file_name("payload.sh", JOB, generation)
}

/// Bytes that zstd cannot compress, different for each seed.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 32) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// A small image with raw and compressed blocks, plain and compressed sections.
fn small(dir: &Path, header: &NewHeader) -> PathBuf {
    let file = file_name("payload.sh", header.job, header.generation);
    let mut writer = Writer::create(dir, &file, header, 3.into()).unwrap();
    let mut packer = Packer::new().unwrap();
    writer.append(&[7; 3000], &mut packer).unwrap();
    writer.append(&noise(1, 100), &mut packer).unwrap();
    writer.append(b"x", &mut packer).unwrap();
    writer.section(Tag::JOB, Importance::Critical, &vec![42u64; 500]).unwrap();
    writer.section(Tag::INFO, Importance::Skippable, &"a summary".to_string()).unwrap();
    writer.commit().unwrap().path
}

/// What a careful user does with an image.
fn check(path: &Path) -> Result<Summary> {
    Reader::open(path)?.verify(&Silent, 1)
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<_> =
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn sections_and_blocks_of_many_threads_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::create(dir.path(), &name(3), &new(3), 1.into()).unwrap();
    let header = writer.header().clone();
    let plain = |thread: u64, n: u64| match n % 3 {
        0 => noise(thread * 100 + n, 5000 + n as usize),
        1 => vec![thread as u8; MAX_BLOCK],
        _ => noise(thread, 50).repeat(40 + n as usize),
    };
    let ids: Vec<(u64, u64, BlockId)> = std::thread::scope(|scope| {
        let work = |thread| {
            let mut packer = Packer::new().unwrap();
            let writer = &writer;
            let append =
                move |n| (thread, n, writer.append(&plain(thread, n), &mut packer).unwrap());
            (0..20).map(append).collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..4).map(|thread| scope.spawn(move || work(thread))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let index: Vec<(u64, BlockId)> = ids.iter().map(|(_, n, id)| (*n, *id)).collect();
    writer.section(Tag::JOB, Importance::Critical, &"snapshot".to_string()).unwrap();
    writer.section(Tag::PAGE, Importance::Critical, &index).unwrap();
    let published = writer.commit().unwrap();

    let reader = Reader::open(&published.path).unwrap();
    assert_eq!(*reader.header(), header);
    assert_eq!((header.job, header.generation, header.parent), (JOB, 3, ImageId::NONE));
    assert_eq!(reader.file_len(), published.bytes);
    assert_eq!(reader.section::<String>(Tag::JOB).unwrap().unwrap(), "snapshot");
    assert_eq!(reader.section::<Vec<(u64, BlockId)>>(Tag::PAGE).unwrap().unwrap(), index);
    assert_eq!(reader.section::<String>(Tag::INFO).unwrap(), None);
    assert_eq!(reader.blocks(), 80);
    let mut unpacker = Unpacker::new().unwrap();
    for (thread, n, id) in ids {
        assert_eq!(reader.plain_len(id).unwrap(), plain(thread, n).len());
        assert_eq!(reader.read_block(id, &mut unpacker).unwrap(), plain(thread, n));
    }
    assert!(reader.read_block(BlockId(80), &mut unpacker).is_err());
    let summary = reader.verify(&Silent, 3).unwrap();
    assert_eq!((summary.blocks, summary.sections, summary.bytes), (80, 3, published.bytes));
    assert!(summary.stored < summary.plain);
}

/// Long enough that its bytes go to the disk on the way, and another level may be chosen there.
#[test]
fn whatever_level_the_disk_calls_for() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Writer::create(dir.path(), &name(1), &new(1), Level::Auto).unwrap();
    let mut packer = Packer::new().unwrap();
    let plain = |n: u64| [noise(n, MAX_BLOCK / 2), vec![n as u8; MAX_BLOCK / 2]].concat();
    let append = |n| writer.append(&plain(n), &mut packer).unwrap();
    let ids: Vec<BlockId> = (0..(64 << 20) / MAX_BLOCK as u64).map(append).collect();
    let path = writer.commit().unwrap().path;
    let reader = Reader::open(&path).unwrap();
    let mut unpacker = Unpacker::new().unwrap();
    for (n, id) in ids.into_iter().enumerate() {
        assert!(reader.read_block(id, &mut unpacker).unwrap() == plain(n as u64));
    }
    assert!(check(&path).is_ok());
}

#[test]
fn an_image_may_be_empty() {
    let dir = tempfile::tempdir().unwrap();
    let path =
        Writer::create(dir.path(), &name(1), &new(1), 0.into()).unwrap().commit().unwrap().path;
    assert_eq!(check(&path).unwrap().blocks, 0);
}

#[test]
fn level_0_keeps_blocks_as_they_are_and_page_aligned() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Writer::create(dir.path(), &name(1), &new(1), 0.into()).unwrap();
    let mut packer = Packer::new().unwrap();
    writer.append(&[1; 8192], &mut packer).unwrap();
    writer.append(&[2; 4096], &mut packer).unwrap();
    let bytes = std::fs::read(writer.commit().unwrap().path).unwrap();
    assert_eq!(bytes[4096..12288], [1; 8192]);
    assert_eq!(bytes[12288..16384], [2; 4096]);
}

#[test]
fn impossible_blocks_and_sections_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::create(dir.path(), &name(1), &new(1), 1.into()).unwrap();
    let mut packer = Packer::new().unwrap();
    assert!(writer.append(&[], &mut packer).is_err());
    assert!(writer.append(&vec![0; MAX_BLOCK + 1], &mut packer).is_err());
    writer.section(Tag::JOB, Importance::Critical, &1u8).unwrap();
    assert!(writer.section(Tag::JOB, Importance::Critical, &1u8).is_err());
    check(&writer.commit().unwrap().path).unwrap();
}

#[test]
fn verify_tells_how_far_it_is() {
    struct Last(std::sync::Mutex<(u64, u64)>);
    impl Observer for Last {
        fn event(&self, event: Event) {
            if let Event::Bytes { done, total } = event {
                let mut last = self.0.lock().unwrap();
                *last = (last.0.max(done), total);
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let reader = Reader::open(small(dir.path(), &new(1))).unwrap();
    let last = Last(Default::default());
    reader.verify(&last, 2).unwrap();
    assert_eq!(*last.0.lock().unwrap(), (3101, 3101));
}

#[test]
fn a_full_disk_is_an_io_error_that_names_the_file() {
    // There is no small file system at hand; a limit on the file's size fails in the same place.
    if std::env::var_os("CKPT_TEST_FSIZE").is_none() {
        let this = "image::tests::a_full_disk_is_an_io_error_that_names_the_file";
        let script = "trap '' XFSZ; ulimit -f 16; exec \"$@\"";
        let child = std::process::Command::new("bash")
            .args(["-c", script, "bash"])
            .arg(std::env::current_exe().unwrap())
            .args([this, "--exact"])
            .env("CKPT_TEST_FSIZE", "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let writer = Writer::create(dir.path(), &name(1), &new(1), 1.into()).unwrap();
    let mut packer = Packer::new().unwrap();
    let error = writer.append(&noise(1, 100_000), &mut packer).unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::Io);
    assert!(error.to_string().contains(&name(1)), "{error}");
    let error = writer.commit().unwrap_err();
    assert!(error.to_string().contains("a block is missing"), "{error}");
    assert!(names(dir.path()).is_empty());
}

/// Images of every version that was ever released must stay readable.
#[test]
fn golden_images_stay_readable() {
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/image/tests");
    let reader = Reader::open(golden.join("golden-v1.ckpt")).unwrap();
    let header = reader.header();
    assert_eq!((header.version, header.job, header.generation), (1, JOB, 1));
    assert_eq!((header.arch, header.page_size), (62, 4096));
    assert_eq!(reader.section::<Vec<u64>>(Tag::JOB).unwrap().unwrap(), [42; 500]);
    assert_eq!(reader.section::<String>(Tag::INFO).unwrap().unwrap(), "a summary");
    let mut unpacker = Unpacker::new().unwrap();
    let mut block = |id| reader.read_block(BlockId(id), &mut unpacker).unwrap().to_vec();
    assert_eq!((block(0), block(1), block(2)), (vec![7; 3000], noise(1, 100), b"x".to_vec()));
    assert_eq!(reader.verify(&Silent, 1).unwrap().blocks, 3);
}

#[test]
fn blocks_and_sections_go_from_one_image_to_another() {
    let dir = tempfile::tempdir().unwrap();
    let from = Reader::open(small(dir.path(), &new(1))).unwrap();
    let mut unpacker = Unpacker::new().unwrap();
    let mut writer = Writer::create(dir.path(), &name(2), &new(2), 1.into()).unwrap();
    for id in [2, 0] {
        writer.copy_block(&from, BlockId(id), &mut unpacker).unwrap();
    }
    writer.copy_sections(&from, &[Tag::BLKS, Tag::INFO]).unwrap();
    let taken = Reader::open(writer.commit().unwrap().path).unwrap();
    assert_eq!(taken.read_block(BlockId(0), &mut unpacker).unwrap(), b"x");
    assert_eq!(taken.read_block(BlockId(1), &mut unpacker).unwrap(), [7; 3000]);
    assert_eq!(taken.section::<Vec<u64>>(Tag::JOB).unwrap().unwrap(), vec![42; 500]);
    assert_eq!(taken.section::<String>(Tag::INFO).unwrap(), None);
    check(taken.path()).unwrap();
}
