//! Heat that spreads along a rod. Killed at any moment, the program goes on from its newest checkpoint when
//! it is started again, and ends with the same last bit.
//!
//! ```text
//! heat DIR CELLS STEPS [EVERY]
//! ```
//!
//! Writes a checkpoint to DIR every so many steps, and at the end the sum of all temperatures' bits.

use std::env::args;

use ckpt_core::regions::{Options, Store};
use ckpt_core::{Error, ErrorKind, Result};

fn main() -> Result<()> {
    let words: Vec<String> = args().skip(1).collect();
    let usage = || Error::new(ErrorKind::Usage, "heat DIR CELLS STEPS [EVERY]");
    let number = |index: usize| words.get(index).and_then(|word| word.parse::<usize>().ok());
    let dir = words.first().ok_or_else(usage)?;
    let (cells, steps) = (number(1).ok_or_else(usage)?, number(2).ok_or_else(usage)?);
    let every = number(3).unwrap_or(100).max(1);

    let mut heat = vec![0.0f64; cells];
    let mut done = 0u64;
    let mut store = Store::open(dir, "heat", Options::default())?;
    let restored = store.restore(|version| {
        heat = version.read_vec("heat")?;
        done = version.value("done")?;
        Ok(())
    })?;
    match restored {
        Some(restored) => eprintln!("goes on from version {}", restored.version),
        None => heat.iter_mut().step_by(7).for_each(|cell| *cell = 100.0),
    }

    while (done as usize) < steps {
        heat = spread(&heat);
        done += 1;
        if (done as usize).is_multiple_of(every) {
            let mut next = store.begin(done)?;
            next.add("heat", &heat)?.add_value("done", done)?;
            next.commit()?;
            eprintln!("version {done}");
        }
    }
    let sum = heat.iter().fold(0u64, |sum, cell| sum.rotate_left(5) ^ cell.to_bits());
    println!("{sum:016x}");
    Ok(())
}

/// One step in time.
fn spread(heat: &[f64]) -> Vec<f64> {
    let at = |index: usize| heat.get(index).copied().unwrap_or_default();
    let next = |index: usize| {
        let (left, here, right) = (at(index.wrapping_sub(1)), at(index), at(index + 1));
        here + 0.25 * (left - 2.0 * here + right)
    };
    (0..heat.len()).map(next).collect()
}
