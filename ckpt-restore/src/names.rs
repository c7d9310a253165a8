//! `dmtcp_restart`: one image, or several of one computation, each with a restorer of its own.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use ckpt_core::{Error, ErrorKind, Result};
use ckpt_launch::cli::{self, Where};
use ckpt_launch::container::flags::BackInContainer;
use ckpt_launch::coordinator::place::Address;
use ckpt_launch::dmtcp::options::{self, Images, Parsed, RestartOptions};
use ckpt_launch::dmtcp::{Program, words};
use ckpt_launch::launch::With;
use ckpt_launch::names::launch::{keeping, say};
use ckpt_launch::names::{fail, lookup, meeting, talk, voice, warn_of};

use crate::cli::{Pids, Restore};
use crate::dmtcp;
use crate::restore::{self, Part};

const OURS: Program = Program::Restart;

/// Runs `dmtcp_restart`; gives the exit status.
pub fn run(args: impl IntoIterator<Item = OsString>) -> u8 {
    match options::restart(args, &lookup) {
        Ok(Parsed::Run(options)) => restart(&options).unwrap_or_else(|error| fail(OURS, &error)),
        Ok(Parsed::Help) => say(&words::usage(OURS), 0),
        Ok(Parsed::Version) => say(&words::version(OURS), 0),
        Ok(Parsed::Nothing) => say(&words::introduction(OURS), OURS.failure_code(&lookup)),
        Err(error) => fail(OURS, &error),
    }
}

fn restart(options: &RestartOptions) -> Result<u8> {
    let common = &options.common;
    let images = images(&options.images)?;
    if images.iter().all(|image| dmtcp::is_meant(image)) {
        return dmtcp::restore(
            &args(options, None),
            &images,
            &voice(OURS, common.quiet),
            Part::default(),
        );
    }
    // Before anything is started: what cannot be restored is known here.
    for image in &images {
        let path = image.canonicalize().unwrap_or_else(|_| image.clone());
        ckpt_core::image::Reader::open(path)?.check_owner()?;
    }
    let voice = voice(OURS, common.quiet);
    warn_of(&common.ignored, &voice);
    let met = meeting::meet(common, &options.meeting)?;
    if let [image] = images.as_slice() {
        let args = args(options, Some(image.clone()));
        let with = With { join: Some(met.address.clone()), dmtcp_names: true };
        return restore::restore(&args, &with, &voice, None);
    }
    all(&images, common, &met.address)
}

fn args(options: &RestartOptions, image: Option<PathBuf>) -> Restore {
    Restore {
        image,
        place: Where { ckptdir: options.common.ckptdir.clone() },
        job: None,
        generation: None,
        keeping: keeping(None),
        pids: Pids::Auto,
        cut_appended: false,
        lazy: None,
        force: false,
        engine: cli::With::default(),
        join: None,
        container: BackInContainer::default(),
        slurm: cli::UnderSlurm::default(),
        talk: talk(options.common.quiet),
    }
}

/// Restores each image by a process like this one, and waits for all: the first one's status, or
/// that of the first that failed.
fn all(images: &[PathBuf], common: &options::Common, address: &Address) -> Result<u8> {
    let own = std::env::current_exe().map_err(|e| Error::os("cannot find our own program", e))?;
    let start = |image: &PathBuf| -> Result<Child> {
        let mut command = Command::new(&own);
        std::os::unix::process::CommandExt::arg0(&mut command, OURS.name());
        command.args(["--join-coordinator", "--coord-host", &address.host]);
        command.args(["--coord-port", &address.port.to_string(), "--secret-file"]);
        command.arg(&address.secret).args(vec!["--quiet"; common.quiet.into()]);
        if let Some(dir) = &common.ckptdir {
            command.arg("--ckptdir").arg(dir);
        }
        let what = || format!("cannot start a restorer for {}", image.display());
        command.arg(image).spawn().map_err(|e| Error::os(what(), e))
    };
    // It ends with its last peer, and the first may be done before the last is there.
    let _held = address.connect()?;
    let children = images.iter().map(start).collect::<Result<Vec<_>>>()?;
    let mut worst = 0;
    for mut child in children {
        let status = child.wait().map_err(|e| Error::os("cannot wait for a restorer", e))?;
        let code = status.code().map_or(u8::MAX, |code| code as u8);
        if worst == 0 {
            worst = code;
        }
    }
    Ok(worst)
}

/// The images that are meant.
fn images(wanted: &Images) -> Result<Vec<PathBuf>> {
    let dir = match wanted {
        Images::Named(images) => return Ok(images.clone()),
        Images::In(dir) => dir,
    };
    let failed = |e| Error::os(format!("cannot list {}", dir.display()), e);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if Path::extension(&path).is_some_and(|ending| ending == "dmtcp") {
            found.push(path);
        }
    }
    found.sort();
    if found.is_empty() {
        let what = format!("there is no image (*.dmtcp) in {}", dir.display());
        return Err(Error::new(ErrorKind::NotFound, what));
    }
    Ok(found)
}
