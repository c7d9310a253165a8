//! Everything that is said while a job runs: words for people, JSON lines for scripts.
//!
//! [`Voice`] writes to stderr and never fails: a terminal that went away must not take the job
//! along. [`Relay`] stands between the engine, which never prints, and those who listen.

use std::fmt;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ckpt_core::progress::{self, Observer};
use ckpt_core::{Error, capture};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::Talk;
use crate::control::protocol::Event;
use crate::control::server::Reply;
use crate::words;

/// Work that is done sooner than this gets no progress bar.
const BAR_AFTER: Duration = Duration::from_millis(300);

/// Speaks on stderr for one command.
#[derive(Debug, Clone)]
pub struct Voice {
    command: &'static str,
    quiet: bool,
    json: bool,
}

impl Voice {
    /// The voice of `command`; sets up `-v` as well, so make one only.
    pub fn new(command: &'static str, talk: &Talk) -> Self {
        let level = match talk.verbose {
            0 => None,
            1 => Some(tracing::Level::INFO),
            2 => Some(tracing::Level::DEBUG),
            _ => Some(tracing::Level::TRACE),
        };
        if let Some(level) = level {
            let log =
                tracing_subscriber::fmt().with_max_level(level).with_ansi(false).with_target(false);
            let log = log.with_writer(std::io::stderr);
            // It fails only where a subscriber is set already, which then serves as well.
            let _ = if talk.json { log.json().try_init_it() } else { log.try_init_it() };
        }
        Self { command, quiet: talk.quiet, json: talk.json }
    }

    /// Whether JSON is wanted.
    pub fn json(&self) -> bool {
        self.json
    }

    /// Whether only errors are wanted.
    pub fn quiet(&self) -> bool {
        self.quiet
    }

    /// Says something that has words and an event: the one or the other is written.
    pub fn say(&self, event: &Event, words: impl fmt::Display) {
        match (self.json, self.quiet) {
            (true, _) => self.write(&event.line()),
            (false, false) => self.write(&format!("{}: {words}\n", self.command)),
            (false, true) => {}
        }
    }

    /// Writes an event for scripts; people don't get to see it.
    pub fn event(&self, event: &Event) {
        if self.json {
            self.write(&event.line());
        }
    }

    /// Says what the user should know, though the work goes on.
    pub fn warn(&self, message: impl fmt::Display) {
        let message = message.to_string();
        self.say(&Event::Warning { message: message.clone() }, format_args!("warning: {message}"));
    }

    /// Says what went wrong, and gives the exit status.
    pub fn fail(&self, error: &Error) -> u8 {
        if self.json {
            self.write(&Event::failed(error).line());
        } else {
            self.write(&format!("{}: {error}\n", self.command));
        }
        error.kind().exit_code()
    }

    /// Says the line that belongs to a finished checkpoint.
    pub fn checkpoint(&self, report: &capture::Report) {
        self.say(&Event::checkpoint(report), checkpoint_words(report));
    }

    /// A progress bar's place, if there is a terminal that wants one.
    fn wants_bar(&self) -> bool {
        !self.json && !self.quiet && std::io::stderr().is_terminal()
    }

    fn write(&self, line: &str) {
        // Nobody is left to be told when stderr fails.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
}

/// `try_init` for any formatter, with its error dropped.
trait TryInit {
    fn try_init_it(self) -> bool;
}

impl<N, E, F, W> TryInit for tracing_subscriber::fmt::SubscriberBuilder<N, E, F, W>
where
    Self: Into<tracing::Dispatch>,
{
    fn try_init_it(self) -> bool {
        tracing::dispatcher::set_global_default(self.into()).is_ok()
    }
}

/// "generation 3: frozen 24 ms, 1.21 s in all, …".
pub fn checkpoint_words(report: &capture::Report) -> String {
    format!(
        "generation {}: frozen {}, {} in all, read {}, stored {}, skipped {}, ratio {}, {}, {}",
        report.generation,
        words::duration(report.frozen),
        words::duration(report.total),
        words::bytes(report.bytes_read),
        words::bytes(report.bytes_stored),
        words::bytes(report.bytes_skipped),
        words::ratio(report.bytes_read, report.bytes_stored),
        words::rate(report.bytes_read, report.total),
        report.path.display(),
    )
}

/// Takes the engine's events to the terminal, to the log and to waiting clients.
#[derive(Debug)]
pub struct Relay<'a> {
    voice: &'a Voice,
    what: &'static str,
    begun: Instant,
    state: Mutex<State<'a>>,
}

#[derive(Debug)]
struct State<'a> {
    replies: &'a mut [Reply],
    bar: Option<ProgressBar>,
    percent: Option<u64>,
}

impl<'a> Relay<'a> {
    /// A relay for one piece of work, whose bar is labelled `what`.
    pub fn new(voice: &'a Voice, what: &'static str, replies: &'a mut [Reply]) -> Self {
        let state = Mutex::new(State { replies, bar: None, percent: None });
        Self { voice, what, begun: Instant::now(), state }
    }

    /// Whether there is somebody to be told of every percent.
    fn bytes(&self, state: &mut State<'_>, done: u64, total: u64) {
        if self.voice.wants_bar() && (state.bar.is_some() || self.begun.elapsed() > BAR_AFTER) {
            let bar = state.bar.get_or_insert_with(|| bar(self.what, total));
            bar.set_position(done);
        }
        // At most a hundred events, which fit into a pipe that nobody reads just now.
        let percent = (u128::from(done) * 100).checked_div(u128::from(total)).unwrap_or(100) as u64;
        if state.percent < Some(percent) {
            state.percent = Some(percent);
            tell(self.voice, state, &Event::Bytes { done, total });
        }
    }
}

impl Drop for Relay<'_> {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(bar) = state.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn tell(voice: &Voice, state: &mut State<'_>, event: &Event) {
    voice.event(event);
    state.replies.iter_mut().for_each(|reply| reply.send(event));
}

impl Observer for Relay<'_> {
    fn event(&self, event: progress::Event) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        match event {
            progress::Event::Bytes { done, total } => self.bytes(state, done, total),
            progress::Event::Frozen { processes, tasks } => {
                tracing::info!(processes, tasks, "frozen");
                tell(self.voice, state, &Event::Frozen { processes, tasks });
            }
            progress::Event::Released { frozen } => {
                tracing::info!(?frozen, "released");
                tell(self.voice, state, &Event::Released { frozen_s: frozen.as_secs_f64() });
            }
            progress::Event::Chosen(what) => {
                tracing::info!("{what}");
                tell(self.voice, state, &Event::Chosen { what });
            }
            progress::Event::Warning(message) => {
                if !self.voice.json {
                    let say = || self.voice.warn(&message);
                    state.bar.as_ref().map_or_else(say, |bar| bar.suspend(say));
                }
                tell(self.voice, state, &Event::Warning { message });
            }
            _ => {}
        }
    }
}

/// A bar on stderr.
pub fn bar(what: &'static str, total: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    let template = "{prefix} [{bar:32}] {decimal_bytes}/{decimal_total_bytes} {percent}%";
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.with_style(style.progress_chars("=> ")).with_prefix(what)
}
