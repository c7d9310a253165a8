//! The two halves of a launcher with a job in a container: what the one says, the other does.

use ckpt_core::capture::Options;
use ckpt_core::{Error, ErrorKind};
use std::time::Instant;

use super::Supervisor;
use crate::container::inside::{Inside, refusal};
use crate::container::outside::Heard;
use crate::container::wire::{ToInside, ToOutside};
use crate::control::protocol::Event;
use crate::control::server::Reply;
use crate::coordinator::wire::Command;
use crate::engine::Engine;
use crate::root::{End, Stop};

impl Supervisor<'_> {
    /// Does what the other half says; the job's end if that is it.
    pub(super) fn other_half(&mut self) -> Option<End> {
        self.inside_says();
        self.outside_says()
    }

    /// Whether words of the other half have been read on the way to another one.
    pub(super) fn has_unheard_words(&self) -> bool {
        let from_outside = self.inside.as_ref().is_some_and(Inside::has_words);
        from_outside || matches!(&self.engine, Engine::Contained(outside) if outside.is_waiting())
    }

    /// The job's end, if it has come.
    pub(super) fn reap(&mut self) -> Option<End> {
        let end = self.root.reap(self.behind.is_none());
        match self.engine.outside() {
            Some(outside) => outside.settle(end),
            None => end,
        }
    }

    /// Kills all of the job, and reaps it.
    pub(super) fn kill_all(&mut self) -> (usize, End) {
        match self.engine.outside() {
            Some(outside) => (1, outside.kill()),
            None => {
                self.behind = None;
                self.root.kill_all()
            }
        }
    }

    /// Passes a signal on to the payload.
    pub(super) fn deliver(&mut self, number: i32) {
        match self.engine.outside() {
            Some(outside) => outside.signal(number),
            None => self.root.signal(number),
        }
    }

    /// Outside: what the half inside has to say.
    fn inside_says(&mut self) {
        while let Some(heard) = self.engine.outside().and_then(|outside| outside.listen()) {
            match heard {
                Heard::Runs { name, generation } => {
                    self.job.name = name;
                    self.job.generation = self.job.generation.max(generation);
                    if let Some(peer) = &mut self.peer {
                        peer.runs_as(self.job.root);
                    }
                    self.schedule(Instant::now());
                }
                Heard::Asked => self.asked_from_inside(),
            }
        }
    }

    /// Outside: somebody inside wants a checkpoint.
    fn asked_from_inside(&mut self) {
        let one_of_many = self.is_one_of_many();
        match &mut self.peer {
            Some(peer) if peer.is_connected() => {
                peer.ask(Command::CheckpointAndWait);
                self.inside_asked = true;
            }
            _ if one_of_many => {
                let what = "the coordinator of the tasks is gone, and none goes on alone";
                let error = Error::new(ErrorKind::Busy, what);
                if let Some(outside) = self.engine.outside() {
                    outside.refuse(&error);
                }
            }
            _ => {
                self.checkpoint(&mut []);
                // Who has heard of the failure inside has been answered.
                if let Some(failure) = self.last_failure.clone()
                    && let Some(outside) = self.engine.outside()
                {
                    outside.refuse(&Error::new(ErrorKind::Gone, failure));
                }
            }
        }
    }

    /// Inside: has the outside half decide on a request.
    pub(super) fn ask_outside(&mut self, waiting: Vec<Reply>) {
        self.asked.extend(waiting);
        if let Some(inside) = &mut self.inside {
            inside.line().say(&ToOutside::Asked);
        }
    }

    /// Inside: what the half outside has to say.
    fn outside_says(&mut self) -> Option<End> {
        while let Some(word) = self.inside.as_mut().and_then(|inside| inside.line().hear()) {
            match word {
                ToInside::Checkpoint { generation, stop } => {
                    if let Some(end) = self.checkpoint_for_outside(generation, stop) {
                        return Some(end);
                    }
                }
                ToInside::GiveUp { code, message } => {
                    let error = Event::failed(&refusal(code, &message));
                    std::mem::take(&mut self.asked).iter_mut().for_each(|it| it.send(&error));
                }
                ToInside::Signal { number } => self.root.signal(number),
                ToInside::Kill => {
                    let (processes, _) = self.kill_all();
                    tracing::info!(processes, "killed by the launcher outside");
                    return Some(End::Stopped(Stop::Killed));
                }
                ToInside::Census => {
                    let parent = self.job.parent;
                    self.inside.as_mut()?.census(parent);
                }
                other => tracing::debug!(?other, "a word out of place"),
            }
        }
        self.outside_is_gone()
    }

    /// Inside: takes a checkpoint, step by step with the outside; the job's end if it is its last.
    fn checkpoint_for_outside(&mut self, generation: u64, stop: bool) -> Option<End> {
        let mut inside = self.inside.take()?;
        let options = Options { generation, stop, ..self.options.clone() };
        let mut asked = std::mem::take(&mut self.asked);
        let taken = self.taken(&options, &inside.gate(), &mut asked);
        let answer = match &taken {
            Ok(report) => Event::checkpoint(report),
            Err(error) => Event::failed(error),
        };
        asked.iter_mut().for_each(|reply| reply.send(&answer));
        inside.answer(&taken);
        self.inside = Some(inside);
        let ends = stop && taken.is_ok_and(|report| report.alone.is_none());
        ends.then(|| {
            self.kill_all();
            End::Stopped(Stop::Checkpointed)
        })
    }

    /// Inside: what becomes of the job when the launcher outside has died.
    fn outside_is_gone(&mut self) -> Option<End> {
        let inside = self.inside.take_if(|inside| !inside.line().is_open())?;
        self.voice.warn("the launcher outside of the container is gone");
        if inside.welcome().ends_with_us {
            self.kill_all();
            return Some(End::Stopped(Stop::Killed));
        }
        self.schedule(Instant::now());
        let mut asked = std::mem::take(&mut self.asked);
        if !asked.is_empty() {
            self.checkpoint(&mut asked);
        }
        None
    }
}
