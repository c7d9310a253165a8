//! What `dmtcp_launch`, `dmtcp_restart` and `dmtcp_coordinator` are asked for, as plain data.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use ckpt_core::Result;

use super::scan::{Scan, parse, scan};
use super::table::Meaning;
use super::{DEFAULT_PORT, Lookup, Program};

/// How a coordinator is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Join one that is there.
    Join,
    /// Start one.
    New,
    /// Join one if it is there, else start it.
    #[default]
    Any,
}

/// What a command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed<T> {
    /// The command's work.
    Run(T),
    /// The usage text.
    Help,
    /// The version text.
    Version,
    /// Nothing at all: `dmtcp_launch` and `dmtcp_restart` introduce themselves and fail.
    Nothing,
}

/// What `dmtcp_launch`, `dmtcp_restart` and `dmtcp_coordinator` have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Common {
    /// File for the port that is used.
    pub port_file: Option<PathBuf>,
    /// Seconds between checkpoints, 0 for none; if absent, as the coordinator has it.
    pub interval: Option<u32>,
    /// Directory of the images, or of the coordinator's restart script.
    pub ckptdir: Option<PathBuf>,
    /// Directory for temporary files.
    pub tmpdir: PathBuf,
    /// 0: say all, 1: no notes, 2: no warnings either.
    pub quiet: u8,
    /// The coordinator's log.
    pub coord_logfile: Option<PathBuf>,
    /// Address that a coordinator listens on.
    pub bind: IpAddr,
    /// File with the secret that lets clients in.
    pub secret_file: Option<PathBuf>,
    /// Options and variables that were given and have no effect, as they were spelled.
    pub ignored: Vec<&'static str>,
}

/// The coordinator that a job is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meeting {
    /// Its host.
    pub host: String,
    /// Its port, if one was named; 0 for any.
    pub port: Option<u16>,
    /// Whether it is joined or made, as was asked.
    pub mode: Mode,
}

impl Meeting {
    /// What is to be done at which port. Without a port, nothing is joined by chance.
    pub fn settled(&self) -> (Mode, u16) {
        match (self.mode, self.port) {
            (mode, Some(port)) => (mode, port),
            (Mode::Join, None) => (Mode::Join, DEFAULT_PORT),
            (Mode::New, None) => (Mode::New, 0),
            (Mode::Any, None) => (Mode::New, DEFAULT_PORT),
        }
    }
}

/// `dmtcp_launch`'s options.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct LaunchOptions {
    pub common: Common,
    pub meeting: Meeting,
    /// Whether images are compressed, if that was said.
    pub gzip: Option<bool>,
    /// Whether open files are saved along.
    pub ckpt_open_files: bool,
    /// Whether these may replace what is found at restart.
    pub allow_file_overwrite: bool,
    /// Whether each generation gets a directory of its own.
    pub unique_filenames: bool,
    /// The program to run, and its arguments.
    pub command: Vec<OsString>,
}

/// What is restarted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Images {
    /// All `*.dmtcp` in a directory.
    In(PathBuf),
    /// These, in this order.
    Named(Vec<PathBuf>),
}

/// `dmtcp_restart`'s options.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct RestartOptions {
    pub common: Common,
    pub meeting: Meeting,
    pub images: Images,
    /// Whether another user's images are taken too.
    pub no_strict_checking: bool,
}

/// `dmtcp_coordinator`'s options.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct CoordinatorOptions {
    pub common: Common,
    /// The port to listen on; 0 for any.
    pub port: u16,
    pub exit_on_last: bool,
    pub kill_after_ckpt: bool,
    /// How long it lives at most.
    pub timeout: Option<Duration>,
    /// How long it waits without clients.
    pub stale_timeout: Option<Duration>,
    pub daemon: bool,
    pub status_file: Option<PathBuf>,
}

/// Reads the arguments of `dmtcp_launch` (without its own name).
///
/// # Errors
///
/// When an option is unknown, or its argument is missing or makes no sense.
pub fn launch(
    args: impl IntoIterator<Item = OsString>,
    lookup: Lookup<'_>,
) -> Result<Parsed<LaunchOptions>> {
    let scan = match scan(Program::Launch, args, lookup)? {
        Ok(scan) if scan.rest.is_empty() => return Ok(Parsed::Help),
        Ok(scan) => scan,
        Err(other) => return Ok(other),
    };
    Ok(Parsed::Run(LaunchOptions {
        common: scan.common()?,
        meeting: scan.meeting()?,
        gzip: scan.last(Meaning::Gzip(true)).map(|given| given.row.meaning == Meaning::Gzip(true)),
        ckpt_open_files: scan.has(Meaning::OpenFiles),
        allow_file_overwrite: scan.has(Meaning::Overwrite),
        unique_filenames: scan.has(Meaning::Unique(true)),
        command: scan.rest,
    }))
}

/// Reads the arguments of `dmtcp_restart` (without its own name). `*_files`, which a shell's `ckpt_*`
/// brings along, are passed over.
///
/// # Errors
///
/// Those of [`launch`]; when not exactly one of images and `--restartdir` is given; when an image's
/// name does not end in `.dmtcp`.
pub fn restart(
    args: impl IntoIterator<Item = OsString>,
    lookup: Lookup<'_>,
) -> Result<Parsed<RestartOptions>> {
    let scan = match scan(Program::Restart, args, lookup)? {
        Ok(scan) => scan,
        Err(other) => return Ok(other),
    };
    let named = |image: &&OsString| !image.as_bytes().ends_with(b"_files");
    let named: Vec<PathBuf> = scan.rest.iter().filter(named).map(PathBuf::from).collect();
    if let Some(odd) = named.iter().find(|i| !i.as_os_str().as_bytes().ends_with(b".dmtcp")) {
        return Err(scan.invalid(format_args!("{} is not called *.dmtcp", odd.display())));
    }
    let images = match scan.path(Meaning::RestartDir) {
        Some(dir) if scan.rest.is_empty() => Images::In(dir),
        None if !named.is_empty() => Images::Named(named),
        Some(_) => return Err(scan.invalid("images together with --restartdir")),
        None => return Err(scan.invalid("there is no image to restart")),
    };
    Ok(Parsed::Run(RestartOptions {
        common: scan.common()?,
        meeting: scan.meeting()?,
        images,
        no_strict_checking: scan.has(Meaning::NoStrictChecking),
    }))
}

/// Reads the arguments of `dmtcp_coordinator` (without its own name).
///
/// # Errors
///
/// Those of [`launch`]; when there is more than one bare word, or it is no port.
pub fn coordinator(
    args: impl IntoIterator<Item = OsString>,
    lookup: Lookup<'_>,
) -> Result<Parsed<CoordinatorOptions>> {
    let scan = match scan(Program::Coordinator, args, lookup)? {
        Ok(scan) => scan,
        Err(other) => return Ok(other),
    };
    let port = match &scan.rest[..] {
        [] => scan.parsed(Meaning::Port)?.unwrap_or(DEFAULT_PORT),
        [port] => parse(port).ok_or_else(|| scan.invalid(port.display()))?,
        [_, more, ..] => return Err(scan.invalid(more.display())),
    };
    let seconds = |meaning| -> Result<i64> { Ok(scan.parsed(meaning)?.unwrap_or(0)) };
    let duration = |seconds: i64| u64::try_from(seconds).ok().map(Duration::from_secs);
    Ok(Parsed::Run(CoordinatorOptions {
        common: scan.common()?,
        port,
        exit_on_last: scan.has(Meaning::ExitOnLast),
        kill_after_ckpt: scan.has(Meaning::KillAfterCkpt),
        timeout: duration(seconds(Meaning::Timeout)?).filter(|time| !time.is_zero()),
        stale_timeout: match seconds(Meaning::StaleTimeout)? {
            0 => Some(Duration::from_secs(8 * 3600)),
            given => duration(given),
        },
        daemon: scan.has(Meaning::Daemon),
        status_file: scan.path(Meaning::StatusFile),
    }))
}

impl Scan {
    fn common(&self) -> Result<Common> {
        let mut quiet = 0_u8;
        for given in self.all(Meaning::Quiet) {
            let more = if given.value.is_empty() { 1 } else { self.value(given)? };
            quiet = quiet.saturating_add(more).min(2);
        }
        let mut ignored: Vec<_> = self.all(Meaning::Nothing).map(|given| given.from).collect();
        ignored.dedup();
        Ok(Common {
            port_file: self.path(Meaning::PortFile),
            interval: self.parsed(Meaning::Interval)?,
            ckptdir: self.path(Meaning::CkptDir),
            tmpdir: self.path(Meaning::TmpDir).unwrap_or_else(|| "/tmp".into()),
            quiet,
            coord_logfile: self.path(Meaning::LogFile),
            bind: self.parsed(Meaning::Bind)?.unwrap_or(Ipv4Addr::LOCALHOST.into()),
            secret_file: self.path(Meaning::SecretFile),
            ignored,
        })
    }

    fn meeting(&self) -> Result<Meeting> {
        let mode = match self.last(Meaning::Mode(Mode::Any)).map(|given| given.row.meaning) {
            Some(Meaning::Mode(mode)) => mode,
            _ => Mode::default(),
        };
        let host = self.parsed(Meaning::Host)?.unwrap_or_else(|| "127.0.0.1".to_owned());
        Ok(Meeting { host, port: self.parsed(Meaning::Port)?, mode })
    }
}

#[cfg(test)]
mod tests;
