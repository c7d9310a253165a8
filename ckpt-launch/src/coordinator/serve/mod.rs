//! The coordinator's loop: one thread, one epoll, any number of peers. What a word costs does not
//! depend on how many others are there.

mod census;
mod events;
mod guests;
mod rounds;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ckpt_core::{Error, Result};

use super::place::{self, SocketFile};
use super::round::{Round, Turn};
use super::secret::{self, Secret};
use super::wire::{Answer, Command, Down, Failure, Joining, Process, Up};
use census::Census;
use events::{Events, LISTENERS};
use guests::{Guest, Heard};
use rounds::limit;

/// How long peers may take to end once they are told to.
const FAREWELL: Duration = Duration::from_secs(10);

/// How a coordinator behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Address to listen at.
    pub bind: IpAddr,
    /// Port; 0 for any.
    pub port: u16,
    /// Seconds between checkpoints; 0 for none.
    pub interval: u64,
    /// End when the last peer has gone, and nobody else is connected: whoever brings several peers
    /// keeps a connection open, so that one that is soon done does not take the coordinator along.
    pub exit_on_last: bool,
    /// Kill the jobs after each checkpoint.
    pub kill_after_ckpt: bool,
    /// End after so long, whatever happens.
    pub timeout: Option<Duration>,
    /// End after so long without peers.
    pub stale_timeout: Option<Duration>,
    /// The file of the secret.
    pub secret: PathBuf,
    /// So many launchers make a generation: none is begun without all that have not ended. 0: those
    /// that are there.
    pub peers: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 0,
            interval: 0,
            exit_on_last: false,
            kill_after_ckpt: false,
            timeout: None,
            stale_timeout: Some(Duration::from_secs(8 * 3600)),
            secret: secret::path(None),
            peers: 0,
        }
    }
}

/// A generation that all peers have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// The computation.
    pub computation: String,
    /// Its number.
    pub generation: u64,
    /// Host and image of each peer.
    pub images: Vec<(String, String)>,
    /// The coordinator's interval, seconds.
    pub interval: u64,
}

/// A launcher that has joined.
#[derive(Debug)]
struct Peer {
    joined: Joining,
    processes: Vec<Process>,
}

/// A coordinator that listens.
#[derive(Debug)]
pub struct Coordinator {
    options: Options,
    port: u16,
    tcp: TcpListener,
    local: Option<(OwnedFd, SocketFile)>,
    secret: Secret,
    events: Events,
    guests: BTreeMap<u64, Guest>,
    /// Guests that cannot be reached any more, and are to be lost.
    unreachable: Vec<u64>,
    peers: BTreeMap<u64, Peer>,
    /// The jobs that have joined at any time, and those whose launcher has vanished since.
    joined: BTreeSet<String>,
    lost: BTreeMap<String, String>,
    next: u64,
    computation: String,
    rounds: u64,
    round: Option<(Round, Instant)>,
    /// Who waits for the round's end, and whether the jobs are killed then.
    waiting: Vec<u64>,
    kill_then: bool,
    census: Option<Census>,
    generation: u64,
    due: Option<Instant>,
    ping: Instant,
    began: Instant,
    alone_since: Option<Instant>,
    had_peers: bool,
    quitting: Option<Instant>,
}

impl Coordinator {
    /// Listens. `listener` is one that somebody opened for us.
    ///
    /// # Errors
    ///
    /// The port is taken, or the secret cannot be had.
    pub fn new(options: Options, listener: Option<TcpListener>) -> Result<Self> {
        let tcp = match listener {
            Some(listener) => listener,
            None => place::listen(options.bind, options.port)?,
        };
        let failed = |e| Error::os("cannot listen", e);
        tcp.set_nonblocking(true).map_err(failed)?;
        let port = tcp.local_addr().map_err(failed)?.port();
        let local = place::listen_locally(port).map(|(fd, path)| (fd, SocketFile(path)));
        let events = Events::new().map_err(failed)?;
        events.add(&tcp, LISTENERS).map_err(failed)?;
        local.iter().try_for_each(|(fd, _)| events.add(fd, LISTENERS)).map_err(failed)?;
        let now = Instant::now();
        let mut this = Self {
            secret: Secret::of(&options.secret)?,
            events,
            unreachable: Vec::new(),
            options,
            port,
            tcp,
            local,
            guests: BTreeMap::new(),
            peers: BTreeMap::new(),
            joined: BTreeSet::new(),
            lost: BTreeMap::new(),
            next: LISTENERS + 1,
            computation: ckpt_core::job::JobId::random().to_string(),
            rounds: 0,
            round: None,
            waiting: Vec::new(),
            kill_then: false,
            census: None,
            generation: 0,
            due: None,
            ping: now,
            began: now,
            alone_since: Some(now),
            had_peers: false,
            quitting: None,
        };
        this.schedule();
        Ok(this)
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Serves until it is told to end, or nobody is left. `published` hears of each generation that
    /// all peers have.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to wait for events.
    pub fn run(mut self, published: &mut dyn FnMut(&Generation)) -> Result<()> {
        while !self.is_over() {
            for number in self.wait()? {
                match number {
                    LISTENERS => self.accept(),
                    guest => self.hear(guest, published),
                }
            }
            self.timers(published);
            while let Some(number) = self.unreachable.pop() {
                self.hear(number, published);
            }
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        let past = |since: Option<Instant>, limit: Option<Duration>| {
            since.zip(limit).is_some_and(|(since, limit)| since.elapsed() >= limit)
        };
        let quit = self.quitting.is_some() && self.peers.is_empty() && !self.has_output();
        quit || past(self.quitting, Some(FAREWELL))
            || past(Some(self.began), self.options.timeout)
            || past(self.alone_since, self.options.stale_timeout)
            || self.options.exit_on_last
                && self.had_peers
                && self.joined.len() >= self.options.peers
                && self.peers.is_empty()
                && !self.guests.values().any(Guest::is_known)
    }

    fn has_output(&self) -> bool {
        self.guests.values().any(|guest| guest.channel.has_output())
    }

    /// Sleeps until something happens; gives who has something to say.
    fn wait(&self) -> Result<Vec<u64>> {
        let now = Instant::now();
        let mut until = vec![];
        until.extend(self.round.as_ref().map(|_| self.ping));
        until.extend(self.round.as_ref().and_then(|(round, since)| limit(round.next, *since)));
        until.extend(self.census.as_ref().map(|census| census.until));
        until.extend(self.due.filter(|_| self.round.is_none()));
        until.extend(self.options.timeout.map(|limit| self.began + limit));
        until.extend(self.alone_since.zip(self.options.stale_timeout).map(|(at, most)| at + most));
        until.extend(self.quitting.map(|since| since + FAREWELL));
        let left = until.iter().min().map(|at| at.saturating_duration_since(now));
        self.events.wait(left).map_err(|e| Error::os("cannot wait for events", e))
    }

    fn accept(&mut self) {
        while let Some(stream) = events::accepted(&self.tcp) {
            self.admit(Guest::far(stream.into()));
        }
        while let Some(stream) = self.local.as_ref().and_then(|(fd, _)| events::accepted(fd)) {
            self.admit(Guest::near(stream.into()));
        }
    }

    fn admit(&mut self, guest: Option<Guest>) {
        let Some(guest) = guest else { return };
        match self.events.add(guest.channel.stream(), self.next) {
            Ok(()) => drop(self.guests.insert(self.next, guest)),
            Err(error) => tracing::warn!(%error, "cannot listen to a guest"),
        }
        self.next += 1;
    }

    /// Takes what one guest has said.
    fn hear(&mut self, number: u64, published: &mut dyn FnMut(&Generation)) {
        let Some(guest) = self.guests.get_mut(&number) else { return };
        let Heard { words, gone } = guest.hear(&self.secret);
        self.events.watch(number, guest);
        for word in words {
            self.word(number, word, published);
        }
        if gone {
            self.lose(number, published);
        }
    }

    fn word(&mut self, number: u64, word: Up, published: &mut dyn FnMut(&Generation)) {
        match word {
            Up::Join(joined) => self.join(number, joined),
            Up::Census { processes } => self.counted(number, processes),
            Up::Reached { round, step, image } => {
                if let Some((current, _)) = self.round.as_mut().filter(|(r, _)| r.number == round) {
                    let turn = current.reached(number, step, image);
                    self.turn(turn, published);
                }
            }
            Up::Failed { round, code, message } => {
                if self.round.as_ref().is_some_and(|(current, _)| current.number == round) {
                    let name = self.name(number);
                    let message = format!("peer {number} ({name}): {message}");
                    self.turn(Turn::Failed(Failure { code, message }), published);
                }
            }
            Up::Ask { command } => self.command(number, command),
            Up::Leave => {
                self.part(number);
                if let Some((round, _)) = &mut self.round {
                    let turn = round.left(number);
                    self.turn(turn, published);
                }
            }
            Up::Unknown => {}
        }
    }

    fn name(&self, number: u64) -> String {
        let peer = self.peers.get(&number);
        peer.map_or_else(String::new, |p| format!("{} on {}", p.joined.name, p.joined.host))
    }

    fn join(&mut self, number: u64, joined: Joining) {
        if self.peers.is_empty()
            && let Some(earlier) = &joined.computation
        {
            self.computation.clone_from(earlier);
        }
        tracing::info!(number, name = joined.name, host = joined.host, "joined");
        self.generation = self.generation.max(joined.generation);
        self.joined.insert(joined.job.clone());
        self.lost.remove(&joined.job);
        let processes =
            vec![Process { name: joined.name.clone(), pid: joined.pid, inner: joined.pid }];
        self.peers.insert(number, Peer { joined, processes });
        (self.alone_since, self.had_peers) = (None, true);
        let computation = self.computation.clone();
        let interval = self.options.interval;
        self.say(number, &Down::Welcome { peer: number, computation, interval });
        if self.quitting.is_some() {
            self.say(number, &Down::Kill { checkpointed: false });
        }
    }

    /// A peer is no more one of us.
    fn part(&mut self, number: u64) {
        if self.peers.remove(&number).is_some() && self.peers.is_empty() {
            self.alone_since = Some(Instant::now());
        }
        self.counted(number, Vec::new());
    }

    fn lose(&mut self, number: u64, published: &mut dyn FnMut(&Generation)) {
        let name = self.name(number);
        if let Some(peer) = self.peers.get(&number) {
            self.lost.insert(peer.joined.job.clone(), name.clone());
        }
        self.guests.remove(&number);
        self.waiting.retain(|&waiting| waiting != number);
        self.part(number);
        if let Some((round, _)) = &mut self.round {
            let turn = round.lost(number, &name);
            self.turn(turn, published);
        }
    }

    /// Sends; who cannot be reached is lost before the next look.
    fn say(&mut self, number: u64, word: &Down) {
        let Some(guest) = self.guests.get_mut(&number) else { return };
        if let Err(error) = guest.channel.send(word) {
            tracing::info!(number, %error, "cannot be reached");
            guest.hung_up = true;
            self.unreachable.push(number);
        }
        self.events.watch(number, guest);
    }

    fn say_to_all(&mut self, numbers: Vec<u64>, word: &Down) {
        numbers.into_iter().for_each(|number| self.say(number, word));
    }

    fn all_peers(&self) -> Vec<u64> {
        self.peers.keys().copied().collect()
    }

    fn is_running(&self) -> bool {
        !self.peers.is_empty() && self.round.is_none()
    }

    fn command(&mut self, number: u64, command: Command) {
        match command {
            Command::Status | Command::List => self.count(number, command),
            Command::Interval(seconds) => {
                self.options.interval = seconds;
                self.schedule();
                let answer = self.answer(true);
                self.say(number, &Down::Answer(answer));
            }
            Command::Kill | Command::Quit => {
                let answer = self.answer(true);
                self.say(number, &Down::Answer(answer));
                if let Some((round, _)) = self.round.take() {
                    let why = "the jobs are being killed".to_owned();
                    self.give_up(&round, Failure { code: 75, message: why });
                }
                self.say_to_all(self.all_peers(), &Down::Kill { checkpointed: false });
                if command == Command::Quit {
                    self.quitting = Some(Instant::now());
                }
            }
            Command::Checkpoint | Command::CheckpointAndWait | Command::CheckpointAndKill => {
                let missing = self.missing();
                if !self.is_running() || missing.is_some() {
                    let answer = Answer { failure: missing, ..self.answer(false) };
                    self.say(number, &Down::Answer(answer));
                    return;
                }
                self.kill_then |= command == Command::CheckpointAndKill;
                let waits = command == Command::CheckpointAndWait;
                if waits {
                    self.waiting.push(number);
                }
                self.begin();
                if !waits {
                    let answer = self.answer(true);
                    self.say(number, &Down::Answer(answer));
                }
            }
        }
    }

    /// Why there can be no generation of all launchers.
    fn missing(&self) -> Option<Failure> {
        let (joined, wanted) = (self.joined.len(), self.options.peers);
        let message = match self.lost.values().next() {
            _ if wanted == 0 => return None,
            _ if joined < wanted => format!("{joined} of {wanted} launchers have joined"),
            Some(lost) => format!("the launcher of {lost} has vanished"),
            None => return None,
        };
        Some(Failure { code: 75, message })
    }

    fn answer(&self, done: bool) -> Answer {
        Answer {
            done,
            failure: None,
            processes: self.peers.values().map(|peer| peer.processes.len()).sum(),
            running: self.is_running(),
            interval: self.options.interval,
            generation: self.generation,
            workers: Vec::new(),
        }
    }
}
