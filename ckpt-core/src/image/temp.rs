//! A file that does not exist until it is complete: it is written under a temporary name in the
//! same directory, made durable, and renamed.
//!
//! The writer holds an flock(2) on its temporary file. One that is not locked was left by a writer
//! that died, and the next writer in that directory removes it. (On file systems whose locks do
//! not reach other nodes, a live file of another node may be taken for dead; its writer then fails
//! to rename it, says so, and nothing older is lost.)

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Dir, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::directory::{self, SUFFIX};
use super::format::io_error;
use crate::error::{Error, ErrorKind, Result};

/// NAME_MAX of all file systems that matter.
const NAME_MAX: usize = 255;
/// A cleaner may take the file between its creation and its lock; it does so hardly ever twice.
const TRIES: usize = 16;
const PAUSE: Duration = Duration::from_millis(2);

/// A file being written; removed on drop unless published.
#[derive(Debug)]
pub(super) struct Temp {
    dir: OwnedFd,
    file: File,
    temp: String,
    name: String,
    path: PathBuf,
    published: bool,
}

impl Temp {
    /// Begins the file that will be `dir/name`, and removes what dead writers left in `dir`.
    pub(super) fn create(dir: &Path, name: &str) -> Result<Self> {
        let temp = temp_name(name)?;
        let path = dir.join(name);
        let dir = directory::open_dir(dir)?;
        for _ in 0..TRIES {
            remove_stale(&dir);
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
            let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = match rustix::fs::openat(&dir, &temp, flags, Mode::RUSR | Mode::WUSR) {
                Ok(file) => file,
                // A cleaner may hold it, and be about to remove it.
                Err(Errno::EXIST) => {
                    std::thread::sleep(PAUSE);
                    continue;
                }
                Err(errno) => {
                    return Err(io_error(format!("cannot create {}", path.display()), errno));
                }
            };
            if lock(&file) != Lock::Taken && still_named(&dir, &temp, &file) {
                let (file, name) = (File::from(file), name.to_owned());
                return Ok(Self { dir, file, temp, name, path, published: false });
            }
        }
        Err(in_use(&path, &temp))
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// The final path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn failed(&self, what: &str, source: impl Into<io::Error>) -> Error {
        io_error(format!("cannot {what} {}", self.path.display()), source.into())
    }

    /// Makes the file durable.
    pub(super) fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|source| self.failed("make durable", source))
    }

    /// Gives the file, which is durable, its name; whatever had the name is replaced.
    pub(super) fn publish(mut self) -> Result<PathBuf> {
        rustix::fs::renameat(&self.dir, &self.temp, &self.dir, &self.name)
            .map_err(|errno| self.failed("publish", errno))?;
        let synced = directory::sync(&self.dir);
        let synced = synced.map_err(|errno| self.failed("make durable the name of", errno));
        self.published = true;
        synced.map(|()| self.path.clone())
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if !self.published {
            // Best effort: should it fail, the next writer removes the file.
            let _ = rustix::fs::unlinkat(&self.dir, &self.temp, AtFlags::empty());
        }
    }
}

fn temp_name(name: &str) -> Result<String> {
    let temp = format!(".{name}.tmp-{}", std::process::id());
    let plain = !name.starts_with('.') && !name.contains(['/', '\0']);
    if plain && name.ends_with(SUFFIX) && temp.len() <= NAME_MAX {
        return Ok(temp);
    }
    let what = format!("{name:?} cannot be the name of an image");
    Err(Error::new(ErrorKind::Usage, what).help(format!("a plain file name ending in {SUFFIX}")))
}

fn in_use(path: &Path, temp: &str) -> Error {
    let what = format!("cannot create {}: it is being written by somebody else", path.display());
    Error::new(ErrorKind::Busy, what)
        .help(format!("if no other checkpoint is going on there, remove {temp}"))
}

#[derive(PartialEq, Eq)]
enum Lock {
    Held,
    Taken,
    /// The file system has no locks. The file is then safe from cleaners too.
    Unsupported,
}

fn lock(file: impl AsFd) -> Lock {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Lock::Held,
        Err(Errno::WOULDBLOCK | Errno::INTR) => Lock::Taken,
        Err(_) => Lock::Unsupported,
    }
}

/// Whether `name` is still the open file: another process may have unlinked it meanwhile.
fn still_named(dir: impl AsFd, name: &str, file: impl AsFd) -> bool {
    let named = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
    let open = rustix::fs::fstat(file);
    matches!((named, open), (Ok(a), Ok(b)) if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}

/// Removes the temporary files of dead writers. Failures are left to the next writer.
pub(super) fn remove_stale(dir: &OwnedFd) {
    let Ok(entries) = Dir::read_from(dir) else { return };
    for entry in entries.flatten() {
        if let Ok(name) = entry.file_name().to_str()
            && is_temp_name(name)
        {
            remove_if_dead(dir, name);
        }
    }
}

fn is_temp_name(name: &str) -> bool {
    name.strip_prefix('.').and_then(|name| name.rsplit_once(".tmp-")).is_some_and(|(name, pid)| {
        name.ends_with(SUFFIX) && !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit())
    })
}

fn remove_if_dead(dir: &OwnedFd, name: &str) {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::openat(dir, name, flags, Mode::empty()) else { return };
    let ours = rustix::fs::fstat(&file).is_ok_and(|stat| {
        let regular = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file();
        regular && stat.st_uid == rustix::process::geteuid().as_raw()
    });
    if ours && lock(&file) == Lock::Held && still_named(dir, name, &file) {
        let _ = rustix::fs::unlinkat(dir, name, AtFlags::empty());
    }
}

/// Opens a file for reading, never through a symbolic link, and only if it is a regular one.
pub(super) fn open_regular(dir: Option<&OwnedFd>, path: &Path) -> io::Result<File> {
    // NONBLOCK: a pipe of that name must not make us wait for a writer.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let dir = dir.map_or(CWD, AsFd::as_fd);
    let file = match rustix::fs::openat(dir, path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::LOOP) => {
            return Err(io::Error::other("it is a symbolic link; name the file itself"));
        }
        Err(errno) => return Err(errno.into()),
    };
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("it is not a regular file"))
    }
}
