//! How much work a checkpoint is: bytes and system calls of the launcher, which are the same on every
//! machine, and not seconds, which are not.
//!
//! `/proc/PID/io` counts what goes through read(2), write(2) and their like, ptrace(2) and the rest are
//! counted by strace, where there is one and we are root. The ceilings are 1.3 times what was seen when
//! they were set; a change that makes them too tight for a good reason sets them anew (`--nocapture`
//! shows what is seen).

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use ckpt_tests::{Run, User, payload};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

type With = &'static [(&'static str, &'static str)];

const PLAIN: With = &[];
const LARGE: With = &[("MIB", "64")];
const THREADS: With = &[("THREADS", "64")];
const PROCESSES: With = &[("PROCESSES", "16")];
const AREAS: With = &[("AREAS", "1000")];

const MIB: u64 = 1 << 20;

/// What a checkpoint took.
#[derive(Debug, Clone, Copy)]
struct Work {
    /// Calls that read or write.
    calls: u64,
    read: u64,
    written: u64,
    /// Of the image.
    stored: u64,
}

/// The counters of a process.
fn counters(pid: i32) -> [u64; 4] {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).expect("the launcher lives");
    ["syscr", "syscw", "rchar", "wchar"].map(|name| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.and_then(|value| value.parse().ok()).expect("the kernel counts it")
    })
}

fn started(with: With) -> Run {
    let mut run = Run::start(payload("counted").with(with), &User::ordinary());
    assert!(run.reaches(1) && run.answers(), "{}", run.log());
    run
}

fn taken(run: &Run) {
    run.checkpoint().unwrap_or_else(|e| panic!("status {}: {}", e.status, e.message));
}

/// The first checkpoint of such a job.
fn first(with: With) -> Work {
    let run = started(with);
    let before = counters(run.supervisor());
    taken(&run);
    let after = counters(run.supervisor());
    let [reads, writes, read, written] = [0, 1, 2, 3].map(|nth| after[nth] - before[nth]);
    let newest = run.generations().pop().expect("there is an image");
    let stored = fs::metadata(newest).expect("it was just written").len();
    let work = Work { calls: reads + writes, read, written, stored };
    println!("{with:?}: {work:?}");
    work
}

/// What is counted, at most so many. A busy host only adds to it, as a freeze looks again and again for
/// a task that does not get its turn: so it is the least that counts, of a few.
fn at_most(what: &str, ceiling: u64, count: impl Fn() -> u64) -> u64 {
    let mut least = u64::MAX;
    for _ in 0..10 {
        least = least.min(count());
        println!("{what}: {least}");
        if least <= ceiling {
            return least;
        }
    }
    panic!("{what}: {least}, and at most {ceiling} are allowed");
}

#[test]
fn each_byte_is_read_once_and_written_once() {
    let (plain, large) = (first(PLAIN), first(LARGE));
    // As many bytes of nothing are read too, or the kernel says that they are zero.
    let bytes = 64 * MIB;
    let grown = |get: fn(&Work) -> u64| get(&large).saturating_sub(get(&plain));
    let (read, written, stored) =
        (grown(|it| it.read), grown(|it| it.written), grown(|it| it.stored));
    assert!((bytes..=2 * bytes + 2 * MIB).contains(&read), "{read} bytes are read");
    assert!((bytes..=bytes + MIB).contains(&stored), "{stored} bytes are stored");
    assert!(written <= stored + MIB, "{written} bytes are written");
    at_most("reads and writes for a MiB", 16, || {
        first(LARGE).calls.saturating_sub(plain.calls) / 64
    });
}

#[test]
fn calls_grow_with_what_the_job_has() {
    let plain = at_most("reads and writes of the smallest job", 312, || first(PLAIN).calls);
    let each = |with, count| move || first(with).calls.saturating_sub(plain) / count;
    at_most("for a thread", 37, each(THREADS, 64));
    at_most("for a process", 156, each(PROCESSES, 16));
    at_most("for a hundred memory areas", 200, each(AREAS, 10));
}

/// All system calls of the launcher during one checkpoint.
fn all_calls(with: With) -> Option<u64> {
    let run = started(with);
    let counts = run.images().join("counts");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-c", "-p", &run.supervisor().to_string(), "-o"]).arg(&counts);
    let mut strace = strace.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().ok()?;
    let mut said = BufReader::new(strace.stderr.take()?);
    let mut line = String::new();
    said.read_line(&mut line).ok()?;
    if !line.contains("attached") {
        strace.wait().ok()?;
        eprintln!("left out: {line}");
        return None;
    }
    taken(&run);
    kill(Pid::from_raw(strace.id() as i32), Signal::SIGINT).ok()?;
    strace.wait().ok()?;
    let text = fs::read_to_string(counts).expect("strace has counted");
    let total = text.lines().find(|line| line.trim_end().ends_with(" total"));
    let words: Vec<&str> = total.expect("it has a last line").split_whitespace().collect();
    println!("{with:?}: {} system calls", words[3]);
    words[3].parse().ok()
}

#[test]
fn no_call_too_many() {
    if !geteuid().is_root() {
        eprintln!("left out: only root may always look at the launcher");
        return;
    }
    if all_calls(PLAIN).is_none() {
        eprintln!("left out: no strace");
        return;
    }
    // The smallest job has one worker. Of more memory each core brings one, with a stack, a compressor, and waits for
    // the others.
    let workers = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let all = |with| all_calls(with).expect("strace is there");
    let plain = at_most("calls of the smallest job", 970, || all(PLAIN));
    let each = |with, count| move || all(with).saturating_sub(plain) / count;
    at_most("for a MiB", 40 + 2 * workers, each(LARGE, 64));
    at_most("for a thread", 170, each(THREADS, 64));
    at_most("for a process", 700, each(PROCESSES, 16));
    at_most("for a hundred memory areas", 420, each(AREAS, 10));
}
