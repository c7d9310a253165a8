//! The coordinator counts processes: it asks all peers, and answers who wanted to know.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::{Coordinator, Peer};
use crate::coordinator::wire::{Command, Down, Process, Worker};

/// How long a census may take; who has not answered then is counted as before.
const CENSUS: Duration = Duration::from_secs(2);
/// Processes are being counted for somebody.
#[derive(Debug)]
pub(super) struct Census {
    pub(super) missing: BTreeSet<u64>,
    pub(super) until: Instant,
    pub(super) waiting: Vec<(u64, Command)>,
}

impl Coordinator {
    /// Asks all peers for their processes; in a round, when they cannot answer, the last count
    /// serves.
    pub(super) fn count(&mut self, number: u64, command: Command) {
        if self.round.is_some() || self.peers.is_empty() {
            return self.answer_with_list(number, command);
        }
        match &mut self.census {
            Some(census) => census.waiting.push((number, command)),
            None => {
                let (missing, until) = (self.all_peers(), Instant::now() + CENSUS);
                self.say_to_all(missing.clone(), &Down::Census);
                let missing = missing.into_iter().collect();
                self.census = Some(Census { missing, until, waiting: vec![(number, command)] });
            }
        }
    }

    pub(super) fn counted(&mut self, number: u64, processes: Vec<Process>) {
        if let Some(peer) = self.peers.get_mut(&number)
            && !processes.is_empty()
        {
            peer.processes = processes;
        }
        if let Some(census) = &mut self.census {
            census.missing.remove(&number);
            if census.missing.is_empty() {
                self.end_census();
            }
        }
    }

    pub(super) fn end_census(&mut self) {
        let waiting = self.census.take().map(|census| census.waiting);
        for (number, command) in waiting.unwrap_or_default() {
            self.answer_with_list(number, command);
        }
    }

    pub(super) fn answer_with_list(&mut self, number: u64, command: Command) {
        let mut answer = self.answer(true);
        if command == Command::List {
            answer.workers = self.workers();
        }
        self.say(number, &Down::Answer(answer));
    }

    pub(super) fn workers(&self) -> Vec<Worker> {
        let of_peer = |(&number, peer): (&u64, &Peer)| {
            let stage = self.round.as_ref().and_then(|(round, _)| round.stage(number)).flatten();
            let (host, job) = (peer.joined.host.clone(), peer.joined.job.clone());
            let worker = move |process: &Process| Worker {
                peer: number,
                host: host.clone(),
                process: process.clone(),
                stage,
                job: job.clone(),
            };
            peer.processes.iter().map(worker).collect::<Vec<_>>()
        };
        self.peers.iter().flat_map(of_peer).collect()
    }
}
