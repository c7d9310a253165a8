//! The supervisor of a job that is a round of a Slurm job: does what the round says.

use std::time::{Duration, Instant};

use ckpt_core::capture::{Alone, Options};
use ckpt_core::rebuild::Behind;
use ckpt_core::{Error, ErrorKind};

use super::Supervisor;
use crate::coordinator::peer::Peer;
use crate::coordinator::wire::Command;
use crate::root::{End, Stop};
use crate::slurm::linger::linger;
use crate::slurm::round::{Round, Turn};

/// A coordinator that is gone for so long does not come back.
const ALONE: Duration = Duration::from_secs(60);

impl Supervisor<'_> {
    /// Does what is due; the job's end if that is it.
    pub(super) fn turn(&mut self) -> Option<End> {
        let lost = self.has_lost_the_others();
        let (round, parent) = (self.round.as_mut()?, self.job.parent);
        let engine = std::cell::RefCell::new(&mut self.engine);
        // What still has to come has to be saved as well.
        let later = self.behind.as_ref().map_or(0, Behind::bytes);
        let turn = match lost {
            true => round.is_alone(self.job.generation),
            false => {
                round.turn(self.job.generation, &|| engine.borrow_mut().resident(parent) + later)
            }
        };
        match turn {
            Turn::Nothing => None,
            Turn::Last { stop } => self.last_checkpoint(stop),
            Turn::End => {
                self.kill_all();
                Some(End::Stopped(Stop::Killed))
            }
        }
    }

    fn last_checkpoint(&mut self, stop: bool) -> Option<End> {
        if self.is_led() {
            self.ask_for_the_last(stop);
            return None;
        }
        if let Some(round) = self.round.as_mut().filter(|round| round.is_one_of_many()) {
            let what = "there is no coordinator at the moment";
            round.failed(Error::new(ErrorKind::Gone, what));
            return None;
        }
        let options = Options { stop, ..self.options.clone() };
        let taken = self.taken(&options, &Alone, &mut []);
        let round = self.round.as_mut()?;
        match taken {
            Ok(_) => round.is_saved(),
            Err(error) => {
                round.failed(error);
                return None;
            }
        }
        self.schedule(Instant::now());
        stop.then(|| {
            self.kill_all();
            End::Stopped(Stop::Checkpointed)
        })
    }

    /// Whether the first task has been without coordinator for so long that there will be none again.
    fn has_lost_the_others(&mut self) -> bool {
        let many = self.round.as_ref().is_some_and(|it| it.is_one_of_many() && it.leads());
        if !many || self.is_led() {
            self.alone_since = None;
            return false;
        }
        let since = *self.alone_since.get_or_insert_with(Instant::now);
        // No more than once: what follows is the end.
        since.elapsed() >= ALONE && self.round.as_ref().is_some_and(Round::is_sound)
    }

    /// Asks the coordinator; its order follows, or the next attempt.
    fn ask_for_the_last(&mut self, stop: bool) {
        let command = if stop { Command::CheckpointAndKill } else { Command::CheckpointAndWait };
        let what = "the tasks have come to no checkpoint together";
        if let (Some(peer), Some(round)) = (&mut self.peer, &mut self.round) {
            peer.ask(command);
            round.failed(Error::new(ErrorKind::Busy, what));
        }
    }

    /// The end of a round; gives the exit status if it is not the payload's own. The first task stays
    /// for those that still run.
    pub(super) fn leaves(&self, mut round: Round<'_>, end: &End, generation: u64) -> Option<u8> {
        let by_itself = matches!(end, End::Exited(_) | End::Killed(_));
        if let Some(peer) = &self.peer
            && by_itself
            && round.leads()
            && round.is_one_of_many()
            && round.has_finished(end)
        {
            let (address, signals) = (peer.address(), &self.signals);
            let (others, generation) = linger(&mut round, address, signals, &|| true, generation);
            return round.over(others.as_ref().unwrap_or(end), generation, signals);
        }
        round.over(end, generation, &self.signals)
    }

    /// The first of several launchers asks for all of them.
    pub(super) fn ask_for_all(&mut self) {
        if self.round.as_ref().is_some_and(Round::leads)
            && let Some(peer) = self.peer.as_mut().filter(|peer| Peer::is_connected(peer))
        {
            peer.ask(Command::Checkpoint);
        }
    }
}
