//! Micro-benchmarks: `cargo bench -p ckpt-benches`; what our commands cost: `--bin overhead`.
