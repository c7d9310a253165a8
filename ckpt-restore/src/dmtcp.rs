//! Images that DMTCP wrote are brought back by DMTCP, and the job is supervised like any other.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ckpt_core::image::{Directory, check_owner_of};
use ckpt_core::job::{Job, JobId};
use ckpt_core::{Error, Result};
use ckpt_launch::backend::{Driver, Set, is_dmtcp_image, is_dmtcp_set};
use ckpt_launch::cli;
use ckpt_launch::control::place::{Ownership, Place};
use ckpt_launch::control::protocol::{Event, Last};
use ckpt_launch::control::server::Server;
use ckpt_launch::engine::{self, Engine};
use ckpt_launch::root::Root;
use ckpt_launch::signals::Signals;
use ckpt_launch::supervisor::{Begun, Supervisor};
use ckpt_launch::voice::Voice;
use ckpt_launch::{launch, words};

use crate::cli::Restore;
use crate::restore::Part;

/// How long DMTCP may take until the job runs.
const PATIENCE: Duration = Duration::from_secs(600);

/// Whether these are DMTCP's: an image by its content, a directory if there is none of ours in it.
pub fn is_meant(path: &Path) -> bool {
    if !path.is_dir() {
        return is_dmtcp_image(path);
    }
    let ours = Directory::open(path).and_then(|dir| dir.images());
    ours.is_ok_and(|images| images.is_empty()) && is_dmtcp_set(path)
}

/// Brings the job of these images, or of a directory, back; gives the exit status.
pub fn restore<'a>(
    args: &Restore,
    paths: &[PathBuf],
    voice: &'a Voice,
    part: Part<'a>,
) -> Result<u8> {
    let set = match paths {
        [dir] if dir.is_dir() => Set::newest_good(dir, &mut |path, error| {
            voice.warn(format_args!("passed over: {}: {error}", path.display()));
        })?,
        images => Set::of(images.to_vec())?,
    };
    for image in set.images() {
        let missing = |e| Error::os(format!("cannot find {}", image.display()), e);
        check_owner_of(image, image.metadata().map_err(missing)?.uid())?;
    }
    let found = engine::dmtcp(&args.engine)?;
    let dir = home(args, paths)?;
    let begun_at = Instant::now();

    let job = JobId::random();
    let mut ownership = Ownership::take(Place { dir: dir.clone(), job })?;
    let Part { round, signals, mut inside } = part;
    let signals = match signals {
        Some(signals) => signals,
        None => Signals::take(false)?,
    };
    launch::become_subreaper()?;
    let server = Server::new(ownership.listen()?);
    let options = engine::dmtcp_options(&dir, &args.keeping, args.talk.quiet);
    let (driver, mut command) = Driver::restart(&found, options, &set)?;
    signals.inherited().hand_down(&mut command);
    let child = command.spawn().map_err(|e| Error::os("cannot run dmtcp_restart", e))?;
    let pid = child.id().cast_signed();
    let generation = set.generation().unwrap_or_default();
    let first = set.images().first().cloned().unwrap_or_default();
    if let Err(error) = driver.wait_until_running(Instant::now() + PATIENCE) {
        // It may have run and ended already: then its own status tells.
        tracing::info!(%error, "DMTCP does not say that the job runs");
    }

    let parent = std::process::id().cast_signed();
    let mut job = Job::new(job, "dmtcp".to_owned(), parent, pid);
    job.generation = generation;
    if let Some(inside) = &mut inside {
        inside.runs(&job);
    }
    let path = first.parent().unwrap_or(&dir).to_string_lossy().into_owned();
    let last = said(voice, &job, path, begun_at);
    let begun = Begun {
        job,
        engine: Engine::Dmtcp(Box::new(driver)),
        root: Root::Child(pid),
        behind: None,
        from: Some(last),
        peer: None,
        dmtcp_names: false,
        round,
        inside,
    };
    let control = Some((ownership, server));
    Ok(Supervisor::new(voice, signals, control, begun, &args.keeping, dir).run())
}

/// Says that the job runs again, from what is at `path`.
fn said(voice: &Voice, job: &Job, path: String, begun_at: Instant) -> Last {
    let generation = job.generation;
    let event = Event::Restored {
        job: job.id.to_string(),
        name: job.name.clone(),
        pid: job.root,
        generation,
        path: path.clone(),
        bytes: 0,
        total_s: begun_at.elapsed().as_secs_f64(),
        bytes_later: 0,
    };
    let time = words::duration(begun_at.elapsed());
    voice.say(
        &event,
        format_args!("generation {generation} runs again under DMTCP: {time}, {path}"),
    );
    let at = words::unix_now();
    Last { generation, at, path, bytes_stored: 0, frozen_s: None, total_s: None }
}

/// The checkpoint directory of the job from now on.
fn home(args: &Restore, paths: &[PathBuf]) -> Result<PathBuf> {
    if let Some(dir) = &args.place.ckptdir {
        return launch::checkpoint_directory(dir);
    }
    let first = paths.first().map_or(Path::new("."), PathBuf::as_path);
    let dir = if first.is_dir() { first } else { first.parent().unwrap_or(Path::new(".")) };
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    // A generation's own directory lies in the checkpoint directory.
    let inner = dir.join("ckpt.json").exists();
    cli::absolute(if inner { dir.parent().unwrap_or(dir) } else { dir })
}
