//! From DMTCP's work directory to a generation that is kept (see [`super::set`] for the picture).
//!
//! DMTCP overwrites its images in place. They are moved away when they are whole, so it finds an
//! empty directory at the next checkpoint, and nothing that it does later can harm them.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use ckpt_core::{Error, ErrorKind, Result};

use super::image;
use super::manifest::{Entry, FORMAT, MANIFEST, Manifest};
use super::set::{
    GENERATION, Set, Summary, agree, cannot, damaged, generations, is_copies, is_image, list,
    number,
};
use crate::words;

/// A generation without a manifest that is older than this is no longer being written.
const ABANDONED: Duration = Duration::from_secs(3600);

/// A generation that has just been committed.
#[derive(Debug)]
pub(super) struct Committed {
    pub(super) generation: u64,
    pub(super) path: PathBuf,
    pub(super) summary: Summary,
}

/// Waits until every image in `work` is whole, makes them a generation of `dir`, and removes all
/// but the `keep` newest of this job.
pub(super) fn commit(
    work: &Path,
    dir: &Path,
    (dmtcp, peers): (&str, u32),
    keep: usize,
    deadline: Instant,
) -> Result<Committed> {
    let found = files(work)?;
    let (mut entries, mut heads) = (Vec::new(), Vec::new());
    for path in &found {
        let whole = match is_image(path) {
            true => image::read(path, Some(deadline))?,
            false => image::read_any(path)?,
        };
        sync(path)?;
        let name = path.strip_prefix(work).unwrap_or(path).to_owned();
        entries.push(Entry { name, bytes: whole.bytes, crc32: whole.crc32 });
        if is_image(path) {
            heads.push((path.as_path(), whole.head));
        }
    }
    // A layout that we don't know does not tell the number itself.
    if heads.iter().all(|(_, head)| head.is_none()) && heads.len() != peers as usize {
        return Err(damaged(work, format!("there are {} images of {peers}", heads.len())));
    }
    let job = agree(&heads)?.unwrap_or_else(|| "unknown".to_owned());
    let summary =
        Summary { images: heads.len(), bytes: entries.iter().map(|entry| entry.bytes).sum() };
    let (generation, path) = claim(dir)?;
    for from in list(work)?.into_iter().filter(|path| is_image(path) || is_copies(path)) {
        let to = path.join(from.file_name().unwrap_or_default());
        fs::rename(&from, &to).map_err(|e| cannot("move", &from, e))?;
        if to.is_dir() {
            sync(&to)?;
        }
    }
    sync(&path)?;
    let manifest = Manifest {
        format: FORMAT,
        generation,
        job,
        peers: summary.images,
        dmtcp: dmtcp.to_owned(),
        created: words::unix_now(),
        work: work.to_owned(),
        files: entries,
    };
    manifest.commit(&path)?;
    sync(dir)?;
    if let Err(error) = prune(dir, &manifest.job, keep.max(1)) {
        tracing::warn!(%error, "older generations not removed");
    }
    Ok(Committed { generation, path, summary })
}

/// Makes the directory of the next generation.
fn claim(dir: &Path) -> Result<(u64, PathBuf)> {
    let newest = list(dir)?.iter().filter_map(|path| number(path)).max().unwrap_or(0);
    for generation in newest.saturating_add(1).. {
        let path = dir.join(format!("{GENERATION}{generation:06}"));
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => return Ok((generation, path)),
            // Another job's, which writes into the same directory.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(cannot("make", &path, error)),
        }
    }
    Err(Error::new(ErrorKind::Unsupported, "there are no more generations"))
}

fn prune(dir: &Path, job: &str, keep: usize) -> Result<()> {
    let of_job =
        |path: &PathBuf| Set::open(path).is_ok_and(|set| set.job().is_some_and(|j| j == job));
    for path in generations(dir)?.iter().filter(|path| of_job(path)).skip(keep) {
        // The manifest goes first: what is left of an interrupted removal is no generation.
        let removed = fs::remove_file(path.join(MANIFEST)).and_then(|()| fs::remove_dir_all(path));
        removed.map_err(|error| cannot("remove", path, error))?;
    }
    let abandoned = |path: &PathBuf| {
        let modified = path.metadata().and_then(|meta| meta.modified());
        let age = modified.map(|then| SystemTime::now().duration_since(then).unwrap_or_default());
        !path.join(MANIFEST).exists() && age.is_ok_and(|age| age > ABANDONED)
    };
    let numbered = list(dir)?.into_iter().filter(|path| number(path).is_some());
    for path in numbered.filter(abandoned) {
        fs::remove_dir_all(&path).map_err(|error| cannot("remove", &path, error))?;
    }
    Ok(())
}

/// The images in a work directory and the files of their `_files` directories.
fn files(work: &Path) -> Result<Vec<PathBuf>> {
    let (mut found, mut dirs) = (Vec::new(), Vec::new());
    for path in list(work)? {
        match (is_image(&path), is_copies(&path)) {
            (true, _) => found.push(path),
            (_, true) => dirs.push(path),
            _ => {}
        }
    }
    while let Some(dir) = dirs.pop() {
        let (inner, plain): (Vec<_>, Vec<_>) =
            list(&dir)?.into_iter().partition(|path| path.is_dir());
        dirs.extend(inner);
        found.extend(plain);
    }
    Ok(found)
}

/// How many images there are, and whether one is still under its temporary name.
pub(super) fn progress(work: &Path) -> Result<(usize, bool)> {
    let paths = list(work)?;
    let unnamed = |path: &PathBuf| path.extension().is_some_and(|ext| ext == "temp");
    Ok((paths.iter().filter(|path| is_image(path)).count(), paths.iter().any(unnamed)))
}

/// Removes what an earlier checkpoint left in a work directory, or a restart.
pub(super) fn sweep(work: &Path) -> Result<()> {
    for path in list(work)? {
        let unnamed = path.extension().is_some_and(|ext| ext == "temp");
        let is_dir = path.symlink_metadata().is_ok_and(|meta| meta.is_dir());
        let removed = match is_image(&path) || unnamed || is_copies(&path) {
            true if is_dir => fs::remove_dir_all(&path),
            true => fs::remove_file(&path),
            false => Ok(()),
        };
        removed.map_err(|error| cannot("remove", &path, error))?;
    }
    Ok(())
}

fn sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|error| cannot("sync", path, error))
}
