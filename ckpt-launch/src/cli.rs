//! The flags, each declared once, and what they mean together.
//!
//! The commands are built from the same groups ([`Talk`], [`Where`], [`Keeping`]), so that a flag
//! has one name, one help text and one meaning everywhere.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ckpt_core::capture;
use ckpt_core::image::Level;
use ckpt_core::job::JobId;
use ckpt_core::{Error, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::container::flags::InContainer;
use crate::coordinator::place::Address;
use crate::coordinator::secret;
use crate::gc;
use crate::itself::Itself;
pub use crate::lazily::Lazily;
use crate::pace::{self, Interval, Pace};
use crate::slurm;
use crate::slurm::round::Round;
use crate::slurm::time::SlurmTime;

/// How much is said, and how.
#[derive(Debug, Clone, Args)]
pub struct Talk {
    /// Say more about what is done; twice or three times for debugging
    #[arg(short, long, action = clap::ArgAction::Count, global = true, help_heading = "Output")]
    pub verbose: u8,
    /// Say nothing but errors
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = "Output")]
    pub quiet: bool,
    /// Write events and results as JSON, one object a line
    #[arg(long, global = true, help_heading = "Output")]
    pub json: bool,
}

impl Talk {
    /// The same as words of a command line.
    pub fn words(&self) -> Vec<String> {
        let verbose = (0..self.verbose).map(|_| "-v");
        let quiet = self.quiet.then_some("-q");
        let json = self.json.then_some("--json");
        verbose.chain(quiet).chain(json).map(Into::into).collect()
    }
}

/// Where images, control socket and lock are.
#[derive(Debug, Clone, Args)]
pub struct Where {
    /// Checkpoint directory [default: $CKPT_DIR, else the current directory]
    #[arg(long, value_name = "DIR")]
    pub ckptdir: Option<PathBuf>,
}

impl Where {
    /// The directory that was asked for: the flag, else `$CKPT_DIR`, else the current one.
    pub fn directory(&self) -> PathBuf {
        self.ckptdir.clone().unwrap_or_else(directory_by_default)
    }
}

/// `$CKPT_DIR`, else the current directory.
pub fn directory_by_default() -> PathBuf {
    std::env::var_os("CKPT_DIR")
        .filter(|dir| !dir.is_empty())
        .map_or_else(|| ".".into(), PathBuf::from)
}

/// The absolute, symlink-free name of a directory that exists.
///
/// # Errors
///
/// When it doesn't exist or cannot be reached.
pub fn absolute(dir: &Path) -> Result<PathBuf> {
    dir.canonicalize().map_err(|e| {
        Error::os(format!("cannot find the checkpoint directory {}", dir.display()), e)
    })
}

/// When checkpoints are taken and what is kept of them.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Keeping {
    /// Take a checkpoint every so often (seconds, or 90s, 5m, 2h); 0: only on request; auto: as
    /// often as costs least, by what one costs and how often nodes fail [default: 0, with --slurm auto]
    #[arg(short, long, value_name = "SECONDS|auto", value_parser = parse_interval)]
    pub interval: Option<Interval>,
    /// Mean time between failures of a node, for -i auto [default: 24h, then what the job has seen]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub mtbf: Option<Duration>,
    /// Generations of a job that are kept on disk
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    pub keep: u32,
    /// zstd compression level; 0 stores the bytes as they are; auto: as hard as keeps the disk busy, from
    /// not at all to level 9, so that images are durable soonest
    #[arg(long, value_name = "N|auto", default_value_t = Level::default(), allow_negative_numbers = true)]
    pub level: Level,
    /// Earlier generations that an image may need, at most: what has not changed since is not stored
    /// again; 0: each image is complete by itself
    #[arg(long, value_name = "N", default_value_t = capture::INCREMENTS as u32,
          value_parser = clap::value_parser!(u32).range(..=64))]
    pub increments: u32,
    /// Find what has changed by comparing all pages, and do not ask the kernel to watch what is written to
    #[arg(long)]
    pub no_watch: bool,
    /// Cores that a checkpoint may use; 0: all that the launcher may run on
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub cpus: u32,
}

/// What holds where nothing is said.
impl Default for Keeping {
    fn default() -> Self {
        let increments = capture::INCREMENTS as u32;
        Self {
            interval: None,
            mtbf: None,
            keep: 2,
            level: Level::default(),
            increments,
            no_watch: false,
            cpus: 0,
        }
    }
}

impl Keeping {
    /// The engine's options for checkpoints into `dir`.
    pub fn options(&self, dir: &Path) -> capture::Options {
        capture::Options {
            dir: dir.to_path_buf(),
            level: self.level,
            keep: self.keep as usize,
            increments: self.increments as usize,
            workers: self.cpus as usize,
            watch: !self.no_watch,
            ..capture::Options::default()
        }
    }

    /// The pace of checkpoints.
    pub fn pace(&self, slurm: Option<&Round<'_>>) -> Pace {
        let usual = if slurm.is_some() { Interval::Auto } else { Interval::Never };
        let mtbf = self.mtbf.unwrap_or(pace::USUAL_MTBF);
        let mtbf = slurm.map_or(mtbf, |round| round.failures(mtbf));
        Pace::new(self.interval.unwrap_or(usual), mtbf)
    }

    /// The same as words of a command line, as far as it isn't the usual.
    pub fn words(&self) -> Vec<String> {
        let usual = Self::default();
        let interval = self.interval.map(|interval| match interval {
            Interval::Never => "0".to_owned(),
            Interval::Every(every) => every.as_secs_f64().to_string(),
            Interval::Auto => "auto".to_owned(),
        });
        let options = [
            ("--interval", interval),
            ("--mtbf", self.mtbf.map(|mtbf| mtbf.as_secs_f64().to_string())),
            ("--keep", (self.keep != usual.keep).then(|| self.keep.to_string())),
            ("--level", (self.level != usual.level).then(|| self.level.to_string())),
            ("--cpus", (self.cpus != usual.cpus).then(|| self.cpus.to_string())),
            (
                "--increments",
                (self.increments != usual.increments).then(|| self.increments.to_string()),
            ),
        ];
        let given = options.into_iter().filter_map(|(name, value)| Some([name.into(), value?]));
        given.flatten().chain(self.no_watch.then(|| "--no-watch".to_owned())).collect()
    }
}

/// As part of a Slurm job.
#[derive(Debug, Clone, Args, Default)]
#[command(next_help_heading = "Slurm")]
pub struct UnderSlurm {
    /// Live in a batch script: go on from the job's newest checkpoint, take the last one before the
    /// time limit, and have the job requeued
    #[arg(long)]
    pub slurm: bool,
    /// What the job may take over all rounds, in Slurm's forms [default: the job's comment, if it is
    /// a time; else as long as it needs]
    #[arg(long, value_name = "TIME", requires = "slurm")]
    pub total: Option<SlurmTime>,
}

impl UnderSlurm {
    /// The same as words of a command line.
    pub fn words(&self) -> Vec<String> {
        let slurm = self.slurm.then(|| "--slurm".to_owned());
        let total = self.total.map(|total| format!("--total={total}"));
        slurm.into_iter().chain(total).collect()
    }
}

/// Which engine takes the checkpoints.
#[derive(Debug, Clone, Args, Default)]
pub struct With {
    /// What takes the checkpoints: our own engine, DMTCP, or what suits the program (DMTCP for MPI
    /// across nodes)
    #[arg(long, value_name = "ENGINE", default_value = "auto")]
    pub backend: Engine,
    /// Where DMTCP is installed [default: $DMTCP_HOME, else in $PATH]
    #[arg(long, value_name = "DIR")]
    pub dmtcp: Option<PathBuf>,
}

impl With {
    /// The same as words of a command line, as far as it isn't the usual.
    pub fn words(&self) -> Vec<OsString> {
        let mut words = Vec::new();
        let mut option = |name: &str, value: OsString| words.extend([name.into(), value]);
        if self.backend != Engine::default() {
            let name = self.backend.to_possible_value();
            option("--backend", name.map(|name| name.get_name().into()).unwrap_or_default());
        }
        if let Some(dmtcp) = &self.dmtcp {
            option("--dmtcp", no_option(dmtcp));
        }
        words
    }
}

/// A path that nobody takes for an option.
pub fn no_option(path: &Path) -> OsString {
    let dashed = path.as_os_str().as_encoded_bytes().starts_with(b"-");
    if dashed { Path::new(".").join(path).into() } else { path.into() }
}

/// The engines there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Engine {
    /// What suits the program
    #[default]
    Auto,
    /// Our own
    Native,
    /// A DMTCP that is installed here
    Dmtcp,
}

/// A coordinator's address on the command line: `HOST:PORT`, or `PORT` on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinAt {
    host: String,
    port: u16,
}

impl std::str::FromStr for JoinAt {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (host, port) = text.rsplit_once(':').unwrap_or(("localhost", text));
        let port = port.parse().map_err(|_| format!("{port:?} is no port"))?;
        Ok(Self { host: host.trim_matches(['[', ']']).to_owned(), port })
    }
}

impl JoinAt {
    /// The same with the usual secret.
    pub fn address(self) -> Address {
        Address { host: self.host, port: self.port, secret: secret::path(None) }
    }
}

/// Reads "300", "1.5", "90s", "5m", "2h", "1d" or "auto".
fn parse_interval(text: &str) -> std::result::Result<Interval, String> {
    if text == "auto" {
        return Ok(Interval::Auto);
    }
    let every = parse_duration(text)?;
    Ok(if every.is_zero() { Interval::Never } else { Interval::Every(every) })
}

fn parse_duration(text: &str) -> std::result::Result<Duration, String> {
    let (number, unit) = match text.find(|c: char| c.is_ascii_alphabetic()) {
        Some(at) => text.split_at(at),
        None => (text, "s"),
    };
    let factor = match unit {
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ => return Err(format!("{unit:?} is no unit of time; use s, m, h or d")),
    };
    let number: f64 =
        number.trim().parse().map_err(|_| "a number of seconds is wanted".to_owned())?;
    Duration::try_from_secs_f64(number * factor).map_err(|e| e.to_string())
}

/// Run a job that can be checkpointed, and stay with it until it ends.
///
/// The exit status is the job's (128+n for signal n); 126 and 127 as in a shell when COMMAND cannot
/// be run. Ctrl-C reaches the job, other signals are passed on to it. From within the job and from
/// other shells, `ckpt checkpoint`, `ckpt status` and `ckpt kill` speak to it; `ckpt-restore`
/// brings it back later. `ckpt-launch sbatch` writes batch scripts for Slurm.
#[derive(Debug, Clone, Parser)]
#[command(version, max_term_width = 100)]
pub struct Launch {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub keeping: Keeping,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub place: Where,
    /// Preload an object that allows tracing where Yama (ptrace_scope) forbids it, and that has the
    /// functions of dmtcp.h
    /// [default PATH: libckpt_preload.so beside this program]
    #[arg(long, value_name = "PATH", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub preload: Option<OsString>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub engine: With,
    /// Take checkpoints together with other jobs, as the coordinator at this address says
    #[arg(long, value_name = "HOST:PORT")]
    pub join: Option<JoinAt>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub container: InContainer,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub slurm: UnderSlurm,
    /// With --slurm, at each restart: cut files that the job only appended to back to their length at
    /// the checkpoint
    #[arg(long, requires = "slurm", help_heading = "Slurm")]
    pub cut_appended: bool,
    /// With --slurm, at each restart: let the job run at once, and fill its memory meanwhile
    #[arg(long, value_name = "HOW", requires = "slurm", help_heading = "Slurm")]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "behind")]
    pub lazy: Option<Lazily>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub talk: Talk,
    /// The program to run, and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// Speak to running jobs, and look at checkpoint images.
#[derive(Debug, Parser)]
#[command(name = "ckpt", version, max_term_width = 100)]
pub struct Ckpt {
    #[command(subcommand)]
    #[allow(missing_docs)]
    pub verb: Verb,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub talk: Talk,
}

/// Which running job is meant.
#[derive(Debug, Clone, Args)]
pub struct Which {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub place: Where,
    /// Job id, 16 hex digits [default: $CKPT_JOB_ID, else the only one in the directory]
    #[arg(long, value_name = "ID")]
    pub job: Option<JobId>,
}

impl Which {
    /// The wanted job, if one was named. `$CKPT_JOB_ID` goes with `$CKPT_DIR`: a directory given by
    /// flag makes it void.
    pub fn wanted(&self) -> Option<JobId> {
        let from_environment = || {
            let id = std::env::var("CKPT_JOB_ID").ok()?;
            self.place.ckptdir.is_none().then(|| id.parse().ok())?
        };
        self.job.or_else(from_environment)
    }
}

/// What `ckpt` is asked to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Take a checkpoint now; returns once the image is durable
    Checkpoint {
        #[command(flatten)]
        #[allow(missing_docs)]
        which: Which,
        /// One that is complete by itself, so that it can be copied elsewhere alone
        #[arg(long)]
        full: bool,
    },
    /// Say how a running job is doing
    Status(Which),
    /// Kill all of a running job (SIGKILL)
    Kill(Which),
    /// Show what is inside an image
    Inspect {
        /// An image, or a directory for the newest one in it [default: the checkpoint directory]
        #[arg(value_name = "IMAGE|DIR")]
        path: Option<PathBuf>,
    },
    /// Check every byte of an image
    Verify {
        /// An image, or a directory for all images in it [default: the checkpoint directory]
        #[arg(value_name = "IMAGE|DIR")]
        path: Option<PathBuf>,
    },
    /// Say what is possible on this host, and what would mend what is missing
    Doctor {
        #[command(flatten)]
        #[allow(missing_docs)]
        place: Where,
        #[command(flatten)]
        #[allow(missing_docs)]
        engine: With,
        #[command(flatten)]
        #[allow(missing_docs)]
        container: InContainer,
        /// Say as well which engine this command would get
        #[arg(trailing_var_arg = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
    /// List the images of a directory
    List {
        /// The directory [default: the checkpoint directory]
        #[arg(value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// Remove images that no restart will need
    Gc(gc::Gc),
    /// The helper of a program that takes checkpoints of itself
    #[command(hide = true)]
    Itself(Itself),
    /// For job scripts under Slurm
    #[command(subcommand)]
    Slurm(slurm::commands::Ask),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn declarations_are_sound() {
        Launch::command().debug_assert();
        Ckpt::command().debug_assert();
    }

    #[test]
    fn each_goes_by_its_own_name() {
        assert_eq!(Launch::command().get_name(), "ckpt-launch");
        assert_eq!(Ckpt::command().get_name(), "ckpt");
    }

    #[test]
    fn intervals() {
        let every = |seconds| Ok(Interval::Every(Duration::from_secs_f64(seconds)));
        assert_eq!(parse_interval("0"), Ok(Interval::Never));
        assert_eq!(parse_interval("auto"), Ok(Interval::Auto));
        assert_eq!(parse_interval("1.5"), every(1.5));
        assert_eq!(parse_interval("5m"), every(300.0));
        assert_eq!(parse_interval("2h"), every(7200.0));
        for bad in ["", "-1", "x", "5y", "nan", "inf", "1e300", "Auto"] {
            assert!(parse_interval(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn flags_survive_being_handed_on() {
        let line = ["ckpt-launch", "--slurm", "--total", "1-02", "-i2.5", "--mtbf", "7d", "-vv"];
        let line = line.into_iter().chain(["--increments", "0", "--cpus", "3", "--no-watch", "x"]);
        let launch = Launch::parse_from(line);
        let slurm = launch.slurm.words();
        let words = [slurm, launch.keeping.words(), launch.talk.words()].concat();
        let again = Launch::parse_from(
            std::iter::once("ckpt-launch".to_owned()).chain(words).chain(["x".to_owned()]),
        );
        assert_eq!(format!("{launch:?}"), format!("{again:?}"));
    }

    #[test]
    fn the_commands_own_flags_stay_its_own() {
        let launch =
            Launch::parse_from(["ckpt-launch", "-i", "5", "prog", "-i", "7", "--json", "--", "x"]);
        assert_eq!(launch.keeping.interval, Some(Interval::Every(Duration::from_secs(5))));
        assert!(!launch.talk.json);
        assert_eq!(launch.command, ["prog", "-i", "7", "--json", "--", "x"]);
        let launch = Launch::parse_from(["ckpt-launch", "--", "-odd", "-v"]);
        assert_eq!(launch.command, ["-odd", "-v"]);
        assert_eq!(launch.keeping, Keeping::default());
        assert!(Launch::try_parse_from(["ckpt-launch", "--bogus", "prog"]).is_err());
    }
}
