//! One job of a cluster: what Slurm says of it, and what it leaves in its folder.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::SystemTime;

use super::{Cluster, Fields, said, wait};
use crate::payload::interpreter_of;
use crate::tools::tools;
use crate::tree;

/// A line of a batch script that notes when a round begins, after which step of `output`, and what
/// Slurm says of it.
pub const NOTE: &str = "echo \"$(date +%s) $(cat output.journal 2>/dev/null | wc -l) \
    $(scontrol show job -o $SLURM_JOB_ID)\" >>rounds";

/// One that makes its round much shorter than a minute, as the owner of a job may.
pub const SHORT: &str = "scontrol update JobId=$SLURM_JOB_ID EndTime=now+25";

/// What jobs compute: steps until they are told to finish, with an output that depends on nothing
/// but their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// A script that starts a program per step.
    Script,
    /// Two processes and a pipe.
    Pipe,
    /// Python with numpy and threads.
    Arrays,
    /// The same, and memory whose image takes a while.
    Memory,
}

impl Work {
    /// How a batch script starts it, up to the name of its output.
    pub fn command(self) -> String {
        match self {
            Self::Script => "./steps.sh".into(),
            Self::Pipe => "./pipe.sh".into(),
            Self::Arrays => format!("{} ./arrays.py", interpreter_of("python3")),
            Self::Memory => format!("env MIB=400 {}", Self::Arrays.command()),
        }
    }
}

/// A submitted job.
#[derive(Debug)]
pub struct Job<'a> {
    /// Its number.
    pub id: u32,
    cluster: &'a Cluster,
    folder: PathBuf,
}

/// A line of `scontrol -o`. Values may hold blanks.
pub(super) fn fields(line: &str) -> Fields {
    let mut fields = Fields::new();
    let mut last = String::new();
    for word in line.split_whitespace() {
        match word.split_once('=') {
            Some((name, value)) if name.starts_with(|c: char| c.is_ascii_uppercase()) => {
                last = name.to_owned();
                fields.insert(last.clone(), value.to_owned());
            }
            _ => *fields.entry(last.clone()).or_default() += &format!(" {word}"),
        }
    }
    fields
}

/// Puts the payloads into a job's folder.
pub(super) fn furnish(folder: &Path) {
    for entry in fs::read_dir(&tools().slurm).expect("it was made").flatten() {
        let copy = folder.join(entry.file_name());
        fs::copy(entry.path(), &copy).expect("the folder is ours");
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).expect("it is ours");
    }
}

/// States in which nothing happens any more, unless somebody requeues the job.
const FINAL: [&str; 8] = [
    "COMPLETED",
    "FAILED",
    "TIMEOUT",
    "CANCELLED",
    "NODE_FAIL",
    "PREEMPTED",
    "BOOT_FAIL",
    "DEADLINE",
];

impl<'a> Job<'a> {
    pub(super) fn new(cluster: &'a Cluster, id: u32, folder: PathBuf) -> Self {
        Self { id, cluster, folder }
    }

    /// What Slurm says of it; nothing while the controller is away.
    pub fn fields(&self) -> Fields {
        self.cluster.jobs().and_then(|mut jobs| jobs.remove(&self.id)).unwrap_or_default()
    }

    /// One field of it.
    pub fn field(&self, name: &str) -> String {
        self.fields().remove(name).unwrap_or_default()
    }

    /// How often it was requeued.
    pub fn restarts(&self) -> u32 {
        self.field("Restarts").parse().unwrap_or(0)
    }

    /// Waits for what Slurm is to say.
    ///
    /// # Panics
    ///
    /// When the job has ended in another way.
    pub fn until(&self, what: &str, it: impl Fn(&Fields) -> bool) {
        self.waits_for(what, || {
            let fields = self.fields();
            !fields.is_empty() && it(&fields)
        });
    }

    /// Waits as long as the job may still do something, whether the controller answers or not.
    ///
    /// # Panics
    ///
    /// When it has ended before.
    pub fn waits_for(&self, what: &str, it: impl Fn() -> bool) {
        let mut over = 0;
        wait(&format!("job {}: {what}", self.id), || {
            if it() {
                return true;
            }
            // Its launcher may still requeue it, and Slurm may not have told us yet.
            let is_final = FINAL.contains(&self.field("JobState").as_str());
            over = if is_final && self.processes().is_empty() { over + 1 } else { 0 };
            assert!(over < 40, "job {} has ended before: {what}: {:?}", self.id, self.fields());
            false
        });
    }

    /// Waits for that state.
    pub fn until_state(&self, state: &str) {
        self.until(state, |fields| fields["JobState"] == state);
    }

    /// Waits until it has been requeued so often.
    pub fn until_restarts(&self, count: u32) {
        self.until(&format!("restart {count}"), |it| {
            it["Restarts"].parse::<u32>().is_ok_and(|n| n >= count)
        });
    }

    /// Waits until its `restart`-th life has begun.
    pub fn until_life(&self, restart: u32) {
        self.until(&format!("running after restart {restart}"), |fields| {
            let is = fields["Restarts"].parse::<u32>().is_ok_and(|restarts| restarts >= restart);
            is && fields["JobState"] == "RUNNING"
        });
    }

    /// `scontrol update` by its owner.
    ///
    /// # Panics
    ///
    /// When it is refused.
    pub fn update(&self, what: &str) {
        let mut command = self.cluster.client("scontrol");
        command.args(["update", &format!("JobId={}", self.id), what]);
        said(&mut command).unwrap_or_else(|e| panic!("{what}: {e}"));
    }

    /// `scancel …` by its owner.
    ///
    /// # Panics
    ///
    /// When it fails.
    pub fn scancel(&self, words: &[&str]) {
        let mut command = self.cluster.client("scancel");
        command.args(words).arg(self.id.to_string());
        said(&mut command).unwrap_or_else(|e| panic!("scancel {words:?}: {e}"));
    }

    /// A file in its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// When a file there was last written to.
    ///
    /// # Panics
    ///
    /// When it is not there.
    pub fn written(&self, name: &str) -> SystemTime {
        fs::metadata(self.path(name)).and_then(|it| it.modified()).expect("it is there")
    }

    /// The contents of a file there.
    pub fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.path(name)).unwrap_or_default()).into_owned()
    }

    /// A new file there.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    pub fn write(&self, name: &str, contents: &str) {
        // In one step: somebody looks for it all the time.
        let spare = self.path(&format!("{name}.new"));
        fs::write(&spare, contents).expect("the folder is ours");
        self.cluster.user.own(&spare);
        fs::rename(&spare, self.path(name)).expect("the folder is ours");
    }

    /// What it has said, in all its lives.
    pub fn log(&self) -> String {
        self.read(&format!("log.{}", self.id))
    }

    /// Its checkpoint directory.
    pub fn directory(&self) -> PathBuf {
        self.path(&format!("slurm-{}", self.id))
    }

    /// Images below it that are complete, the oldest first.
    pub fn images(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut open = vec![self.directory()];
        while let Some(folder) = open.pop() {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            for entry in entries.map(|entry| entry.path()) {
                match entry.is_dir() {
                    true => open.push(entry),
                    false => found.extend(
                        Some(entry).filter(|it| it.extension().is_some_and(|it| it == "ckpt")),
                    ),
                }
            }
        }
        found.sort();
        found
    }

    /// Its living processes.
    pub fn processes(&self) -> Vec<i32> {
        let ours = tree::tagged(&super::tag(self.cluster.base.path()));
        let id = format!("SLURM_JOB_ID={}", self.id);
        ours.into_iter().filter(|&pid| tree::has_variable(pid, &id)).collect()
    }

    /// Waits until none is left.
    pub fn until_gone(&self) {
        wait(&format!("the end of job {}'s processes", self.id), || self.processes().is_empty());
    }

    /// How many steps the payload with this output has made in the life in which it came furthest.
    pub fn steps(&self, output: &str) -> u64 {
        let journal = self.read(&format!("{output}.journal"));
        journal.lines().filter_map(|line| line.parse().ok()).max().unwrap_or(0)
    }

    /// Waits for such a step.
    pub fn until_step(&self, output: &str, step: u64) {
        self.waits_for(&format!("step {step} of {output}"), || self.steps(output) >= step);
    }

    /// Waits for an image that is complete, besides these.
    pub fn until_image(&self, besides: &[PathBuf]) {
        let new = |image: &PathBuf| !besides.contains(image);
        self.waits_for("an image", || self.images().iter().any(new));
    }

    /// Waits until it has made some more steps than ever.
    pub fn makes_steps(&self, output: &str) {
        self.until_step(output, self.steps(output) + 5);
    }

    /// Lets the payload with this output end.
    pub fn finish(&self, output: &str) {
        self.finish_with(output, "");
    }

    /// The same with an exit status.
    pub fn finish_with(&self, output: &str, status: &str) {
        self.write(&format!("{output}.finish"), status);
    }

    /// Goes on in so many lives, and then completes as if nothing had happened.
    pub fn goes_through(&self, work: Work, output: &str, lives: u32) {
        for life in 1..=lives {
            self.until_life(life);
        }
        self.completes(work, output);
        self.must_be_exact(work, output);
        assert!(!self.cluster.timed_out(self), "job {} was over its limit", self.id);
    }

    /// Lets it end.
    pub fn completes(&self, work: Work, output: &str) {
        self.makes_steps(output);
        self.finish(output);
        self.until_state("COMPLETED");
        self.must_be_right(work, output);
        self.must_have_lived_singly(output);
        self.until_gone();
    }

    /// At no time has more than one incarnation made steps: each time, one has gone back to where a
    /// checkpoint was.
    fn must_have_lived_singly(&self, output: &str) {
        let journal = self.read(&format!("{output}.journal"));
        let steps: Vec<u64> = journal.lines().filter_map(|line| line.parse().ok()).collect();
        let back = steps.windows(2).filter(|pair| pair[1] != pair[0] + 1);
        let back: Vec<u64> = back.flatten().copied().collect();
        let lives = self.restarts() as usize;
        assert!(back.len() <= 2 * lives, "job {} went back in {lives} restarts: {back:?}", self.id);
    }

    /// Has `ckpt-restore` go on with it, outside of Slurm.
    ///
    /// # Panics
    ///
    /// When that fails.
    pub fn goes_on_by_hand(&self, output: &str) {
        // With the groups of somebody who has logged in, which are those that Slurm gives a job.
        let mut restore = self.cluster.as_if_logged_in("ckpt-restore");
        restore.arg(self.directory()).current_dir(&self.folder);
        let wanted = self.steps(output) + 5;
        thread::scope(|scope| {
            let restored = scope.spawn(|| said(&mut restore));
            let goes_on = || self.steps(output) >= wanted || restored.is_finished();
            wait(&format!("steps of job {} by hand", self.id), goes_on);
            self.finish(output);
            let end = restored.join().expect("it does not panic");
            end.unwrap_or_else(|e| panic!("job {} by hand: {e}", self.id));
        });
    }

    /// Each round as [`NOTE`] has noted it: seconds, steps, and what Slurm said.
    pub fn rounds(&self) -> Vec<(u64, u64, Fields)> {
        let rounds = self.read("rounds");
        let round = |line: &str| {
            let mut words = line.splitn(3, ' ');
            let (time, steps) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            Some((time, steps, fields(words.next()?)))
        };
        rounds.lines().filter_map(round).collect()
    }

    /// Waits until an image is being written.
    pub fn until_writing(&self) {
        self.waits_for("a half-written image", || {
            let entries = fs::read_dir(self.directory()).into_iter().flatten().flatten();
            entries.map(|it| it.file_name()).any(|it| it.to_string_lossy().contains(".ckpt.tmp-"))
        });
    }

    /// Its output must be that of an undisturbed run.
    ///
    /// # Panics
    ///
    /// When it is not.
    pub fn must_be_right(&self, work: Work, output: &str) {
        let text = self.read(output);
        let steps = text.lines().filter(|line| line.starts_with("step ")).count();
        let expected = self.cluster.undisturbed(work, steps);
        let (is, wanted) = (text.lines(), expected.lines());
        for (number, (is, wanted)) in is.zip(wanted).enumerate() {
            assert_eq!(is, wanted, "line {} of {output} of job {}", number + 1, self.id);
        }
        assert!(text == expected, "{output} of job {} is too short or too long", self.id);
        println!("job {}: {output} is right, {steps} steps", self.id);
    }

    /// Moreover, it must not have made any step twice: nothing was written after a checkpoint that
    /// it went on from.
    ///
    /// # Panics
    ///
    /// When it has.
    pub fn must_be_exact(&self, work: Work, output: &str) {
        self.must_be_right(work, output);
        let journal = self.read(&format!("{output}.journal"));
        for (line, step) in journal.lines().zip(1..) {
            assert_eq!(
                line,
                step.to_string(),
                "line {step} of {output}'s journal, job {}",
                self.id
            );
        }
        let steps = journal.lines().count();
        assert!(self.read(output).contains(&format!("step {steps} ")), "the journal is too short");
    }
}

impl Cluster {
    /// The output of so many steps, made outside of Slurm.
    fn undisturbed(&self, work: Work, steps: usize) -> String {
        let folder = tempfile::Builder::new().prefix("undisturbed-").tempdir_in(self.base.path());
        let folder = folder.expect("the folder is ours");
        furnish(folder.path());
        let command = format!("{} output {steps}", work.command());
        let mut shell = Command::new("sh");
        shell.args(["-c", &command]).current_dir(folder.path()).env("PACE", "0");
        said(&mut shell).unwrap_or_else(|e| panic!("{command}: {e}"));
        fs::read_to_string(folder.path().join("output")).expect("it has written one")
    }
}
