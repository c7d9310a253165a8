//! DMTCP's commands as somebody gives them at a computing centre: by their names in `$PATH`, in a
//! folder of one's own.

use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::tools::tools;
use crate::tree;
use crate::user::User;

/// Longer than anything may take on a busy machine; only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(100);

/// Waits for something that is to happen.
///
/// # Panics
///
/// When it does not.
pub fn until(what: &str, mut it: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !it() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The folder of a real DMTCP's commands: in `$CKPT_TEST_DMTCP` or `$DMTCP_HOME`.
pub fn real_dmtcp() -> Option<PathBuf> {
    let named = ["CKPT_TEST_DMTCP", "DMTCP_HOME"].into_iter().filter_map(std::env::var_os);
    let places = named.map(PathBuf::from).flat_map(|home| [home.join("bin"), home]);
    let found = places.into_iter().find(|bin| bin.join("dmtcp_launch").exists());
    if found.is_none() {
        println!("skipped: no DMTCP here");
    }
    found
}

/// What a command has said, and its exit status, 128+n for signal n.
#[derive(Debug)]
pub struct Said {
    /// Exit status.
    pub code: i32,
    /// Its stdout.
    pub out: String,
    /// Its stderr.
    pub err: String,
}

/// A folder, its user, and everything that runs there.
#[derive(Debug)]
pub struct Site {
    /// Who works there.
    pub user: User,
    folder: TempDir,
    programs: PathBuf,
    tag: (&'static str, String),
}

/// A process that runs beside the test.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Site {
    /// One with our commands.
    pub fn new(user: &User) -> Self {
        Self::with(user, &tools().folder)
    }

    /// One with the commands in this folder. It holds the scripts and the payload.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    pub fn with(user: &User, programs: &Path) -> Self {
        static SITES: AtomicU32 = AtomicU32::new(0);
        let folder =
            tempfile::Builder::new().prefix("ckpt-test-").tempdir().expect("a temporary folder");
        let run = folder.path().join("run");
        fs::DirBuilder::new().mode(0o700).create(&run).expect("the folder is empty");
        for entry in fs::read_dir(&tools().site).expect("it was made").flatten() {
            let script = folder.path().join(entry.file_name());
            fs::copy(entry.path(), &script).expect("scripts can be copied");
            user.own(&script);
        }
        user.own(&run);
        user.own(folder.path());
        let number = SITES.fetch_add(1, Ordering::Relaxed);
        let tag = ("CKPT_TEST_RUN", format!("{}.site{number}", std::process::id()));
        Self { user: user.clone(), folder, programs: programs.to_path_buf(), tag }
    }

    /// A file there.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The contents of a file there.
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// A new file there, in one step.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) {
        fs::write(self.path(name), contents).expect("the folder is ours");
        self.user.own(&self.path(name));
    }

    /// A command given there: one of DMTCP's, or a script of the folder.
    pub fn command(&self, program: &str) -> Command {
        let ours = self.programs.join(program);
        let program = if ours.exists() { ours } else { self.path(program) };
        let mut command = self.user.command(&program);
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", self.programs.display());
        command.env("PATH", path).env("HOME", self.folder.path());
        command.env("TMPDIR", self.folder.path()).env("XDG_RUNTIME_DIR", self.path("run"));
        command.env("CKPT_SECRET_FILE", self.path("secret")).env(self.tag.0, &self.tag.1);
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        command
    }

    /// Starts it, with what it says in the file `log`.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub fn start(&self, mut command: Command, log: &str) -> Daemon {
        let log = self.path(log);
        let file = File::create(&log).expect("the folder is ours");
        // Nobody types, and nobody hangs up.
        command.stdin(Stdio::piped()).stdout(file.try_clone().expect("descriptors are left"));
        // SAFETY: both are plain system calls that touch no memory of ours.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int);
                Ok(())
            });
        }
        Daemon { child: command.stderr(file).spawn().expect("it can be run"), log }
    }

    /// Runs it to its end, as posix_spawn(3) starts it: with some of the C library's own signals
    /// ignored.
    ///
    /// # Panics
    ///
    /// When it cannot be run.
    pub fn run(&self, mut command: Command) -> Said {
        let output = command.output().expect("it can be run");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Said { code: code(output.status), out: text(&output.stdout), err: text(&output.stderr) }
    }

    /// What `prepare` makes of the command of a coordinator at `port` (0: any), running; and its
    /// port.
    pub fn coordinator(&self, port: u16, prepare: impl FnOnce(&mut Command)) -> (Daemon, u16) {
        let mut command = self.command("dmtcp_coordinator");
        command.args(["-p", &port.to_string(), "--port-file", "port"]);
        prepare(&mut command);
        let _left_by_one_that_was_killed = fs::remove_file(self.path("port"));
        let mut coordinator = self.start(command, &format!("coordinator-{port}.log"));
        until("a port file", || self.path("port").exists() || !coordinator.lives());
        let port = self.read("port").parse();
        (coordinator, port.unwrap_or_else(|_| panic!("no coordinator in {:?}", self.folder)))
    }

    /// `dmtcp_command` to the coordinator here.
    pub fn ask(&self, port: u16, words: &[&str]) -> Said {
        let mut command = self.command("dmtcp_command");
        command.args(["-p", &port.to_string()]).args(words);
        self.run(command)
    }

    /// Waits for a line of the payload whose output has this name.
    pub fn reaches(&self, output: &str, step: u32) {
        let line = format!("step {step} ");
        until(&line, || self.read(output).lines().any(|l| l.starts_with(&line)));
    }

    /// Lets that payload go on after the steps at which it waits.
    pub fn go_on(&self, output: &str, steps: &[u32]) {
        steps.iter().for_each(|step| self.write(&format!("{output}.go{step}"), ""));
    }

    /// What the payload's output is if nothing happens to it.
    ///
    /// # Panics
    ///
    /// When it ends in another way than it should.
    pub fn undisturbed(&self) -> String {
        self.go_on("undisturbed", &[10, 20]);
        let mut command = self.command("payload.sh");
        command.arg("undisturbed");
        assert_eq!(self.run(command).code, 7);
        self.read("undisturbed")
    }

    /// Files of the folder with this ending, sorted.
    pub fn files(&self, ending: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.folder.path()).expect("it is there").flatten();
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        files.retain(|path| path.extension().is_some_and(|it| it == ending));
        files.sort();
        files
    }

    /// What still runs there.
    pub fn left(&self) -> Vec<i32> {
        let mut left = tree::tagged(&format!("{}={}", self.tag.0, self.tag.1));
        left.extend(tree::inside(self.folder.path()));
        left.sort_unstable();
        left.dedup();
        left
    }

    /// Waits until nothing runs there any more: by itself, as nobody is killed here.
    pub fn empties(&self) {
        until("the end of all processes", || self.left().is_empty());
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let left = self.left();
        let were = tree::describe(&left);
        for &pid in &left {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        if std::thread::panicking() {
            self.folder.disable_cleanup(true);
            eprintln!("\nsee {}; there were\n{were}", self.path("").display());
            for log in self.files("log") {
                let text = fs::read(&log).unwrap_or_default();
                eprintln!("--- {}\n{}", log.display(), String::from_utf8_lossy(&text));
            }
            return;
        }
        assert!(left.is_empty(), "processes were left:\n{were}");
    }
}

fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

impl Daemon {
    /// Its PID.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// What it has said.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Whether it has not ended.
    ///
    /// # Panics
    ///
    /// When somebody else has waited for it.
    pub fn lives(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_none()
    }

    /// Sends a signal.
    ///
    /// # Panics
    ///
    /// When it is not there.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("it is our child");
    }

    /// SIGSTOP, and waits until all its threads stand.
    pub fn stop(&self) {
        self.signal(Signal::SIGSTOP);
        until("a stop", || {
            let tasks = fs::read_dir(format!("/proc/{}/task", self.pid()));
            tasks.is_ok_and(|tasks| {
                tasks.flatten().all(|task| {
                    let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
                    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
                })
            })
        });
    }

    /// SIGKILL.
    ///
    /// # Panics
    ///
    /// When it is not there.
    pub fn kill(&mut self) {
        self.child.kill().expect("it is our child");
        self.child.wait().expect("it is our child");
    }

    /// Waits for its end; gives the exit status.
    pub fn end(&mut self) -> i32 {
        let mut status = None;
        until("the end of a process", || {
            status = self.child.try_wait().expect("it is our child");
            status.is_some()
        });
        status.map_or(-1, code)
    }
}
