//! Whether a job that is to be brought back still runs: two of it would write to the same files.
//!
//! The lock in the checkpoint directory says that a supervisor lives. A job whose supervisor was
//! killed runs on without one; its processes are known by the variable that they were started with
//! (restored ones have it in their memory, and procfs reads it there).

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use ckpt_core::job::JobId;
use ckpt_core::{Error, ErrorKind, Result};

/// How long processes that were just killed may take to be gone.
const PATIENCE: Duration = Duration::from_secs(1);
/// How many are named.
const NAMED: usize = 8;

/// Refuses if processes of `job` live on this host.
///
/// # Errors
///
/// [`ErrorKind::Busy`], naming them.
pub fn check(job: JobId, dmtcp_names: bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let found = loop {
        let found = processes_of(job);
        if found.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            break found;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let mut pids: Vec<String> = found.iter().take(NAMED).map(ToString::to_string).collect();
    if found.len() > NAMED {
        pids.push(format!("and {} more", found.len() - NAMED));
    }
    let what = format!("job {job} still runs without its launcher: processes {}", pids.join(", "));
    let anyway = if dmtcp_names { "" } else { ", or, if they are not the job, use --force" };
    let help = format!("two of it would write to the same files: kill them first{anyway}");
    Err(Error::new(ErrorKind::Busy, what).help(help))
}

/// Our user's living processes that were started as part of `job`. Ourselves and those above us do
/// not count: a shell that the job started may be what calls us.
fn processes_of(job: JobId) -> Vec<i32> {
    let variable = format!("CKPT_JOB_ID={job}");
    let above = ancestors();
    let user = fs::metadata("/proc/self").map_or(0, |meta| meta.uid());
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let mut room = vec![0; 64 << 10];
    let mut found: Vec<i32> = pids
        .filter(|pid| !above.contains(pid))
        .filter(|pid| fs::metadata(format!("/proc/{pid}")).is_ok_and(|meta| meta.uid() == user))
        // A zombie's environment reads as empty.
        .filter(|pid| {
            let environment = environment(*pid, &mut room);
            environment.split(|&byte| byte == 0).any(|entry| entry == variable.as_bytes())
        })
        .collect();
    found.sort_unstable();
    found
}

/// The environment of a process; procfs gives no size, and hosts have many processes: so it is read into
/// `room`, which grows if need be.
fn environment(pid: i32, room: &mut Vec<u8>) -> &[u8] {
    let mut filled = 0;
    if let Ok(mut file) = File::open(format!("/proc/{pid}/environ")) {
        while let Ok(more @ 1..) = file.read(&mut room[filled..]) {
            filled += more;
            if filled == room.len() {
                room.resize(2 * filled, 0);
            }
        }
    }
    &room[..filled]
}

/// We, our parent, its parent …
fn ancestors() -> HashSet<i32> {
    let mut above = HashSet::new();
    let mut next = Some(std::process::id().cast_signed());
    while let Some(pid) = next.filter(|&pid| pid > 0 && above.insert(pid)) {
        next = parent_of(pid);
    }
    above
}

fn parent_of(pid: i32) -> Option<i32> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    let rest = String::from_utf8_lossy(&stat[end + 1..]).into_owned();
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}
