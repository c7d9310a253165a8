//! Which image is meant, and which takes its place if it is damaged.

use std::path::{Path, PathBuf};

use ckpt_core::image::{Directory, Entry, Reader, Whose};
use ckpt_core::job::JobId;
use ckpt_core::{Error, ErrorKind, Result};
use ckpt_launch::cli;
use ckpt_launch::voice::Voice;

use crate::cli::Restore;

/// The way to an image.
#[derive(Debug)]
pub enum Choice {
    /// This one and no other.
    Exactly(PathBuf),
    /// The newest good one of a directory; of one job if that is given.
    Newest(PathBuf, Option<JobId>),
}

impl Choice {
    /// What the command line asks for.
    ///
    /// # Errors
    ///
    /// When there is no such image or directory.
    pub fn of(args: &Restore) -> Result<Self> {
        let path = args.image.clone().unwrap_or_else(|| args.place.directory());
        let path = path
            .canonicalize()
            .map_err(|e| Error::os(format!("cannot find {}", path.display()), e))?;
        if !path.is_dir() {
            return Ok(Self::Exactly(path));
        }
        match args.generation {
            Some(generation) => find(&path, args.job, generation).map(Self::Exactly),
            None => Ok(Self::Newest(path, args.job)),
        }
    }

    /// The directory that the image comes from.
    pub fn directory(&self) -> &Path {
        match self {
            Self::Exactly(image) => image.parent().unwrap_or(Path::new("/")),
            Self::Newest(dir, _) => dir,
        }
    }

    /// Opens the image. Those that were passed over are named, and damaged ones set aside.
    ///
    /// # Errors
    ///
    /// When none is good, or the one that was named is a stranger's.
    pub fn open(&self, args: &Restore, voice: &Voice) -> Result<Reader> {
        match self {
            Self::Exactly(path) => {
                let image = Reader::open(path)?;
                check(&image, args)?;
                image.check_owner()?;
                Ok(image)
            }
            Self::Newest(dir, job) => {
                let dir = Directory::open(dir)?;
                let mut damaged = Vec::new();
                let found = dir.newest_good(*job, Whose::Trusted, &mut |path, error| {
                    voice.warn(format_args!("passed over: {error}"));
                    if error.kind() == ErrorKind::Damaged {
                        damaged.push(path.to_path_buf());
                    }
                });
                damaged.iter().for_each(|path| set_aside(&dir, path, voice));
                found
            }
        }
    }

    /// The image turned out to be damaged when it was used: the choice without it, if there may be
    /// another.
    pub fn without(&self, image: &Path, job: JobId, voice: &Voice) -> Option<Self> {
        let Self::Newest(dir, _) = self else { return None };
        set_aside(&Directory::open(dir).ok()?, image, voice);
        // If it could not be moved out of the way, it would be chosen again for ever.
        (!image.exists()).then(|| Self::Newest(dir.clone(), Some(job)))
    }
}

fn set_aside(dir: &Directory, image: &Path, voice: &Voice) {
    match dir.set_aside(image) {
        Ok(_) => voice.warn(format_args!("{} was set aside as *.bad", image.display())),
        Err(error) => voice.warn(error),
    }
}

/// An image that was named must be the one that the flags speak of.
fn check(image: &Reader, args: &Restore) -> Result<()> {
    let header = image.header();
    let wrong_job = args.job.filter(|&job| job != header.job);
    let wrong_generation = args.generation.filter(|&generation| generation != header.generation);
    if wrong_job.is_none() && wrong_generation.is_none() {
        return Ok(());
    }
    let what = format!(
        "{} is generation {} of job {}, not what --job and --generation say",
        image.path().display(),
        header.generation,
        header.job
    );
    Err(Error::new(ErrorKind::Usage, what))
}

/// The image of one generation; it must be clear of which job.
fn find(dir: &Path, job: Option<JobId>, generation: u64) -> Result<PathBuf> {
    let mut found = Directory::open(dir)?.images()?;
    found.retain(|image| {
        image.generation() == Some(generation) && job.is_none_or(|job| image.job() == Some(job))
    });
    // A stranger's must not make it unclear which is meant; one alone is refused by name.
    if found.iter().any(Entry::is_trusted) {
        found.retain(Entry::is_trusted);
    }
    match found.as_slice() {
        [image] => Ok(image.path.clone()),
        [] => {
            let what = format!("there is no generation {generation} in {}", dir.display());
            Err(Error::new(ErrorKind::NotFound, what).help("see `ckpt list`"))
        }
        several => {
            let jobs = several.iter().filter_map(Entry::job).map(|job| job.to_string());
            let jobs = jobs.collect::<Vec<_>>().join(", ");
            let what = format!("several images in {} are generation {generation}", dir.display());
            Err(Error::new(ErrorKind::Usage, what)
                .help(format!("choose one of the jobs {jobs} with --job")))
        }
    }
}

/// The directory for the control socket and later images.
///
/// # Errors
///
/// When it can't be made.
pub fn home(args: &Restore, choice: &Choice) -> Result<PathBuf> {
    match &args.place.ckptdir {
        Some(dir) => ckpt_launch::launch::checkpoint_directory(dir),
        None => cli::absolute(choice.directory()),
    }
}
