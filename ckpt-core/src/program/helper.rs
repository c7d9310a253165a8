//! The process that takes the checkpoint from outside, and what is said between it and the program.
//!
//! It is the program `ckpt` with the hidden verb `itself`, started with the program's own stdin, stdout and
//! stderr (what these are at the checkpoint is replaced at a restart) and two pipes. It waits for a byte in
//! the one: until then it may not trace the program (Yama). Its [`Reply`] comes through the other.
//!
//! A program that is restored finds the reply's pipe at its end, and another one than it was: nobody has
//! the other end any more. A helper that died looks the same, but for the pipe and the time at which the
//! program was started.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bincode::{Decode, Encode};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{PTracer, Pid, WaitOptions, set_ptracer, waitpid};
use rustix::time::Timespec;

use super::guard;
use super::identity::Identity;
use super::{Options, Taken};
use crate::error::{Error, ErrorKind, Result};
use crate::job::Job;
use crate::os::{detached, proc};

/// Names the helper where none is given.
const VARIABLE: &str = "CKPT_HELPER";
/// What it is called, in `$PATH`.
const NAME: &str = "ckpt";
/// No reply is longer.
const MAX_REPLY: usize = 1 << 20;
/// Bytes of its length, which comes first.
const LENGTH: usize = 4;
/// How often we make sure that the helper lives.
const LOOK_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };
const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Reply {
    /// There is an image.
    Taken(Taken),
    /// A launcher has taken it, and we are in the job that was restored from it.
    CameBack,
    /// There is none.
    Failed {
        /// [`ErrorKind::exit_code`].
        code: u8,
        /// What failed, and why.
        what: String,
        /// What to do.
        help: Option<String>,
    },
}

impl Reply {
    /// Says what failed.
    pub fn failed(error: &Error) -> Self {
        let help = error.guidance().map(str::to_owned);
        let what = error.to_string();
        // The guidance is the end of the message.
        let bare =
            help.as_ref().and_then(|help| what.strip_suffix(help.as_str())?.strip_suffix("; "));
        let what = bare.map_or_else(|| what.clone(), str::to_owned);
        Self::Failed { code: error.kind().exit_code(), what, help }
    }

    /// Helper: tells the program.
    ///
    /// # Errors
    ///
    /// It is gone.
    pub fn tell(&self, to: OwnedFd) -> Result<()> {
        let bytes = bincode::encode_to_vec(self, bincode::config::standard());
        let bytes = bytes
            .map_err(|e| Error::new(ErrorKind::Internal, "cannot word the reply").source(e))?;
        let length = (bytes.len() as u32).to_le_bytes();
        let told = File::from(to).write_all(&[&length[..], &bytes].concat());
        told.map_err(|e| Error::os("cannot tell the program what came of its checkpoint", e))
    }
}

/// Helper: waits until it may trace the program, which is `job`.
///
/// # Errors
///
/// The program is gone.
pub fn wait_for_leave(from: OwnedFd, job: &Job) -> Result<()> {
    let read = File::from(from).read_exact(&mut [0]);
    read.map_err(|e| {
        Error::new(ErrorKind::Gone, "the program ended before its checkpoint").source(e)
    })?;
    job.family().must_be_there()
}

/// Has a helper take a checkpoint of us; nothing if we are in a life that was restored from it.
pub(super) fn ask(options: &Options, identity: &Identity) -> Result<Option<Reply>> {
    let program = find(options)?;
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|e| Error::os("cannot make a pipe", e));
    let (leave, may) = pipe()?;
    let (reply, answers) = pipe()?;
    let zero = |e| Error::new(ErrorKind::Usage, "a name or a path has a zero byte").source(e);
    let before = Life::now(&reply)?;
    let words = words(options, identity, before.begun, (&leave, &answers));
    let words = words.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>().map_err(zero)?;
    let path = CString::new(program.as_os_str().as_bytes()).map_err(zero)?;
    let pid = detached::start(&path, &words, &[leave.as_fd(), answers.as_fd()])
        .map_err(|e| Error::os(format!("cannot start {}", program.display()), e))?;
    drop(answers);
    // Where there is no Yama it is refused, and not needed; a launcher has the right, and must keep it.
    if !guard::is_watched()
        && let Some(pid) = Pid::from_raw(pid)
    {
        let _ = set_ptracer(PTracer::ProcessID(pid));
    }
    // A helper that is gone already says nothing. We still have the other end: there is no SIGPIPE.
    let _ = File::from(may).write_all(&[1]);
    drop(leave);
    let helper = Helper { pid, begun: proc::stat(pid).ok().map(|stat| stat.starttime) };
    let bytes = helper.reply(&reply, &before)?;
    if Life::now(&reply)? != before {
        return Ok(None);
    }
    helper.bury();
    let limit = bincode::config::standard().with_limit::<MAX_REPLY>();
    match bincode::decode_from_slice(bytes.get(LENGTH..).unwrap_or_default(), limit) {
        Ok((reply, _)) => Ok(Some(reply)),
        Err(_) => {
            let what = format!(
                "{} ended before it could say what came of the checkpoint",
                program.display()
            );
            Err(Error::new(ErrorKind::Gone, what)
                .help("it may have been killed, or is of another version"))
        }
    }
}

/// The process that takes the checkpoint.
struct Helper {
    pid: i32,
    /// By which it is known from another of the same number.
    begun: Option<u64>,
}

impl Helper {
    fn lives(&self) -> bool {
        let stat = proc::stat(self.pid).ok().filter(|stat| stat.state != 'Z');
        stat.is_some_and(|stat| Some(stat.starttime) == self.begun)
    }

    /// What it says; nothing if it never will. The end of the pipe tells that, unless a child that another
    /// thread has forked in the wrong moment holds it open.
    fn reply(&self, pipe: &OwnedFd, before: &Life) -> Result<Vec<u8>> {
        let failed = |e| Error::os("cannot read what came of the checkpoint", e);
        let (mut bytes, mut chunk) = (Vec::new(), [0u8; 4096]);
        let mut over = false;
        loop {
            let mut ready = [PollFd::new(pipe, PollFlags::IN)];
            let wait = if over { &AT_ONCE } else { &LOOK_EVERY };
            match rustix::event::poll(&mut ready, Some(wait)) {
                Err(Errno::INTR) => continue,
                Err(error) => return Err(failed(error)),
                // Its last words come before its end.
                Ok(0) if over => return Ok(bytes),
                Ok(0) => {
                    over = !self.lives() || Life::now(pipe)? != *before;
                    continue;
                }
                Ok(_) => {}
            }
            let got = match rustix::io::read(pipe, &mut chunk) {
                Err(Errno::INTR) => continue,
                got => got.map_err(failed)?,
            };
            bytes.extend_from_slice(&chunk[..got]);
            if got == 0 || bytes.len() > MAX_REPLY || is_whole(&bytes) {
                return Ok(bytes);
            }
        }
    }

    /// Where we are the one to whom orphans fall, it is ours in the end.
    fn bury(&self) {
        let ours = proc::status_field(self.pid, "PPid").ok().flatten();
        let own = std::process::id().to_string();
        if ours.is_some_and(|parent| parent.trim() == own) {
            let _ = waitpid(Pid::from_raw(self.pid), WaitOptions::empty());
        }
    }
}

/// Whether all is there that the length in front says.
fn is_whole(bytes: &[u8]) -> bool {
    let length = bytes.get(..LENGTH).and_then(|length| length.try_into().ok());
    length.is_some_and(|length| bytes.len() - LENGTH >= u32::from_le_bytes(length) as usize)
}

/// What no two lives of ours have in common.
#[derive(Debug, PartialEq, Eq)]
struct Life {
    pipe: (u64, u64),
    begun: u64,
}

impl Life {
    fn now(pipe: &OwnedFd) -> Result<Self> {
        let stat = rustix::fs::fstat(pipe).map_err(|e| Error::os("cannot look at a pipe", e))?;
        let begun = proc::stat(std::process::id().cast_signed())?.starttime;
        Ok(Self { pipe: (stat.st_dev, stat.st_ino), begun })
    }
}

/// The helper's command line.
fn words(
    options: &Options,
    identity: &Identity,
    begun: u64,
    (leave, answers): (&OwnedFd, &OwnedFd),
) -> Vec<Vec<u8>> {
    let Options { level, keep, increments, workers, .. } = options;
    let mut words: Vec<Vec<u8>> = vec![NAME.into(), "itself".into()];
    let mut add = |name: &str, value: &[u8]| words.push([name.as_bytes(), b"=", value].concat());
    add("--of", std::process::id().to_string().as_bytes());
    add("--begun", begun.to_string().as_bytes());
    add("--leave", leave.as_raw_fd().to_string().as_bytes());
    add("--answers", answers.as_raw_fd().to_string().as_bytes());
    add("--id", identity.id.to_string().as_bytes());
    add("--name", options.name.clone().unwrap_or_else(own_name).as_bytes());
    add("--checkpoints", identity.history.checkpoints.to_string().as_bytes());
    add("--restarts", identity.history.restarts.to_string().as_bytes());
    add("--ckptdir", identity.dir.as_os_str().as_bytes());
    for (name, value) in [
        ("--level", level.to_string()),
        ("--keep", keep.max(&1).to_string()),
        ("--increments", increments.to_string()),
        ("--cpus", workers.to_string()),
    ] {
        add(name, value.as_bytes());
    }
    words
}

fn own_name() -> String {
    let path = std::fs::read_link("/proc/self/exe").unwrap_or_default();
    path.file_name().unwrap_or(OsStr::new("program")).to_string_lossy().into_owned()
}

/// The helper's path.
fn find(options: &Options) -> Result<PathBuf> {
    let variable = std::env::var_os(VARIABLE).filter(|value| !value.is_empty());
    if let Some(named) = options.helper.clone().or_else(|| variable.map(PathBuf::from)) {
        return Ok(named);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_program = |path: &Path| {
        path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    let found =
        std::env::split_paths(&path).map(|dir| dir.join(NAME)).find(|path| is_program(path));
    found.ok_or_else(|| {
        let what = format!(
            "there is no program {NAME} in $PATH, which a checkpoint of this program takes"
        );
        Error::new(ErrorKind::NotFound, what)
            .help(format!("install ckpt, or name it in ${VARIABLE} or Options::helper"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_arrive_as_they_are() {
        let error = Error::new(ErrorKind::Unsupported, "cannot save a socket").help("close it");
        let taken = Taken {
            generation: 3,
            path: "/images/x.ckpt".into(),
            frozen: std::time::Duration::from_millis(2),
            total: std::time::Duration::from_millis(30),
            bytes_stored: 4711,
            warnings: vec!["a pipe".into()],
        };
        for reply in [Reply::failed(&error), Reply::CameBack, Reply::Taken(taken)] {
            let (read, write) = rustix::pipe::pipe().unwrap();
            reply.tell(write).unwrap();
            let mut bytes = Vec::new();
            File::from(read).read_to_end(&mut bytes).unwrap();
            let (told, _): (Reply, usize) =
                bincode::decode_from_slice(&bytes[LENGTH..], bincode::config::standard()).unwrap();
            assert!(is_whole(&bytes) && !is_whole(&bytes[..bytes.len() - 1]));
            assert_eq!(told, reply);
        }
        let Reply::Failed { code, what, help } = Reply::failed(&error) else { panic!() };
        assert_eq!(
            (code, what.as_str(), help.as_deref()),
            (69, "cannot save a socket", Some("close it"))
        );
    }
}
