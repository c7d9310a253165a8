//! A computation of several threads that takes checkpoints of itself as a whole. Killed, it is brought back by
//! `ckpt-restore DIR`, and ends with the same last bit.
//!
//! ```text
//! itself DIR STEPS [EVERY]
//! ```
//!
//! Takes a checkpoint every so many steps, and writes the result at the end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

use ckpt_core::program::{Moment, Options, Outcome, hook};
use ckpt_core::{Error, ErrorKind, Result, checkpoint_self, defer};

const THREADS: u64 = 4;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let usage = || Error::new(ErrorKind::Usage, "itself DIR STEPS [EVERY]");
    let number = |index: usize| words.get(index).and_then(|word| word.parse::<u64>().ok());
    let options = Options::new(words.first().ok_or_else(usage)?);
    let (steps, every) = (number(1).ok_or_else(usage)?, number(2).unwrap_or(100).max(1));

    let _closes = hook(Moment::Before, || eprintln!("about to be frozen"));
    let _opens = hook(Moment::Restarted, || eprintln!("brought back"));
    let sums: Arc<Vec<AtomicU64>> = Arc::new((0..THREADS).map(AtomicU64::new).collect());
    let barrier = Arc::new(Barrier::new(THREADS as usize + 1));
    for number in 0..THREADS {
        let (sums, barrier) = (Arc::clone(&sums), Arc::clone(&barrier));
        thread::spawn(move || {
            for step in 0..steps {
                let section = defer();
                let sum = &sums[number as usize];
                let next = churned(sum.load(Ordering::Relaxed) ^ step);
                sum.store(next, Ordering::Relaxed);
                drop(section);
                barrier.wait();
            }
        });
    }
    for step in 1..=steps {
        barrier.wait();
        if step.is_multiple_of(every) {
            match checkpoint_self(&options)? {
                Outcome::Resumed(taken) => eprintln!("generation {}", taken.generation),
                Outcome::Restarted => eprintln!("goes on after step {step}"),
            }
        }
    }
    let sum =
        sums.iter().fold(0, |sum: u64, part| sum.rotate_left(7) ^ part.load(Ordering::Relaxed));
    println!("{sum:016x}");
    Ok(())
}

/// Some work.
fn churned(mut x: u64) -> u64 {
    for _ in 0..20_000 {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        x ^= x >> 29;
    }
    x
}
