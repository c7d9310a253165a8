//! What the bytes alone cost: dd copies them to disk, zstd packs them first.

use std::fs;
use std::path::Path;
use std::process::Command;

use ckpt_core::image::LEVEL;

use crate::run::{median, must, timed};
use crate::{Figures, ROUNDS, Result};

/// To disk, as they are.
pub fn dd(dump: &Path) -> Result<Figures> {
    let copy = dump.with_extension("copy");
    copied("dd conv=fsync", &copy, || {
        let mut command = Command::new("dd");
        command.arg(format!("if={}", dump.display())).arg(format!("of={}", copy.display()));
        command.args(["bs=1M", "conv=fsync", "status=none"]);
        command
    })
}

/// Packed on one core, not even to disk.
pub fn zstd(dump: &Path) -> Result<Figures> {
    let packed = dump.with_extension("zst");
    copied(&format!("zstd -{LEVEL}, one core"), &packed, || {
        let mut command = Command::new("zstd");
        command.arg(format!("-{LEVEL}")).args(["-T1", "-f", "-q"]).arg(dump).arg("-o").arg(&packed);
        command
    })
}

fn copied(name: &str, to: &Path, command: impl Fn() -> Command) -> Result<Figures> {
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        times.push(timed(|| must(&mut command()))?.1);
    }
    let bytes = Some(fs::metadata(to)?.len() as f64);
    fs::remove_file(to)?;
    Ok(Figures { name: name.into(), durable: median(times), bytes, ..Figures::default() })
}
