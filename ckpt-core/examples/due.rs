//! Whether it is time for a checkpoint, as a program under Slurm may ask.
//!
//! ```text
//! due SECONDS
//! ```
//!
//! Says whether the job will end within so many seconds.

use std::time::Duration;

use ckpt_core::program::Policy;

fn main() {
    let margin = std::env::args().nth(1).and_then(|word| word.parse().ok()).unwrap_or(60);
    let mut policy = Policy::new().before_end(Duration::from_secs(margin));
    match policy.should_checkpoint() {
        Some(reason) => println!("{reason}"),
        None => println!("not yet"),
    }
}
