//! Checkpoints are taken, said, named, and the next one is put down for a time.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ckpt_core::capture::{self, Gate};
use ckpt_core::{ErrorKind, Result};

use super::Supervisor;
use super::merging::Merging;
use crate::control::protocol::{Event, Last};
use crate::control::server::Reply;
use crate::names::image;
use crate::slurm::fence::Fenced;
use crate::slurm::round::Round;
use crate::voice::Relay;
use crate::words;

impl Supervisor<'_> {
    /// The name by which scripts know an image.
    pub(super) fn image_names(&self) -> impl Fn(&Path) -> PathBuf + Sync + use<> {
        let job = self.dmtcp_names.then(|| self.job.clone());
        move |path| match &job {
            Some(job) => image::alias_of(path, job),
            None => path.to_path_buf(),
        }
    }

    /// Gives it that name.
    pub(super) fn name_image(&self, path: &Path) {
        if self.dmtcp_names
            && let Err(error) = image::alias(path, &self.job)
        {
            self.voice.warn(error);
        }
    }

    /// Takes a checkpoint; whatever comes of it, the job runs on.
    pub(super) fn checkpoint(&mut self, replies: &mut [Reply]) {
        let begun = Instant::now();
        let options = self.options.clone();
        let answer = match self.taken(&options, &capture::Alone, replies) {
            Ok(report) => {
                self.name_image(&report.path);
                if let Some(peer) = &mut self.peer {
                    peer.taken(report.generation);
                }
                Event::checkpoint(&report)
            }
            Err(error) => Event::failed(&error),
        };
        replies.iter_mut().for_each(|reply| reply.send(&answer));
        self.schedule(begun);
    }

    /// Takes it, and says so.
    pub(super) fn taken(
        &mut self,
        options: &capture::Options,
        gate: &dyn Gate,
        replies: &mut [Reply],
    ) -> Result<capture::Report> {
        self.all_is_there()?;
        if let Some(merged) = self.merging.take().and_then(Merging::end) {
            self.job.merged(&merged);
        }
        let full = std::mem::take(&mut self.full);
        let options = &capture::Options { full: full || options.full, ..options.clone() };
        let held = self.control.as_ref().map(|(ownership, _)| ownership.unhindered());
        let result = held.transpose().and_then(|_hold| {
            let relay = Relay::new(self.voice, "checkpoint", replies);
            let gate = Fenced { fence: self.round.as_ref().map(Round::fence), gate };
            self.engine.checkpoint(&mut self.job, options, &relay, &gate)
        });
        // What the half inside has said needs no saying twice.
        let contained = self.engine.outside().is_some();
        match &result {
            Ok(report) => {
                if !contained {
                    self.voice.checkpoint(report);
                }
                self.last_failure = None;
                self.pace.took(report.frozen, report.total);
                if report.needs >= options.increments.max(1) && !options.stop && !contained {
                    self.merging = Merging::begin(&report.path, self.job.id, options);
                }
                if let Some(round) = &mut self.round {
                    round.took(report.generation, report.total);
                }
                self.last = Some(Last {
                    generation: report.generation,
                    at: words::unix_now(),
                    path: report.path.to_string_lossy().into_owned(),
                    bytes_stored: report.bytes_stored,
                    frozen_s: Some(report.frozen.as_secs_f64()),
                    total_s: Some(report.total.as_secs_f64()),
                });
            }
            Err(error) => {
                if !contained || error.kind() == ErrorKind::Busy {
                    self.voice.warn(format_args!("no checkpoint: {error}; the job runs on"));
                }
                self.last_failure = Some(error.to_string());
            }
        }
        result
    }

    /// When the next one is due, after one that began at `begun`.
    pub(super) fn schedule(&mut self, begun: Instant) {
        if self.inside.is_some() {
            return;
        }
        let led = self.peer.as_ref().map(|peer| Duration::from_secs(peer.interval));
        let led = led.filter(|led| !led.is_zero());
        let own = self.peer.is_none() || self.round.as_ref().is_some_and(Round::leads);
        let interval = led.or_else(|| self.pace.interval().filter(|_| own));
        self.due = interval.and_then(|interval| {
            let now = Instant::now();
            // Every so often, but never one right after the other.
            begun.checked_add(interval).filter(|&due| due > now).or(now.checked_add(interval))
        });
    }
}
