//! The inside half's end of the connection.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ckpt_core::capture::{Gate, Report, Step};
use ckpt_core::job::Job;
use ckpt_core::{Error, Result};

use super::identity;
use super::line::Line;
use super::wire::{ToInside, ToOutside, Welcome};
use crate::control::client;
use crate::control::protocol::{Event, kind_of};
use crate::coordinator::wire::Stage;
use crate::root::End;
use crate::{os, tree};

/// How long the outside half may take to greet.
const GREETING: Duration = Duration::from_secs(60);
/// How long it may take to let a step pass: others may have to come so far. Should it die, that is
/// noticed at once.
const STEP: Duration = Duration::from_secs(3600);

/// The connection.
#[derive(Debug)]
pub struct Inside {
    line: Line<ToInside>,
    welcome: Welcome,
}

impl Inside {
    /// Connects, and hears what this half is part of.
    ///
    /// # Errors
    ///
    /// When nobody listens there, or turns us away.
    pub fn connect(socket: &Path) -> Result<Self> {
        let fail = |e: std::io::Error| {
            let what = format!("cannot reach the launcher outside at {}", socket.display());
            Error::os(what, e).help(
                "the checkpoint directory must be in the container, and the user inside the one \
                 outside: --container-arg=--user=0 in a rootless container, --user=$(id -u) with \
                 --userns=keep-id",
            )
        };
        let stream: UnixStream = client::connect(socket).map_err(|e| fail(e.into()))?;
        let mut line = Line::new(stream).map_err(fail)?;
        line.say(&ToOutside::Arrived { identity: identity::inside() });
        let heard = line.await_word(Instant::now() + GREETING, |word| match word {
            ToInside::Welcome(welcome) => Some(Ok((**welcome).clone())),
            ToInside::GiveUp { code, message } => Some(Err(refusal(*code, message))),
            _ => None,
        });
        let welcome = heard??;
        if welcome.stdin != 0 {
            let taken =
                os::take_over(welcome.stdin).and_then(|fd| Ok(rustix::stdio::dup2_stdin(fd)?));
            taken.map_err(|e| Error::os("cannot take over the launcher's stdin", e))?;
        }
        Ok(Self { line, welcome })
    }

    /// What this half is part of.
    pub fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// The connection itself.
    pub fn line(&mut self) -> &mut Line<ToInside> {
        &mut self.line
    }

    /// Whether words have been read that nobody has asked for yet.
    pub fn has_words(&self) -> bool {
        self.line.has_words()
    }

    /// What is to be polled.
    pub fn poll_fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        self.line.poll_fd()
    }

    /// Says that the job runs, from `generation` if it is back.
    pub fn runs(&mut self, job: &Job) {
        let (id, name, generation) = (job.id.to_string(), job.name.clone(), job.generation);
        self.line.say(&ToOutside::Runs { job: id, name, generation });
    }

    /// Holds a checkpoint until the outside half lets it pass.
    pub fn gate(&mut self) -> Across<'_> {
        Across(Mutex::new(&mut self.line))
    }

    /// Says what came of a checkpoint.
    pub fn answer(&mut self, taken: &Result<Report>) {
        self.line.say(&match taken {
            Ok(report) => ToOutside::Taken { event: Event::checkpoint(report) },
            Err(error) => {
                ToOutside::Failed { code: error.kind().exit_code(), message: error.to_string() }
            }
        });
    }

    /// Says which processes the job has.
    pub fn census(&mut self, parent: i32) {
        let (processes, resident) = (tree::processes(parent), tree::resident(parent));
        self.line.say(&ToOutside::Census { processes, resident });
    }

    /// Says how the job has ended.
    pub fn ended(&mut self, end: &End) {
        let (status, signal) = match end {
            End::Exited(status) => (Some(*status), None),
            End::Killed(signal) => (None, Some(*signal)),
            End::Stopped(_) | End::Lost(_) | End::NotBegun(_) => return,
        };
        self.line.say(&ToOutside::Ended { status, signal });
    }
}

/// What the outside half refuses.
pub fn refusal(code: u8, message: &str) -> Error {
    Error::new(kind_of(code), message.to_owned())
}

/// A gate across the wall.
#[derive(Debug)]
pub struct Across<'a>(Mutex<&'a mut Line<ToInside>>);

impl Across<'_> {
    fn reached(&self, step: Stage, image: Option<(String, u64)>) -> Result<()> {
        let mut line = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        line.say(&ToOutside::Reached { step, image });
        line.await_word(Instant::now() + STEP, |word| match word {
            ToInside::Go => Some(Ok(())),
            ToInside::GiveUp { code, message } => Some(Err(refusal(*code, message))),
            _ => None,
        })?
    }
}

impl Gate for Across<'_> {
    fn pass(&self, step: Step) -> Result<()> {
        self.reached(step.into(), None)
    }

    fn published(&self, generation: u64, image: &Path) -> Result<()> {
        let image = image.to_string_lossy().into_owned();
        self.reached(Stage::Published, Some((image, generation)))
    }
}
