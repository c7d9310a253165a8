//! A checkpoint directory: which images are there, which is the newest that is whole, and which
//! are no longer needed. All access goes through one open descriptor, so the directory may be
//! renamed meanwhile.
//!
//! An image with a damaged header still has its name, which says of which job and generation it
//! is; so it can be reported in its place instead of being overlooked.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::fs::DirBuilder;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags};
use rustix::io::Errno;

use super::ancestors;
use super::contents::read_header;
use super::format::{Header, ImageId, io_error};
use super::owner;
use super::reader::Reader;
use super::temp::open_regular;
use crate::error::{Error, ErrorKind, Result};
use crate::job::JobId;

/// What the names of images end in.
pub(super) const SUFFIX: &str = ".ckpt";
/// The most bytes of a job's name in the name of a file.
const NAME_LEN: usize = 64;

/// The file name of an image: `payload.sh-0123456789abcdef-000007.ckpt`. All but letters, digits
/// and `._+-` in `name` becomes `_`, and it is cut to 64 bytes.
pub fn file_name(name: &str, job: JobId, generation: u64) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._+-".contains(c);
    let mut name: String =
        name.chars().take(NAME_LEN).map(|c| if plain(c) { c } else { '_' }).collect();
    if name.is_empty() {
        name.push_str("job");
    } else if name.starts_with('.') {
        name.replace_range(..1, "_");
    }
    format!("{name}-{job}-{generation:06}{SUFFIX}")
}

/// Job and generation that a file name made by [`file_name`] tells.
fn parse_name(name: &str) -> Option<(JobId, u64)> {
    let (rest, generation) = name.strip_suffix(SUFFIX)?.rsplit_once('-')?;
    let (_, job) = rest.rsplit_once('-')?;
    Some((job.parse().ok()?, generation.parse().ok()?))
}

/// An image file in a directory.
#[derive(Debug)]
pub struct Entry {
    /// Where it is.
    pub path: PathBuf,
    /// Its header, or why that could not be read. The rest of the file was not looked at.
    pub header: Result<Header>,
    /// Bytes of the file.
    pub bytes: u64,
    /// When it was last written, nanoseconds since 1970.
    modified: u64,
    owner: u32,
    name: String,
}

/// Whose images are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// Everybody's: to be read.
    Anybodys,
    /// Ours and root's: to be restored ([`Reader::check_owner`]).
    Trusted,
}

impl Entry {
    /// The job: from the header, from the file name if that is damaged.
    pub fn job(&self) -> Option<JobId> {
        self.identity().map(|(job, _)| job)
    }

    /// The generation: from the header, from the file name if that is damaged.
    pub fn generation(&self) -> Option<u64> {
        self.identity().map(|(_, generation)| generation)
    }

    /// Whether it is ours or root's.
    pub fn is_trusted(&self) -> bool {
        owner::is_trusted(self.owner)
    }

    fn identity(&self) -> Option<(JobId, u64)> {
        match &self.header {
            Ok(header) => Some((header.job, header.generation)),
            Err(_) => parse_name(&self.name),
        }
    }

    fn created(&self) -> u64 {
        self.header.as_ref().map_or(0, |header| header.created)
    }
}

/// A checkpoint directory.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    dir: OwnedFd,
}

impl Directory {
    /// Opens an existing directory. (Unlike an image it may be reached through a symbolic link.)
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if there is none, otherwise what open(2) says.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let dir = open_dir(&path)?;
        Ok(Self { path, dir })
    }

    /// Opens a directory and makes it before, with those above it, if there is none: mode 0700,
    /// because images hold the job's memory. An existing one keeps its mode.
    ///
    /// # Errors
    ///
    /// What mkdir(2) and open(2) say.
    pub fn create(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let missing = path.ancestors().take_while(|p| !p.as_os_str().is_empty() && !p.exists());
        let missing: Vec<_> = missing.map(Path::to_owned).collect();
        DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(|source| {
            io_error(format!("cannot make the directory {}", path.display()), source)
        })?;
        for made in missing {
            // Best effort: a directory above that we may not read is the administrator's.
            let above = made.parent().filter(|p| !p.as_os_str().is_empty());
            let _ = open_dir(above.unwrap_or(Path::new("."))).map(|dir| sync(&dir));
        }
        Self::open(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All images (`*.ckpt`): the job that was written last comes first, and of each job the
    /// newest generation. Damaged ones stand in their place as far as their name tells it,
    /// otherwise at the end.
    ///
    /// # Errors
    ///
    /// What getdents(2) says.
    pub fn images(&self) -> Result<Vec<Entry>> {
        let failed = |errno: Errno| io_error(format!("cannot list {}", self.path.display()), errno);
        let mut entries = Vec::new();
        for entry in Dir::read_from(&self.dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if let Ok(name) = entry.file_name().to_str()
                && name.ends_with(SUFFIX)
                && !name.starts_with('.')
            {
                entries.extend(self.entry(name));
            }
        }
        sort(&mut entries);
        Ok(entries)
    }

    /// `None` if the file is gone by now.
    fn entry(&self, name: &str) -> Option<Entry> {
        let stat = rustix::fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let path = self.path.join(name);
        let header = match open_regular(Some(&self.dir), Path::new(name)) {
            Ok(file) => read_header(&file).map_err(|flaw| flaw.of(&path)),
            Err(source) => Err(io_error(format!("cannot open {}", path.display()), source)),
        };
        let seconds = u64::try_from(stat.st_mtime).unwrap_or(0);
        Some(Entry {
            path,
            header,
            bytes: u64::try_from(stat.st_size).unwrap_or(0),
            modified: seconds.saturating_mul(1_000_000_000).saturating_add(stat.st_mtime_nsec),
            owner: stat.st_uid,
            name: name.to_owned(),
        })
    }

    /// Opens the newest image that is whole (its blocks excepted), of `job` or else of the job
    /// that was written last. `on_bad` hears of each one that had to be passed over: a stranger's,
    /// where only ours count, has no say in which job was written last.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if there is no image, [`ErrorKind::Damaged`] if none is whole or
    /// if it cannot be told which job was written last.
    pub fn newest_good(
        &self,
        job: Option<JobId>,
        whose: Whose,
        on_bad: &mut dyn FnMut(&Path, &Error),
    ) -> Result<Reader> {
        let mut entries = self.images()?;
        if whose == Whose::Trusted {
            entries.retain(|entry| {
                let checked = owner::check(&entry.path, entry.owner);
                checked.inspect_err(|error| on_bad(&entry.path, error)).is_ok()
            });
        }
        let wanted = match job {
            Some(job) => Some(job),
            None => self.last_job(&entries)?,
        };
        let mut bad = 0;
        // Without any job known, `wanted` is `None` and these are the files that nobody knows.
        for entry in entries.iter().filter(|entry| entry.job() == wanted) {
            match self.open_entry(entry, &entries, whose) {
                Ok(reader) => return Ok(reader),
                Err(error) => on_bad(&entry.path, &error),
            }
            bad += 1;
        }
        Err(self.nothing_good(wanted, bad))
    }

    fn open_entry(&self, entry: &Entry, entries: &[Entry], whose: Whose) -> Result<Reader> {
        let reader = self.restorable(entry, entries)?;
        // Once more: another file may have the name by now.
        if whose == Whose::Trusted {
            reader.check_owner()?;
        }
        Ok(reader)
    }

    fn nothing_good(&self, job: Option<JobId>, bad: usize) -> Error {
        let job = job.map_or(String::new(), |job| format!(" of job {job}"));
        let path = self.path.display();
        match bad {
            0 => Error::new(ErrorKind::NotFound, format!("there is no image{job} in {path}")),
            _ => Error::new(
                ErrorKind::Damaged,
                format!("none of {bad} images{job} in {path} is whole"),
            ),
        }
    }

    /// The job of the newest header. But if all images of some job have damaged headers and one
    /// of them is newer than that, going on would mean to restore the wrong job unasked.
    fn last_job(&self, entries: &[Entry]) -> Result<Option<JobId>> {
        let newest = entries.iter().filter(|e| e.header.is_ok()).max_by_key(|e| e.created());
        let sound: HashSet<JobId> =
            entries.iter().filter(|e| e.header.is_ok()).filter_map(Entry::job).collect();
        let hidden = entries.iter().find(|e| {
            let newer = newest.is_some_and(|newest| e.modified > newest.modified);
            newer && e.job().is_some_and(|job| !sound.contains(&job))
        });
        match (newest, hidden) {
            (Some(newest), Some(hidden)) => {
                let what = format!(
                    "cannot tell which job was written last: {} is damaged",
                    hidden.path.display()
                );
                let job = newest.job().map_or(String::new(), |job| job.to_string());
                Err(Error::new(ErrorKind::Damaged, what)
                    .help(format!("move it away, or name the job; the last before it is {job}")))
            }
            (Some(newest), None) => Ok(newest.job()),
            (None, _) => Ok(entries.first().and_then(Entry::job)),
        }
    }

    /// Renames an image of this directory to NAME.bad (or NAME.bad2 and so on), so that it is
    /// kept but no longer found; gives the new path.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Usage`] if `path` has no file name, [`ErrorKind::Permission`] if it is a
    /// stranger's, otherwise what rename(2) says.
    pub fn set_aside(&self, path: &Path) -> Result<PathBuf> {
        let failed = |errno| io_error(format!("cannot set {} aside", path.display()), errno);
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            let what = format!("{} is not an image's path", path.display());
            return Err(Error::new(ErrorKind::Usage, what));
        };
        let taken =
            |name: &str| rustix::fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        let stat = rustix::fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW);
        owner::check(path, stat.map_err(failed)?.st_uid)?;
        let mut aside = format!("{name}.bad");
        for number in 2..100 {
            if !taken(&aside) {
                break;
            }
            aside = format!("{name}.bad{number}");
        }
        rustix::fs::renameat(&self.dir, name, &self.dir, &aside).map_err(failed)?;
        sync(&self.dir).map_err(failed)?;
        Ok(self.path.join(aside))
    }

    /// Removes the images of `job` that are older than its `keep` newest whole ones (at least
    /// one; blocks are not looked at) and that no kept one needs. Damaged ones do not
    /// count as kept; those newer than the last kept one are left alone, and strangers' are as if
    /// they were not there. Gives how many were removed.
    ///
    /// # Errors
    ///
    /// What getdents(2) and unlink(2) say.
    pub fn prune(&self, job: JobId, keep: usize) -> Result<usize> {
        let mut entries = self.images()?;
        entries.retain(|entry| entry.job() == Some(job) && entry.is_trusted());
        let Some((last, needed)) = self.last_kept(&entries, keep.max(1)) else { return Ok(0) };
        let mut removed = 0;
        for entry in &entries[last + 1..] {
            if entry.header.as_ref().is_ok_and(|header| needed.contains(&header.id)) {
                continue;
            }
            match rustix::fs::unlinkat(&self.dir, &entry.name, AtFlags::empty()) {
                Ok(()) => removed += 1,
                Err(Errno::NOENT) => {}
                Err(errno) => {
                    let what = format!("cannot remove {}", entry.path.display());
                    return Err(io_error(what, errno));
                }
            }
        }
        Ok(removed)
    }

    /// The index of the `keep`th whole image, and all that it and those before it need.
    fn last_kept(&self, entries: &[Entry], keep: usize) -> Option<(usize, HashSet<ImageId>)> {
        let mut needed = HashSet::new();
        let mut whole = 0;
        for (index, entry) in entries.iter().enumerate() {
            let Ok(reader) = self.restorable(entry, entries) else { continue };
            needed.extend(reader.needed().unwrap_or_default().iter().map(|needed| needed.id));
            whole += 1;
            if whole == keep {
                return Some((index, needed));
            }
        }
        None
    }

    /// Opens an image of these entries, all of whose needs are among them.
    fn restorable(&self, entry: &Entry, entries: &[Entry]) -> Result<Reader> {
        let reader = Reader::open_at(&self.dir, &entry.name, entry.path.clone())?;
        ancestors::complete(&reader, entries)?;
        Ok(reader)
    }
}

fn sort(entries: &mut [Entry]) {
    let mut newest: HashMap<JobId, u64> = HashMap::new();
    for entry in entries.iter() {
        if let Some(job) = entry.job() {
            let newest = newest.entry(job).or_default();
            *newest = entry.created().max(*newest);
        }
    }
    entries.sort_by_cached_key(|entry| {
        let identity = entry.identity();
        let job = identity.map(|(job, _)| (newest.get(&job).copied(), job));
        let generation = identity.map(|(_, generation)| generation);
        Reverse((job, generation, entry.created(), entry.name.clone()))
    });
}

/// Opens a directory for `openat` and fsync(2).
pub(super) fn open_dir(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
        .map_err(|errno| io_error(format!("cannot open the directory {}", path.display()), errno))
}

/// Makes a directory's names durable; file systems that have no notion of that are taken at it.
pub(super) fn sync(dir: &OwnedFd) -> Result<(), Errno> {
    match rustix::fs::fsync(dir) {
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(()),
        other => other,
    }
}
