//! Jobs under a real DMTCP, where there is one: $CKPT_TEST_DMTCP, $DMTCP_HOME or $PATH.
#![allow(missing_docs, reason = "tests")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use ckpt_core::ErrorKind;
use ckpt_launch::backend::{
    Driver, Found, Options, Report, Set, find, is_dmtcp_image, is_dmtcp_set, set, verify,
};

/// Counts on its stdout; its child waits for the file "stop", and so does it. Neither forks while it
/// waits (`read` is a clock here): DMTCP loses a process that is born during a checkpoint.
const TREE: &str = "exec 9>side; echo from-before >&9; pause() { read -t 0.02 <&0; }; \
     (until [ -e stop ]; do pause; done; echo child) <&0 & \
     i=0; until [ -e stop ]; do i=$((i+1)); echo $i; pause; done; wait; \
     echo after >&9; echo done $i; exit 5";

fn dmtcp() -> Option<Found> {
    let named = std::env::var_os("CKPT_TEST_DMTCP").map(PathBuf::from);
    match find(named.as_deref()) {
        Ok(found) => Some(found),
        Err(error) if error.kind() == ErrorKind::Unsupported && named.is_none() => {
            println!("skipped: no DMTCP here");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn until(what: &str, mut it: impl FnMut() -> bool) {
    let deadline = soon();
    while !it() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

struct Job {
    driver: Driver,
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Job {
    fn begin(at: &Path, (driver, mut command): (Driver, Command)) -> Self {
        command.current_dir(at).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { driver, child, lines }
    }

    fn launch(found: &Found, dir: &Path, gzip: bool, script: &str) -> Self {
        let driver = Driver::launch(found, options(dir, gzip), "bash", ["-c", script]).unwrap();
        Self::begin(dir, driver)
    }

    fn restart(found: &Found, dir: &Path, set: &Set) -> Self {
        let job = Self::begin(dir, Driver::restart(found, options(dir, false), set).unwrap());
        job.driver.wait_until_running(soon()).unwrap();
        job
    }

    fn number(&mut self) -> u64 {
        self.lines.next().unwrap().unwrap().parse().unwrap()
    }

    /// A checkpoint, once all processes are under DMTCP and none is just being forked.
    fn checkpoint(&mut self) -> Report {
        let mut report = None;
        until("a checkpoint", || match self.driver.checkpoint(soon()) {
            Ok(taken) => report.insert(taken).generation > 0,
            Err(error) if error.kind() == ErrorKind::Busy => false,
            Err(error) => panic!("{error}"),
        });
        report.unwrap()
    }

    fn kill(mut self) {
        self.driver.kill().unwrap();
        assert!(
            !self.child.wait().unwrap().success(),
            "a killed job must not seem to have finished"
        );
        until("the job's end", || !self.driver.is_alive());
    }

    fn end(mut self) -> (Option<i32>, Vec<String>) {
        let rest = self.lines.by_ref().map(Result::unwrap).collect();
        (self.child.wait().unwrap().code(), rest)
    }
}

impl Drop for Job {
    /// A failed test leaves nothing behind.
    fn drop(&mut self) {
        let _ = self.driver.kill();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn options(dir: &Path, gzip: bool) -> Options {
    Options { dir: dir.to_owned(), keep: 2, gzip, quiet: true }
}

fn newest(dir: &Path) -> Set {
    Set::newest_good(dir, &mut |path, error| panic!("{}: {error}", path.display())).unwrap()
}

#[test]
fn a_tree_goes_on_after_restarts() {
    let Some(found) = dmtcp() else { return };
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut job = Job::launch(&found, dir, true, TREE);
    job.number();
    let first = job.checkpoint();
    assert!(first.images >= 2, "{first:?}");
    assert!(is_dmtcp_set(dir) && is_dmtcp_set(&first.path) && !is_dmtcp_set(job.driver.work()));
    let image = first_image(&first.path);
    assert!(is_dmtcp_image(&image) && fs::read(&image).unwrap().starts_with(&[0x1f, 0x8b]));
    job.kill();

    // Uncompressed from here on, in the second driver's work directory.
    let mut job = Job::restart(&found, dir, &newest(dir));
    let there = job.number();
    let second = job.checkpoint();
    let third = job.checkpoint();
    assert_eq!((second.generation, third.generation), (2, 3));
    assert_eq!(set::generations(dir).unwrap(), [third.path.clone(), second.path]);
    verify(dir).unwrap();
    job.kill();

    let job = Job::restart(&found, dir, &newest(dir));
    File::create(dir.join("stop")).unwrap();
    let (code, lines) = job.end();
    assert_eq!(code, Some(5));
    let count: u64 = lines.last().unwrap().strip_prefix("done ").unwrap().parse().unwrap();
    assert!(count > there && lines.contains(&"child".to_owned()), "{lines:?}");
    assert_eq!(fs::read_to_string(dir.join("side")).unwrap(), "from-before\nafter\n");
    until("no work directory", || !work_is_left(dir));
}

fn work_is_left(dir: &Path) -> bool {
    fs::read_dir(dir).unwrap().any(|e| e.unwrap().file_name().to_string_lossy().contains("-work-"))
}

fn first_image(set: &Path) -> PathBuf {
    Set::open(set).unwrap().images()[0].clone()
}

#[test]
fn a_bad_set_is_refused_before_dmtcp_sees_it() {
    let Some(found) = dmtcp() else { return };
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut job =
        Job::launch(&found, dir, false, "echo 1; until [ -e stop ]; do read -t 0.1; done");
    job.number();
    // What comes of this one meanwhile does not harm the next.
    let late = job.driver.checkpoint(Instant::now()).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Busy);
    let (older, newer) = (job.checkpoint(), job.checkpoint());
    job.kill();
    let image = first_image(&newer.path);
    let good = fs::read(&image).unwrap();
    let refused = || {
        let set = Set::open(&newer.path).unwrap();
        let error = Driver::restart(&found, options(dir, false), &set).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged);
        assert!(error.to_string().contains(image.to_str().unwrap()), "{error}");
        assert!(!work_is_left(dir), "something was started");
        assert_eq!(verify(dir).unwrap_err().kind(), ErrorKind::Damaged);
        let mut passed_over = Vec::new();
        let set = Set::newest_good(dir, &mut |path, _| passed_over.push(path.to_owned())).unwrap();
        assert_eq!(
            (set.generation(), passed_over),
            (Some(older.generation), vec![newer.path.clone()])
        );
    };
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 0x10;
    fs::write(&image, &flipped).unwrap();
    refused();
    fs::write(&image, &good[..good.len() - 4096]).unwrap();
    refused();
    fs::remove_file(&image).unwrap();
    refused();
    fs::write(&image, &good).unwrap();
    assert_eq!(newest(dir).generation(), Some(newer.generation));
}

#[test]
fn images_without_a_manifest() {
    let Some(found) = dmtcp() else { return };
    let (dir, bare) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (dir, bare) = (dir.path(), bare.path());
    let mut job = Job::launch(&found, dir, true, TREE);
    job.number();
    let report = job.checkpoint();
    job.kill();
    let images = Set::open(&report.path).unwrap().images().to_owned();
    let copy = |image: &PathBuf| bare.join(image.file_name().unwrap());
    for image in &images[1..] {
        fs::copy(image, copy(image)).unwrap();
    }
    assert!(is_dmtcp_set(bare));
    let error = newest_error(bare);
    assert!(error.contains("are here"), "{error}");
    fs::copy(&images[0], copy(&images[0])).unwrap();
    assert_eq!(verify(bare).unwrap().images, report.images);
}

fn newest_error(dir: &Path) -> String {
    Set::newest_good(dir, &mut |_, _| {}).unwrap_err().to_string()
}

#[test]
fn a_job_that_has_ended_takes_no_checkpoint() {
    let Some(found) = dmtcp() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut job = Job::launch(&found, dir.path(), false, "exit 7");
    assert_eq!(job.child.wait().unwrap().code(), Some(7));
    until("the coordinator's end", || job.driver.status().is_err());
    assert_eq!(job.driver.checkpoint(soon()).unwrap_err().kind(), ErrorKind::Gone);
}
