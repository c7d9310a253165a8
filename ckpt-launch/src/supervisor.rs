//! The loop around a running job, launched or restored: one thread, one poll.
//!
//! ```text
//! signalfd ───────▶ pass on, reap ─┐
//! control socket ─▶ requests ──────┼─▶ checkpoint (blocks), status, kill
//! interval ───────▶ due? ──────────┘
//! stand-in's pipe ▶ the job's end (restored jobs)
//! ```
//!
//! A checkpoint does its own waiting for the job's processes on this thread, so nothing else may
//! happen meanwhile: what arrives is acted upon right after.

use std::time::{Duration, Instant};

use ckpt_core::job::Job;
use ckpt_core::{Error, ErrorKind, Result, capture};
use rustix::event::{PollFd, PollFlags};
use rustix::time::Timespec;

use crate::control::place::Ownership;
use crate::control::protocol::{Event, Last, Status, VERSION, Verb};
use crate::control::server::{Call, Reply, Server};
use crate::root::{End, Root};
use crate::signals::{self, Arrived, Signals};
use crate::tree;
use crate::voice::{Relay, Voice};
use crate::words;

/// Everything that the loop is given.
#[derive(Debug)]
pub struct Supervisor<'a> {
    voice: &'a Voice,
    signals: Signals,
    ownership: Ownership,
    server: Server,
    root: Root,
    job: Job,
    options: capture::Options,
    interval: Option<Duration>,
    due: Option<Instant>,
    since: u64,
    restored_from: Option<u64>,
    last: Option<Last>,
    last_failure: Option<String>,
}

/// A job that has just begun to run, as [`Supervisor::new`] takes it over.
#[derive(Debug)]
pub struct Begun {
    /// The job.
    pub job: Job,
    /// Its first process.
    pub root: Root,
    /// The image it was restored from.
    pub from: Option<Last>,
}

impl<'a> Supervisor<'a> {
    /// Takes over a job that runs.
    pub fn new(
        voice: &'a Voice,
        signals: Signals,
        (ownership, server): (Ownership, Server),
        begun: Begun,
        options: capture::Options,
        interval: Option<Duration>,
    ) -> Self {
        Self {
            voice,
            signals,
            ownership,
            server,
            root: begun.root,
            job: begun.job,
            options,
            interval,
            due: interval.and_then(|interval| Instant::now().checked_add(interval)),
            since: words::unix_now(),
            restored_from: begun.from.as_ref().map(|last| last.generation),
            last: begun.from,
            last_failure: None,
        }
    }

    /// Stays with the job until its first process ends; gives the exit status.
    pub fn run(mut self) -> u8 {
        let end = loop {
            while let Some(signal) = self.signals.next() {
                self.signal(signal);
            }
            if let Some(end) = self.root.reap() {
                break end;
            }
            if let Some(end) = self.requests() {
                break end;
            }
            if self.due.is_some_and(|due| due <= Instant::now()) {
                self.checkpoint(&mut []);
                // What came meanwhile goes first.
                continue;
            }
            if let Err(error) = self.wait() {
                break End::Lost(error);
            }
        };
        self.finish(&end)
    }

    /// Sleeps until something happens.
    fn wait(&self) -> Result<()> {
        let timeout = self.due.map(|due| due.saturating_duration_since(Instant::now()));
        // A duration that doesn't fit is as good as for ever.
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        fds.extend(self.root.poll_fd().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        fds.extend(self.server.poll_fds().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(Error::os("cannot wait for events", error)),
        }
    }

    fn signal(&self, signal: Arrived) {
        let number = signal.number;
        if number == libc::SIGCHLD {
            return;
        }
        let name = signals::name(number);
        tracing::debug!(name, ?signal.sender, signal.from_kernel, "signal");
        let out_of_reach = self.root.out_of_reach();
        if signal.from_kernel {
            // The terminal's: our process group has got it, the payload in it as well.
            for pid in out_of_reach {
                self.pass(pid, number);
            }
        } else if number == libc::SIGCONT {
            self.resume(&out_of_reach);
        } else if signal.sender.is_none_or(|sender| !self.is_of_the_job(sender)) {
            self.root.signal(number);
        }
        if number == libc::SIGTSTP {
            self.signals.stop_ourselves();
        }
    }

    /// "fg" wakes our whole group; who is woken already must not hear of it twice.
    fn resume(&self, out_of_reach: &[i32]) {
        let root = self.root.pid();
        if tree::stat(root).is_some_and(|stat| stat.state == b'T') && !out_of_reach.contains(&root)
        {
            self.root.signal(libc::SIGCONT);
        }
        for &pid in out_of_reach {
            self.pass(pid, libc::SIGCONT);
        }
    }

    fn pass(&self, pid: i32, number: i32) {
        if let Err(error) = crate::os::kill(pid, number) {
            tracing::debug!(pid, number, %error, "signal not passed on");
        }
    }

    /// Whether a signal comes from the job itself, as with `kill 0` in a script.
    fn is_of_the_job(&self, sender: i32) -> bool {
        tree::descends_from(sender, std::process::id().cast_signed())
    }

    /// Answers those who ask; the job's end if they asked for that.
    fn requests(&mut self) -> Option<End> {
        let mut waiting = Vec::new();
        for Call { verb, mut reply } in self.calls() {
            match verb {
                Verb::Checkpoint => waiting.push(reply),
                Verb::Status => reply.send(&Event::Status(Box::new(self.status()))),
                Verb::Kill => {
                    let (processes, end) = self.root.kill_all();
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
        let end = self.root.reap();
        match &end {
            Some(end) => answer_too_late(&mut waiting, end),
            None => self.checkpoint(&mut waiting),
        }
        end
    }

    fn calls(&mut self) -> Vec<Call> {
        let hello = Event::Hello {
            version: VERSION,
            job: self.job.id.to_string(),
            name: self.job.name.clone(),
            incarnation: self.ownership.incarnation().to_owned(),
            generation: self.job.generation,
        };
        let voice = self.voice;
        let refused = |uid, pid| {
            voice.warn(format_args!(
                "refused user {uid} (process {pid}), who wanted to control this job"
            ));
        };
        self.server.service(&hello, &mut { refused })
    }

    /// Takes a checkpoint; whatever comes of it, the job runs on.
    fn checkpoint(&mut self, replies: &mut [Reply]) {
        let begun = Instant::now();
        let result = {
            let relay = Relay::new(self.voice, "checkpoint", replies);
            capture::checkpoint(&mut self.job, &self.options, &relay)
        };
        let answer = match result {
            Ok(report) => {
                self.voice.checkpoint(&report);
                self.last_failure = None;
                self.last = Some(Last {
                    generation: report.generation,
                    at: words::unix_now(),
                    path: report.path.to_string_lossy().into_owned(),
                    bytes_stored: report.bytes_stored,
                    frozen_s: Some(report.frozen.as_secs_f64()),
                    total_s: Some(report.total.as_secs_f64()),
                });
                Event::checkpoint(&report)
            }
            Err(error) => {
                self.voice.warn(format_args!("no checkpoint: {error}; the job runs on"));
                self.last_failure = Some(error.to_string());
                Event::failed(&error)
            }
        };
        replies.iter_mut().for_each(|reply| reply.send(&answer));
        self.due = self.interval.and_then(|interval| {
            let now = Instant::now();
            // Every so often, but never one right after the other.
            begun.checked_add(interval).filter(|&due| due > now).or(now.checked_add(interval))
        });
    }

    fn status(&self) -> Status {
        let state = match tree::stat(self.root.pid()).map(|stat| stat.state) {
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
            last: self.last.clone(),
            last_failure: self.last_failure.clone(),
            interval_s: self.interval.map(|interval| interval.as_secs_f64()),
            next_s: self.due.map(|due| due.saturating_duration_since(Instant::now()).as_secs_f64()),
        }
    }

    /// The job has ended: tells those who wait, and gives the exit status.
    fn finish(mut self, end: &End) -> u8 {
        // Who connects only now is told so instead of being greeted.
        let late = Event::failed(&too_late(end));
        let calls = self.server.service(&late, &mut |_, _| {});
        answer_too_late(&mut calls.into_iter().map(|call| call.reply).collect::<Vec<_>>(), end);
        let code = end.exit_code();
        let ended = |signal| Event::Ended { code, signal };
        match end {
            End::Lost(error) => return self.voice.fail(error),
            End::Exited(_) => self.voice.event(&ended(None)),
            // As a shell, which leaves these two unmentioned.
            End::Killed(signal @ (libc::SIGINT | libc::SIGPIPE)) => {
                self.voice.event(&ended(Some(*signal)));
            }
            End::Killed(signal) => {
                let (name, number) = (&self.job.name, signals::name(*signal));
                self.voice
                    .say(&ended(Some(*signal)), format_args!("{name} was killed by {number}"));
            }
        }
        code
    }
}

fn answer_too_late(waiting: &mut [Reply], end: &End) {
    let error = too_late(end);
    waiting.iter_mut().for_each(|reply| reply.fail(&error));
}

fn too_late(end: &End) -> Error {
    let how = match end {
        End::Exited(status) => format!("exited with status {status}"),
        End::Killed(signal) => format!("was killed by {}", signals::name(*signal)),
        End::Lost(error) => error.to_string(),
    };
    Error::new(ErrorKind::Gone, format!("the job has ended: its first process {how}"))
}
