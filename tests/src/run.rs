//! One job from its start to its end, with whatever happens in between.

use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::payload::Payload;
use crate::tools::tools;
use crate::tree;
use crate::user::User;

/// Longer than anything may take on a busy machine; only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(120);

/// How a job ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended {
    /// The contents of its output file.
    pub output: String,
    /// Its exit status, 128+n for signal n.
    pub status: i32,
}

impl Ended {
    /// Lines that the payload writes as it goes, apart from its results at the end.
    pub fn steps(&self) -> u64 {
        steps_in(self.output.as_bytes())
    }

    /// Fails with the first line that differs.
    ///
    /// # Panics
    ///
    /// When there is one, or the exit status is another.
    pub fn must_equal(&self, expected: &Self) {
        let early = self.output.len() < expected.output.len() && self.status != expected.status;
        assert!(!early, "it ended with status {} after {} steps", self.status, self.steps());
        let (mut is, mut wanted) = (self.output.lines(), expected.output.lines());
        for number in 1.. {
            let (is, wanted) = (is.next(), wanted.next());
            assert_eq!(is, wanted, "line {number} of the output");
            if wanted.is_none() {
                break;
            }
        }
        assert_eq!(self, expected, "output or exit status");
    }
}

fn steps_in(output: &[u8]) -> u64 {
    let paced = |line: &&[u8]| line.starts_with(b"step ") || line.starts_with(b"reaped ");
    // What follows the last newline is not yet a line.
    let whole = output.iter().rposition(|&b| b == b'\n').map_or(0, |end| end + 1);
    output[..whole].split(|&b| b == b'\n').filter(paced).count() as u64
}

/// What a restart is given.
#[derive(Debug, Clone, Copy)]
pub enum From<'a> {
    /// The checkpoint directory: the newest good image.
    Directory,
    /// This image.
    Image(&'a Path),
}

/// `ckpt checkpoint` has said no.
#[derive(Debug)]
pub struct CheckpointFailed {
    /// Its exit status.
    pub status: i32,
    /// What it wrote.
    pub message: String,
}

/// A job under `ckpt-launch` or `ckpt-restore`.
#[derive(Debug)]
pub struct Run {
    payload: Payload,
    user: User,
    folder: TempDir,
    tag: String,
    supervisor: Child,
    lives: u32,
    wrapper: Vec<String>,
}

/// A folder of the user's own.
fn folder_for(user: &User) -> TempDir {
    let folder =
        tempfile::Builder::new().prefix("ckpt-test-").tempdir().expect("a temporary folder");
    user.own(folder.path());
    folder
}

fn status_of(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Sets what concerns the payload itself: environment, folder, streams.
fn furnish(command: &mut Command, payload: &Payload, folder: &Path, log: &str) {
    let log = File::create(folder.join(log)).expect("the folder can be written to");
    // A file of that name is what the payload reads, opened anew for each life.
    let stdin = File::open(folder.join("input")).map_or_else(|_| Stdio::null(), Stdio::from);
    command.current_dir(folder).stdin(stdin);
    if let Some(steps) = std::env::var_os("STEPS") {
        command.env("STEPS", steps);
    }
    command.envs(payload.environment.iter().copied());
    command.stdout(log.try_clone().expect("descriptors are left")).stderr(log);
    // SAFETY: both are plain system calls that touch no memory of ours.
    unsafe {
        command.pre_exec(|| {
            // A session of its own, as if typed in another shell, and no descriptors but 0 to 2.
            nix::unistd::setsid()?;
            libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int);
            Ok(())
        });
    }
}

/// Runs the payload with nothing of ours around it.
///
/// # Panics
///
/// When it does not end.
pub fn undisturbed(payload: Payload, user: &User) -> Ended {
    let folder = folder_for(user);
    let words = payload.command();
    let mut command = user.command(Path::new(&words[0]));
    let output = folder.path().join("output");
    command.args(&words[1..]).arg(&output);
    furnish(&mut command, &payload, folder.path(), "log");
    // Whoever waits for a permission to go on has it.
    File::create(folder.path().join("output.go")).expect("the folder is there");
    let status = command.spawn().and_then(|mut child| child.wait()).expect("the payload runs");
    let log = fs::read(folder.path().join("log")).unwrap_or_default();
    let output = fs::read(&output).unwrap_or_else(|e| {
        panic!("{} has no output: {e}\n{}", payload.name, String::from_utf8_lossy(&log))
    });
    Ended { output: String::from_utf8_lossy(&output).into_owned(), status: status_of(status) }
}

impl Run {
    /// Starts the payload under `ckpt-launch`, with checkpoints on request only.
    pub fn start(payload: Payload, user: &User) -> Self {
        Self::start_with(payload, user, |_| ()).0
    }

    /// The same, when `prepare` has done something to the checkpoint directory.
    pub fn start_with<T>(
        payload: Payload,
        user: &User,
        prepare: impl FnOnce(&Path) -> T,
    ) -> (Self, T) {
        Self::launch(payload, user, &[], prepare)
    }

    /// The same with more flags.
    pub fn start_flagged(payload: Payload, user: &User, flags: &[&str]) -> Self {
        Self::launch(payload, user, flags, |_| ()).0
    }

    /// Whose job it is.
    pub fn user(&self) -> &User {
        &self.user
    }

    /// The same with the preload object.
    pub fn start_preloaded(payload: Payload, user: &User) -> Self {
        Self::launch(payload, user, &["--preload"], |_| ()).0
    }

    /// Starts it by a command that root gives, which takes the launcher's command line
    /// (`setpriv …`). Restarts go the same way.
    pub fn start_under(payload: Payload, user: &User, wrapper: &[&str]) -> Self {
        Self::launch_under(payload, user, wrapper, &[], |_| ()).0
    }

    fn launch<T>(
        payload: Payload,
        user: &User,
        flags: &[&str],
        prepare: impl FnOnce(&Path) -> T,
    ) -> (Self, T) {
        Self::launch_under(payload, user, &[], flags, prepare)
    }

    fn launch_under<T>(
        payload: Payload,
        user: &User,
        wrapper: &[&str],
        flags: &[&str],
        prepare: impl FnOnce(&Path) -> T,
    ) -> (Self, T) {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let folder = folder_for(user);
        tree::adopt_orphans();
        let number = RUNS.fetch_add(1, Ordering::Relaxed);
        let tag = format!("CKPT_TEST_RUN={}.{number}", std::process::id());
        let images = folder.path().join("images");
        fs::create_dir(&images).expect("the folder is empty");
        user.own(&images);
        let prepared = prepare(&images);
        let wrapper: Vec<String> = wrapper.iter().map(|&word| word.to_owned()).collect();
        let mut command = wrapped(&wrapper, user, &tools().launch);
        command.args(["-v", "-i", "0", "--ckptdir"]).arg(&images).args(flags).arg("--");
        command.args(payload.command()).arg(folder.path().join("output"));
        let supervisor = spawn(command, &payload, &tag, folder.path(), "life-0.log");
        let user = user.clone();
        (Self { payload, user, folder, tag, supervisor, lives: 1, wrapper }, prepared)
    }

    /// The checkpoint directory.
    pub fn images(&self) -> PathBuf {
        self.folder.path().join("images")
    }

    /// The output file.
    pub fn output(&self) -> PathBuf {
        self.folder.path().join("output")
    }

    /// The job's processes.
    pub fn processes(&self) -> Vec<i32> {
        let mut pids = tree::descendants(self.supervisor());
        pids.retain(|pid| tree::has_variable(*pid, &self.tag));
        pids
    }

    /// PID of the launcher or restorer.
    pub fn supervisor(&self) -> i32 {
        self.supervisor.id() as i32
    }

    /// Images that are complete, by generation; those put aside do not count.
    pub fn generations(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.images()).expect("the directory can be read");
        let mut images: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        images.retain(|path| path.extension().is_some_and(|ending| ending == "ckpt"));
        images.sort();
        images
    }

    /// How many steps are in the output file.
    pub fn steps(&self) -> u64 {
        fs::read(self.output()).map_or(0, |output| steps_in(&output))
    }

    /// Waits for the `step`-th line; false if the job ended before.
    pub fn reaches(&mut self, step: u64) -> bool {
        self.waits("a line of output", |run| run.steps() >= step)
    }

    /// Waits for a line that is neither step nor result; false if the job ended before.
    pub fn says(&mut self, line: &str) -> bool {
        self.waits(line, |run| {
            fs::read_to_string(run.output()).is_ok_and(|output| output.lines().any(|l| l == line))
        })
    }

    /// Waits until its supervisor answers; false if the job ended before.
    pub fn answers(&mut self) -> bool {
        self.waits("an answer of the supervisor", |run| {
            run.ckpt("status").output().is_ok_and(|output| output.status.success())
        })
    }

    fn waits(&mut self, what: &str, reached: impl Fn(&Self) -> bool) -> bool {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if reached(self) {
                return true;
            }
            if self.supervisor.try_wait().expect("it is our child").is_some() {
                return reached(self);
            }
            assert!(Instant::now() < deadline, "waited in vain for {what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// `ckpt VERB --ckptdir …`, as the job's user.
    pub fn ckpt(&self, verb: &str) -> Command {
        let mut command = self.user.command(&tools().ckpt);
        command.arg(verb).arg("--ckptdir").arg(self.images()).current_dir("/");
        command
    }

    /// Asks for a checkpoint; gives the time it took.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn checkpoint(&self) -> Result<Duration, CheckpointFailed> {
        let begun = Instant::now();
        let output =
            self.ckpt("checkpoint").stdin(Stdio::null()).output().expect("ckpt can be run");
        let time = begun.elapsed();
        if output.status.success() {
            return Ok(time);
        }
        let message = [output.stdout, output.stderr].concat();
        let message = String::from_utf8_lossy(&message).into_owned();
        Err(CheckpointFailed { status: status_of(output.status), message })
    }

    /// SIGKILL for the supervisor and every process of the job.
    pub fn kill(&mut self) {
        tree::kill_all(self.supervisor(), &self.tag);
        self.supervisor.wait().expect("it is our child");
        assert_eq!(tree::tagged(&self.tag), [], "processes of the job are left");
    }

    /// SIGKILL for the supervisor alone.
    pub fn kill_supervisor(&mut self) {
        self.supervisor.kill().expect("it is our child");
        self.supervisor.wait().expect("it is our child");
    }

    /// Whether nothing of the job lives.
    pub fn is_gone(&self) -> bool {
        tree::tagged(&self.tag).is_empty()
    }

    /// Waits until nothing of the job lives, whoever its supervisor was, and reads the output.
    pub fn vanishes(&self) -> String {
        let deadline = Instant::now() + PATIENCE;
        while !self.is_gone() {
            assert!(Instant::now() < deadline, "the job does not end");
            std::thread::sleep(Duration::from_millis(2));
        }
        fs::read_to_string(self.output()).unwrap_or_default()
    }

    /// Brings the job back with `ckpt-restore`.
    pub fn restore(&mut self, from: From<'_>) {
        self.restore_with(from, &[]);
    }

    /// The same with more in the restorer's environment.
    pub fn restore_with(&mut self, from: From<'_>, environment: &[(&str, &str)]) {
        self.restore_by(from, |restore| {
            restore.envs(environment.iter().copied());
        });
    }

    /// The same with more flags.
    pub fn restore_flagged(&mut self, from: From<'_>, flags: &[&str]) {
        self.restore_by(from, |restore| {
            restore.args(flags);
        });
    }

    fn restore_by(&mut self, from: From<'_>, prepare: impl FnOnce(&mut Command)) {
        assert!(self.is_gone(), "the job is still there");
        let mut command = wrapped(&self.wrapper, &self.user, &tools().restore);
        command.arg("-v");
        prepare(&mut command);
        match from {
            From::Directory => command.arg(self.images()),
            From::Image(image) => command.arg(image),
        };
        let log = format!("life-{}.log", self.lives);
        self.supervisor = spawn(command, &self.payload, &self.tag, self.folder.path(), &log);
        self.lives += 1;
    }

    /// Restarts no longer go by the wrapper.
    pub fn unwrap(&mut self) {
        self.wrapper.clear();
    }

    /// Tries to bring the job back, whether it is gone or not, where that must fail: the exit status
    /// and what was said.
    pub fn refusal(&self, user: &User, image: &Path, flags: &[&str]) -> (i32, String) {
        let mut command = user.command(&tools().restore);
        command.args(flags).arg(image).current_dir("/").stdin(Stdio::null());
        let output = command.output().expect("ckpt-restore can be run");
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        println!("status {}: {message}", output.status);
        (status_of(output.status), message)
    }

    /// Waits for the end.
    pub fn end(&mut self) -> Ended {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.supervisor.try_wait().expect("it is our child") {
                break status_of(status);
            }
            assert!(Instant::now() < deadline, "the job does not end");
            std::thread::sleep(Duration::from_millis(2));
        };
        let output = fs::read(self.output()).unwrap_or_default();
        Ended { output: String::from_utf8_lossy(&output).into_owned(), status }
    }

    /// What the launcher or the last restorer wrote, and the payload's own stderr.
    pub fn log(&self) -> String {
        let name = format!("life-{}.log", self.lives - 1);
        let log = fs::read(self.folder.path().join(name)).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    fn report(&mut self) {
        self.folder.disable_cleanup(true);
        eprintln!(
            "\n{} of {} failed; see {}",
            self.payload.name,
            self.user.name,
            self.images().display()
        );
        let pids = tree::tagged(&self.tag);
        eprintln!("supervisor {}, processes:\n{}", self.supervisor(), tree::describe(&pids));
        for life in 0..self.lives {
            let name = format!("life-{life}.log");
            eprintln!("--- {name}\n{}", tail(&self.folder.path().join(&name), 25));
        }
        eprintln!("--- output\n{}", tail(&self.output(), 5));
        if let Ok(dmesg) = Command::new("dmesg").output() {
            let text = String::from_utf8_lossy(&dmesg.stdout).into_owned();
            let faults = text.lines().filter(|l| l.contains("segfault") || l.contains("trap"));
            let faults: Vec<&str> = faults.collect();
            eprintln!("--- dmesg\n{}", faults[faults.len().saturating_sub(5)..].join("\n"));
        }
    }
}

fn wrapped(wrapper: &[String], user: &User, tool: &Path) -> Command {
    let [program, words @ ..] = wrapper else { return user.command(tool) };
    let root = User::root().expect("only root has use for a wrapper");
    let mut command = root.command(Path::new(program));
    command.args(words).arg(tool);
    command
}

fn spawn(mut command: Command, payload: &Payload, tag: &str, folder: &Path, log: &str) -> Child {
    furnish(&mut command, payload, folder, log);
    let (name, value) = tag.split_once('=').expect("it is NAME=VALUE");
    command.env(name, value).spawn().expect("it can be run")
}

fn tail(path: &Path, lines: usize) -> String {
    let text = String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

impl Drop for Run {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.report();
            // Not kill(): another panic now would hide the first.
            let _ = self.supervisor.kill();
            let _ = self.supervisor.wait();
            tree::kill_tagged(&self.tag);
            return;
        }
        if std::env::var_os("CKPT_TEST_KEEP").is_some() {
            self.folder.disable_cleanup(true);
        }
        if !self.is_gone() {
            self.kill();
        }
    }
}
