//! The loop around a running job, launched or restored: one thread, one poll.
//!
//! ```text
//! signalfd ───────▶ pass on, reap ─┐
//! control socket ─▶ requests ──────┼─▶ checkpoint (blocks), status, kill
//! coordinator ────▶ its orders ────┤
//! interval ───────▶ due? ──────────┘
//! stand-in's pipe ▶ the job's end (restored jobs)
//! ```
//!
//! A checkpoint does its own waiting for the job's processes on this thread, so nothing else may
//! happen meanwhile: what arrives is acted upon right after.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ckpt_core::capture::{self, Gate};
use ckpt_core::job::Job;
use ckpt_core::{Error, ErrorKind, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::time::Timespec;

use crate::control::place::Ownership;
use crate::control::protocol::{Event, Last, Status, VERSION, Verb, kind_of};
use crate::control::server::{Call, Reply, Server};
use crate::coordinator::peer::Peer;
use crate::coordinator::wire::{Answer, Command, Down};
use crate::engine::Engine;
use crate::names::image;
use crate::root::{End, Root, Stop};
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
    engine: Engine,
    job: Job,
    options: capture::Options,
    interval: Option<Duration>,
    due: Option<Instant>,
    since: u64,
    restored_from: Option<u64>,
    last: Option<Last>,
    last_failure: Option<String>,
    peer: Option<Peer>,
    /// Who waits for the coordinator's answer to a request for a checkpoint.
    asked: Vec<Reply>,
    dmtcp_names: bool,
}

/// A job that has just begun to run, as [`Supervisor::new`] takes it over.
#[derive(Debug)]
pub struct Begun {
    /// The job.
    pub job: Job,
    /// What takes its checkpoints.
    pub engine: Engine,
    /// Its first process.
    pub root: Root,
    /// The image it was restored from.
    pub from: Option<Last>,
    /// The coordinator that it has joined.
    pub peer: Option<Peer>,
    /// Images get a name in DMTCP's manner beside their own.
    pub dmtcp_names: bool,
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
            engine: begun.engine,
            job: begun.job,
            options,
            interval,
            due: interval.and_then(|interval| Instant::now().checked_add(interval)),
            since: words::unix_now(),
            restored_from: begun.from.as_ref().map(|last| last.generation),
            last: begun.from,
            last_failure: None,
            peer: begun.peer,
            asked: Vec::new(),
            dmtcp_names: begun.dmtcp_names,
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
            if let Some(end) = self.orders() {
                break end;
            }
            if self.due.is_some_and(|due| due <= Instant::now()) {
                // With a coordinator, the interval is its affair.
                if self.is_led() {
                    self.schedule(Instant::now())
                } else {
                    self.checkpoint(&mut [])
                }
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
        let due = self.due.into_iter().chain(self.peer.as_ref().and_then(Peer::due)).min();
        let timeout = due.map(|due| due.saturating_duration_since(Instant::now()));
        // A duration that doesn't fit is as good as for ever.
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        fds.extend(self.root.poll_fd().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        let peer = self.peer.as_ref().and_then(Peer::poll_fd);
        fds.extend(peer.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
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
        match (&end, &mut self.peer) {
            (Some(end), _) => answer_too_late(&mut waiting, end),
            (None, Some(peer)) if peer.is_connected() => {
                peer.ask(Command::CheckpointAndWait);
                self.asked.append(&mut waiting);
            }
            (None, _) => self.checkpoint(&mut waiting),
        }
        end
    }

    fn is_led(&self) -> bool {
        self.peer.as_ref().is_some_and(Peer::is_connected)
    }

    /// Does what the coordinator says; the job's end if that is it.
    fn orders(&mut self) -> Option<End> {
        // More may have been heard while the last was being done.
        while let Some(word) = self.peer.as_mut().and_then(Peer::listen) {
            if let Some(end) = self.order(word) {
                return Some(end);
            }
        }
        if !self.asked.is_empty() && !self.is_led() {
            let mut alone = std::mem::take(&mut self.asked);
            self.checkpoint(&mut alone);
        }
        None
    }

    fn order(&mut self, word: Down) -> Option<End> {
        match word {
            Down::Census => {
                let processes = tree::processes(self.job.parent);
                if let Some(peer) = &mut self.peer {
                    peer.count(processes);
                }
            }
            Down::Checkpoint { round, generation } => self.take_part(round, generation),
            Down::Answer(answer) => self.answered(&answer),
            Down::Kill { checkpointed } => {
                // One that has ended by itself needs no killing.
                let end = self.root.reap().unwrap_or_else(|| {
                    let (processes, _) = self.root.kill_all();
                    tracing::info!(processes, "killed by the coordinator");
                    End::Stopped(if checkpointed { Stop::Checkpointed } else { Stop::Killed })
                });
                return Some(end);
            }
            _ => {}
        }
        None
    }

    /// Takes a checkpoint in step with the coordinator's other peers.
    fn take_part(&mut self, round: u64, generation: u64) {
        let Some(mut peer) = self.peer.take() else { return };
        let begun = Instant::now();
        let options = capture::Options { generation, ..self.options.clone() };
        let taken = self.taken(&options, &peer.gate(round), &mut []);
        match taken {
            Ok(report) => {
                let name = self.image_name(&report.path).to_string_lossy().into_owned();
                match peer.published(round, report.generation, name) {
                    Ok(()) => {
                        self.name_image(&report.path);
                        peer.named(round);
                    }
                    Err(error) => self.voice.warn(format_args!("not all have this one: {error}")),
                }
            }
            Err(error) => peer.failed(round, &error),
        }
        self.peer = Some(peer);
        self.schedule(begun);
    }

    fn answered(&mut self, answer: &Answer) {
        let event = match (&answer.failure, &self.last) {
            (Some(failure), _) => {
                Event::failed(&Error::new(kind_of(failure.code), failure.message.clone()))
            }
            (None, Some(last)) if answer.done => Event::of_last(last),
            _ => Event::failed(&Error::new(ErrorKind::Busy, "another checkpoint is going on")),
        };
        std::mem::take(&mut self.asked).iter_mut().for_each(|reply| reply.send(&event));
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

    /// The name by which scripts know an image.
    fn image_name(&self, path: &Path) -> PathBuf {
        if self.dmtcp_names { image::alias_of(path, &self.job) } else { path.to_path_buf() }
    }

    /// Gives it that name.
    fn name_image(&self, path: &Path) {
        if self.dmtcp_names
            && let Err(error) = image::alias(path, &self.job)
        {
            self.voice.warn(error);
        }
    }

    /// Takes a checkpoint; whatever comes of it, the job runs on.
    fn checkpoint(&mut self, replies: &mut [Reply]) {
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
    fn taken(
        &mut self,
        options: &capture::Options,
        gate: &dyn Gate,
        replies: &mut [Reply],
    ) -> Result<capture::Report> {
        let result = self.ownership.unhindered().and_then(|_hold| {
            let relay = Relay::new(self.voice, "checkpoint", replies);
            self.engine.checkpoint(&mut self.job, options, &relay, gate)
        });
        match &result {
            Ok(report) => {
                self.voice.checkpoint(report);
                self.last_failure = None;
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
                self.voice.warn(format_args!("no checkpoint: {error}; the job runs on"));
                self.last_failure = Some(error.to_string());
            }
        }
        result
    }

    /// When the next one is due, after one that began at `begun`.
    fn schedule(&mut self, begun: Instant) {
        let led = self.peer.as_ref().map(|peer| Duration::from_secs(peer.interval));
        let interval = led.map_or(self.interval, |led| (!led.is_zero()).then_some(led));
        self.due = interval.and_then(|interval| {
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
            checkpoints: self.job.history.checkpoints,
            restarts: self.job.history.restarts,
            processes: tree::descendants(self.job.parent).len(),
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
        if let Some(peer) = &mut self.peer {
            peer.leave();
        }
        let code = end.exit_code();
        let ended = |signal| Event::Ended { code, signal };
        match end {
            End::Lost(error) => return self.voice.fail(error),
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
        End::Stopped(_) => "was stopped on request".to_owned(),
        End::Lost(error) => error.to_string(),
    };
    Error::new(ErrorKind::Gone, format!("the job has ended: its first process {how}"))
}
