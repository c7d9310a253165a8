//! A command's side: asks the coordinator and waits for its answer.

use std::time::{Duration, Instant};

use ckpt_core::{Error, ErrorKind, Result};

use super::place::Address;
use super::wire::{Answer, Command, Down, Up};

/// An answer that is no checkpoint comes within this time.
const SOON: Duration = Duration::from_secs(20);
/// A checkpoint may take as long as this.
const LATE: Duration = Duration::from_secs(24 * 3600);

/// Asks, and waits: with [`Command::CheckpointAndWait`] until all images are durable.
///
/// # Errors
///
/// [`ErrorKind::NotFound`]: there is no coordinator; [`ErrorKind::Gone`]: it ended before it
/// answered.
pub fn ask(address: &Address, command: Command) -> Result<Answer> {
    let mut channel = address.connect()?;
    let gone = |e| {
        let what = format!("the coordinator at {address} ended before it answered");
        Error::new(ErrorKind::Gone, what).source(e)
    };
    channel.send(&Up::Ask { command }).map_err(gone)?;
    let patience = if command == Command::CheckpointAndWait { LATE } else { SOON };
    let deadline = Instant::now() + patience;
    loop {
        if let Down::Answer(answer) = channel.receive(deadline).map_err(gone)? {
            return Ok(answer);
        }
    }
}
