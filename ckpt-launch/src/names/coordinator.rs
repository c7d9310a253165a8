//! `dmtcp_coordinator`, which is `ckpt-launch --coordinator` as well: a coordinator of ours with
//! DMTCP's options, files and prompt.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use ckpt_core::job::JobId;
use ckpt_core::{Error, ErrorKind, Result};
use rustix::process::{Resource, getrlimit, setrlimit};

use super::image::unique_id;
use super::launch::say;
use super::{command, fail, lookup, voice, warn_of};
use crate::control::place::host;
use crate::coordinator::secret;
use crate::coordinator::serve::{Coordinator, Generation, Options};
use crate::dmtcp::files::write_port;
use crate::dmtcp::options::{self, CoordinatorOptions, Parsed};
use crate::dmtcp::script::Script;
use crate::dmtcp::{Program, words};
use crate::os;
use crate::words::unix_now;

/// Runs it until it ends; gives the exit status.
pub fn run(args: impl IntoIterator<Item = OsString>) -> u8 {
    let mut args: Vec<OsString> = args.into_iter().collect();
    let listener = inherited(&mut args);
    let peers = ours(&mut args, "--peers").and_then(|number| number.parse().ok()).unwrap_or(0);
    match options::coordinator(args, &lookup) {
        Ok(Parsed::Run(options)) => {
            let done = listener.and_then(|listener| serve(&options, listener, peers));
            done.map_or_else(|error| fail(Program::Coordinator, &error), |()| 0)
        }
        Ok(Parsed::Version) => say(&words::version(Program::Coordinator), 0),
        Ok(Parsed::Help | Parsed::Nothing) => say(&words::usage(Program::Coordinator), 0),
        Err(error) => fail(Program::Coordinator, &error),
    }
}

/// The value of an option that DMTCP does not have, and that only launchers give.
fn ours(args: &mut Vec<OsString>, name: &str) -> Option<String> {
    let at = args.iter().position(|arg| arg == name)?;
    let value = args.get(at + 1).and_then(|value| value.to_str()).unwrap_or_default().to_owned();
    args.drain(at..(at + 2).min(args.len()));
    Some(value)
}

/// The listener that a launcher hands on: `--listen-fd N`.
fn inherited(args: &mut Vec<OsString>) -> Result<Option<TcpListener>> {
    let Some(number) = ours(args, "--listen-fd") else { return Ok(None) };
    let number = number.parse().ok();
    let what = "--listen-fd is for launchers that start a coordinator";
    let number = number.ok_or_else(|| Error::new(ErrorKind::Usage, what))?;
    let fd = os::take_over(number).map_err(|e| Error::new(ErrorKind::Usage, what).source(e))?;
    Ok(Some(TcpListener::from(fd)))
}

fn serve(options: &CoordinatorOptions, listener: Option<TcpListener>, peers: usize) -> Result<()> {
    let common = &options.common;
    let voice = voice(Program::Coordinator, common.quiet);
    warn_of(&common.ignored, &voice);
    let wanted = Options {
        bind: common.bind,
        port: options.port,
        interval: common.interval.unwrap_or_default().into(),
        exit_on_last: options.exit_on_last,
        kill_after_ckpt: options.kill_after_ckpt,
        timeout: options.timeout,
        stale_timeout: options.stale_timeout,
        secret: secret::path(common.secret_file.as_deref()),
        peers,
    };
    let dir = common.ckptdir.clone().unwrap_or_else(|| PathBuf::from("."));
    let dir = crate::launch::checkpoint_directory(&dir)?;
    make_room();
    let coordinator = Coordinator::new(wanted, listener)?;
    let port = coordinator.port();
    if let Some(file) = &common.port_file {
        write_port(file, port)?;
    }
    let _port_file = common.port_file.as_deref().map(Removed);
    let stamps =
        options.status_file.as_deref().map(|file| Stamps::begin(file, port)).transpose()?;
    if common.quiet == 0 {
        let interval = match common.interval.unwrap_or_default() {
            0 => "disabled (checkpoint manually instead)".to_owned(),
            seconds => seconds.to_string(),
        };
        println!(
            "dmtcp_coordinator starting...\n    Host: {} ({})\n    Port: {port}\n    \
             Checkpoint Interval: {interval}\n    Exit on last client: {}",
            host(),
            common.bind,
            u8::from(options.exit_on_last)
        );
    }
    if options.daemon {
        let log = common.coord_logfile.as_deref().map(appended).transpose()?;
        nix::unistd::daemon(true, false)
            .map_err(|e| Error::os("cannot go into the background", e))?;
        log.map(nix::unistd::dup2_stderr);
    } else {
        println!("Type '?' for help.\n");
        std::thread::spawn(move || prompt(port));
    }
    let run = coordinator.run(&mut |generation| {
        if let Err(error) = write_script(generation, port, &dir) {
            voice.warn(error);
        }
    });
    if let Some(stamps) = stamps {
        stamps.end();
    }
    run
}

/// Each peer needs a descriptor, and shells allow a thousand unless asked for more.
fn make_room() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::info!(%error, "no room for more peers");
    }
}

/// Takes commands from stdin as `dmtcp_command` takes them from its arguments.
fn prompt(port: u16) {
    let mut said = String::new();
    let stdin = std::io::stdin();
    loop {
        print!("dmtcp> ");
        let _ = std::io::stdout().flush();
        said.clear();
        match stdin.lock().read_line(&mut said) {
            Ok(1..) => {}
            // Nobody types any more; the coordinator stays.
            Ok(0) | Err(_) => return,
        }
        let words = said.split_whitespace().map(OsString::from);
        let place = ["--coord-port".into(), port.to_string().into()];
        if words.clone().next().is_some() {
            command::run(place.into_iter().chain(words));
        }
    }
}

fn appended(path: &Path) -> Result<File> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.map_err(|e| Error::os(format!("cannot open the log {}", path.display()), e))
}

/// The restart script of a generation, which makes it the one that is restarted: all peers have it.
fn write_script(generation: &Generation, port: u16, dir: &Path) -> Result<()> {
    let mut images: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for (host, image) in &generation.images {
        images.entry(host.clone()).or_default().push(PathBuf::from(image));
    }
    let computation = generation.computation.parse().unwrap_or(JobId(0));
    let program = std::env::current_exe().ok();
    let script = Script {
        computation: unique_id(computation, 40000),
        generation: None,
        taken: unix_now(),
        host: &host(),
        port,
        interval: u32::try_from(generation.interval).unwrap_or(u32::MAX),
        programs: program.as_deref().and_then(Path::parent),
        images: &images,
    };
    script.publish(dir).map(drop)
}

/// A file that goes when this does.
struct Removed<'a>(&'a Path);

impl Drop for Removed<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.0);
    }
}

/// The status file: host, port, and when the coordinator began and ended.
struct Stamps(File);

impl Stamps {
    fn begin(path: &Path, port: u16) -> Result<Self> {
        let failed = |e| Error::os(format!("cannot write {}", path.display()), e);
        let mut file = File::create(path).map_err(failed)?;
        writeln!(file, "Host: {}\nPort: {port}\nStart: {}", host(), unix_now()).map_err(failed)?;
        Ok(Self(file))
    }

    fn end(mut self) {
        let _ = writeln!(self.0, "Exit: {}", unix_now());
    }
}
