//! Micro-benchmarks: `cargo bench -p ckpt-benches`.
