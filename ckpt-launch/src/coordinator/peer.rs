//! A launcher's side: joins, answers, keeps step with the others in a round, and looks for a new
//! coordinator when its own has died.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ckpt_core::capture::{Gate, Step};
use ckpt_core::{Error, ErrorKind, Result};

use super::channel::Channel;
use super::place::Address;
use super::wire::{Command, Down, Joining, Process, Stage, Up};

/// A coordinator from which nothing was heard for so long, in a round, is given up.
const SILENCE: Duration = Duration::from_secs(20);
/// How long the search for a new coordinator pauses, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// How long the welcome may take.
const WELCOME: Duration = Duration::from_secs(10);

/// The bond with a coordinator.
#[derive(Debug)]
pub struct Peer {
    address: Address,
    channel: Option<Channel>,
    joining: Joining,
    /// What was heard in a round and is not about it.
    heard: VecDeque<Down>,
    next_try: Instant,
    pause: Duration,
    /// The coordinator's interval, seconds.
    pub interval: u64,
}

impl Peer {
    /// Joins the coordinator at this address.
    ///
    /// # Errors
    ///
    /// Those of [`Address::connect`], or it does not welcome us.
    pub fn join(address: Address, joining: Joining) -> Result<Self> {
        match Self::seek(address, joining) {
            (this, None) => Ok(this),
            (_, Some(error)) => Err(error),
        }
    }

    /// Joins it as soon as it can be reached: a job that runs already is not given up for one that
    /// is not there. Says why it could not be joined at once.
    pub fn seek(address: Address, joining: Joining) -> (Self, Option<Error>) {
        let (next_try, pause) = (Instant::now() + PAUSES.0, PAUSES.0);
        let heard = VecDeque::new();
        let mut this =
            Self { address, channel: None, joining, heard, next_try, pause, interval: 0 };
        let trouble = this.connect().err();
        (this, trouble)
    }

    fn connect(&mut self) -> Result<()> {
        let mut channel = self.address.connect()?;
        let failed = |e| Error::os(format!("cannot join the coordinator at {}", self.address), e);
        channel.send(&Up::Join(self.joining.clone())).map_err(failed)?;
        let deadline = Instant::now() + WELCOME;
        loop {
            match channel.receive(deadline).map_err(failed)? {
                Down::Welcome { computation, interval, .. } => {
                    self.joining.computation = Some(computation);
                    self.interval = interval;
                    break;
                }
                other => self.heard.push_back(other),
            }
        }
        (self.channel, self.pause) = (Some(channel), PAUSES.0);
        Ok(())
    }

    /// The job's first process has this PID, on this host.
    pub fn runs_as(&mut self, pid: i32) {
        self.joining.pid = pid;
    }

    /// Where the coordinator is.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The computation that the job is part of.
    pub fn computation(&self) -> Option<&str> {
        self.joining.computation.as_deref()
    }

    /// Whether there is a coordinator at the moment.
    pub fn is_connected(&self) -> bool {
        self.channel.is_some()
    }

    /// What is to be polled for input.
    pub fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        self.channel.as_ref().map(|channel| channel.stream().as_fd())
    }

    /// When a look is due though nothing was heard.
    pub fn due(&self) -> Option<Instant> {
        self.channel.is_none().then_some(self.next_try)
    }

    /// The next thing that the coordinator has said. If it is gone, it is looked for now and then.
    ///
    /// One at a time: what follows a [`Down::Checkpoint`] is for [`Self::gate`] to hear, as it may be
    /// the end of that round.
    pub fn listen(&mut self) -> Option<Down> {
        if self.channel.is_none() && self.next_try <= Instant::now() {
            self.search();
        }
        if let Some(word) = self.heard.pop_front() {
            return Some(word);
        }
        let channel = self.channel.as_mut()?;
        let result = channel.flush().and_then(|()| channel.fill());
        match (channel.message(), result) {
            // The end, if it has come, is seen again when all words are.
            (Ok(Some(word)), _) => return Some(word),
            (Ok(None), Ok(())) => {}
            (Err(error), _) | (_, Err(error)) => self.lose(&error),
        }
        None
    }

    fn search(&mut self) {
        match self.connect() {
            Ok(()) => tracing::warn!(address = %self.address, "joined the coordinator again"),
            Err(error) => {
                tracing::debug!(%error, "no coordinator yet");
                self.next_try = Instant::now() + self.pause;
                self.pause = (self.pause * 2).min(PAUSES.1);
            }
        }
    }

    fn lose(&mut self, error: &io::Error) {
        tracing::warn!(address = %self.address, %error, "the coordinator is gone; the job runs on");
        self.channel = None;
        (self.pause, self.next_try) = (PAUSES.0, Instant::now());
    }

    fn say(&mut self, word: &Up) {
        if let Some(channel) = &mut self.channel
            && let Err(error) = channel.send(word)
        {
            self.lose(&error);
        }
    }

    /// Asks on behalf of somebody; the answer is one of the words of [`Self::listen`].
    pub fn ask(&mut self, command: Command) {
        self.say(&Up::Ask { command });
    }

    /// Answers a census.
    pub fn count(&mut self, processes: Vec<Process>) {
        self.say(&Up::Census { processes });
    }

    /// The image of a round is published; waits until all are.
    fn published(&mut self, round: u64, generation: u64, image: String) -> Result<()> {
        self.joining.generation = generation;
        self.say(&Up::Reached { round, step: Stage::Published, image: Some(image) });
        self.wait_for(round, Stage::Published)
    }

    /// The image has its other name.
    pub fn named(&mut self, round: u64) {
        self.say(&Up::Reached { round, step: Stage::Named, image: None });
    }

    /// The round has failed here.
    pub fn failed(&mut self, round: u64, error: &Error) {
        let (code, message) = (error.kind().exit_code(), error.to_string());
        self.say(&Up::Failed { round, code, message });
    }

    /// A checkpoint was taken alone.
    pub fn taken(&mut self, generation: u64) {
        self.joining.generation = generation;
    }

    /// The job has ended.
    pub fn leave(&mut self) {
        self.say(&Up::Leave);
        if let Some(channel) = &mut self.channel {
            let _ = channel.flush();
        }
    }

    /// The gate of a round. `name` gives the name by which scripts know an image.
    pub fn gate<'a>(&'a mut self, round: u64, name: &'a ImageName<'a>) -> RoundGate<'a> {
        RoundGate { peer: Mutex::new(self), round, name }
    }

    /// The job was stopped with a round that is over here: waits until it is over for all, or nobody
    /// can be heard any more. A peer that leaves before would spoil it.
    pub fn wait_for_the_end(&mut self) {
        let deadline = Instant::now() + SILENCE;
        while let Some(channel) = &mut self.channel {
            match channel.receive(deadline) {
                Ok(Down::Kill { .. }) => return,
                Ok(_) => {}
                Err(error) => self.lose(&error),
            }
        }
    }

    fn pass(&mut self, round: u64, stage: Stage) -> Result<()> {
        self.say(&Up::Reached { round, step: stage, image: None });
        self.wait_for(round, stage)
    }

    fn wait_for(&mut self, round: u64, stage: Stage) -> Result<()> {
        let gone =
            |why: &str| Error::new(ErrorKind::Busy, format!("the generation was given up: {why}"));
        loop {
            let Some(channel) = &mut self.channel else {
                return Err(gone("the coordinator is gone"));
            };
            // It says something every second.
            match channel.receive(Instant::now() + SILENCE) {
                Ok(Down::Go { round: r, step }) if (r, step) == (round, stage) => return Ok(()),
                Ok(Down::Abort { round: r, why }) if r == round => return Err(gone(&why)),
                Ok(Down::Ping | Down::Go { .. } | Down::Abort { .. }) => {}
                Ok(word @ Down::Kill { .. }) => {
                    self.heard.push_back(word);
                    return Err(gone("the jobs are to end"));
                }
                Ok(word) => self.heard.push_back(word),
                Err(error) => {
                    self.lose(&error);
                    return Err(gone("the coordinator is gone"));
                }
            }
        }
    }
}

/// The name by which scripts know the image at a path.
pub type ImageName<'a> = dyn Fn(&Path) -> PathBuf + Sync + 'a;

/// Holds a checkpoint in step with the round.
pub struct RoundGate<'a> {
    peer: Mutex<&'a mut Peer>,
    round: u64,
    name: &'a ImageName<'a>,
}

impl Gate for RoundGate<'_> {
    fn pass(&self, step: Step) -> Result<()> {
        let mut peer = self.peer.lock().unwrap_or_else(PoisonError::into_inner);
        peer.pass(self.round, step.into())
    }

    fn published(&self, generation: u64, image: &Path) -> Result<()> {
        let mut peer = self.peer.lock().unwrap_or_else(PoisonError::into_inner);
        let name = (self.name)(image).to_string_lossy().into_owned();
        peer.published(self.round, generation, name)
    }
}
