//! What others ask of the supervisor: `ckpt` over the control socket, and the coordinator.

use std::time::Instant;

use ckpt_core::capture;
use ckpt_core::{Error, ErrorKind};

use super::Supervisor;
use super::ending::answer_too_late;
use crate::control::protocol::{Event, VERSION, Verb, kind_of};
use crate::control::server::Call;
use crate::coordinator::peer::Peer;
use crate::coordinator::wire::{Answer, Command, Down};
use crate::root::{End, Stop};
use crate::slurm::round::Round;

impl Supervisor<'_> {
    /// Answers those who ask; the job's end if they asked for that.
    pub(super) fn requests(&mut self) -> Option<End> {
        let mut waiting = Vec::new();
        for Call { verb, mut reply } in self.calls() {
            match verb {
                Verb::Checkpoint => waiting.push(reply),
                Verb::FullCheckpoint => {
                    self.full = true;
                    waiting.push(reply);
                }
                Verb::Status => reply.send(&Event::Status(Box::new(self.status()))),
                Verb::Kill => {
                    let (processes, end) = self.kill_all();
                    tracing::info!(processes, "killed on request");
                    reply.send(&Event::Killed { processes });
                    answer_too_late(&mut waiting, &end);
                    return Some(end);
                }
            }
        }
        if waiting.is_empty() {
            return None;
        }
        // The payload may have ended since we looked.
        let end = self.reap();
        let one_of_many = self.is_one_of_many();
        match (&end, &mut self.peer) {
            (Some(end), _) => answer_too_late(&mut waiting, end),
            (None, _) if self.inside.is_some() => self.ask_outside(waiting),
            (None, Some(peer)) if peer.is_connected() => {
                peer.ask(Command::CheckpointAndWait);
                self.asked.append(&mut waiting);
            }
            (None, _) if one_of_many => {
                let what = "the coordinator of the tasks is gone, and none goes on alone";
                let error = Error::new(ErrorKind::Busy, what);
                waiting.iter_mut().for_each(|reply| reply.fail(&error));
            }
            (None, _) => self.checkpoint(&mut waiting),
        }
        end
    }

    /// Whether a generation is one only if all tasks of a step have it.
    pub(super) fn is_one_of_many(&self) -> bool {
        self.round.as_ref().is_some_and(Round::is_one_of_many)
    }

    pub(super) fn is_led(&self) -> bool {
        self.peer.as_ref().is_some_and(Peer::is_connected)
    }

    /// Does what the coordinator says; the job's end if that is it.
    pub(super) fn orders(&mut self) -> Option<End> {
        // More may have been heard while the last was being done.
        while let Some(word) = self.peer.as_mut().and_then(Peer::listen) {
            if let Some(end) = self.order(word) {
                return Some(end);
            }
        }
        let decides = self.inside.is_none() && !self.is_one_of_many();
        let waiting = !self.asked.is_empty() || self.inside_asked;
        if waiting && !self.is_led() && decides {
            self.inside_asked = false;
            let mut alone = std::mem::take(&mut self.asked);
            self.checkpoint(&mut alone);
        }
        None
    }

    pub(super) fn order(&mut self, word: Down) -> Option<End> {
        match word {
            Down::Census => {
                let processes = self.engine.processes(self.job.parent);
                if let Some(peer) = &mut self.peer {
                    peer.count(processes);
                }
            }
            Down::Checkpoint { round, generation, stop } => {
                return self.take_part(round, generation, stop);
            }
            Down::Answer(answer) => self.answered(&answer),
            Down::Kill { checkpointed } => {
                // One that has ended by itself needs no killing.
                let end = self.reap().unwrap_or_else(|| {
                    let (processes, _) = self.kill_all();
                    tracing::info!(processes, "killed by the coordinator");
                    End::Stopped(if checkpointed { Stop::Checkpointed } else { Stop::Killed })
                });
                return Some(end);
            }
            _ => {}
        }
        None
    }

    /// Takes a checkpoint in step with the coordinator's other peers; the job's end if it is its last.
    fn take_part(&mut self, round: u64, generation: u64, stop: bool) -> Option<End> {
        let mut peer = self.peer.take()?;
        let begun = Instant::now();
        let options = capture::Options { generation, stop, ..self.options.clone() };
        let name = self.image_names();
        let taken = self.taken(&options, &peer.gate(round, &name), &mut []);
        let mut end = None;
        match &taken {
            Ok(report) => match &report.alone {
                None => {
                    self.name_image(&report.path);
                    peer.named(round);
                    if let Some(round) = &mut self.round {
                        round.is_saved();
                    }
                    if stop {
                        self.kill_all();
                        peer.wait_for_the_end();
                        end = Some(End::Stopped(Stop::Checkpointed));
                    }
                }
                Some(why) => self.voice.warn(format_args!("not all have this one: {why}")),
            },
            Err(error) => peer.failed(round, error),
        }
        self.peer = Some(peer);
        self.schedule(begun);
        end
    }

    pub(super) fn answered(&mut self, answer: &Answer) {
        self.inside_asked = false;
        if let (Some(failure), Some(outside)) = (&answer.failure, self.engine.outside()) {
            outside.refuse(&Error::new(kind_of(failure.code), failure.message.clone()));
        }
        let event = match (&answer.failure, &self.last) {
            (Some(failure), _) => {
                Event::failed(&Error::new(kind_of(failure.code), failure.message.clone()))
            }
            (None, Some(last)) if answer.done => Event::of_last(last),
            _ => Event::failed(&Error::new(ErrorKind::Busy, "another checkpoint is going on")),
        };
        std::mem::take(&mut self.asked).iter_mut().for_each(|reply| reply.send(&event));
    }

    pub(super) fn calls(&mut self) -> Vec<Call> {
        let Some((ownership, server)) = &mut self.control else { return Vec::new() };
        let hello = Event::Hello {
            version: VERSION,
            job: self.job.id.to_string(),
            name: self.job.name.clone(),
            incarnation: ownership.incarnation().to_owned(),
            generation: self.job.generation,
        };
        let voice = self.voice;
        let refused = |uid, pid| {
            voice.warn(format_args!(
                "refused user {uid} (process {pid}), who wanted to control this job"
            ));
        };
        server.service(&hello, &mut { refused })
    }
}
