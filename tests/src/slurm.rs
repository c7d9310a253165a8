//! A real Slurm of one's own: authentication, controller and up to three nodes in a folder of their
//! own, on ports of their own. How Slurm warns, kills and requeues cannot be imitated: what is made
//! for it must be tried on it.

mod config;
mod job;
mod keeper;
mod together;
mod work;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tempfile::TempDir;

pub use config::Options;
pub use job::{Job, NOTE, SHORT};
use keeper::Keeper;
pub use together::Scenario;
pub use work::Work;

use crate::tools::tools;
use crate::tree;
use crate::user::User;

/// Slurm looks at limits twice a minute, holds what was requeued, and begins when it likes; only a
/// hang reaches this.
const PATIENCE: Duration = Duration::from_secs(240);

/// A job as `scontrol show job` describes it.
pub type Fields = BTreeMap<String, String>;

/// The cluster. Whatever runs there ends with this.
#[derive(Debug)]
pub struct Cluster {
    /// Who submits jobs.
    pub user: User,
    base: TempDir,
    options: Options,
    daemons: Mutex<BTreeMap<String, Child>>,
    seen: Mutex<Option<(Instant, BTreeMap<u32, Fields>)>>,
    keeper: Keeper,
}

/// What a mutex guards is as good as ever when another scenario has failed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for something that Slurm or a job of its is to do.
///
/// # Panics
///
/// When it does not happen.
pub(crate) fn wait(what: &str, mut it: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !it() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Slurm is not everywhere, and only root can run one that starts jobs of others.
fn possible() -> bool {
    let there = |program: &&str| {
        ["/usr/bin", "/usr/sbin"].iter().any(|folder| Path::new(folder).join(program).exists())
    };
    let missing: Vec<&str> = ["slurmctld", "slurmd", "munged", "sbatch", "srun"]
        .into_iter()
        .filter(|program| !there(program))
        .collect();
    if !missing.is_empty() {
        eprintln!("left out: there is no {} here", missing.join(", "));
    }
    missing.is_empty()
}

impl Cluster {
    /// With one node, or as it is wanted; none where it cannot be had, which is said.
    ///
    /// # Panics
    ///
    /// When it does not come up.
    pub fn start(options: Options) -> Option<Self> {
        User::root()?;
        if !possible() {
            return None;
        }
        // Somebody may have taken a port between the look and the start.
        (0..5).find_map(|_| Self::try_start(options)).or_else(|| panic!("no cluster comes up"))
    }

    fn try_start(options: Options) -> Option<Self> {
        let base = tempfile::Builder::new().prefix("ckpt-test-").tempdir().expect("a folder");
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(base.path(), open).expect("the folder is ours");
        let ports = config::free_ports(options.nodes + 1);
        config::write(base.path(), &host(), options, &ports);
        let user = User::ordinary();
        user.own(&base.path().join("work"));
        let keeper = Keeper::new(base.path(), &tag(base.path()));
        let (daemons, seen) = (Mutex::default(), Mutex::default());
        let cluster = Self { user, base, options, daemons, seen, keeper };
        cluster.start_munged();
        let up =
            cluster.start_slurmctld() && (1..=options.nodes).all(|node| cluster.start_slurmd(node));
        up.then_some(cluster)
    }

    fn daemon(&self, name: &str, program: &str, words: &[&str]) {
        let mut command = Command::new(program);
        command.args(words).current_dir(self.base.path()).stdin(Stdio::null());
        command.env("SLURM_CONF", self.config()).env("PATH", PATH);
        let log = File::create(self.base.path().join(format!("log/{name}.err")));
        let log = log.expect("the folder is ours");
        command.stdout(log.try_clone().expect("descriptors are left")).stderr(log);
        let child = command.spawn().expect("it can be run");
        let before = lock(&self.daemons).insert(name.to_owned(), child);
        assert!(before.is_none(), "{name} was there already");
    }

    /// False if it has ended of itself.
    fn lives(&self, name: &str) -> bool {
        let mut daemons = lock(&self.daemons);
        daemons.get_mut(name).is_some_and(|child| child.try_wait().is_ok_and(|end| end.is_none()))
    }

    fn kill(&self, name: &str) {
        let mut child = lock(&self.daemons).remove(name).expect("it was started");
        child.kill().expect("it is our child");
        child.wait().expect("it is our child");
    }

    /// Waits for `is_up`; false if the daemon has ended before.
    fn comes_up(&self, name: &str, mut is_up: impl FnMut() -> bool) -> bool {
        wait(&format!("an answer of {name}"), || is_up() || !self.lives(name));
        self.lives(name)
    }

    fn start_munged(&self) {
        let at = |name: &str| self.base.path().join("munge").join(name).display().to_string();
        let words =
            ["key-file=key", "socket=socket", "pid-file=pid", "log-file=log", "seed-file=seed"]
                .map(|word| {
                    let (option, name) = word.split_once('=').expect("it is written above");
                    format!("--{option}={}", at(name))
                });
        let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
        words.extend(["--foreground", "--force"]);
        self.daemon("munged", "munged", &words);
        assert!(self.comes_up("munged", || UnixStream::connect(at("socket")).is_ok()));
    }

    /// Starts the controller (again), and waits until it answers; false if it cannot start.
    pub fn start_slurmctld(&self) -> bool {
        self.daemon("slurmctld", "slurmctld", &["-D", "-f", &self.config()]);
        self.comes_up("slurmctld", || self.scontrol(&["ping"]).is_ok_and(|it| it.contains(" UP")))
    }

    /// SIGKILL for the controller.
    pub fn kill_slurmctld(&self) {
        self.kill("slurmctld");
    }

    /// Starts the daemon of a node (again), and waits until the node may be used.
    pub fn start_slurmd(&self, node: usize) -> bool {
        let name = format!("n{node}");
        self.daemon(&name, "slurmd", &["-D", "-f", &self.config(), "-N", &name]);
        self.comes_up(&name, || {
            let node = self.scontrol(&["show", "node", "-o", &name]).unwrap_or_default();
            ["IDLE", "MIXED", "ALLOCATED"].iter().any(|s| node.contains(&format!(" State={s} ")))
        })
    }

    /// SIGKILL for the daemon of a node; what runs there runs on.
    pub fn kill_slurmd(&self, node: usize) {
        self.kill(&format!("n{node}"));
    }

    fn config(&self) -> String {
        self.base.path().join("etc/slurm.conf").display().to_string()
    }

    /// One of Slurm's commands, given by the ordinary user.
    pub fn client(&self, program: &str) -> Command {
        self.furnished(self.user.command(Path::new(program)))
    }

    /// The same with the groups that a login gives.
    fn as_if_logged_in(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        let user = &self.user.name;
        command.args(["--reuid", user, "--regid", user, "--init-groups", program]).env_clear();
        self.furnished(command)
    }

    fn furnished(&self, mut command: Command) -> Command {
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", tools().folder.display());
        command.env("PATH", path).env("SLURM_CONF", self.config()).env("HOME", self.folder(""));
        command.current_dir(self.folder("")).stdin(Stdio::null());
        command
    }

    /// `scontrol …` by root.
    ///
    /// # Errors
    ///
    /// What it says if it fails.
    pub fn scontrol(&self, words: &[&str]) -> Result<String, String> {
        let mut command = Command::new("scontrol");
        command.args(words).env("SLURM_CONF", self.config()).env("PATH", PATH);
        said(command.stdin(Stdio::null()))
    }

    /// All jobs; none while the controller does not answer. Many scenarios look at the same time.
    fn jobs(&self) -> Option<BTreeMap<u32, Fields>> {
        const YOUNG: Duration = Duration::from_millis(300);
        // Its commands take their time to say that it is away.
        if !lock(&self.daemons).contains_key("slurmctld") {
            return None;
        }
        let mut seen = lock(&self.seen);
        if seen.as_ref().is_none_or(|(when, _)| when.elapsed() > YOUNG) {
            let text = self.scontrol(&["show", "job", "-o"]).ok()?;
            let jobs = text.lines().map(job::fields);
            let jobs = jobs.filter_map(|it| Some((it.get("JobId")?.parse().ok()?, it))).collect();
            *seen = Some((Instant::now(), jobs));
        }
        seen.as_ref().map(|(_, jobs)| jobs.clone())
    }

    /// Submits a batch script that works in the folder of this name, which holds the payloads. Its
    /// first lines are these options; it writes to `log.<id>` there.
    ///
    /// # Panics
    ///
    /// When it is refused.
    pub fn submit(&self, folder: &str, options: &[&str], lines: &str) -> Job<'_> {
        let ids = self.sbatch(folder, options, lines);
        Job::new(self, ids, self.folder(folder))
    }

    /// The same for an array of so many tasks.
    ///
    /// # Panics
    ///
    /// When it is refused.
    pub fn submit_array(
        &self,
        folder: &str,
        options: &[&str],
        lines: &str,
        tasks: usize,
    ) -> Vec<Job<'_>> {
        let array = format!("--array=1-{tasks}");
        let first = self.sbatch(folder, &[options, &[&array]].concat(), lines).to_string();
        let mut ids = BTreeMap::new();
        wait("a job for each task of the array", || {
            // A task that has no job yet is one of a range.
            let task = |it: &Fields| it.get("ArrayTaskId")?.parse::<usize>().ok();
            let jobs = self.jobs().unwrap_or_default().into_iter();
            let ours = jobs.filter(|(_, it)| it.get("ArrayJobId") == Some(&first));
            ids = ours.filter_map(|(id, it)| Some((task(&it)?, id))).collect();
            ids.len() == tasks
        });
        ids.into_values().map(|id| Job::new(self, id, self.folder(folder))).collect()
    }

    /// Submits what `ckpt-launch sbatch` makes of these words, which works in that folder.
    ///
    /// # Panics
    ///
    /// When it is refused.
    pub fn submit_by_ckpt_launch(&self, folder: &str, words: &[&str]) -> Job<'_> {
        let path = self.furnished_folder(folder);
        let mut command = self.client("ckpt-launch");
        command.args(["sbatch", "--submit", "-o", "log.%j"]).args(words).current_dir(&path);
        let said = said(&mut command).unwrap_or_else(|e| panic!("{folder} is not accepted: {e}"));
        println!("{folder}: {said}");
        let id = said.split_whitespace().next_back().and_then(|word| word.parse().ok());
        Job::new(self, id.expect("sbatch gives a number"), path)
    }

    fn furnished_folder(&self, name: &str) -> PathBuf {
        let path = self.folder(name);
        if !path.exists() {
            fs::create_dir(&path).expect("the folder is ours");
            self.user.own(&path);
            work::furnish(&path);
        }
        path
    }

    fn sbatch(&self, folder: &str, options: &[&str], lines: &str) -> u32 {
        let path = self.furnished_folder(folder);
        let options: String = options.iter().map(|option| format!("#SBATCH {option}\n")).collect();
        let script =
            format!("#!/bin/bash\n#SBATCH -o log.%j --open-mode=append\n{options}{lines}\n");
        fs::write(path.join("script"), script).expect("the folder is ours");
        let mut command = self.client("sbatch");
        command.args(["--parsable", "script"]).current_dir(&path);
        let id = said(&mut command).unwrap_or_else(|e| panic!("{folder} is not accepted: {e}"));
        println!("{folder} is job {id}");
        id.parse().expect("sbatch gives a number")
    }

    /// Where jobs work.
    fn folder(&self, name: &str) -> PathBuf {
        self.base.path().join("work").join(name)
    }

    /// Waits until the controller has saved what it knew at that time: it takes seconds to do so, and
    /// what it had not saved it does not know when it is started again.
    pub fn until_saved(&self, since: SystemTime) {
        let file = self.base.path().join("state/job_state");
        wait("the controller's own records", || {
            fs::metadata(&file).and_then(|it| it.modified()).is_ok_and(|saved| saved > since)
        });
    }

    /// Whether the controller has ended that job because its time was up.
    pub fn timed_out(&self, job: &Job<'_>) -> bool {
        let (alone, task) = (format!("JobId={}", job.id), format!("({})", job.id));
        let log = self.log();
        let mut ends = log.lines().filter(|line| line.contains("Time limit exhausted"));
        ends.any(|line| line.ends_with(&alone) || line.ends_with(&task))
    }

    /// What the controller has logged.
    pub fn log(&self) -> String {
        let log = fs::read(self.base.path().join("log/slurmctld.log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    fn report(&self) {
        eprintln!("\nsee {}", self.base.path().display());
        let left = keeper::left(self.base.path(), &tag(self.base.path()));
        eprintln!("there were\n{}", tree::describe(&left));
        eprintln!("{}", self.scontrol(&["show", "job", "-o"]).unwrap_or_else(|e| e));
        let log = self.log();
        let news = log.lines().filter(|line| !line.contains(" sched") || !line.contains("debug"));
        let news: Vec<&str> = news.collect();
        eprintln!("--- slurmctld\n{}", news[news.len().saturating_sub(80)..].join("\n"));
        for node in 1..=self.options.nodes {
            keeper::show(&self.base.path().join(format!("log/slurmd-n{node}.log")), 30);
        }
        let folders = fs::read_dir(self.folder("")).into_iter().flatten().flatten();
        for folder in folders {
            let files = fs::read_dir(folder.path()).into_iter().flatten().flatten();
            let logs = files.filter(|it| it.file_name().to_string_lossy().starts_with("log."));
            logs.for_each(|log| keeper::show(&log.path(), 40));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        if failed {
            self.report();
        }
        if failed || std::env::var_os("CKPT_TEST_KEEP").is_some() {
            self.base.disable_cleanup(true);
        }
        // The controller first, lest it starts what the others lose.
        let mut daemons = std::mem::take(&mut *lock(&self.daemons));
        for name in ["slurmctld", "n1", "n2", "n3", "munged"] {
            if let Some(mut child) = daemons.remove(name) {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        let left = keeper::clear(self.base.path(), &tag(self.base.path()));
        self.keeper.dismiss();
        assert!(failed || left.is_empty(), "cannot be killed:\n{}", tree::describe(&left));
    }
}

const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";

/// What all of a cluster's jobs have in their environment, however they were started.
fn tag(base: &Path) -> String {
    format!("SLURM_CONF={}/etc/slurm.conf", base.display())
}

fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").expect("every machine has one");
    name.trim().split('.').next().unwrap_or_default().to_owned()
}

/// Runs a command; what it says, or its complaint.
fn said(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|e| e.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}
