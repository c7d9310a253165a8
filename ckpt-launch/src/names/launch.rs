//! `dmtcp_launch` and `dmtcp_nocheckpoint`: our launcher with a coordinator, as DMTCP's always has
//! one.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use ckpt_core::image::Level;
use ckpt_core::{Error, ErrorKind};
use goblin::elf::Elf;

use super::{fail, lookup, meeting, talk, voice, warn_of};
use crate::cli::{Engine, Keeping, Launch, UnderSlurm, Where};
use crate::container::flags::InContainer;
use crate::dmtcp::options::{self, LaunchOptions, Parsed};
use crate::dmtcp::{Program, words};
use crate::launch::{self, With};

/// Runs `dmtcp_launch`; gives the exit status.
pub fn run(args: impl IntoIterator<Item = OsString>) -> u8 {
    match options::launch(args, &lookup) {
        Ok(Parsed::Run(options)) => launch(&options),
        Ok(Parsed::Help) => say(&words::usage(Program::Launch), 0),
        Ok(Parsed::Version) => say(&words::version(Program::Launch), 0),
        Ok(Parsed::Nothing) => {
            say(&words::introduction(Program::Launch), Program::Launch.failure_code(&lookup))
        }
        Err(error) => fail(Program::Launch, &error),
    }
}

/// Prints, and gives the exit status.
pub fn say(text: &str, code: u8) -> u8 {
    print!("{text}");
    code
}

fn launch(options: &LaunchOptions) -> u8 {
    let common = &options.common;
    let voice = voice(Program::Launch, common.quiet);
    warn_of(&ignored(options), &voice);
    let met = match meeting::meet(common, &options.meeting) {
        Ok(met) => met,
        Err(error) => return fail(Program::Launch, &error),
    };
    let program = options.command.first().map(OsString::as_os_str).unwrap_or_default();
    let args = Launch {
        keeping: keeping(options.gzip),
        place: Where {
            ckptdir: Some(common.ckptdir.clone().unwrap_or_else(|| PathBuf::from("."))),
        },
        // The object costs every exec a little: it is for those who call it.
        preload: calls_dmtcp(program).then(OsString::new),
        engine: crate::cli::With { backend: Engine::Native, dmtcp: None },
        join: None,
        container: InContainer::default(),
        slurm: UnderSlurm::default(),
        cut_appended: false,
        lazy: None,
        talk: talk(common.quiet),
        command: options.command.clone(),
    };
    let with = With { join: Some(met.address.clone()), dmtcp_names: true };
    let ended = launch::launch(&args, &with, &voice, None);
    ended.unwrap_or_else(|(_, error)| fail(Program::Launch, &error))
}

/// Options that DMTCP needs and we do not: generations have names of their own anyway, and open files
/// that have no name any more are saved anyway.
fn ignored(options: &LaunchOptions) -> Vec<&'static str> {
    let mut ignored = options.common.ignored.clone();
    for (given, name) in [
        (options.unique_filenames, "--enable-unique-checkpoint-filenames"),
        (options.ckpt_open_files, "--ckpt-open-files"),
        (options.allow_file_overwrite, "--allow-file-overwrite"),
    ] {
        ignored.extend(given.then_some(name));
    }
    ignored
}

/// What is kept of images, and how: without gzip, as they are.
pub fn keeping(gzip: Option<bool>) -> Keeping {
    let level = if gzip == Some(false) { Level::Fixed(0) } else { Keeping::default().level };
    // Scripts copy and remove single images.
    Keeping { level, increments: 0, ..Keeping::default() }
}

/// Whether a program asks for functions of `dmtcp.h`.
fn calls_dmtcp(program: &OsStr) -> bool {
    let Some(path) = find(program) else { return false };
    let Ok(bytes) = std::fs::read(path) else { return false };
    let Ok(elf) = Elf::parse(&bytes) else { return false };
    elf.dynsyms.iter().any(|symbol| {
        symbol.is_import()
            && elf.dynstrtab.get_at(symbol.st_name).is_some_and(|name| name.starts_with("dmtcp_"))
    })
}

/// The file that execvp(3) would run.
fn find(program: &OsStr) -> Option<PathBuf> {
    if program.as_encoded_bytes().contains(&b'/') {
        return Some(PathBuf::from(program));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|path| Path::is_file(path))
}

/// Runs `dmtcp_nocheckpoint COMMAND …`. Inside a job of ours the command is part of the job like any
/// other, which harms nobody: it is saved, and comes back.
pub fn run_plain(args: impl IntoIterator<Item = OsString>) -> u8 {
    let mut args = args.into_iter();
    let Some(program) = args.next() else {
        eprintln!("Usage: dmtcp_nocheckpoint <command> [args...]");
        return words::USAGE;
    };
    if lookup("CKPT_JOB_ID").is_some() {
        eprintln!("dmtcp_nocheckpoint: without effect here: the command is saved with the job");
    }
    let error = Command::new(&program).args(args).exec();
    let missing = error.kind() == std::io::ErrorKind::NotFound;
    let what = format!("cannot run {}", program.display());
    eprintln!("dmtcp_nocheckpoint: {}", Error::new(ErrorKind::NotFound, what).source(error));
    if missing { 127 } else { 126 }
}
