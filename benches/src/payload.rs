//! A program that measures its own pauses, while somebody takes checkpoints of it.
//!
//! All of them speak as `payloads/ticker.c` says, into a file that is read here; [`Live`] is one that
//! runs. A program that does not tick only says lines, and its pauses are told by whoever takes the
//! checkpoints.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use crate::Result;
use crate::run::{Running, must, parent, until};

/// The tools that are measured and the folder where it happens.
#[derive(Debug)]
pub struct Place {
    /// Removed at the end.
    pub dir: PathBuf,
    /// The folder with `ckpt-launch`, `ckpt` and `ckpt-restore`.
    pub built: PathBuf,
}

impl Place {
    /// One of our tools, as a word.
    pub fn tool(&self, name: &str) -> String {
        self.built.join(name).display().to_string()
    }

    /// Compiles a payload; its path as a word.
    ///
    /// # Errors
    ///
    /// What the compiler says.
    pub fn compiled(&self, name: &str) -> Result<String> {
        let program = self.dir.join(name);
        if !program.exists() {
            let mut cc = Command::new("cc");
            must(
                cc.args(["-O2", "-pthread", "-o"]).arg(&program).arg(source(&format!("{name}.c"))),
            )?;
        }
        Ok(program.display().to_string())
    }

    /// An empty folder for images.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub fn images(&self) -> Result<PathBuf> {
        let images = self.dir.join("images");
        if images.exists() {
            fs::remove_dir_all(&images)?;
        }
        fs::create_dir(&images)?;
        Ok(images)
    }
}

/// A file among the payloads.
pub fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("payloads").join(name)
}

/// A program and how it is started.
#[derive(Debug)]
pub struct Payload<'a> {
    /// Where it works.
    pub place: &'a Place,
    /// Its name in the report.
    pub title: String,
    /// Its command line.
    pub words: Vec<String>,
    /// What its environment has besides.
    pub environment: Vec<(&'static str, String)>,
    /// What it says when it has begun; [`READY`] of one that ticks.
    pub begins: &'static str,
    /// Where its bytes are in a file as well.
    pub dump: Option<PathBuf>,
    /// Whether it writes to one page in a hundred when it is told to.
    pub touches: bool,
}

/// What a payload says that ticks from now on.
pub const READY: &str = "ready ";

/// What it says of a tick that came late.
const LATE: &str = "late ";

impl<'a> Payload<'a> {
    /// `ticker.c` with memory of a kind, and more of whatever else.
    ///
    /// # Errors
    ///
    /// When it cannot be compiled.
    pub fn ticker(place: &'a Place, kind: &str, mib: u64, more: &[String]) -> Result<Self> {
        let words = [place.compiled("ticker")?, kind.into(), mib.to_string(), "-".into()];
        Ok(Self {
            place,
            title: format!("{mib} MiB, {kind}"),
            words: words.into_iter().chain(more.iter().cloned()).collect(),
            environment: Vec::new(),
            begins: READY,
            dump: None,
            touches: true,
        })
    }

    /// Has it leave its bytes in a file, once.
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub fn dumped(mut self) -> Result<Self> {
        let dump = self.place.dir.join("dump");
        self.words[3] = dump.display().to_string();
        drop(self.start(&[])?);
        self.words[3] = "-".into();
        self.dump = Some(dump);
        Ok(self)
    }

    /// Whether it says how long it stood still.
    pub fn ticks(&self) -> bool {
        self.begins == READY
    }

    fn log(&self) -> PathBuf {
        self.place.dir.join("log")
    }

    /// How much it has said, in bytes.
    ///
    /// # Errors
    ///
    /// When it was never started.
    pub fn end(&self) -> Result<u64> {
        Ok(fs::metadata(self.log())?.len())
    }

    /// A command in its folder and with its environment, that writes to its log from `end` on.
    fn command(&self, words: &[String], end: u64, errors: &Path) -> Result<Command> {
        let log = File::options().append(true).create(true).open(self.log())?;
        log.set_len(end)?;
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).current_dir(&self.place.dir).stdin(Stdio::null());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdout(log).stderr(File::create(errors)?);
        Ok(command)
    }

    /// Starts it under these words, and waits until it ticks.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub fn start(&self, under: &[String]) -> Result<Live<'_>> {
        let words: Vec<String> = under.iter().chain(&self.words).cloned().collect();
        let errors = self.place.dir.join("errors");
        let process = Running(self.command(&words, 0, &errors)?.spawn()?);
        let pid = process.0.id() as i32;
        let mut live = Live { payload: self, process, pid, fork: None, errors };
        if !self.ticks() {
            live.waits_for(|text| text.contains(self.begins).then_some(()))?;
            return Ok(live);
        }
        let said = live.waits_for(|text| field(text, READY))? as i32;
        // DMTCP makes it believe in another number than its own.
        live.pid = if parent(said) == Some(live.pid) { said } else { live.pid };
        live.fork = field(&live.text()?, "fork ");
        Ok(live)
    }

    /// Brings it back; the seconds until it goes on.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub fn restart(&self, words: &[String], end: u64) -> Result<(Live<'_>, f64)> {
        // Not the file of before: the payload may have that open, and CRIU minds its size.
        let errors = self.place.dir.join("errors-again");
        let mut command = self.command(words, end, &errors)?;
        let begun = Instant::now();
        let process = Running(command.spawn()?);
        let pid = process.0.id() as i32;
        let live = Live { payload: self, process, pid, fork: None, errors };
        // The time in between shows as a late tick; who does not tick says the next line.
        let (end, goes_on) = (end as usize, if self.ticks() { LATE } else { "\n" });
        live.waits_for(|text| text.get(end..)?.contains(goes_on).then_some(()))?;
        Ok((live, begun.elapsed().as_secs_f64()))
    }
}

/// A payload that runs.
#[derive(Debug)]
pub struct Live<'a> {
    payload: &'a Payload<'a>,
    /// What was started: the payload itself, or what it runs under.
    pub process: Running,
    /// The payload's number, as far as it can be known.
    pub pid: i32,
    /// Seconds that its bare fork took.
    pub fork: Option<f64>,
    errors: PathBuf,
}

impl Live<'_> {
    fn text(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(self.payload.log())?).into_owned())
    }

    fn waits_for<T>(&self, told: impl Fn(&str) -> Option<T>) -> Result<T> {
        until(&self.payload.title, || {
            let ended = self.process.ended();
            let answer = told(&self.text()?);
            if answer.is_none() && ended {
                let errors = fs::read_to_string(&self.errors)?;
                let line = errors.lines().find(|line| !line.trim().is_empty());
                let line = errors.lines().rfind(|line| line.contains("Error")).or(line);
                return Err(format!("it has ended: {}", line.unwrap_or_default()).into());
            }
            Ok(answer)
        })
    }

    fn signal(&self, signal: Signal, answer: &str) -> Result {
        let count = |text: &str| text.lines().filter(|line| line.starts_with(answer)).count();
        let before = count(&self.text()?);
        kill_process(Pid::from_raw(self.pid).ok_or("it has no number")?, signal)?;
        self.waits_for(|text| (count(text) > before).then_some(()))
    }

    /// Has it write to one page in a hundred.
    ///
    /// # Errors
    ///
    /// When it does not answer.
    pub fn touch(&self) -> Result {
        if self.payload.touches { self.signal(Signal::USR1, "touched ") } else { Ok(()) }
    }

    /// The longest that it has stood still since `when`; `None` of one that cannot tell.
    ///
    /// # Errors
    ///
    /// When it does not answer.
    pub fn stopped(&self, when: f64) -> Result<Option<f64>> {
        if !self.payload.ticks() {
            return Ok(None);
        }
        self.signal(Signal::HUP, "here")?;
        let text = self.text()?;
        let late = text.lines().filter_map(|line| {
            let (at, late) = line.strip_prefix(LATE)?.split_once(' ')?;
            let (at, late): (f64, f64) = (at.parse().ok()?, late.parse().ok()?);
            (at >= when).then_some(late)
        });
        Ok(Some(late.fold(0.001, f64::max)))
    }

    /// What it has said of this, in order.
    ///
    /// # Errors
    ///
    /// When the log is gone.
    pub fn said(&self, what: &str) -> Result<Vec<f64>> {
        let text = self.text()?;
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        Ok(whole.lines().filter_map(|line| line.strip_prefix(what)?.parse().ok()).collect())
    }
}

/// The number behind the first line's `name`, once the line is whole.
fn field(text: &str, name: &str) -> Option<f64> {
    let (_, rest) = text.split_once(name)?;
    rest.split_once('\n')?.0.parse().ok()
}
