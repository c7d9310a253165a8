//! One job of a cluster: what Slurm says of it, and what it leaves in its folder.

use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use super::{Cluster, Fields, said, wait};
use crate::tree;

/// A line of a batch script that notes when a round begins, after which step of `output`, and what
/// Slurm says of it.
pub const NOTE: &str = "echo \"$(date +%s) $(cat output.journal 2>/dev/null | wc -l) \
    $(scontrol show job -o $SLURM_JOB_ID)\" >>rounds";

/// One that makes its round much shorter than a minute, as the owner of a job may.
pub const SHORT: &str = "scontrol update JobId=$SLURM_JOB_ID EndTime=now+25";

/// A submitted job.
#[derive(Debug)]
pub struct Job<'a> {
    /// Its number.
    pub id: u32,
    pub(super) cluster: &'a Cluster,
    pub(super) folder: PathBuf,
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
}
