//! A checkpoint that fails harms nobody: the job runs on, and the last good generation is as it was
//! and brings the job back.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ckpt_tests::{
    CheckpointFailed, Ended, From, Moments, Payload, Run, User, payload, undisturbed,
};

/// Name and contents of all files; the control socket is none, and the supervisor's lock goes with
/// the job.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(dir).expect("the directory can be read").flatten();
    let is_lock =
        |path: &Path| path.extension().is_some_and(|ending| ending == "lock" || ending == "hold");
    let files = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    let paths = files.map(|entry| entry.path()).filter(|path| !is_lock(path));
    paths.map(|path| (path.clone(), fs::read(path).expect("it can be read"))).collect()
}

/// The checkpoint must fail, say `word`, and leave the directory as it is.
fn must_fail(run: &Run, word: &str) -> CheckpointFailed {
    let before = contents(&run.images());
    let refusal = run.checkpoint().expect_err("there should be no checkpoint");
    println!("status {}: {}", refusal.status, refusal.message);
    let said = refusal.message.to_lowercase().contains(word);
    assert!(said, "the message does not speak of {word:?}: {}", refusal.message);
    assert!(before == contents(&run.images()), "the checkpoint directory has changed");
    refusal
}

fn must_succeed(run: &Run) {
    run.checkpoint().unwrap_or_else(|e| panic!("status {}: {}", e.status, e.message));
}

/// A started job with one good generation.
fn with_a_generation(payload: Payload, user: &User) -> (Run, Ended) {
    let expected = undisturbed(payload, user);
    let mut run = Run::start(payload, user);
    assert!(run.reaches(3) && run.answers());
    must_succeed(&run);
    (run, expected)
}

/// Kills the job, brings it back from what there is, and compares.
fn must_come_back(mut run: Run, expected: &Ended) {
    run.kill();
    run.restore(From::Directory);
    run.end().must_equal(expected);
}

const SMALL: &[(&str, &str)] = &[("MIB", "64"), ("STEPS", "20")];

/// The limit is set from outside, as a batch system's `ulimit -f` would be.
fn limit_files(run: &Run, user: &User, limit: &str) {
    let mut prlimit = user.command(Path::new("/usr/bin/prlimit"));
    prlimit.arg(format!("--pid={}", run.supervisor())).arg(format!("--fsize={limit}:unlimited"));
    assert!(prlimit.status().is_ok_and(|s| s.success()), "prlimit");
}

#[test]
fn file_size_limit() {
    let user = User::ordinary();
    let (mut run, expected) = with_a_generation(payload("memory").with(SMALL), &user);
    limit_files(&run, &user, "1048576");
    // The limit's signal would kill the launcher, and the job with it, if nobody cared.
    must_fail(&run, "file too large");
    assert!(run.reaches(run.steps() + 2), "the job does not go on");
    limit_files(&run, &user, "unlimited");
    must_succeed(&run);
    assert!(run.reaches(run.steps() + 2), "the job does not go on");
    must_come_back(run, &expected);
}

/// A file system of its own, gone at the end.
struct Mount(PathBuf);

impl Mount {
    fn new(at: PathBuf) -> Self {
        let mount = Self(at);
        mount.size("size=200m", &["-t", "tmpfs", "ckpt-test"]);
        mount
    }

    fn size(&self, option: &str, more: &[&str]) {
        let status = Command::new("mount").args(["-o", option]).args(more).arg(&self.0).status();
        assert!(status.is_ok_and(|s| s.success()), "mount -o {option}");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn no_space(user: &User) {
    let payload = payload("memory").with(SMALL);
    let expected = undisturbed(payload, user);
    let mut run = Run::start_with(payload, user, |images| {
        let mount = Mount::new(images.to_path_buf());
        user.own(images);
        mount
    });
    assert!(run.0.reaches(3) && run.0.answers());
    must_succeed(&run.0);
    let used: u64 = contents(&run.0.images()).values().map(|file| file.len() as u64).sum();
    // Not even for what has changed.
    let full = format!("remount,size={}", used.next_multiple_of(4096) + 8192);
    run.1.size(&full, &[]);
    must_fail(&run.0, "no space left");
    assert!(run.0.reaches(run.0.steps() + 2), "the job does not go on");
    must_fail(&run.0, "no space left");
    let (mut job, mount) = run;
    job.kill();
    job.restore(From::Directory);
    assert!(job.answers(), "the first generation does not come back");
    mount.size("remount,size=200m", &[]);
    must_succeed(&job);
    job.end().must_equal(&expected);
}

#[test]
fn no_space_as_root() {
    if let Some(root) = User::root() {
        no_space(&root);
    }
}

#[test]
fn no_space_as_ordinary_user() {
    // Only root can mount it, whoever fills it.
    if User::root().is_some() {
        no_space(&User::ordinary());
    }
}

#[test]
fn no_permission() {
    let user = User::ordinary();
    let (mut run, expected) = with_a_generation(payload("threads"), &user);
    let mode = |mode| {
        let permissions = fs::Permissions::from_mode(mode);
        fs::set_permissions(run.images(), permissions).expect("it is ours");
    };
    mode(0o500);
    must_fail(&run, "permission denied");
    mode(0o700);
    assert!(run.reaches(run.steps() + 2), "the job does not go on");
    must_come_back(run, &expected);
}

/// Refused while the object is there, and only then.
fn unsupported(payload: Payload, word: &str) {
    let user = User::ordinary();
    let expected = undisturbed(payload, &user);
    if expected.output.contains("no such object here") {
        println!("left out: {}", expected.output.lines().last().unwrap_or_default());
        return;
    }
    let (mut run, _) = with_a_generation(payload, &user);
    assert!(run.says("has it"));
    let refusal = must_fail(&run, word);
    assert_eq!(refusal.status, 69, "EX_UNAVAILABLE");
    let named = refusal.message.contains("unsupported)");
    assert!(named, "the message names no process: {}", refusal.message);
    fs::write(run.output().with_file_name("output.go"), "").expect("the folder is there");
    assert!(run.says("has it no more"));
    must_succeed(&run);
    must_come_back(run, &expected);
}

#[test]
fn unsupported_io_uring() {
    unsupported(payload("unsupported").with(&[("OBJECT", "io_uring")]), "io_uring");
}

#[test]
fn unsupported_connection() {
    let outside = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = outside.local_addr().expect("it is bound").port().to_string();
    let environment = Box::leak(Box::new([("OBJECT", "tcp"), ("PORT", &*port.leak())]));
    unsupported(payload("unsupported").with(environment), "socket");
}

/// The launcher is killed at some moment of a checkpoint: the job ends as it would have, and the
/// generation before (or the new one, if it was done) brings it back.
fn launcher_killed(user: &User, times: u32) {
    let payload = payload("memory").with(SMALL);
    let expected = undisturbed(payload, user);
    let mut moments = Moments::new();
    // How long a checkpoint takes here; the moments are spread over a little more than that.
    let mut whole = Duration::ZERO;
    for _ in 0..times {
        let mut run = Run::start(payload, user);
        assert!(run.reaches(3) && run.answers());
        whole = whole.max(run.checkpoint().expect("the first is undisturbed"));
        let first = run.generations();
        let first: Vec<_> = first.iter().map(|p| (p, fs::read(p).expect("it is there"))).collect();
        let place = moments.below(expected.steps() * 3 / 5);
        assert!(run.reaches(place));
        let request = run.ckpt("checkpoint").output_in_background();
        let moment = moments.up_to(whole * 5 / 4);
        std::thread::sleep(moment);
        run.kill_supervisor();
        let answer = request.wait_with_output().expect("ckpt ends when its launcher does");
        println!("killed after {moment:?}; ckpt said {}", answer.status);
        let output = run.vanishes();
        assert_eq!(output, expected.output, "the payload was harmed");
        for (path, before) in &first {
            let same = fs::read(path).is_ok_and(|now| now == *before);
            assert!(same, "{} has changed", path.display());
        }
        run.restore(From::Directory);
        run.end().must_equal(&expected);
    }
}

/// A command that runs while we go on.
trait InBackground {
    fn output_in_background(self) -> std::process::Child;
}

impl InBackground for Command {
    fn output_in_background(mut self) -> std::process::Child {
        use std::process::Stdio;
        self.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.spawn().expect("ckpt can be run")
    }
}

#[test]
fn launcher_killed_as_root() {
    if let Some(root) = User::root() {
        launcher_killed(&root, 6);
    }
}

#[test]
fn launcher_killed_as_ordinary_user() {
    launcher_killed(&User::ordinary(), 12);
}
