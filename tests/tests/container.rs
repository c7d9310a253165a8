//! Inside a rootless podman container with its default seccomp profile. There kcmp(2) and
//! personality(2) are refused, and no new /proc can be mounted in a namespace of one's own.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ckpt_tests::{Ended, Moments, Payload, User, payload, tools, undisturbed};
use tempfile::TempDir;

const IMAGE: &str = "localhost/ckpt-tests";
const PATIENCE: Duration = Duration::from_secs(120);

/// One job, each of its lives in a container of its own.
struct Job {
    user: User,
    folder: TempDir,
    name: String,
    container: Option<Child>,
    lives: u32,
}

fn podman(user: &User) -> Command {
    let mut command = user.command(Path::new("/usr/bin/podman"));
    // crun wants a cgroup v2 of its own, which not every machine has; runc does not.
    command.args(["--runtime", "runc", "--storage-driver", "overlay"]).current_dir("/");
    command.stdin(Stdio::null());
    command
}

/// An image of empty folders: the machine's own /usr goes where it belongs.
fn import(user: &User, folder: &Path) {
    let root = folder.join("root");
    for name in ["usr", "etc/alternatives", "proc", "sys", "dev", "tmp", "run", "root"] {
        fs::create_dir_all(root.join(name)).expect("the folder is ours");
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        let target = format!("usr/{name}");
        std::os::unix::fs::symlink(target, root.join(name)).expect("the folder is ours");
    }
    let archive = folder.join("root.tar");
    let tar = Command::new("tar").arg("cf").arg(&archive).arg("-C").arg(&root).arg(".").status();
    assert!(tar.is_ok_and(|s| s.success()), "tar");
    let import = podman(user).arg("import").arg(&archive).arg(IMAGE).output().expect("podman runs");
    assert!(import.status.success(), "podman: {}", String::from_utf8_lossy(&import.stderr));
}

impl Job {
    fn new(user: User) -> Self {
        let folder = tempfile::Builder::new().prefix("ckpt-test-").tempdir().expect("a folder");
        import(&user, folder.path());
        user.own(folder.path());
        fs::create_dir(folder.path().join("images")).expect("the folder is ours");
        user.own(&folder.path().join("images"));
        let name = format!("ckpt-test-{}", std::process::id());
        Self { user, folder, name, container: None, lives: 0 }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Runs `words` as the first process of a new container.
    fn live(&mut self, payload: Payload, words: Vec<String>) {
        let mut command = podman(&self.user);
        command.args(["run", "--rm", "--network=none", "--name"]);
        command.arg(format!("{}-{}", self.name, self.lives));
        for place in ["/usr:/usr:ro", "/etc/alternatives:/etc/alternatives:ro"] {
            command.args(["-v", place]);
        }
        let tools = tools().folder.display();
        command.args(["-v", &format!("{tools}:{tools}:ro")]);
        let job = self.folder.path().display();
        command.args(["-v", &format!("{job}:{job}"), "-w", &job.to_string()]);
        for (name, value) in payload.environment {
            command.args(["-e", &format!("{name}={value}")]);
        }
        let log = File::create(self.path(&format!("life-{}.log", self.lives))).expect("a log");
        command.stdout(log.try_clone().expect("descriptors are left")).stderr(log);
        self.container = Some(command.arg(IMAGE).args(words).spawn().expect("podman runs"));
        self.lives += 1;
    }

    fn start(&mut self, payload: Payload) {
        let mut words: Vec<String> = vec![tools().launch.display().to_string()];
        words.extend(["-v", "-i", "0", "--ckptdir"].map(String::from));
        words.extend([self.path("images"), "--".into()]);
        words.extend(payload.command());
        words.push(self.path("output"));
        self.live(payload, words);
    }

    fn restore(&mut self, payload: Payload) {
        let restore = tools().restore.display().to_string();
        self.live(payload, vec![restore, "-v".into(), self.path("images")]);
    }

    fn output(&self) -> String {
        fs::read_to_string(self.path("output")).unwrap_or_default()
    }

    fn running(&mut self) -> bool {
        self.container.as_mut().is_some_and(|c| c.try_wait().expect("it is our child").is_none())
    }

    fn reaches(&mut self, step: u64) -> bool {
        self.waits(|job| Ended { output: job.output(), status: 0 }.steps() >= step)
    }

    fn answers(&mut self) -> bool {
        self.waits(|job| job.ckpt("status").0 == Some(0))
    }

    fn waits(&mut self, reached: impl Fn(&Self) -> bool) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while !reached(self) {
            if !self.running() {
                return reached(self);
            }
            assert!(Instant::now() < deadline, "waited in vain");
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }

    /// `ckpt VERB`, inside.
    fn ckpt(&self, verb: &str) -> (Option<i32>, String) {
        let name = format!("{}-{}", self.name, self.lives - 1);
        let mut command = podman(&self.user);
        command.args(["exec", &name]).arg(&tools().ckpt).arg(verb);
        let output =
            command.args(["--ckptdir", &self.path("images")]).output().expect("podman runs");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.code(), said)
    }

    /// SIGKILL for the container's first process, and with it for all that is inside; false if the
    /// job had come to its end before.
    fn kill(&mut self) -> bool {
        let name = format!("{}-{}", self.name, self.lives - 1);
        let killed = podman(&self.user).args(["kill", "-s", "KILL", &name]).output();
        let killed = killed.expect("podman runs");
        let ended = self.end();
        let said = String::from_utf8_lossy(&killed.stderr);
        assert!(killed.status.success() || ended.status == 0, "podman kill: {said}");
        killed.status.success()
    }

    fn end(&mut self) -> Ended {
        self.waits(|_| false);
        let mut container = self.container.take().expect("there is one");
        let status = container.wait().expect("it is our child").code().unwrap_or(-1);
        Ended { output: self.output(), status }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for life in 0..self.lives {
                let log = fs::read(self.path(&format!("life-{life}.log"))).unwrap_or_default();
                eprintln!("--- life {life}\n{}", String::from_utf8_lossy(&log));
            }
        }
        for life in 0..self.lives {
            let name = format!("{}-{life}", self.name);
            let _ = podman(&self.user).args(["rm", "-f", "-i", "-t", "0", &name]).output();
        }
    }
}

fn survives_in_podman(payload: Payload) {
    let user = User::ordinary();
    let expected = undisturbed(payload, &user);
    let mut moments = Moments::new();
    let mut job = Job::new(user);
    job.start(payload);
    let mut rounds = 0;
    for step in moments.places(4, expected.steps() * 3 / 5) {
        if !job.reaches(step) || !job.answers() {
            break;
        }
        let (status, said) = job.ckpt("checkpoint");
        // On a slow day it ends before the last checkpoint comes: such a round counts for nothing.
        let so_far = Ended { output: job.output(), status: 0 };
        if status != Some(0) && so_far.steps() == expected.steps() {
            break;
        }
        assert_eq!(status, Some(0), "{said}");
        // On such a day it ends between the two commands, too. It goes on from there all the same.
        rounds += u32::from(job.kill());
        job.restore(payload);
    }
    job.end().must_equal(&expected);
    assert!(rounds >= 2, "only {rounds} rounds came in time");
    println!("{rounds} rounds, each in a container of its own");
}

#[test]
fn shell_in_rootless_podman() {
    // Long enough for commands that take their time to get into the container.
    survives_in_podman(payload("shell").with(&[("STEPS", "120")]));
}

#[test]
fn threads_in_rootless_podman() {
    survives_in_podman(payload("threads").with(&[("STEPS", "120")]));
}
