//! The coordinator leads a generation: begins rounds, passes words on between their peers, and gives
//! up what takes too long.

use std::time::{Duration, Instant};

use super::{Coordinator, Generation};
use crate::coordinator::round::{Round, Turn};
use crate::coordinator::wire::{Answer, Down, Failure, Stage};

/// How often peers that wait in a round hear that we live.
const PING: Duration = Duration::from_secs(1);
/// How long peers may take to freeze: more than each of them allows itself.
const FREEZE: Duration = Duration::from_secs(30);
/// How long the first to have captured stand still for the last.
const CAPTURE: Duration = Duration::from_secs(600);

impl Coordinator {
    /// Begins a round.
    pub(super) fn begin(&mut self) {
        self.rounds += 1;
        let newest = self.peers.values().map(|peer| peer.joined.generation).max();
        let generation = 1 + newest.unwrap_or_default().max(self.generation);
        let round = Round::new(self.rounds, generation, self.peers.keys().copied());
        let stop = self.kill_then || self.options.kill_after_ckpt;
        let word = Down::Checkpoint { round: round.number, generation, stop };
        let now = Instant::now();
        (self.round, self.ping) = (Some((round, now)), now + PING);
        self.say_to_all(self.all_peers(), &word);
    }

    pub(super) fn turn(&mut self, turn: Turn, published: &mut dyn FnMut(&Generation)) {
        let Some((round, _)) = &self.round else { return };
        match turn {
            Turn::Wait => {}
            Turn::Go(step) => {
                let (number, members) = (round.number, round.members().collect());
                self.say_to_all(members, &Down::Go { round: number, step });
                if let Some((_, since)) = &mut self.round {
                    *since = Instant::now();
                }
            }
            Turn::Done => {
                if let Some((round, _)) = self.round.take() {
                    self.done(&round, published);
                }
            }
            Turn::Failed(failure) => {
                if let Some((round, _)) = self.round.take() {
                    self.give_up(&round, failure);
                }
            }
        }
    }

    pub(super) fn done(&mut self, round: &Round, published: &mut dyn FnMut(&Generation)) {
        self.generation = round.generation;
        let mut images = Vec::new();
        for (number, image) in &round.images {
            if let Some(peer) = self.peers.get_mut(number) {
                peer.joined.generation = round.generation;
                images.push((peer.joined.host.clone(), image.clone()));
            }
        }
        let (computation, interval) = (self.computation.clone(), self.options.interval);
        published(&Generation { computation, generation: round.generation, images, interval });
        let (answer, waiting) = (self.answer(true), std::mem::take(&mut self.waiting));
        self.say_to_all(waiting, &Down::Answer(answer));
        if std::mem::take(&mut self.kill_then) || self.options.kill_after_ckpt {
            self.say_to_all(round.members().collect(), &Down::Kill { checkpointed: true });
        }
        self.schedule();
    }

    pub(super) fn give_up(&mut self, round: &Round, failure: Failure) {
        tracing::warn!(round = round.number, failure.message, "no checkpoint");
        let why = failure.message.clone();
        self.say_to_all(round.members().collect(), &Down::Abort { round: round.number, why });
        let answer = Answer { failure: Some(failure), ..self.answer(false) };
        let waiting = std::mem::take(&mut self.waiting);
        self.say_to_all(waiting, &Down::Answer(answer));
        self.kill_then = false;
        self.schedule();
    }

    pub(super) fn schedule(&mut self) {
        let interval = Duration::from_secs(self.options.interval);
        self.due = (!interval.is_zero()).then(|| Instant::now() + interval);
    }

    pub(super) fn timers(&mut self, published: &mut dyn FnMut(&Generation)) {
        let now = Instant::now();
        if let Some((round, since)) = &self.round {
            if limit(round.next, *since).is_some_and(|limit| limit <= now) {
                let late: Vec<String> = round
                    .members()
                    .filter(|&peer| round.stage(peer) < Some(Some(round.next)))
                    .map(|peer| format!("peer {peer} ({})", self.name(peer)))
                    .collect();
                let message = format!("{} did not come so far in time", late.join(", "));
                self.turn(Turn::Failed(Failure { code: 75, message }), published);
            } else if self.ping <= now {
                let members = round.members().collect();
                self.ping = now + PING;
                self.say_to_all(members, &Down::Ping);
            }
        }
        if self.census.as_ref().is_some_and(|census| census.until <= now) {
            self.end_census();
        }
        if self.round.is_none() && self.due.is_some_and(|due| due <= now) {
            let some = !self.peers.is_empty() && self.missing().is_none();
            if some { self.begin() } else { self.schedule() }
        }
    }
}

/// When a phase has taken too long: those in which jobs stand still.
pub(super) fn limit(next: Stage, since: Instant) -> Option<Instant> {
    match next {
        Stage::Frozen => Some(since + FREEZE),
        Stage::Captured => Some(since + CAPTURE),
        Stage::Durable | Stage::Published | Stage::Named => None,
    }
}
