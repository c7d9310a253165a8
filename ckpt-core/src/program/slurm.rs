//! When Slurm will end us.

use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use super::guard;

/// The end of the job that we are in: from its environment, else from `squeue`. `None` outside of Slurm,
/// and where there is no limit. Where we were brought back the environment is the restorer's, which it has
/// written down: our own is that of another job.
pub(super) fn end() -> Option<SystemTime> {
    let restorer = guard::whose()
        .and_then(|(dir, job)| std::fs::read(dir.join(format!(".ckpt-{job}.env"))).ok());
    let variable = |name: &str| {
        let value = match &restorer {
            Some(block) => in_block(block, name),
            None => std::env::var(name).ok(),
        };
        value.filter(|value| !value.is_empty())
    };
    let job = variable("SLURM_JOB_ID")?;
    let told = variable("SLURM_JOB_END_TIME").and_then(|word| word.parse().ok());
    let told = told.map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    // That of a life before does not count.
    told.filter(|end| *end > SystemTime::now()).or_else(|| asked(&job))
}

/// A variable of an environment as `environ` has it: `NAME=VALUE` and a 0 for each.
fn in_block(block: &[u8], name: &str) -> Option<String> {
    let entries = block.split(|&byte| byte == 0).map(String::from_utf8_lossy);
    entries.into_iter().find_map(|entry| {
        let value = entry.strip_prefix(name)?.strip_prefix('=')?;
        Some(value.to_owned())
    })
}

fn asked(job: &str) -> Option<SystemTime> {
    let mut squeue = Command::new("squeue");
    squeue.args(["--noheader", "--format=%L", "--jobs", job]);
    let output = squeue.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    left(&String::from_utf8_lossy(&output.stdout)).map(|left| SystemTime::now() + left)
}

/// A time as squeue prints it: `[days-][[hours:]minutes:]seconds`.
fn left(text: &str) -> Option<Duration> {
    let line = text.lines().next()?.trim();
    let (days, clock) = line.split_once('-').unwrap_or(("0", line));
    let parts: Vec<u64> = clock.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    if parts.len() > 3 {
        return None;
    }
    let seconds =
        parts.iter().try_fold(0u64, |sum, part| sum.checked_mul(60)?.checked_add(*part))?;
    let days = days.parse::<u64>().ok()?.checked_mul(86_400)?;
    days.checked_add(seconds).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_that_was_written_down() {
        let block = b"SLURM_JOB_ID=17\0SLURM_JOB_ID_X=3\0EMPTY=\0";
        assert_eq!(in_block(block, "SLURM_JOB_ID").as_deref(), Some("17"));
        assert_eq!(in_block(block, "EMPTY").as_deref(), Some(""));
        assert_eq!(in_block(block, "SLURM"), None);
    }

    #[test]
    fn times_of_squeue() {
        let seconds = |text| left(text).map(|left| left.as_secs());
        assert_eq!(seconds("59\n"), Some(59));
        assert_eq!(seconds("1:59:00\n"), Some(7140));
        assert_eq!(seconds(" 2-00:00:01 "), Some(172_801));
        for text in ["", "UNLIMITED\n", "INVALID", "NOT_SET", "1:2:3:4", "99999999999999999999"] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }
}
