//! The image path, a block of memory at a time: packed and appended, read back, verified; checksums
//! and what a whole image costs from its first block to its name.

#![allow(missing_docs, reason = "criterion's macros make public functions")]

use std::hint::black_box;
use std::path::{Path, PathBuf};

use ckpt_core::image::{BlockId, NewHeader, Packer, Reader, Unpacker, Writer, file_name};
use ckpt_core::job::JobId;
use ckpt_core::progress::Silent;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// As the page stream cuts memory.
const BLOCK: usize = 512 << 10;
/// Blocks in the image that is read.
const COUNT: usize = 64;
/// Raw, as usual, and more patient.
const LEVELS: [i32; 3] = [0, 1, 3];
const JOB: JobId = JobId(1);
const HEADER: NewHeader = NewHeader { job: JOB, generation: 1 };

/// Contents as jobs have them.
fn contents() -> [(&'static str, Vec<u8>); 4] {
    let mut x = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    };
    let words = BLOCK / 8;
    let random: Vec<u8> = (0..words).flat_map(|_| next().to_le_bytes()).collect();
    let smooth: Vec<u8> = (0..words).flat_map(|i| (1.0 + i as f64 * 1e-6).to_le_bytes()).collect();
    let small: Vec<u8> = (0..words as u64).flat_map(|i| (i * 7 % 97).to_le_bytes()).collect();
    let quarter = BLOCK / 4;
    let zeros = vec![0; quarter];
    let mixed = [&random[..quarter], &smooth[..quarter], &small[..quarter], &zeros[..]].concat();
    [("random", random), ("smooth doubles", smooth), ("small integers", small), ("mixed", mixed)]
}

fn writer(dir: &Path, level: i32) -> Writer {
    let name = file_name("bench", JOB, 1);
    Writer::create(dir, &name, &HEADER, level.into()).expect("the folder is ours")
}

fn packer() -> Packer {
    Packer::new().expect("memory for zstd")
}

fn write_image(dir: &Path, block: &[u8], level: i32) -> PathBuf {
    let (mut packer, writer) = (packer(), writer(dir, level));
    for _ in 0..COUNT {
        writer.append(block, &mut packer).expect("space for a block");
    }
    writer.commit().expect("space for a manifest").path
}

/// Each kind of contents at each level.
fn cases() -> impl Iterator<Item = (BenchmarkId, Vec<u8>, i32)> {
    contents().into_iter().flat_map(|(name, block)| {
        LEVELS.map(|level| (BenchmarkId::new(name, level), block.clone(), level))
    })
}

fn append(c: &mut Criterion) {
    let mut group = c.benchmark_group("append");
    group.throughput(Throughput::Bytes(BLOCK as u64));
    for (id, block, level) in cases() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut packer = packer();
        // A new file for each batch: it would grow without end otherwise.
        group.bench_function(id, |bencher| {
            bencher.iter_batched(
                || writer(dir.path(), level),
                |writer| {
                    writer.append(black_box(&block), &mut packer).expect("space for a block");
                    writer
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

/// From the first block to a durable file with its name.
fn commit(c: &mut Criterion) {
    let mut group = c.benchmark_group("commit");
    group.throughput(Throughput::Bytes((BLOCK * COUNT) as u64)).sample_size(10);
    for (id, block, level) in cases() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        group.bench_function(id, |bencher| {
            bencher.iter(|| write_image(dir.path(), black_box(&block), level));
        });
    }
    group.finish();
}

fn read(c: &mut Criterion) {
    let mut group = c.benchmark_group("read");
    group.throughput(Throughput::Bytes(BLOCK as u64));
    for (id, block, level) in cases() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let image = write_image(dir.path(), &block, level);
        let reader = Reader::open(image).expect("it was just written");
        let mut unpacker = Unpacker::new().expect("memory for zstd");
        let mut ids = (0..COUNT as u32).map(BlockId).cycle();
        group.bench_function(id, |bencher| {
            bencher.iter(|| {
                let id = ids.next().expect("it never ends");
                reader.read_block(id, &mut unpacker).expect("it is good").len()
            });
        });
    }
    group.finish();
}

fn verify(c: &mut Criterion) {
    let mut group = c.benchmark_group("verify");
    group.throughput(Throughput::Bytes((BLOCK * COUNT) as u64)).sample_size(20);
    for (id, block, level) in cases() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let image = write_image(dir.path(), &block, level);
        let reader = Reader::open(image).expect("it was just written");
        group.bench_function(id, |bencher| {
            bencher.iter(|| reader.verify(&Silent, 1).expect("it is good"));
        });
    }
    group.finish();
}

/// What every stored byte goes through.
fn checksum(c: &mut Criterion) {
    let mut group = c.benchmark_group("checksum");
    group.throughput(Throughput::Bytes(BLOCK as u64));
    let [(_, block), ..] = contents();
    group.bench_function("crc32", |bencher| bencher.iter(|| crc32fast::hash(black_box(&block))));
    group.finish();
}

criterion_group!(benches, append, commit, read, verify, checksum);
criterion_main!(benches);
