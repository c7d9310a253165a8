//! The image path, a block of memory at a time: packed and appended, read back, verified.

#![allow(missing_docs, reason = "criterion's macros make public functions")]

use std::hint::black_box;
use std::path::{Path, PathBuf};

use ckpt_core::image::{NewHeader, Packer, Reader, Unpacker, Writer, file_name};
use ckpt_core::job::JobId;
use ckpt_core::progress::Silent;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const BLOCK: usize = 1 << 20;
/// Blocks in the image that is read.
const COUNT: usize = 32;
const JOB: JobId = JobId(1);
const HEADER: NewHeader = NewHeader { job: JOB, generation: 1 };

/// Contents as jobs have them.
fn contents() -> [(&'static str, Vec<u8>); 3] {
    let mut x = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    };
    let words = BLOCK / 8;
    let random = (0..words).flat_map(|_| next().to_le_bytes()).collect();
    let smooth = (0..words).flat_map(|i| (1.0 + i as f64 * 1e-6).to_le_bytes()).collect();
    let small = (0..words as u64).flat_map(|i| (i * 7 % 97).to_le_bytes()).collect();
    [("random", random), ("smooth doubles", smooth), ("small integers", small)]
}

fn writer(dir: &Path) -> Writer {
    Writer::create(dir, &file_name("bench", JOB, 1), &HEADER, 1).expect("the folder is ours")
}

fn write_image(dir: &Path, block: &[u8]) -> PathBuf {
    let (mut packer, writer) = (Packer::new(1).expect("memory for zstd"), writer(dir));
    for _ in 0..COUNT {
        writer.append(block, &mut packer).expect("space for a block");
    }
    writer.commit().expect("space for a manifest").path
}

fn append(c: &mut Criterion) {
    let mut group = c.benchmark_group("append");
    group.throughput(Throughput::Bytes(BLOCK as u64));
    for (name, block) in contents() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut packer = Packer::new(1).expect("memory for zstd");
        // A new file for each batch: it would grow without end otherwise.
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter_batched(
                || writer(dir.path()),
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

fn read(c: &mut Criterion) {
    let mut group = c.benchmark_group("read");
    group.throughput(Throughput::Bytes(BLOCK as u64));
    for (name, block) in contents() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let reader = Reader::open(write_image(dir.path(), &block)).expect("it was just written");
        let mut unpacker = Unpacker::new().expect("memory for zstd");
        let mut ids = (0..COUNT as u32).map(ckpt_core::image::BlockId).cycle();
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
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
    for (name, block) in contents() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let reader = Reader::open(write_image(dir.path(), &block)).expect("it was just written");
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter(|| reader.verify(&Silent, 1).expect("it is good"));
        });
    }
    group.finish();
}

criterion_group!(benches, append, read, verify);
criterion_main!(benches);
