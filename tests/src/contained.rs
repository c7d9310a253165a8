//! A job in a container: its launcher is outside, every life is a container of its own.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::run::Ended;
use crate::runtime::{Image, Runtime};
use crate::site::until;
use crate::tree;

/// One job.
#[derive(Debug)]
pub struct Contained<'a> {
    runtime: &'a Runtime,
    folder: TempDir,
    /// The checkpoint directory.
    pub images: PathBuf,
    launcher: Option<Child>,
    lives: u32,
}

impl<'a> Contained<'a> {
    /// None yet; `files` are in its folder, which containers see under the same name.
    ///
    /// # Panics
    ///
    /// When a file cannot be copied.
    pub fn new(runtime: &'a Runtime, files: &[PathBuf]) -> Self {
        // What is killed falls to us, and its number is free only when it has been reaped.
        tree::adopt_orphans();
        let folder = tempfile::Builder::new().prefix("ckpt-test-").tempdir().expect("a folder");
        runtime.user().own(folder.path());
        let images = folder.path().join("images");
        fs::create_dir(&images).expect("the folder is ours");
        runtime.user().own(&images);
        for file in files {
            let to = folder.path().join(file.file_name().expect("it has a name"));
            fs::copy(file, &to).expect("it can be copied");
            runtime.user().own(&to);
        }
        Self { runtime, folder, images, launcher: None, lives: 0 }
    }

    /// A file in its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What is in it.
    pub fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.path(name)).unwrap_or_default()).into_owned()
    }

    /// A command of ours, in its folder.
    pub fn command(&self, program: &str) -> Command {
        let programs = programs();
        let mut command = self.runtime.user().command(&programs.join(program));
        command.env("PATH", format!("{}:{}", programs.display(), self.runtime.path()));
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        command
    }

    /// `ckpt-launch`, up to the command.
    pub fn launcher(&self, image: Image, flags: &[&str]) -> Command {
        let mut command = self.command("ckpt-launch");
        let (name, image) = (self.runtime.kind().program(), self.runtime.image(image));
        command.args(["--container", name, "--image", &image]);
        command.args(flags).arg("--ckptdir").arg(&self.images).arg("--");
        command
    }

    /// Begins a life.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub fn start(&mut self, mut command: Command) {
        let log = File::create(self.path(&format!("life-{}.log", self.lives))).expect("a log");
        command.stdout(log.try_clone().expect("descriptors are left")).stderr(log);
        self.launcher = Some(command.spawn().expect("it can be run"));
        self.lives += 1;
    }

    /// `ckpt-restore` from the checkpoint directory.
    pub fn restorer(&self, flags: &[&str]) -> Command {
        let mut command = self.command("ckpt-restore");
        command.args(flags).arg(&self.images);
        command
    }

    /// Begins a life by `ckpt-restore`.
    pub fn restore(&mut self, flags: &[&str]) {
        self.start(self.restorer(flags));
    }

    /// Waits until the launcher waits for its other half, with which signals are its to pass on.
    ///
    /// # Panics
    ///
    /// When it has ended before.
    pub fn is_met(&mut self) {
        let is_socket =
            |name: &std::ffi::OsStr| name.to_string_lossy().starts_with(".ckpt-outside-");
        self.until("its socket", |job| {
            let entries = fs::read_dir(&job.images).into_iter().flatten().flatten();
            entries.into_iter().any(|entry| is_socket(&entry.file_name()))
        });
    }

    /// Whether the launcher outside is there.
    pub fn lives(&mut self) -> bool {
        let launcher = self.launcher.as_mut();
        launcher.is_some_and(|it| it.try_wait().expect("it is our child").is_none())
    }

    /// The launcher outside.
    pub fn pid(&self) -> i32 {
        self.launcher.as_ref().map_or(0, |it| it.id().cast_signed())
    }

    /// Waits for something that the job is to do.
    ///
    /// # Panics
    ///
    /// When it ends before.
    pub fn until(&mut self, what: &str, it: impl Fn(&Self) -> bool) {
        until(what, || it(self) || !self.lives());
        assert!(it(self), "the job has ended before: {what}\n{}", self.logs());
    }

    /// Waits until so many lines are in `output`.
    pub fn reaches(&mut self, lines: usize) {
        self.until(&format!("line {lines}"), |job| job.read("output").lines().count() >= lines);
    }

    /// `ckpt VERB`: its status and what it says.
    pub fn ckpt(&self, verb: &str) -> (Option<i32>, String) {
        let mut command = self.command("ckpt");
        said(command.arg(verb).arg("--ckptdir").arg(&self.images))
    }

    /// Takes a checkpoint, once the job runs.
    ///
    /// # Panics
    ///
    /// When that fails.
    pub fn checkpoint(&mut self) {
        self.until("its launcher inside", |job| job.ckpt("status").0 == Some(0));
        let (status, words) = self.ckpt("checkpoint");
        assert_eq!(status, Some(0), "{words}\n{}", self.logs());
    }

    /// SIGKILL for launcher, container and all.
    ///
    /// # Panics
    ///
    /// When something of it stays.
    pub fn kill(&mut self) {
        if self.launcher.is_some() {
            self.kill_launcher();
        }
        until("the end of all of it", || {
            let left = self.processes();
            tree::kill_each(&left);
            tree::reap_orphans();
            left.is_empty()
        });
    }

    /// SIGKILL for the launcher outside alone.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn kill_launcher(&mut self) {
        let mut launcher = self.launcher.take().expect("there is one");
        launcher.kill().expect("it is our child");
        launcher.wait().expect("it is our child");
    }

    /// All that names its folder: both launchers, the runtime, the payload.
    pub fn processes(&self) -> Vec<i32> {
        let name = self.folder.path().to_string_lossy().into_owned();
        tree::naming(&name)
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// When it does not come.
    pub fn end(&mut self) -> Ended {
        until("the job's end", || !self.lives());
        let status = self.launcher.take().expect("there is one").wait().expect("it is our child");
        let status = status.code().or(status.signal().map(|it| 128 + it)).unwrap_or(-1);
        Ended { output: self.read("output"), status }
    }

    /// What all its lives have said.
    pub fn logs(&self) -> String {
        let log = |life| format!("--- life {life}\n{}", self.read(&format!("life-{life}.log")));
        (0..self.lives).map(log).collect()
    }
}

/// The static set, where every user and every container can read it: `/tmp` is among the folders that
/// a site brings into Shifter's.
///
/// # Panics
///
/// When it has not been built.
pub fn programs() -> &'static Path {
    static PROGRAMS: OnceLock<PathBuf> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        // target/PROFILE/deps/this-test
        let own = std::env::current_exe().expect("a program knows its name");
        let from = own.ancestors().nth(3).expect("cargo's folders").join("dist/ckpt");
        let meta = fs::metadata(from.join("ckpt-launch"));
        let meta = meta.unwrap_or_else(|e| panic!("`cargo xtask test` makes {from:?}: {e}"));
        let name = format!("ckpt-tests-static-{}-{}", meta.mtime(), meta.mtime_nsec());
        let to = std::env::temp_dir().join(name);
        if !to.exists() {
            let spare = to.with_extension(std::process::id().to_string());
            let copied = Command::new("cp").arg("-a").arg(&from).arg(&spare).status();
            assert!(copied.is_ok_and(|status| status.success()), "cp {from:?}");
            // Another test may have been faster.
            let _ = fs::rename(&spare, &to);
        }
        to
    })
}

/// Runs a command; its status and what it says.
///
/// # Panics
///
/// When it cannot be run.
pub fn said(command: &mut Command) -> (Option<i32>, String) {
    let output = command.output().expect("it can be run");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

impl Drop for Contained<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        tree::kill_each(&self.processes());
        if let Some(launcher) = &mut self.launcher {
            let _ = launcher.wait();
        }
    }
}
