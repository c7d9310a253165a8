//! A job's images that belong together, and what is kept of them.
//!
//! ```text
//! DIR/dmtcp-work-x8Fq2k/     where a running DMTCP writes, one file over the other
//! DIR/dmtcp-000007/          a generation: its files, moved here when all were whole
//!     ckpt_bash_….dmtcp      an image for each process
//!     ckpt_bash_…_files/     DMTCP's copies of open files
//!     ckpt.json              what there must be; written last, and without it all is void
//! ```
//!
//! DMTCP finds a copy of a file only under the name that it had in the work directory, so the
//! manifest knows that directory, and a restart makes it again.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use ckpt_core::{Error, ErrorKind, Result};

use super::image::{self, Head, Whole, is_dmtcp_image};
use super::manifest::{MANIFEST, Manifest};

pub(super) const GENERATION: &str = "dmtcp-";
pub(super) const WORK: &str = "dmtcp-work-";
const IMAGE: &str = ".dmtcp";
const COPIES: &str = "_files";

/// What a good set has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Images, one for each process.
    pub images: usize,
    /// Bytes of all files.
    pub bytes: u64,
}

/// The images of one checkpoint.
#[derive(Debug)]
pub struct Set {
    images: Vec<PathBuf>,
    /// The directory and its manifest, unless DMTCP was driven by somebody else.
    kept: Option<(PathBuf, Manifest)>,
}

impl Set {
    /// A generation's directory, or one with images that DMTCP left there itself.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if there is no image, [`ErrorKind::Damaged`] if there is a manifest
    /// that makes no sense; otherwise what went wrong with reading.
    pub fn open(dir: &Path) -> Result<Self> {
        let Some(manifest) = Manifest::read(dir)? else {
            return Self::of(list(dir)?.into_iter().filter(|path| is_image(path)).collect());
        };
        let images = manifest.files.iter().map(|entry| dir.join(&entry.name));
        let images = images.filter(|path| is_image(path)).collect();
        Ok(Self { images, kept: Some((dir.to_owned(), manifest)) })
    }

    /// Images that are named one by one.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if it is none at all.
    pub fn of(images: Vec<PathBuf>) -> Result<Self> {
        if images.is_empty() {
            return Err(Error::new(ErrorKind::NotFound, "there is no image of DMTCP's"));
        }
        Ok(Self { images, kept: None })
    }

    /// The newest generation in `dir` that is whole, of the job that was written last, or else
    /// what DMTCP left there itself. `on_bad` hears of those that are passed over. What is
    /// returned has been verified.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if there is none; otherwise why the newest is no good.
    pub fn newest_good(dir: &Path, on_bad: &mut dyn FnMut(&Path, &Error)) -> Result<Self> {
        let (mut job, mut first) = (None, None);
        for path in generations(dir)? {
            let error = match Self::open(&path) {
                Ok(set) if job.as_ref().is_some_and(|job| Some(job) != set.job()) => continue,
                Ok(set) => match set.verify() {
                    Ok(_) => return Ok(set),
                    Err(error) => {
                        job = set.job().cloned();
                        error
                    }
                },
                Err(error) => error,
            };
            on_bad(&path, &error);
            first.get_or_insert(error);
        }
        if let Some(error) = first {
            return Err(error);
        }
        let set = Self::open(dir)?;
        set.verify().map(|_| set)
    }

    pub(super) fn job(&self) -> Option<&String> {
        self.kept.as_ref().map(|(_, manifest)| &manifest.job)
    }

    /// The images' paths.
    pub fn images(&self) -> &[PathBuf] {
        &self.images
    }

    /// Its number, if it is a generation.
    pub fn generation(&self) -> Option<u64> {
        self.kept.as_ref().map(|(_, manifest)| manifest.generation)
    }

    /// Reads every byte. DMTCP itself hardly looks, and waits for ever for an image that is not
    /// there.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Damaged`] naming the first file that is missing or isn't as it was.
    pub fn verify(&self) -> Result<Summary> {
        let mut heads = Vec::new();
        let mut bytes = 0;
        for path in &self.images {
            let whole = match image::read(path, None) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Err(missing(path)),
                whole => whole?,
            };
            self.compare(path, &whole)?;
            bytes += whole.bytes;
            heads.push((path.as_path(), whole.head));
        }
        let job = agree(&heads)?;
        if let Some((dir, manifest)) = &self.kept {
            if manifest.peers != self.images.len() || job.is_some_and(|job| job != manifest.job) {
                return Err(damaged(&dir.join(MANIFEST), "it is not about these images"));
            }
            for entry in manifest.files.iter().filter(|entry| !is_image(&entry.name)) {
                let path = dir.join(&entry.name);
                let whole = image::read_any(&path).map_err(|error| match error.kind() {
                    ErrorKind::NotFound => missing(&path),
                    _ => error,
                })?;
                self.compare(&path, &whole)?;
                bytes += whole.bytes;
            }
        }
        Ok(Summary { images: self.images.len(), bytes })
    }

    fn compare(&self, path: &Path, whole: &Whole) -> Result<()> {
        let Some((dir, manifest)) = &self.kept else { return Ok(()) };
        let entry = manifest.files.iter().find(|entry| dir.join(&entry.name) == path);
        match entry {
            Some(entry) if entry.bytes != whole.bytes => Err(damaged(
                path,
                format_args!("it has {} bytes instead of {}", whole.bytes, entry.bytes),
            )),
            Some(entry) if entry.crc32 != whole.crc32 => {
                Err(damaged(path, "its contents have changed since it was written"))
            }
            _ => Ok(()),
        }
    }

    /// Makes the copies of files visible where DMTCP looks for them; gives that place, which is to
    /// be removed when the job is over.
    pub(super) fn place(&self) -> Result<Option<PathBuf>> {
        let Some((dir, Manifest { work, files, .. })) = &self.kept else { return Ok(None) };
        if files.iter().all(|entry| is_image(&entry.name)) {
            return Ok(None);
        }
        let failed = |error| {
            let what = format!("cannot make {} again", work.display());
            Error::os(what, error).help("DMTCP looks there for its copies of open files")
        };
        // Left by a driver that was killed.
        match fs::remove_dir_all(work) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        DirBuilder::new().recursive(true).mode(0o700).create(work).map_err(failed)?;
        let dir = dir.canonicalize().map_err(failed)?;
        for path in list(&dir)?.into_iter().filter(|path| path.is_dir()) {
            let name = path.file_name().unwrap_or_default();
            symlink(&path, work.join(name)).map_err(failed)?;
        }
        Ok(Some(work.clone()))
    }
}

/// Images must be of one checkpoint, and all there. Gives the job's name.
pub(super) fn agree(heads: &[(&Path, Option<Head>)]) -> Result<Option<String>> {
    let mut first: Option<&Head> = None;
    for (path, head) in heads {
        let Some(head) = head else { continue };
        let expected = *first.get_or_insert(head);
        if head != expected {
            let other = match head.computation == expected.computation {
                true => "it is of another checkpoint than the images beside it",
                false => "it is of another job than the images beside it",
            };
            return Err(damaged(path, other));
        }
        if head.peers as usize != heads.len() {
            let what = format!("its job has {} images, {} are here", head.peers, heads.len());
            return Err(damaged(path.parent().unwrap_or(path), what));
        }
    }
    Ok(first.map(|head| head.computation.clone()))
}

/// Whether there is something in `dir` that DMTCP can restart.
pub fn is_dmtcp_set(dir: &Path) -> bool {
    let by_content = |path: &PathBuf| is_image(path) && is_dmtcp_image(path);
    generations(dir).is_ok_and(|all| !all.is_empty())
        || Set::open(dir).is_ok_and(|set| set.kept.is_some() || set.images.iter().any(by_content))
}

/// Reads every byte of an image, of a set, or of all generations in a directory.
///
/// # Errors
///
/// [`ErrorKind::Damaged`] with the first flaw, [`ErrorKind::NotFound`] if there is nothing.
pub fn verify(path: &Path) -> Result<Summary> {
    if !path.is_dir() {
        return image::read(path, None).map(|whole| Summary { images: 1, bytes: whole.bytes });
    }
    let generations = generations(path)?;
    if generations.is_empty() {
        return Set::open(path)?.verify();
    }
    let mut sum = Summary { images: 0, bytes: 0 };
    for generation in generations {
        let Summary { images, bytes } = Set::open(&generation)?.verify()?;
        sum = Summary { images: sum.images + images, bytes: sum.bytes + bytes };
    }
    Ok(sum)
}

/// The generations in `dir` that were committed, the newest first.
///
/// # Errors
///
/// What went wrong with reading the directory.
pub fn generations(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut all: Vec<_> = list(dir)?
        .into_iter()
        .filter_map(|path| Some((number(&path)?, path)))
        .filter(|(_, path)| path.join(MANIFEST).exists())
        .collect();
    all.sort_unstable_by(|a, b| b.cmp(a));
    Ok(all.into_iter().map(|(_, path)| path).collect())
}

/// A generation's number: `dmtcp-000007`.
pub(super) fn number(path: &Path) -> Option<u64> {
    let digits = path.file_name()?.to_str()?.strip_prefix(GENERATION)?;
    digits.parse().ok().filter(|_| digits.len() >= 6 && path.is_dir())
}

pub(super) fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let list = fs::read_dir(dir).and_then(|entries| {
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()
    });
    let mut list = list.map_err(|error| cannot("list", dir, error))?;
    list.sort_unstable();
    Ok(list)
}

pub(super) fn is_image(path: &Path) -> bool {
    ends_with(path, IMAGE)
}

pub(super) fn is_copies(path: &Path) -> bool {
    ends_with(path, COPIES) && path.is_dir()
}

fn ends_with(path: &Path, end: &str) -> bool {
    path.as_os_str().as_encoded_bytes().ends_with(end.as_bytes())
}

pub(super) fn cannot(what: &str, path: &Path, error: impl Into<io::Error>) -> Error {
    Error::os(format!("cannot {what} {}", path.display()), error)
}

fn missing(path: &Path) -> Error {
    damaged(path, "it is missing, and DMTCP would wait for it for ever")
}

pub(super) fn damaged(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Damaged, format!("{} is no good: {what}", path.display()))
}
