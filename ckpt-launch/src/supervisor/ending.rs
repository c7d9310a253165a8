//! How a job is doing, and how it has ended.

use std::time::Instant;

use ckpt_core::{Error, ErrorKind};

use super::Supervisor;
use crate::control::protocol::{Event, Status};
use crate::control::server::Reply;
use crate::root::{End, Stop};
use crate::signals;
use crate::tree;

impl Supervisor<'_> {
    pub(super) fn status(&self) -> Status {
        let state = match tree::stat(self.root.pid()).map(|stat| stat.state) {
            // Before each of its system calls it stands for a moment.
            Some(b't') if self.behind.is_some() => "running",
            Some(b'T' | b't') => "stopped",
            Some(b'Z' | b'X') | None => "ended",
            Some(_) => "running",
        };
        Status {
            job: self.job.id.to_string(),
            name: self.job.name.clone(),
            pid: self.root.pid(),
            state: state.to_owned(),
            supervisor: std::process::id(),
            dir: self.options.dir.to_string_lossy().into_owned(),
            since: self.since,
            generation: self.job.generation,
            restored_from: self.restored_from,
            checkpoints: self.job.history.checkpoints,
            restarts: self.job.history.restarts,
            processes: tree::descendants(self.job.parent).len(),
            last: self.last.clone(),
            last_failure: self.last_failure.clone(),
            interval_s: self.pace.interval().map(|interval| interval.as_secs_f64()),
            next_s: self.due.map(|due| due.saturating_duration_since(Instant::now()).as_secs_f64()),
        }
    }

    /// The job has ended: tells those who wait, and gives the exit status.
    pub(super) fn finish(mut self, end: &End) -> u8 {
        // Who connects only now is told so instead of being greeted.
        let late = Event::failed(&too_late(end));
        if let Some((_, server)) = &mut self.control {
            let calls = server.service(&late, &mut |_, _| {});
            answer_too_late(&mut calls.into_iter().map(|call| call.reply).collect::<Vec<_>>(), end);
        }
        answer_too_late(&mut std::mem::take(&mut self.asked), end);
        if let Some(inside) = &mut self.inside {
            inside.ended(end);
        }
        if let Some(peer) = &mut self.peer {
            peer.leave();
        }
        // What has come along with the end may tell why.
        while let Some(signal) = self.signals.next() {
            self.signal(signal);
        }
        let (generation, in_slurm) = (self.job.generation, self.round.is_some());
        let was_told = self.round.as_ref().is_some_and(|round| !round.is_sound());
        let code = self.round.take().and_then(|round| self.leaves(round, end, generation));
        let code = code.unwrap_or(end.exit_code());
        let ended = |signal| Event::Ended { code, signal };
        match end {
            End::Lost(_) if was_told => self.voice.event(&ended(None)),
            End::Lost(error) => return self.voice.fail(error),
            End::NotBegun(code) => return *code,
            // The half that has ordered it says so.
            End::Stopped(_) if self.inside.is_some() => self.voice.event(&ended(None)),
            // Its round has said it in its own words.
            End::Stopped(_) if in_slurm => self.voice.event(&ended(None)),
            End::Stopped(stop) => {
                let how = match stop {
                    Stop::Checkpointed => "stopped on request, after a checkpoint",
                    Stop::Killed => "stopped on request",
                };
                self.voice.say(&ended(None), format_args!("{} was {how}", self.job.name));
            }
            End::Exited(_) => self.voice.event(&ended(None)),
            // As a shell, which leaves these two unmentioned.
            End::Killed(signal @ (libc::SIGINT | libc::SIGPIPE)) => {
                self.voice.event(&ended(Some(*signal)));
            }
            // The other half has said it.
            End::Killed(_) if self.engine.outside().is_some() => {}
            End::Killed(signal) => {
                let (name, number) = (&self.job.name, signals::name(*signal));
                self.voice
                    .say(&ended(Some(*signal)), format_args!("{name} was killed by {number}"));
            }
        }
        code
    }
}

pub(super) fn answer_too_late(waiting: &mut [Reply], end: &End) {
    let error = too_late(end);
    waiting.iter_mut().for_each(|reply| reply.fail(&error));
}

pub(super) fn too_late(end: &End) -> Error {
    let how = match end {
        End::Exited(status) => format!("exited with status {status}"),
        End::Killed(signal) => format!("was killed by {}", signals::name(*signal)),
        End::Stopped(_) => "was stopped on request".to_owned(),
        End::Lost(error) => error.to_string(),
        End::NotBegun(_) => "was not begun".to_owned(),
    };
    Error::new(ErrorKind::Gone, format!("the job has ended: its first process {how}"))
}
