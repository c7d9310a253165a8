//! Particles that split and vanish: arrays that grow and shrink, in the care of [`Regions`]. Killed at any moment,
//! the program goes on from its newest checkpoint when it is started again, and ends with the same last bit.
//!
//! ```text
//! particles DIR STEPS [EVERY]
//! ```

use std::time::Duration;

use ckpt_core::program::Policy;
use ckpt_core::regions::{Handle, Options, Regions, Store};
use ckpt_core::{Error, ErrorKind, Result};

/// What is computed; all of it is saved.
struct Particles {
    regions: Regions,
    place: Handle<Vec<[f64; 3]>>,
    speed: Handle<Vec<[f64; 3]>>,
    chance: Handle<u64>,
    step: Handle<u64>,
}

impl Particles {
    fn new() -> Result<Self> {
        let mut regions = Regions::new();
        let place = regions.protect("place", vec![[0.5; 3]; 2000])?;
        let speed = regions.protect("speed", vec![[0.25, 0.5, 0.75]; 2000])?;
        let (chance, step) =
            (regions.protect_value("chance", 1)?, regions.protect_value("step", 0)?);
        Ok(Self { regions, place, speed, chance, step })
    }

    fn chance(&mut self) -> u64 {
        let x = &mut self.regions[self.chance];
        *x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *x >> 33
    }

    fn advance(&mut self) {
        let mut index = 0;
        while index < self.regions[self.place].len() {
            let (chance, place, speed) = (self.chance(), self.place, self.speed);
            match chance % 1000 {
                // It splits in two.
                0..10 => {
                    let (at, v) = (self.regions[place][index], self.regions[speed][index]);
                    self.regions[place].push(at);
                    self.regions[speed].push(v.map(|part| 0.5 - part));
                }
                10..20 if self.regions[place].len() > 1 => {
                    self.regions[place].swap_remove(index);
                    self.regions[speed].swap_remove(index);
                    continue;
                }
                _ => {}
            }
            for axis in 0..3 {
                let moved =
                    self.regions[place][index][axis] + 1e-3 * self.regions[speed][index][axis];
                self.regions[place][index][axis] = moved - moved.floor();
            }
            index += 1;
        }
        self.regions[self.step] += 1;
    }
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let usage = || Error::new(ErrorKind::Usage, "particles DIR STEPS [EVERY]");
    let number = |index: usize| words.get(index).and_then(|word| word.parse::<u64>().ok());
    let steps = number(1).ok_or_else(usage)?;
    let every = number(2).unwrap_or(50).max(1);

    let mut particles = Particles::new()?;
    let mut store = Store::open(words.first().ok_or_else(usage)?, "particles", Options::default())?;
    if let Some(restored) = particles.regions.restore(&mut store)? {
        let count = particles.regions[particles.place].len();
        eprintln!("goes on from version {} with {count} particles", restored.version);
    }
    // Besides, when Slurm is about to end the job.
    let mut policy = Policy::new().before_end(Duration::from_secs(60));
    while particles.regions[particles.step] < steps {
        particles.advance();
        let step = particles.regions[particles.step];
        if step.is_multiple_of(every) || policy.should_checkpoint().is_some() {
            // The copy is written meanwhile.
            let pending = particles.regions.save_async(&mut store, step)?;
            eprintln!("version {step} with {} particles", particles.regions[particles.place].len());
            drop(pending);
        }
    }
    let parts = particles.regions[particles.place].iter().flatten();
    let sum = parts.fold(0u64, |sum, part| sum.rotate_left(5) ^ part.to_bits());
    println!("{} {sum:016x}", particles.regions[particles.place].len());
    Ok(())
}
