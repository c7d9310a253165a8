//! Several processes, each with its part of a field, that save a version together without a word between them, and
//! may go on as another number of processes.
//!
//! ```text
//! ranks DIR RANK RANKS STEPS [EVERY]
//! ```
//!
//! At the end each writes its part, one number a line.

use std::ops::Range;

use ckpt_core::regions::{Options, Store, Version};
use ckpt_core::{Error, ErrorKind, Result};

const CELLS: u64 = 240_000;

/// The cells of a rank.
fn part(rank: u32, ranks: u32) -> Range<u64> {
    let at = |rank: u32| CELLS * u64::from(rank) / u64::from(ranks);
    at(rank)..at(rank + 1)
}

/// These cells, whichever ranks have saved them.
fn gathered(version: &Version, cells: Range<u64>) -> Result<Vec<f64>> {
    let mut field = vec![0.0; (cells.end - cells.start) as usize];
    for rank in 0..version.ranks() {
        let theirs = part(rank, version.ranks());
        let (start, end) = (theirs.start.max(cells.start), theirs.end.min(cells.end));
        if start < end {
            let into = &mut field[(start - cells.start) as usize..(end - cells.start) as usize];
            version.rank(rank)?.read_part("field", start - theirs.start, into)?;
        }
    }
    Ok(field)
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let usage = || Error::new(ErrorKind::Usage, "ranks DIR RANK RANKS STEPS [EVERY]");
    let number = |index: usize| words.get(index).and_then(|word| word.parse::<u64>().ok());
    let rank = |index: usize| number(index).and_then(|it| u32::try_from(it).ok()).ok_or_else(usage);
    let (rank, ranks, steps) = (rank(1)?, rank(2)?, number(3).ok_or_else(usage)?);
    let every = number(4).unwrap_or(10).max(1);

    let options = Options { rank, ranks, ..Options::default() };
    let mut store = Store::open(words.first().ok_or_else(usage)?, "ranks", options)?;
    let cells = part(rank, ranks);
    let mut field: Vec<f64> = cells.clone().map(|cell| cell as f64 / CELLS as f64).collect();
    let mut step = 0u64;
    let restored = store.restore(|version| {
        field = gathered(version, cells.clone())?;
        step = version.rank(0)?.value("step")?;
        Ok(())
    })?;
    if let Some(restored) = restored {
        eprintln!("goes on from version {}", restored.version);
    }
    while step < steps {
        field.iter_mut().for_each(|x| *x = 3.7 * *x * (1.0 - *x));
        step += 1;
        if step.is_multiple_of(every) {
            let mut next = store.begin(step)?;
            next.add("field", &field)?.add_value("step", step)?;
            next.commit()?;
            eprintln!("version {step}");
        }
    }
    let lines: Vec<String> = field.iter().map(|x| format!("{:016x}\n", x.to_bits())).collect();
    print!("{}", lines.concat());
    Ok(())
}
