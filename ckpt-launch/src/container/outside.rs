//! The outside half: starts the container, and has the inside half do what is to be done there.

use std::os::fd::BorrowedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ckpt_core::capture::{Gate, Options, Report, Step};
use ckpt_core::job::Job;
use ckpt_core::{Error, ErrorKind, Result};
use rustix::process::{Pid, WaitOptions};

use super::inside::refusal;
use super::line::Line;
use super::meeting::Meeting;
use super::runtime::Runtime;
use super::wire::{ToInside, ToOutside, Welcome};
use crate::control::protocol::Event;
use crate::coordinator::wire::{Process, Stage};
use crate::root::End;
use crate::run;
use crate::tree;

/// A checkpoint of which nothing is heard for so long is given up.
const PATIENCE: Duration = Duration::from_secs(3600);
/// How long a container may take to end when it is told to, and again when it is made to.
const GOODBYE: Duration = Duration::from_secs(20);
/// Signals by which one ends a program.
const ENDS: [i32; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGQUIT, libc::SIGHUP];
/// How long the answer to a simple question may take.
const ANSWER: Duration = Duration::from_secs(5);

/// What the inside half has to say when it is not asked.
#[derive(Debug)]
pub enum Heard {
    /// The job runs.
    Runs {
        /// Its name.
        name: String,
        /// The generation that it came from; 0 if it was begun.
        generation: u64,
    },
    /// Somebody inside wants a checkpoint.
    Asked,
}

/// A container, and the launcher in it.
#[derive(Debug)]
pub struct Outside {
    runtime: Runtime,
    /// The container's name.
    name: String,
    pid: i32,
    meeting: Option<Meeting>,
    welcome: Welcome,
    /// The identity that the inside must have, if only the inside can tell.
    expected: Option<String>,
    line: Option<Line<ToOutside>>,
    runs: bool,
    /// Signals that came before there was a payload.
    held: Vec<i32>,
    /// The signal on which we have ended it before there was one.
    given_up: Option<i32>,
    /// The payload's end.
    end: Option<End>,
    /// That of the runtime's process.
    ended: Option<End>,
}

/// What is started, and as what.
#[derive(Debug)]
pub struct Starting {
    /// By which runtime.
    pub runtime: Runtime,
    /// The container's name.
    pub name: String,
    /// The whole command line.
    pub command: Command,
    /// Where the inside half finds us.
    pub meeting: Meeting,
    /// What it is part of.
    pub welcome: Welcome,
    /// The identity that the inside must have, if only the inside can tell.
    pub expected: Option<String>,
}

impl Outside {
    /// Starts the container; its process, a child of ours, ends with it.
    ///
    /// # Errors
    ///
    /// When the runtime cannot be run.
    pub fn start(starting: Starting) -> Result<(Self, i32)> {
        let Starting { runtime, name, mut command, meeting, welcome, expected } = starting;
        if !runtime.is_family() {
            // It would hand a terminal's signals on, as we do.
            command.process_group(0);
        }
        let child = command.spawn();
        let child = child.map_err(|e| Error::os(format!("cannot run {}", runtime.name()), e))?;
        let pid = child.id().cast_signed();
        let outside = Self {
            runtime,
            name,
            pid,
            meeting: Some(meeting),
            welcome,
            expected,
            line: None,
            runs: false,
            held: Vec::new(),
            given_up: None,
            end: None,
            ended: None,
        };
        Ok((outside, pid))
    }

    /// What is to be polled.
    pub fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.line {
            Some(line) => line.poll_fd(),
            None => self.meeting.as_ref().map(Meeting::poll_fd),
        }
    }

    /// Whether there is something to hear, or to settle, of which no poll tells.
    pub fn is_waiting(&self) -> bool {
        self.line
            .as_ref()
            .is_some_and(|line| line.has_words() || !line.is_open() && self.ended.is_some())
    }

    /// Whether a terminal's signals reach the payload without us.
    pub fn shares_terminal(&self) -> bool {
        self.runtime.is_family()
    }

    /// What has come of its own accord.
    pub fn listen(&mut self) -> Option<Heard> {
        if self.line.is_none() {
            self.admit();
        }
        while let Some(word) = self.line.as_mut().and_then(Line::hear) {
            match word {
                ToOutside::Arrived { identity } => self.arrived(&identity),
                ToOutside::Runs { name, generation, .. } => {
                    self.runs = true;
                    std::mem::take(&mut self.held).into_iter().for_each(|it| self.signal(it));
                    return Some(Heard::Runs { name, generation });
                }
                ToOutside::Asked => return Some(Heard::Asked),
                ToOutside::Ended { status, signal } => {
                    let killed = signal.map(End::Killed);
                    self.end = killed.or_else(|| status.map(End::Exited));
                }
                late => tracing::debug!(?late, "a word that nobody waits for"),
            }
        }
        None
    }

    /// Lets the inside half in.
    fn admit(&mut self) {
        let connection = self.meeting.as_ref().and_then(Meeting::admit);
        if let Some(line) = connection.and_then(|it| Line::new(it.into()).ok()) {
            self.line = Some(line);
            self.meeting = None;
        }
    }

    fn arrived(&mut self, identity: &str) {
        let Some(line) = &mut self.line else { return };
        if let Some(expected) = self.expected.take().filter(|expected| expected != identity) {
            let image = &self.welcome.container.image;
            let error = another(image, identity, &expected);
            let (code, message) = (error.kind().exit_code(), error.to_string());
            return line.say(&ToInside::GiveUp { code, message });
        }
        // Another runtime may have handed on a stray $SHIFTER_IMAGE.
        if self.runtime == Runtime::Shifter && !identity.is_empty() {
            self.welcome.container.identity = identity.to_owned();
        }
        line.say(&ToInside::Welcome(Box::new(self.welcome.clone())));
    }

    /// Has a checkpoint taken; see [`ckpt_core::capture::checkpoint_together`].
    ///
    /// # Errors
    ///
    /// Why there is none. The job runs on, if it has not ended.
    pub fn checkpoint(
        &mut self,
        job: &mut Job,
        options: &Options,
        gate: &dyn Gate,
    ) -> Result<Report> {
        let Some(line) = self.line.as_mut().filter(|_| self.runs) else {
            let what = "the container is still being started";
            return Err(Error::new(ErrorKind::Busy, what));
        };
        line.say(&ToInside::Checkpoint { generation: options.generation, stop: options.stop });
        let mut alone = None;
        loop {
            match line.await_word(Instant::now() + PATIENCE, answer)? {
                Answer::Reached(stage, image) => {
                    let passed = pass(gate, stage, image);
                    if stage == Stage::Published {
                        alone = passed.as_ref().err().map(ToString::to_string);
                    }
                    line.say(&match &passed {
                        Ok(()) => ToInside::Go,
                        Err(error) => give_up(error),
                    });
                }
                Answer::Taken(mut report) => {
                    report.alone = alone;
                    job.generation = report.generation;
                    return Ok(report);
                }
                Answer::Failed(error) => return Err(error),
            }
        }
    }

    /// Tells those inside who have asked for a checkpoint that there will be none.
    pub fn refuse(&mut self, error: &Error) {
        if let Some(line) = &mut self.line {
            line.say(&give_up(error));
        }
    }

    /// Passes a signal on; one that comes before there is a payload waits for it. Should that be
    /// too long for somebody who sends it twice, the container is ended.
    pub fn signal(&mut self, number: i32) {
        match &mut self.line {
            Some(line) if self.runs => line.say(&ToInside::Signal { number }),
            _ if self.ended.is_some() => {}
            _ if ENDS.contains(&number) && self.held.contains(&number) => {
                self.given_up = Some(number);
                self.kill_hard();
            }
            _ => self.held.push(number),
        }
    }

    /// The job's processes, and the bytes of memory that they have.
    pub fn census(&mut self) -> (Vec<Process>, u64) {
        let Some(line) = self.line.as_mut().filter(|_| self.runs) else {
            return Default::default();
        };
        line.say(&ToInside::Census);
        let counted = line.await_word(Instant::now() + ANSWER, |word| match word {
            ToOutside::Census { processes, resident } => Some((processes.clone(), *resident)),
            _ => None,
        });
        counted.unwrap_or_default()
    }

    /// The job's end, if it has come; `ended` is that of the runtime's process, a child of ours. That
    /// may be killed, and the container live on: then there is no end yet.
    pub fn settle(&mut self, ended: Option<End>) -> Option<End> {
        if self.ended.is_none() {
            self.ended = ended;
        }
        let lives = self.line.as_ref().is_some_and(Line::is_open);
        let end = self.ended.take_if(|_| !lives)?;
        // From here on the number may be another's.
        self.pid = 0;
        Some(self.meaning(end))
    }

    /// What the end of the runtime's process means when the half inside has hung up.
    fn meaning(&mut self, end: End) -> End {
        // Its last words may lie there still.
        while self.listen().is_some() {}
        if let Some(end) = self.end.take() {
            return end;
        }
        let (name, code) = (self.runtime.name(), end.exit_code());
        if !self.runs
            && let Some(number) = self.given_up
        {
            return End::Killed(number);
        }
        if self.line.is_none() {
            // Somebody may have killed the runtime's process, and not the container.
            self.remove();
            let what = format!("{name} did not start our launcher in the container: status {code}");
            let help = match self.runtime {
                Runtime::Shifter => {
                    "its folder must be visible inside: $HOME, or what the site adds"
                }
                _ => "what it says stands above; -v shows the command line",
            };
            return End::Lost(Error::new(ErrorKind::Unsupported, what).help(help));
        }
        match code {
            _ if !self.runs => End::NotBegun(code),
            85 | 86 => end,
            129.. => {
                tracing::warn!("the container was killed: {name} has status {code}");
                End::Killed(i32::from(code - 128))
            }
            _ => {
                let what = format!("the container ended without a word: {name} has status {code}");
                End::Lost(Error::new(ErrorKind::Gone, what))
            }
        }
    }

    /// Ends the container, and all that is in it; gives the runtime's end.
    pub fn kill(&mut self) -> End {
        if let Some(line) = &mut self.line {
            line.say(&ToInside::Kill);
        }
        // One that is busy with a restart hears nothing.
        let hears = self.line.is_some() && self.runs;
        if !self.is_gone(if hears { GOODBYE } else { Duration::ZERO }) {
            tracing::warn!(name = self.name, "the container does not end by itself");
            self.kill_hard();
        }
        self.ended.take().unwrap_or(End::Killed(libc::SIGKILL))
    }

    fn kill_hard(&mut self) {
        self.remove();
        // One that was only being made is not there to be removed, and will be there soon.
        if !self.is_gone(if self.line.is_some() { GOODBYE } else { ANSWER }) {
            let _ = crate::os::kill(self.pid, libc::SIGKILL);
            self.is_gone(ANSWER);
            self.remove();
        }
    }

    /// Has the runtime take the container away.
    fn remove(&self) {
        if self.runtime.is_family() {
            tree::kill_descendants();
        } else if let Ok(program) = self.runtime.program() {
            let mut command = Command::new(program);
            command.args(["rm", "--force", "--ignore", "--time", "0", &self.name]);
            command.stdin(Stdio::null());
            let _ = run::run(&mut command, Instant::now() + GOODBYE);
        }
    }

    /// Whether runtime and inside half are gone `within` this time.
    fn is_gone(&mut self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        loop {
            while self.listen().is_some() {}
            self.reap();
            let lives = self.line.as_ref().is_some_and(Line::is_open);
            if self.ended.is_some() && !lives {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn reap(&mut self) {
        let Some(pid) = Pid::from_raw(self.pid).filter(|_| self.ended.is_none()) else { return };
        match rustix::process::waitpid(Some(pid), WaitOptions::NOHANG) {
            Ok(Some((_, status))) => self.ended = Some(End::of(status.as_raw())),
            Err(rustix::io::Errno::INTR) | Ok(None) => {}
            Err(_) => self.ended = Some(End::Killed(libc::SIGKILL)),
        }
    }
}

/// The words that a checkpoint waits for.
enum Answer {
    Reached(Stage, Option<(String, u64)>),
    Taken(Report),
    Failed(Error),
}

fn answer(word: &ToOutside) -> Option<Answer> {
    match word {
        ToOutside::Reached { step, image } => Some(Answer::Reached(*step, image.clone())),
        ToOutside::Failed { code, message } => Some(Answer::Failed(refusal(*code, message))),
        ToOutside::Taken { event } => report(event).map(Answer::Taken),
        _ => None,
    }
}

fn report(event: &Event) -> Option<Report> {
    let seconds = |s: f64| Duration::try_from_secs_f64(s).unwrap_or_default();
    match event {
        Event::Checkpoint {
            generation,
            path,
            frozen_s,
            total_s,
            processes,
            tasks,
            bytes_read,
            bytes_stored,
            bytes_skipped,
            bytes_unchanged,
            needs,
        } => Some(Report {
            generation: *generation,
            path: path.into(),
            frozen: seconds(*frozen_s),
            total: seconds(*total_s),
            processes: *processes,
            tasks: *tasks,
            bytes_read: *bytes_read,
            bytes_stored: *bytes_stored,
            bytes_skipped: *bytes_skipped,
            bytes_unchanged: *bytes_unchanged,
            needs: *needs,
            alone: None,
        }),
        _ => None,
    }
}

fn pass(gate: &dyn Gate, stage: Stage, image: Option<(String, u64)>) -> Result<()> {
    match (stage, image) {
        (Stage::Frozen, _) => gate.pass(Step::Frozen),
        (Stage::Captured, _) => gate.pass(Step::Captured),
        (Stage::Durable, _) => gate.pass(Step::Durable),
        (_, Some((path, generation))) => gate.published(generation, Path::new(&path)),
        _ => Ok(()),
    }
}

fn give_up(error: &Error) -> ToInside {
    ToInside::GiveUp { code: error.kind().exit_code(), message: error.to_string() }
}

/// The refusal of another image.
pub fn another(image: &str, identity: &str, expected: &str) -> Error {
    let what = format!(
        "the container image {image} is not the one that the job was in ({identity}, then {expected})"
    );
    Error::new(ErrorKind::Unsupported, what)
        .help("get that one back, or say --other-image if this one will do")
}
