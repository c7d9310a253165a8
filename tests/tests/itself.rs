//! A program that takes checkpoints of itself, without any launcher, in a launcher's job, and brought back:
//! it ends as if nothing had happened.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ckpt_core::ErrorKind;
use ckpt_core::capture;
use ckpt_core::job::{Job, JobId};
use ckpt_core::progress::Silent;
use ckpt_tests::{User, tools};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);
/// Whoever runs the tests has pipes of its own, which come to all that it starts.
const ALONE: &str = r#"for fd in /proc/$$/fd/*; do
    fd=${fd##*/}
    ((fd > 2)) && eval "exec $fd>&-"
done
exec "$@""#;
const STEPS: &str = "2000";

/// The example `itself` and what it leaves.
struct Itself {
    user: User,
    folder: TempDir,
    lives: usize,
    child: Option<Child>,
}

/// Cargo puts examples beside the folder of the tests.
fn example() -> PathBuf {
    let own = std::env::current_exe().expect("a program knows its name");
    own.ancestors().nth(2).expect("cargo's folders").join("examples/itself")
}

impl Itself {
    fn new(user: &User) -> Self {
        let folder = tempfile::Builder::new().prefix("ckpt-itself-").tempdir().expect("a folder");
        let program = folder.path().join("itself");
        fs::copy(example(), &program).expect("the examples are built");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it is ours");
        user.own(folder.path());
        Self { user: user.clone(), folder, lives: 0, child: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn images(&self) -> PathBuf {
        self.path("images")
    }

    /// `program words` as the user, with our tools in `$PATH`; what it says goes to `said-N`.
    fn command(&self, program: &Path) -> Command {
        let mut command = self.user.command(program);
        let path = format!("{}:/usr/bin:/bin", tools().folder.display());
        command.env("PATH", path).current_dir(self.folder.path());
        let file = |name: String| File::create(self.path(&name)).expect("the folder is ours");
        command.stdin(Stdio::null()).stdout(file(format!("out-{}", self.lives)));
        command.stderr(file(format!("said-{}", self.lives)));
        command
    }

    fn start(&mut self, mut command: Command) {
        self.lives += 1;
        self.child = Some(command.spawn().expect("it can be run"));
    }

    fn program(&self, every: &str) -> Command {
        let mut command = self.command(Path::new("/bin/bash"));
        command.args(["-c", ALONE, "bash"]).arg(self.path("itself"));
        command.arg(self.images()).args([STEPS, every]);
        command
    }

    fn launched(&self, every: &str) -> Command {
        let mut command = self.command(&tools().launch);
        command.args(["-q", "-i", "0", "--ckptdir"]).arg(self.path("launched")).arg("--");
        command.arg(self.path("itself")).arg(self.images()).args([STEPS, every]);
        command
    }

    fn restored(&self, from: &Path) -> Command {
        let mut command = self.command(&tools().restore);
        command.arg("-q").arg(from);
        command
    }

    fn said(&self) -> String {
        fs::read_to_string(self.path(&format!("said-{}", self.lives - 1))).unwrap_or_default()
    }

    /// Waits until it has said so many lines with this word in this life; false if it ended before.
    fn says(&mut self, word: &str, times: usize) -> bool {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let over = self.child.as_mut().is_none_or(|it| it.try_wait().expect("ours").is_some());
            if self.said().matches(word).count() >= times {
                return true;
            }
            if over {
                return false;
            }
            assert!(Instant::now() < deadline, "{word} is not said: {}", self.said());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// SIGKILL for it and whoever watches over it.
    fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        let pid = child.id();
        let below = ckpt_tests::descendants(pid.cast_signed());
        child.kill().expect("it is ours");
        for pid in below {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
        child.wait().expect("it is ours");
    }

    /// Its result.
    fn ends(&mut self) -> String {
        let status = self.child.take().expect("it runs").wait().expect("it is ours");
        assert!(status.success(), "{status}: {}", self.said());
        fs::read_to_string(self.path(&format!("out-{}", self.lives - 1))).expect("it is there")
    }
}

impl Drop for Itself {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}

fn users() -> impl Iterator<Item = User> {
    [User::root(), Some(User::ordinary())].into_iter().flatten()
}

fn undisturbed(user: &User) -> String {
    let mut alone = Itself::new(user);
    alone.start(alone.program("100000"));
    alone.ends()
}

/// Killed some checkpoints later and brought back, again and again: under a restorer it asks that one.
#[test]
fn comes_back_from_its_own_images() {
    for user in users() {
        let expected = undisturbed(&user);
        let mut itself = Itself::new(&user);
        itself.start(itself.program("100"));
        assert!(itself.says("generation", 3), "{}", itself.said());
        assert!(!itself.said().contains("brought back"));
        itself.kill();
        for more in [1, 3, 2] {
            let command = itself.restored(&itself.images());
            itself.start(command);
            assert!(itself.says("generation", more), "{}", itself.said());
            let said = itself.said();
            // Each life begins with its return from the checkpoint.
            let first: Vec<&str> = said.lines().take(2).collect();
            assert_eq!(first[0], "brought back", "{said}");
            assert!(first[1].starts_with("goes on after step"), "{said}");
            itself.kill();
        }
        let command = itself.restored(&itself.images());
        itself.start(command);
        assert_eq!(itself.ends(), expected, "{}", itself.said());
    }
}

/// In a launcher's job the checkpoint is the launcher's.
#[test]
fn in_a_launchers_job() {
    for user in users() {
        let expected = undisturbed(&user);
        let mut itself = Itself::new(&user);
        itself.start(itself.launched("100"));
        assert!(itself.says("generation", 2), "{}", itself.said());
        itself.kill();
        assert!(!itself.images().exists(), "its own directory is not used then");
        for more in [2, 1] {
            let command = itself.restored(&itself.path("launched"));
            itself.start(command);
            assert!(itself.says("generation", more), "{}", itself.said());
            assert!(itself.said().starts_with("brought back"), "{}", itself.said());
            itself.kill();
        }
        let command = itself.restored(&itself.path("launched"));
        itself.start(command);
        assert_eq!(itself.ends(), expected, "{}", itself.said());
    }
}

/// Without a helper, and with one that dies or says nothing sensible, it is told so and runs on.
#[test]
fn helpers_that_do_not_help() {
    let user = User::ordinary();
    let mut itself = Itself::new(&user);
    let mut command = itself.program("100");
    command.env("PATH", "/nowhere");
    itself.start(command);
    assert!(itself.says("there is no program ckpt in $PATH", 1), "{}", itself.said());
    itself.child = None;
    for script in ["exit 0", "kill -9 $$", "head -c 1 /proc/self/fd/0; echo nonsense"] {
        let mut itself = Itself::new(&user);
        let helper = itself.path("helper");
        let mut file = File::create(&helper).expect("the folder is ours");
        writeln!(file, "#!/bin/sh\n{script}").expect("there is room");
        drop(file);
        fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).expect("it is ours");
        let mut command = itself.program("100");
        command.env("CKPT_HELPER", &helper);
        itself.start(command);
        assert!(itself.says("ended before it could say", 1), "{script}: {}", itself.said());
        itself.child = None;
    }
}

/// What a helper tells of the program with this number that was begun then (in ticks, as `/proc/PID/stat` has it).
fn helper_for(itself: &Itself, pid: u32, begun: u64) -> String {
    const PIPES: &str = r#"exec 7<&0 8>&1 </dev/null >/dev/null; exec "$@""#;
    let mut command = itself.user.command(Path::new("/bin/bash"));
    command.args(["-c", PIPES, "bash"]).arg(&tools().ckpt);
    command.args(["itself", "--leave=7", "--answers=8", "--id=00000000000000aa", "--name=itself"]);
    command.args([
        "--checkpoints=0",
        "--restarts=0",
        "--level=3",
        "--keep=2",
        "--increments=0",
        "--cpus=0",
    ]);
    command.arg(format!("--of={pid}")).arg(format!("--begun={begun}"));
    command.arg(format!("--ckptdir={}", itself.images().display()));
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("ckpt can be run");
    child.stdin.take().expect("a pipe").write_all(&[1]).expect("it waits for a byte");
    let output = child.wait_with_output().expect("it is ours");
    assert!(output.status.success(), "{}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A helper that comes late may find its program's number with somebody else, as after a restart: it leaves
/// that one alone.
#[test]
fn a_number_that_is_anothers() {
    const GONE: &str = "the program ended before its checkpoint";
    for user in users() {
        let mut itself = Itself::new(&user);
        let command = itself.program("100000");
        itself.start(command);
        let pid = itself.child.as_ref().map(Child::id).expect("it runs");
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
        let (_, fields) = stat.rsplit_once(')').expect("behind the name");
        let begun: u64 =
            fields.split_whitespace().nth(19).and_then(|it| it.parse().ok()).expect("a time");
        assert!(helper_for(&itself, pid, begun - 1).contains(GONE));
        // The engine by itself looks, too.
        let options = capture::Options { dir: itself.images(), ..capture::Options::default() };
        let mut job = Job::of_itself(JobId(1), "itself".into(), pid.cast_signed(), begun - 1);
        let error = capture::checkpoint(&mut job, &options, &Silent).expect_err("it is another");
        assert_eq!(error.kind(), ErrorKind::Gone, "{error}");
        assert!(!itself.images().exists());
        assert!(!helper_for(&itself, pid, begun).contains(GONE));
        assert_eq!(itself.ends(), undisturbed(&user));
    }
}
