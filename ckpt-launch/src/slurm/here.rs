//! Where in a Slurm job we are, as the environment tells it: which job, which of its rounds, which
//! task, and whose child.

use std::ffi::OsString;

use ckpt_core::{Error, ErrorKind, Result};

use crate::tree;

/// Our place in a Slurm job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Here {
    /// The job's number; of an array's job its own, not the array's.
    pub job: String,
    /// What slurmctld knows it by: one of an array's jobs has the array's number, which alone would
    /// mean all of them.
    pub name: String,
    /// How often it was requeued: 0 in the first round.
    pub restarts: u32,
    /// Our number among the tasks of a step.
    pub task: u32,
    /// How many tasks the step has; 1 in a batch script.
    pub tasks: u32,
    /// Whether srun(1) started us.
    pub in_step: bool,
    /// How many nodes the job has.
    pub nodes: u32,
    /// The cluster's name.
    pub cluster: String,
    /// The processes that Slurm's signals reach before us: those between us and the batch script's
    /// shell (or the task's first process), that one included. None if it is we.
    pub above: Vec<i32>,
}

impl Here {
    /// Reads the environment.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Usage`] outside of a Slurm job.
    pub fn find(variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Self> {
        let text = |name: &str| variable(name)?.into_string().ok().filter(|text| !text.is_empty());
        let number = |name: &str| text(name)?.parse::<u32>().ok();
        let job = text("SLURM_JOB_ID").filter(|id| id.bytes().all(|byte| byte.is_ascii_digit()));
        let job = job.ok_or_else(|| {
            Error::new(ErrorKind::Usage, "this is no Slurm job: $SLURM_JOB_ID is not set").help(
                "call it in a batch script (`ckpt-launch sbatch` writes one), or leave out --slurm",
            )
        })?;
        let in_step = text("SLURM_STEP_ID").is_some();
        let tasks = if in_step { number("SLURM_STEP_NUM_TASKS").unwrap_or(1) } else { 1 };
        let array = text("SLURM_ARRAY_JOB_ID").zip(text("SLURM_ARRAY_TASK_ID"));
        let name = array.map_or_else(|| job.clone(), |(array, task)| format!("{array}_{task}"));
        let first = text("SLURM_TASK_PID").and_then(|pid| pid.parse::<i32>().ok());
        Ok(Self {
            job,
            name,
            restarts: number("SLURM_RESTART_COUNT").unwrap_or(0),
            task: if in_step { number("SLURM_PROCID").unwrap_or(0) } else { 0 },
            tasks,
            in_step,
            nodes: number("SLURM_JOB_NUM_NODES").unwrap_or(1),
            cluster: text("SLURM_CLUSTER_NAME").unwrap_or_default(),
            above: first.map(above).unwrap_or_default(),
        })
    }

    /// Whether it is we who speak to Slurm for the whole job.
    pub fn leads(&self) -> bool {
        self.task == 0
    }

    /// Whether several launchers make a generation together.
    pub fn is_one_of_many(&self) -> bool {
        self.tasks > 1
    }
}

/// Our ancestors up to `first`; none if it is no ancestor of ours.
fn above(first: i32) -> Vec<i32> {
    let mut found = Vec::new();
    let mut pid = std::process::id().cast_signed();
    while pid != first {
        match tree::stat(pid) {
            Some(stat) if stat.parent > 1 => pid = stat.parent,
            _ => return Vec::new(),
        }
        found.push(pid);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here(set: &[(&str, &str)]) -> Result<Here> {
        Here::find(&|name| {
            set.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn batch_and_step() {
        let batch = [("SLURM_JOB_ID", "77"), ("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4")];
        let found = here(&batch).unwrap();
        assert_eq!((found.restarts, found.tasks, found.in_step), (0, 1, false));
        assert!(found.leads() && !found.is_one_of_many());
        let step = [
            ("SLURM_JOB_ID", "77"),
            ("SLURM_RESTART_COUNT", "3"),
            ("SLURM_STEP_ID", "0"),
            ("SLURM_PROCID", "2"),
            ("SLURM_STEP_NUM_TASKS", "4"),
        ];
        let found = here(&step).unwrap();
        assert_eq!((found.restarts, found.task, found.tasks), (3, 2, 4));
        assert!(!found.leads() && found.is_one_of_many());
        let array =
            [("SLURM_JOB_ID", "79"), ("SLURM_ARRAY_JOB_ID", "79"), ("SLURM_ARRAY_TASK_ID", "3")];
        let found = here(&array).unwrap();
        assert_eq!((found.job.as_str(), found.name.as_str()), ("79", "79_3"));
        for bad in ["", "x", "1_2"] {
            assert!(here(&[("SLURM_JOB_ID", bad)]).is_err(), "{bad}");
        }
    }

    #[test]
    fn whose_child_we_are() {
        let own = std::process::id().cast_signed();
        let parent = tree::stat(own).unwrap().parent;
        assert!(above(own).is_empty());
        assert_eq!(above(parent), [parent]);
        assert!(above(i32::MAX).is_empty());
    }
}
