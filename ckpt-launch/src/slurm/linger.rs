//! The first of several tasks speaks to Slurm for all. When its own payload has ended and others have
//! not, it stays until they have, or the round is over.

use std::time::{Duration, Instant};

use ckpt_core::{Error, ErrorKind};
use rustix::event::{PollFd, PollFlags};
use rustix::time::Timespec;

use super::round::{Round, Turn};
use crate::coordinator::client;
use crate::coordinator::place::Address;
use crate::coordinator::wire::Command;
use crate::root::{End, Stop};
use crate::signals::Signals;

/// How often it is looked whether the others still run.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How long the others may take to come.
const ARRIVAL: Duration = Duration::from_secs(120);

/// Stays; gives how the others' round was ended, or nothing if their payloads have ended, too; and the
/// newest generation that they have. Those that have not come yet are waited for, unless they `ended`.
pub fn linger(
    round: &mut Round<'_>,
    address: &Address,
    signals: &Signals,
    ended: &dyn Fn() -> bool,
    mut generation: u64,
) -> (Option<End>, u64) {
    let mut come = false;
    let (mut asked, late) = (false, Instant::now() + ARRIVAL);
    loop {
        while let Some(signal) = signals.next() {
            if !signal.from_kernel && signal.number != libc::SIGCHLD {
                round.hears(signal.number);
            }
        }
        let answer = client::ask(address, Command::Status).ok();
        let answer = answer.filter(|answer| answer.processes > 0);
        come |= answer.is_some() || Instant::now() >= late;
        come = come || ended();
        if come && answer.is_none() {
            return (asked.then_some(End::Stopped(Stop::Checkpointed)), generation);
        }
        generation = answer.map_or(0, |answer| answer.generation).max(generation);
        match round.turn(generation, &|| 0) {
            Turn::Nothing => {}
            Turn::Last { stop } => {
                let command =
                    if stop { Command::CheckpointAndKill } else { Command::CheckpointAndWait };
                match client::ask(address, command) {
                    Ok(answer) if answer.done && answer.failure.is_none() => {
                        asked |= stop;
                        if !stop {
                            round.is_saved();
                        }
                    }
                    _ => {}
                }
                let what = "the tasks have come to no checkpoint together";
                round.failed(Error::new(ErrorKind::Busy, what));
            }
            Turn::End => return (Some(End::Stopped(Stop::Killed)), generation),
        }
        let mut ready = [PollFd::new(signals, PollFlags::IN)];
        let time = Timespec::try_from(LOOK_EVERY).ok();
        // Whatever it says, the next look follows.
        let _ = rustix::event::poll(&mut ready, time.as_ref());
    }
}
