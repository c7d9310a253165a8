//! The loop around a running job, launched or restored: one thread, one poll.
//!
//! ```text
//! signalfd ───────▶ pass on, reap ─┐
//! memory behind ──▶ looked after ──┤                      (jobs that were restored lazily)
//! control socket ─▶ requests ──────┼─▶ checkpoint (blocks), status, kill
//! coordinator ────▶ its orders ────┤
//! the other half ─▶ its words ─────┤                      (jobs in containers)
//! interval, Slurm ▶ due? ──────────┘
//! stand-in's pipe ▶ the job's end (restored jobs)
//! ```
//!
//! A checkpoint does its own waiting for the job's processes on this thread, so nothing else may
//! happen meanwhile: what arrives is acted upon right after.

mod behind;
mod checkpoints;
mod ending;
mod halves;
mod merging;
mod orders;
mod slurm;

use std::path::PathBuf;
use std::time::Instant;

use ckpt_core::capture;
use ckpt_core::job::Job;
use ckpt_core::rebuild::Behind;
use ckpt_core::{Error, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::time::Timespec;

use crate::cli::Keeping;
use crate::container::inside::Inside;
use crate::control::place::Ownership;
use crate::control::protocol::Last;
use crate::control::server::{Reply, Server};
use crate::coordinator::peer::Peer;
use crate::engine::Engine;
use crate::pace::Pace;
use crate::root::{End, Root};
use crate::signals::{self, Arrived, Signals};
use crate::slurm::round::Round;
use crate::tree;
use crate::voice::Voice;
use crate::words;

use merging::Merging;

/// Everything that the loop is given.
#[derive(Debug)]
pub struct Supervisor<'a> {
    voice: &'a Voice,
    signals: Signals,
    /// Outside of a container there is none: the half inside has it.
    control: Option<(Ownership, Server)>,
    root: Root,
    behind: Option<Behind>,
    /// Why the job cannot have its memory.
    broken: Option<Error>,
    engine: Engine,
    job: Job,
    options: capture::Options,
    /// The newest generation is being made complete by itself.
    merging: Option<Merging>,
    /// The next checkpoint is to be complete by itself.
    full: bool,
    pace: Pace,
    due: Option<Instant>,
    since: u64,
    restored_from: Option<u64>,
    last: Option<Last>,
    last_failure: Option<String>,
    peer: Option<Peer>,
    /// Who waits for the coordinator's answer to a request for a checkpoint.
    asked: Vec<Reply>,
    /// Whether the half inside waits for that answer, too.
    inside_asked: bool,
    dmtcp_names: bool,
    round: Option<Round<'a>>,
    /// The half outside of our container.
    inside: Option<Inside>,
    /// Since when the first of many tasks has been without its coordinator.
    alone_since: Option<Instant>,
}

/// A job that has just begun to run, as [`Supervisor::new`] takes it over.
#[derive(Debug)]
pub struct Begun<'a> {
    /// The job.
    pub job: Job,
    /// What takes its checkpoints.
    pub engine: Engine,
    /// Its first process.
    pub root: Root,
    /// The memory that it still lacks.
    pub behind: Option<Behind>,
    /// The image it was restored from.
    pub from: Option<Last>,
    /// The coordinator that it has joined.
    pub peer: Option<Peer>,
    /// Images get a name in DMTCP's manner beside their own.
    pub dmtcp_names: bool,
    /// The round of a Slurm job that this is.
    pub round: Option<Round<'a>>,
    /// The half outside of our container.
    pub inside: Option<Inside>,
}

impl<'a> Supervisor<'a> {
    /// Takes over a job that runs, with its checkpoints in `dir`.
    pub fn new(
        voice: &'a Voice,
        signals: Signals,
        control: Option<(Ownership, Server)>,
        begun: Begun<'a>,
        keeping: &Keeping,
        dir: PathBuf,
    ) -> Self {
        let pace = keeping.pace(begun.round.as_ref());
        // Those of a job in a container are the outside half's affair.
        let interval = pace.interval().filter(|_| begun.inside.is_none());
        Self {
            voice,
            signals,
            control,
            root: begun.root,
            behind: begun.behind,
            broken: None,
            engine: begun.engine,
            job: begun.job,
            options: keeping.options(&dir),
            merging: None,
            full: false,
            pace,
            due: interval.and_then(|interval| Instant::now().checked_add(interval)),
            since: words::unix_now(),
            restored_from: begun.from.as_ref().map(|last| last.generation),
            last: begun.from,
            last_failure: None,
            peer: begun.peer,
            asked: Vec::new(),
            inside_asked: false,
            dmtcp_names: begun.dmtcp_names,
            round: begun.round,
            inside: begun.inside,
            alone_since: None,
        }
    }

    /// Stays with the job until its first process ends; gives the exit status.
    pub fn run(mut self) -> u8 {
        let end = loop {
            while let Some(signal) = self.signals.next() {
                self.signal(signal);
            }
            if let Some(end) = self.filled() {
                break end;
            }
            if let Some(end) = self.reap() {
                break end;
            }
            if let Some(end) = self.other_half() {
                break end;
            }
            if let Some(end) = self.requests() {
                break end;
            }
            if let Some(end) = self.orders() {
                break end;
            }
            if let Some(end) = self.turn() {
                break end;
            }
            if self.due.is_some_and(|due| due <= Instant::now()) {
                // With a coordinator, the interval is its affair.
                if self.round.as_ref().is_some_and(|round| !round.is_sound()) {
                    self.schedule(Instant::now())
                } else if self.is_led() || self.is_one_of_many() {
                    self.ask_for_all();
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
        self.leave_whole();
        self.finish(&end)
    }

    /// Sleeps until something happens.
    fn wait(&self) -> Result<()> {
        if self.has_unheard_words() {
            return Ok(());
        }
        let peer = self.peer.as_ref().and_then(Peer::due);
        let slurm = self.round.as_ref().and_then(Round::due);
        let due = [self.due, peer, slurm].into_iter().flatten().min();
        let timeout = due.map(|due| due.saturating_duration_since(Instant::now()));
        // A duration that doesn't fit is as good as for ever.
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        fds.extend(self.root.poll_fd().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        let peer = self.peer.as_ref().and_then(Peer::poll_fd);
        fds.extend(peer.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        let served = self.control.iter().flat_map(|(_, server)| server.poll_fds());
        let inside = self.inside.as_ref().and_then(Inside::poll_fd);
        let outside = match &self.engine {
            Engine::Contained(outside) => outside.poll_fd(),
            _ => None,
        };
        let behind = self.behind.as_ref().and_then(Behind::poll_fd);
        let others = served.chain(inside).chain(outside).chain(behind);
        fds.extend(others.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(Error::os("cannot wait for events", error)),
        }
    }

    fn signal(&mut self, signal: Arrived) {
        let number = signal.number;
        if number == libc::SIGCHLD {
            return;
        }
        let name = signals::name(number);
        tracing::debug!(name, ?signal.sender, signal.from_kernel, "signal");
        let out_of_reach = self.root.out_of_reach();
        let contained = matches!(&self.engine, Engine::Contained(it) if !it.shares_terminal());
        if signal.from_kernel && contained {
            self.deliver(number);
        } else if signal.from_kernel {
            // The terminal's: our process group has got it, the payload in it as well.
            for pid in out_of_reach {
                self.pass(pid, number);
            }
        } else if number == libc::SIGCONT && !matches!(self.engine, Engine::Contained(_)) {
            self.resume(&out_of_reach);
        } else if signal.sender.is_none_or(|sender| !self.is_of_the_job(sender))
            // Slurm's TERM is for the payload, too, and may not reach it in a container.
            && (!self.round.as_mut().is_some_and(|round| round.hears(number))
                || contained && number == libc::SIGTERM)
        {
            self.deliver(number);
        }
        if number == libc::SIGTSTP {
            self.signals.stop_ourselves();
        }
    }

    /// "fg" wakes our whole group; who is woken already must not hear of it twice.
    fn resume(&self, out_of_reach: &[i32]) {
        let root = self.root.pid();
        // A traced one stands in a stop of its tracer's.
        let stops = if self.behind.is_some() { &b"Tt"[..] } else { b"T" };
        if tree::stat(root).is_some_and(|stat| stops.contains(&stat.state))
            && !out_of_reach.contains(&root)
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
}
