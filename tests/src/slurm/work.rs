//! What jobs compute, and whether they did it right: as if nothing had happened to them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::thread;

use super::{Cluster, Job, said, wait};
use crate::payload::interpreter_of;
use crate::tools::tools;

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

/// Puts the payloads into a job's folder.
pub(super) fn furnish(folder: &Path) {
    for entry in fs::read_dir(&tools().slurm).expect("it was made").flatten() {
        let copy = folder.join(entry.file_name());
        fs::copy(entry.path(), &copy).expect("the folder is ours");
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).expect("it is ours");
    }
}

impl Job<'_> {
    /// Goes on in so many lives, and then completes as if nothing had happened.
    pub fn goes_through(&self, work: Work, output: &str, lives: u32) {
        for life in 1..=lives {
            self.until_life(life);
        }
        self.completes_exactly(work, output);
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

    /// The same; moreover, no step may have been made twice.
    pub fn completes_exactly(&self, work: Work, output: &str) {
        self.completes(work, output);
        self.must_have_made_each_step_once(output);
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
        self.must_have_made_each_step_once(output);
    }

    fn must_have_made_each_step_once(&self, output: &str) {
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
