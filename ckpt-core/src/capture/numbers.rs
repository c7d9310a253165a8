//! Which process number was handed out last in the job's PID namespace.
//!
//! A restart makes numbers go on from there: in a new namespace they would begin at 1 again, and the
//! job's next children get those of its last ones, whose ends it may still remember (POSIX shells
//! do).

use super::freeze::Frozen;
use super::states::States;
use crate::error::{Error, ErrorKind, Result};
use crate::kinds::Hand;
use crate::os::maps;
use crate::os::mem::Memory;
use crate::os::remote::{Remote, Site};
use crate::os::scratch::Scratch;

const LOADAVG: &[u8] = b"/proc/loadavg";
/// Longer than that file is.
const LENGTH: u64 = 128;

/// The last number, as the job's first process reads it in proc_loadavg(5): from another namespace
/// another one's would be read, so it is made to read it itself unless we are in the same ones.
pub(crate) fn last(frozen: &Frozen, states: &States) -> Result<i32> {
    let Some(process) = frozen.processes.first() else {
        return Err(Error::new(ErrorKind::Gone, "the job has ended"));
    };
    if states.are_ours(process.pid)? {
        let text = std::fs::read("/proc/loadavg")
            .map_err(|e| Error::os("cannot read /proc/loadavg", e))?;
        return told(&text);
    }
    let memory = Memory::open(process.pid)?;
    let site = Site::find(&maps::read(process.pid)?, &memory)?;
    let remote = Remote::begin(&process.tasks[0], &memory, site)?;
    let scratch = Scratch::map(&remote)?;
    let told = ask(&Hand { remote: &remote, memory: &memory, scratch });
    scratch.free(&remote)?;
    remote.end()?;
    told
}

fn ask(hand: &Hand<'_>) -> Result<i32> {
    let what = "read /proc/loadavg";
    let path = hand.put_string(LOADAVG)?;
    let flags = (libc::O_RDONLY | libc::O_CLOEXEC) as u64;
    let fd = hand.remote.try_call(what, libc::SYS_openat, &[libc::AT_FDCWD as u64, path, flags])?;
    let read = hand.remote.try_call(what, libc::SYS_read, &[fd, path, LENGTH]);
    hand.remote.try_call(what, libc::SYS_close, &[fd])?;
    let mut text = vec![0; read? as usize];
    hand.memory.read_exact(path, &mut text)?;
    told(&text)
}

fn told(text: &[u8]) -> Result<i32> {
    let text = String::from_utf8_lossy(text);
    let last = text.split_ascii_whitespace().nth(4).and_then(|word| word.parse().ok());
    last.filter(|&number| number > 0)
        .ok_or_else(|| Error::new(ErrorKind::Unsupported, format!("/proc/loadavg says {text:?}")))
}
