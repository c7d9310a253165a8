//! A generation of several jobs in the making: who has come how far, and what follows from it.
//! It knows no sockets and no clock.

use std::collections::BTreeMap;

use super::wire::{Failure, Stage};

/// One attempt at a generation.
#[derive(Debug)]
pub struct Round {
    /// Its number, by which late words of an earlier one are told.
    pub number: u64,
    /// The generation it makes.
    pub generation: u64,
    /// What all must reach next.
    pub next: Stage,
    /// How far each peer is.
    members: BTreeMap<u64, Option<Stage>>,
    /// How many of them have not reached `next`.
    behind: usize,
    /// Where the images are.
    pub images: BTreeMap<u64, String>,
}

/// What follows from a peer's word.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    /// Others are still on their way.
    Wait,
    /// All are there: they may go on.
    Go(Stage),
    /// All images are published, and have all their names.
    Done,
    /// It is given up.
    Failed(Failure),
}

impl Round {
    /// Begins a round of these peers.
    pub fn new(number: u64, generation: u64, peers: impl Iterator<Item = u64>) -> Self {
        let members: BTreeMap<_, _> = peers.map(|peer| (peer, None)).collect();
        Self {
            number,
            generation,
            next: Stage::Frozen,
            behind: members.len(),
            members,
            images: BTreeMap::new(),
        }
    }

    /// Who takes part.
    pub fn members(&self) -> impl Iterator<Item = u64> + '_ {
        self.members.keys().copied()
    }

    /// How far a peer is; `None` if it does not take part.
    pub fn stage(&self, peer: u64) -> Option<Option<Stage>> {
        self.members.get(&peer).copied()
    }

    /// A peer has reached a stage.
    pub fn reached(&mut self, peer: u64, stage: Stage, image: Option<String>) -> Turn {
        if let Some(member) = self.members.get_mut(&peer) {
            let before = *member;
            *member = before.max(Some(stage));
            let next = Some(self.next);
            self.behind -= usize::from(before < next && *member >= next);
            self.images.extend(image.map(|image| (peer, image)));
        }
        self.turn()
    }

    /// A peer's job has ended by itself. One that had not stopped yet is not missed.
    pub fn left(&mut self, peer: u64) -> Turn {
        match self.members.remove(&peer) {
            None => Turn::Wait,
            Some(Some(_)) => Turn::Failed(Failure {
                code: 75,
                message: format!("peer {peer} ended in the middle of the checkpoint"),
            }),
            Some(None) if self.members.is_empty() => Turn::Failed(Failure {
                code: 75,
                message: "the last job ended before the checkpoint".into(),
            }),
            Some(None) => {
                self.behind -= 1;
                self.turn()
            }
        }
    }

    /// A peer cannot be heard any more.
    pub fn lost(&mut self, peer: u64, name: &str) -> Turn {
        match self.members.remove(&peer) {
            None => Turn::Wait,
            Some(_) => Turn::Failed(Failure {
                code: 75,
                message: format!("peer {peer} ({name}) vanished in the middle of the checkpoint"),
            }),
        }
    }

    fn turn(&mut self) -> Turn {
        let at = self.next;
        if self.behind > 0 {
            return Turn::Wait;
        }
        self.next = match at {
            Stage::Frozen => Stage::Captured,
            Stage::Captured => Stage::Durable,
            Stage::Durable => Stage::Published,
            Stage::Published => Stage::Named,
            Stage::Named => return Turn::Done,
        };
        self.behind = self.members.values().filter(|stage| **stage < Some(self.next)).count();
        Turn::Go(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_goes_on_before_all_are_there() {
        let mut round = Round::new(1, 5, [1, 2].into_iter());
        for stage in [Stage::Frozen, Stage::Captured, Stage::Durable, Stage::Published] {
            let image = |name: &str| (stage == Stage::Published).then(|| name.to_owned());
            assert_eq!(round.reached(1, stage, image("a")), Turn::Wait);
            assert_eq!(round.reached(1, stage, image("a")), Turn::Wait, "said twice");
            assert_eq!(round.reached(7, stage, image("x")), Turn::Wait, "a stranger");
            assert_eq!(round.reached(2, stage, image("b")), Turn::Go(stage));
        }
        assert_eq!(round.reached(2, Stage::Named, None), Turn::Wait);
        assert_eq!(round.reached(1, Stage::Named, None), Turn::Done);
        assert_eq!(round.images.into_values().collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn one_that_is_lost_fails_it_for_all_in_every_phase() {
        for stage in [None, Some(Stage::Frozen), Some(Stage::Captured), Some(Stage::Durable)] {
            let mut round = Round::new(1, 1, [1, 2].into_iter());
            stage.map(|stage| round.reached(1, stage, None));
            assert!(matches!(round.lost(1, "x"), Turn::Failed(_)), "{stage:?}");
        }
    }

    #[test]
    fn one_that_ends_before_it_stood_is_not_missed() {
        let mut round = Round::new(1, 1, [1, 2].into_iter());
        assert_eq!(round.reached(1, Stage::Frozen, None), Turn::Wait);
        assert_eq!(round.left(2), Turn::Go(Stage::Frozen));
        assert!(matches!(round.left(1), Turn::Failed(_)));
        let mut alone = Round::new(2, 1, [1].into_iter());
        assert!(matches!(alone.left(1), Turn::Failed(_)));
    }
}
