//! The order of it all: each part runs, and its text goes into docs/performance.md, its curves into
//! docs/performance.svg.

use std::fs;
use std::path::Path;

use crate::host::{meminfo, surroundings};
use crate::payload::{Payload, Place};
use crate::{Result, arrays, growth, memory, plot, programs, rivals, slowdown, table};

const HEAD: &str = "# Performance

Written by `cargo xtask bench`. Every table is one run: all rows on the same bytes, on the same disk,
one after the other.

- *stopped*: the longest time between two ticks of the payload, which wants one every millisecond.
- *durable*: until all is on disk, and synced.
- *2nd*: another checkpoint, when the payload has changed one page in a hundred, all over its memory (the
  programs: whatever they change). In brackets: measured by the row's own first checkpoint.
- *restart*: until the payload's next tick, with the image in the page cache; *from disk*: without; *lazily*: from disk,
  before its memory is there (`--lazy`).
- Elsewhere brackets are ratios to the table's first row that has the figure (*from disk* and *lazily*: to *restart*).

";

/// The parts, in their order.
const PARTS: [&str; 6] = ["rivals", "programs", "slowdown", "memory", "growth", "arrays"];

/// Runs everything, with payloads of this size, and writes it down; or one part, and prints it.
///
/// # Errors
///
/// When a payload does not run, or our own part fails.
pub fn write(place: &Place, mib: u64, only: Option<&str>) -> Result {
    if only.is_some_and(|only| !PARTS.contains(&only)) {
        return Err(format!("the parts are {}", PARTS.join(", ")).into());
    }
    let wanted = |part: &str| only.is_none_or(|only| only == part);
    let (payloads, mut absent) = sizes(mib);
    let (programs, missing) = programs::here(place);
    absent.extend(missing.iter().map(|name| format!("{name}: not found")));
    let mut text = String::from(HEAD) + &surroundings();
    if !absent.is_empty() {
        text.push_str(&format!("Left out: {}.\n", absent.join("; ")));
    }
    text.push('\n');
    for (kind, mib) in payloads.into_iter().filter(|_| wanted("rivals")) {
        text.push_str(&compared(&Payload::ticker(place, kind, mib, &[])?.dumped()?)?);
    }
    for payload in programs.iter().filter(|_| wanted("programs")) {
        text.push_str(&compared(payload)?);
    }
    if wanted("slowdown") {
        text.push_str("## Between checkpoints\n\n");
        text.push_str(&slowdown::ratios(place)?);
    }
    if wanted("memory") {
        text.push_str("## Memory while one is taken\n\nThe host's is without the page cache.\n\n");
        text.push_str(&memory::extra(place, mib)?);
    }
    let mut panels = Vec::new();
    if wanted("growth") {
        text.push_str(
            "## Growth\n\nFirst checkpoints, at the usual level.\n\n![](performance.svg)\n\n",
        );
        text.push_str(&growth::all(place, mib, &mut panels)?);
    }
    if wanted("arrays") {
        text.push_str(
            "## A program's own arrays\n\n*staged*: until the arrays may change (`commit_async`); *2nd*: \
             one page in a hundred has changed; *restored*: into memory that is there, from the page cache.\n\n",
        );
        text.push_str(&arrays::costs(place, mib)?);
    }
    print!("{text}");
    if only.is_none() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        fs::write(docs.join("performance.md"), text.trim_end().to_owned() + "\n")?;
        fs::write(docs.join("performance.svg"), plot::svg(&panels))?;
    }
    Ok(())
}

/// The payloads that fit into this host, and what is left out.
fn sizes(mib: u64) -> (Vec<(&'static str, u64)>, Vec<String>) {
    let mut absent = Vec::new();
    if rivals::dmtcp().is_none() {
        absent.push("DMTCP: not found".to_owned());
    }
    absent.extend(rivals::criu().err().map(|why| why.to_string()));
    let mut payloads = Vec::new();
    for (kind, mib) in [("random", mib), ("mixed", mib), ("mixed", 4 * mib), ("random", 64)] {
        // Its copy and its images are in the page cache as well.
        if meminfo("MemAvailable") < 2.5 * (mib << 20) as f64 {
            absent.push(format!("{mib} MiB: too little memory"));
            continue;
        }
        payloads.push((kind, mib));
    }
    (payloads, absent)
}

fn compared(payload: &Payload<'_>) -> Result<String> {
    let (rows, failed) = rivals::all(payload)?;
    let failed: String = failed.iter().map(|why| format!("- {why}\n")).collect();
    let failed = if failed.is_empty() { failed } else { format!("Failed:\n\n{failed}\n") };
    Ok(format!("## {}\n\n{}{failed}", payload.title, table::rivals(&rows)))
}
