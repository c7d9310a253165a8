//! A job's place in its checkpoint directory: who owns it, and where its socket is.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ckpt_core::job::JobId;
use ckpt_core::{Error, ErrorKind, Result};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

use super::hold::{Held, Hold, PATIENCE};

/// Where a job has, or would have, its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The checkpoint directory.
    pub dir: PathBuf,
    /// The job.
    pub job: JobId,
}

/// What the lock file says of the supervisor that holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Differs for every supervisor of the job.
    pub incarnation: String,
    /// Its PID on its host, as it sees it.
    pub pid: u32,
    /// Its host's name.
    pub host: String,
    /// The socket.
    pub socket: PathBuf,
}

/// What a lock tells about its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// A supervisor holds it.
    Alive,
    /// Nobody holds it.
    None,
    /// This file system can't tell.
    Unknown,
}

impl Place {
    /// The lock file.
    pub fn lock_path(&self) -> PathBuf {
        self.dir.join(format!(".ckpt-{}.lock", self.job))
    }

    /// The socket, unless the record says otherwise.
    pub fn socket_path(&self) -> PathBuf {
        self.dir.join(format!(".ckpt-{}.sock", self.job))
    }

    /// The file by which the job puts checkpoints off.
    pub fn hold_path(&self) -> PathBuf {
        self.dir.join(format!(".ckpt-{}.hold", self.job))
    }

    /// The environment of the restorer.
    pub fn environment_path(&self) -> PathBuf {
        self.dir.join(format!(".ckpt-{}.env", self.job))
    }

    /// The socket's name in a directory of sockets.
    fn socket_name(&self) -> String {
        format!("ckpt-{}.sock", self.job)
    }

    /// The jobs that have files in `dir`, running or not.
    ///
    /// # Errors
    ///
    /// When the directory cannot be read.
    pub fn all(dir: &Path) -> Result<Vec<Self>> {
        let fail = |e| Error::os(format!("cannot list {}", dir.display()), e);
        let mut jobs = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(fail)? {
            let name = entry.map_err(fail)?.file_name();
            let id = name.to_str().and_then(|name| name.strip_prefix(".ckpt-"));
            let id = id.and_then(|id| id.strip_suffix(".lock").or(id.strip_suffix(".sock")));
            jobs.extend(id.and_then(|id| id.parse::<JobId>().ok()));
        }
        jobs.sort_unstable();
        jobs.dedup();
        Ok(jobs.into_iter().map(|job| Self { dir: dir.to_path_buf(), job }).collect())
    }

    /// Who is said to own it.
    pub fn record(&self) -> Option<Record> {
        let mut text = String::new();
        self.open(OFlags::RDONLY).ok()?.take(64 * 1024).read_to_string(&mut text).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Whether a supervisor lives.
    pub fn owner(&self) -> Owner {
        let Ok(file) = self.open(OFlags::RDONLY) else { return Owner::None };
        match file.try_lock_shared() {
            Ok(()) => Owner::None,
            Err(TryLockError::WouldBlock) => Owner::Alive,
            Err(TryLockError::Error(_)) => Owner::Unknown,
        }
    }

    /// Removes what a supervisor that is no more has left.
    pub fn clean_up(&self) {
        // The record is text: remove nothing on its word but what can only be such a socket.
        let is_socket = |path: &PathBuf| {
            std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket())
                && path.file_name().is_some_and(|name| name == self.socket_name().as_str())
        };
        let leftover = self.record().map(|record| record.socket).filter(is_socket);
        // Whoever holds the lock may remove the files; if it's not to be had, somebody lives.
        if let Ok(mut own) = Ownership::take(self.clone()) {
            own.leftover = leftover;
        }
    }

    fn open(&self, flags: OFlags) -> std::io::Result<File> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(rustix::fs::open(self.lock_path(), flags, Mode::RUSR | Mode::WUSR)?.into())
    }
}

/// The right to supervise a job here. Files vanish with it.
#[derive(Debug)]
pub struct Ownership {
    place: Place,
    file: File,
    record: Record,
    leftover: Option<PathBuf>,
    hold: Option<Hold>,
}

impl Ownership {
    /// Takes the lock of `place`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Busy`] when a supervisor has it; others when the directory is of no use.
    pub fn take(place: Place) -> Result<Self> {
        // A look at the lock by `Place::owner` holds it for an instant, hence the second try.
        for patience in [0, 5, 50] {
            std::thread::sleep(Duration::from_millis(patience));
            match Self::try_take(&place)? {
                Some(file) => {
                    let record = Record {
                        incarnation: JobId::random().to_string(),
                        pid: std::process::id(),
                        host: host(),
                        socket: place.socket_path(),
                    };
                    return Ok(Self { place, file, record, leftover: None, hold: None });
                }
                None => continue,
            }
        }
        let what = format!("job {} is running already", place.job);
        let by = place.record().map_or_else(String::new, |record| {
            format!("it belongs to process {} on {}; ", record.pid, record.host)
        });
        Err(Error::new(ErrorKind::Busy, what)
            .help(format!("{by}see `ckpt status`, or end it with `ckpt kill`")))
    }

    /// The locked file; nothing if another has the lock or had it until just now.
    fn try_take(place: &Place) -> Result<Option<File>> {
        let path = place.lock_path();
        let fail = |e| {
            Error::os(format!("cannot write to {}", path.display()), e)
                .help("name a folder of your own with --ckptdir")
        };
        let file = place.open(OFlags::RDWR | OFlags::CREATE).map_err(fail)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => {
                tracing::warn!(%error, path = %path.display(), "this file system has no locks");
            }
        }
        // The owner before us may have removed the file between our open and our lock.
        let ours = file.metadata().map_err(fail)?;
        let there = std::fs::symlink_metadata(&path);
        Ok(there.is_ok_and(|there| there.ino() == ours.ino()).then_some(file))
    }

    /// What distinguishes us from other supervisors of the job.
    pub fn incarnation(&self) -> &str {
        &self.record.incarnation
    }

    /// The job's place.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Keeps the job from putting off checkpoints, once it doesn't.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Busy`] if it goes on for too long.
    pub fn unhindered(&self) -> Result<Option<Held<'_>>> {
        self.hold.as_ref().map(|hold| hold.take(PATIENCE)).transpose()
    }

    /// Opens the control socket and writes the record that leads to it; makes what the job's
    /// processes may have open in the directory.
    ///
    /// # Errors
    ///
    /// When no directory takes a socket, or the files can't be written.
    pub fn listen(&mut self) -> Result<OwnedFd> {
        self.hold = Some(Hold::open(&self.place.hold_path())?);
        let here = self.place.socket_path();
        let listener = match bind(&here) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::info!(%error, path = %here.display(), "no socket there");
                let elsewhere = runtime_dir()?.join(self.place.socket_name());
                self.record.socket = elsewhere.clone();
                bind(&elsewhere).map_err(|e| {
                    Error::os(format!("cannot open a socket at {}", elsewhere.display()), e)
                })?
            }
        };
        self.write_record().map_err(|e| {
            Error::os(format!("cannot write {}", self.place.lock_path().display()), e)
        })?;
        Ok(listener)
    }

    fn write_record(&mut self) -> std::io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        let mut line = serde_json::to_vec(&self.record)?;
        line.push(b'\n');
        self.file.write_all(&line)
    }
}

impl Drop for Ownership {
    fn drop(&mut self) {
        // Best effort: what stays behind is recognised as stale by its free lock.
        let place = &self.place;
        let files = [place.socket_path(), place.hold_path(), place.environment_path()];
        let sockets = [Some(self.record.socket.clone()), self.leftover.take()];
        for path in files.into_iter().chain(sockets.into_iter().flatten()) {
            let _ = std::fs::remove_file(path);
        }
        let _ = std::fs::remove_file(self.place.lock_path());
    }
}

/// Binds and listens. The path goes by way of its directory's descriptor, since addresses are
/// shorter than paths.
pub(crate) fn bind(path: &Path) -> rustix::io::Result<OwnedFd> {
    let (_dir, address) = address(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // The socket's file takes its mode from the socket, less the umask.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    // We hold the lock: what may be there is a dead supervisor's.
    match rustix::fs::unlink(path) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(error),
    }
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, 16)?;
    Ok(socket)
}

/// The address of the socket at `path`, good while the descriptor is open.
pub(super) fn address(path: &Path) -> rustix::io::Result<(OwnedFd, SocketAddrUnix)> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(rustix::io::Errno::INVAL);
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(
        if dir.as_os_str().is_empty() { Path::new(".") } else { dir },
        flags,
        Mode::empty(),
    )?;
    let address = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
    Ok((dir, SocketAddrUnix::new(address)?))
}

/// A directory of our own on a local file system.
pub(crate) fn runtime_dir() -> Result<PathBuf> {
    let uid = rustix::process::geteuid().as_raw();
    let named = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| ours(dir, uid));
    if let Some(dir) = named {
        return Ok(dir);
    }
    let dir = PathBuf::from(format!("/tmp/ckpt-{uid}"));
    // It may be there; what matters is that it is ours.
    let _ = std::fs::DirBuilder::new().mode(0o700).create(&dir);
    if ours(&dir, uid) {
        return Ok(dir);
    }
    let what = format!("{} is not a directory of yours alone", dir.display());
    Err(Error::new(ErrorKind::Permission, what).help("set $XDG_RUNTIME_DIR to one that is"))
}

fn ours(dir: &Path, uid: u32) -> bool {
    let meta = std::fs::symlink_metadata(dir);
    meta.is_ok_and(|m| m.is_dir() && m.uid() == uid && m.mode() & 0o077 == 0)
}

/// This host's name.
pub fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_owner_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place { dir: dir.path().to_path_buf(), job: JobId(7) };
        let mut first = Ownership::take(place.clone()).unwrap();
        let _listener = first.listen().unwrap();
        assert_eq!(place.owner(), Owner::Alive);
        assert_eq!(place.record().unwrap().incarnation, first.incarnation());
        assert_eq!(Ownership::take(place.clone()).unwrap_err().kind(), ErrorKind::Busy);
        let mode = std::fs::metadata(place.socket_path()).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(first);
        assert_eq!(place.owner(), Owner::None);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn long_paths() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("x".repeat(120)).join("y".repeat(120));
        std::fs::create_dir_all(&deep).unwrap();
        let place = Place { dir: deep, job: JobId(8) };
        let mut own = Ownership::take(place.clone()).unwrap();
        let _listener = own.listen().unwrap();
        assert!(place.socket_path().exists());
    }
}
