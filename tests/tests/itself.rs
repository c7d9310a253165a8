//! A program that takes checkpoints of itself, without any launcher, in a launcher's job, and brought back:
//! it ends as if nothing had happened.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

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

/// A helper that comes to it late finds the program's number with somebody else, as after a restart: it leaves
/// that one alone.
#[test]
fn a_number_that_is_anothers() {
    const LATE: &str = "#!/bin/bash\nread < begun\nread < go\nckpt \"$@\"\necho $? > over";
    for user in users() {
        let mut itself = Itself::new(&user);
        let helper = itself.path("helper");
        File::create(&helper).and_then(|mut file| writeln!(file, "{LATE}")).expect("a helper");
        fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).expect("it is ours");
        for fifo in ["begun", "go"] {
            nix::unistd::mkfifo(
                &itself.path(fifo),
                nix::sys::stat::Mode::from_bits_truncate(0o644),
            )
            .expect("the folder is ours");
        }
        let mut command = itself.program("100");
        command.env("CKPT_HELPER", &helper);
        itself.start(command);
        fs::write(itself.path("begun"), "\n").expect("the helper reads");
        let number = itself.child.as_ref().map(Child::id).expect("it runs");
        itself.kill();

        let deadline = Instant::now() + PATIENCE;
        loop {
            // Where that is not allowed, the number comes by in time.
            let _ = fs::write("/proc/sys/kernel/ns_last_pid", (number - 1).to_string());
            let command = itself.program("100000");
            itself.start(command);
            if itself.child.as_ref().is_some_and(|child| child.id() == number) {
                break;
            }
            itself.kill();
            assert!(Instant::now() < deadline, "the number {number} does not come by");
        }
        fs::write(itself.path("go"), "\n").expect("the helper reads");
        let over = || fs::read_to_string(itself.path("over")).unwrap_or_default();
        while !over().ends_with('\n') {
            assert!(Instant::now() < deadline, "the helper does not end");
            std::thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(over(), "75\n");
        assert_eq!(itself.images().read_dir().map_or(0, Iterator::count), 0, "no image is made");
        assert_eq!(itself.ends(), undisturbed(&user));
    }
}
