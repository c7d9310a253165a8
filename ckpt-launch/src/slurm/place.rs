//! Which directory is this command's, in this Slurm job.
//!
//! Each Slurm job has `slurm-<jobid>` in the checkpoint directory, so that many jobs, and those of an
//! array, may share that. A script may start several commands, one after the other or at once: the
//! second has `slurm-<jobid>.2`, and so on. Whose one is, its record says: cluster, command, and the
//! rounds that it had. Each task of a step has a directory in it (`task-<n>`).

use std::path::{Path, PathBuf};

use ckpt_core::image::Directory;
use ckpt_core::{Error, ErrorKind, Result};

use super::fence::Fence;
use super::here::Here;
use super::record::{Record, Round};
use crate::backend;
use crate::control::place::host;
use crate::launch::checkpoint_directory;
use crate::voice::Voice;
use crate::words::unix_now;

/// So many commands in one script are enough.
const MOST: u32 = 1000;
/// After so many rounds without a trace of one, the directory is not what it should be.
const HOPELESS: u32 = 3;

/// What is to be done in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Go {
    /// The payload is started.
    Begin,
    /// It goes on from the newest generation.
    On,
    /// It has ended in an earlier round, with this status.
    Ended(u8),
}

/// A command's place.
#[derive(Debug)]
pub struct Place {
    /// The directory of all its tasks.
    pub job_dir: PathBuf,
    /// Ours.
    pub dir: PathBuf,
    /// The right to it, if it had to be taken to find it.
    pub fence: Option<Fence>,
}

impl Place {
    /// Finds it for a command by itself, or for the first task of many. `start` is when the round
    /// began, if slurmctld has said it.
    ///
    /// # Errors
    ///
    /// The directories cannot be made, or a newer incarnation has ours.
    pub fn find(
        here: &Here,
        base: &Path,
        command: &[String],
        start: Option<u64>,
        voice: &Voice,
    ) -> Result<Self> {
        for n in 1..MOST {
            let job_dir = checkpoint_directory(&base.join(name(&here.job, n)))?;
            let dir = own(here, &job_dir)?;
            let fence = match whose(&dir, here, command, start, voice)? {
                Whose::Ours => None,
                Whose::Anothers => continue,
                Whose::Nobodys => match Fence::claim(&dir, here.restarts, &mut |_| ())? {
                    Some(fence) => Some(fence),
                    // Another command of the script was faster.
                    None => continue,
                },
            };
            return Ok(Self { job_dir, dir, fence });
        }
        let what = format!("there are more than {MOST} commands in job {}", here.job);
        Err(Error::new(ErrorKind::Usage, what)
            .help("give them directories of their own (--ckptdir)"))
    }

    /// The place of a task that was told its job's directory.
    ///
    /// # Errors
    ///
    /// The directory cannot be made.
    pub fn of_task(here: &Here, job_dir: &Path) -> Result<Self> {
        let dir = own(here, job_dir)?;
        Ok(Self { job_dir: job_dir.to_path_buf(), dir, fence: None })
    }

    /// What is to be done.
    ///
    /// # Errors
    ///
    /// Earlier rounds have left no trace, though there must be one.
    pub fn go(&self, here: &Here, voice: &Voice) -> Result<Go> {
        let record = Record::read(&self.dir)?;
        if here.restarts == 0 {
            return Ok(Go::Begin);
        }
        if let Some(status) = record.as_ref().and_then(Record::finished) {
            return Ok(Go::Ended(status));
        }
        if !Directory::open(&self.dir)?.images()?.is_empty() || backend::is_dmtcp_set(&self.dir) {
            return Ok(Go::On);
        }
        if here.restarts >= HOPELESS && record.is_none() {
            let what = format!("{} has lost what earlier rounds have left", self.dir.display());
            return Err(Error::new(ErrorKind::NotFound, what).help(
                "name a folder with --ckptdir that all nodes share and that is kept between rounds",
            ));
        }
        voice.warn("no round before this one has come to a checkpoint: the job begins anew");
        Ok(Go::Begin)
    }

    /// Notes that the command was met in this round, though it has ended before.
    ///
    /// # Errors
    ///
    /// The record cannot be written.
    pub fn passed(&self, here: &Here) -> Result<()> {
        let Some(mut record) = Record::read(&self.dir)? else { return Ok(()) };
        let now = unix_now();
        let end = Some("ended before".to_owned());
        let (restarts, host) = (here.restarts, host());
        record.rounds.push(Round {
            restarts,
            host,
            began: now,
            seen: now,
            end,
            ..Round::default()
        });
        record.write(&self.dir)
    }
}

/// The name of the n-th command's directory.
pub fn name(job: &str, n: u32) -> String {
    if n == 1 { format!("slurm-{job}") } else { format!("slurm-{job}.{n}") }
}

fn own(here: &Here, job_dir: &Path) -> Result<PathBuf> {
    match here.is_one_of_many() {
        true => checkpoint_directory(&job_dir.join(format!("task-{}", here.task))),
        false => Ok(job_dir.to_path_buf()),
    }
}

enum Whose {
    Ours,
    Anothers,
    Nobodys,
}

fn whose(
    dir: &Path,
    here: &Here,
    command: &[String],
    start: Option<u64>,
    voice: &Voice,
) -> Result<Whose> {
    let record = match Record::read(dir) {
        Err(error) if error.kind() == ErrorKind::Damaged => {
            Record::set_aside(dir)?;
            voice.warn(format_args!("{error}; it was set aside, and the images decide"));
            return Ok(if here.restarts > 0 { Whose::Ours } else { Whose::Nobodys });
        }
        record => record?,
    };
    let Some(record) = record else { return Ok(Whose::Nobodys) };
    if record.cluster != here.cluster || record.command != command {
        return Ok(Whose::Anothers);
    }
    let Some(last) = record.rounds.last() else { return Ok(Whose::Ours) };
    match last.restarts {
        before if before < here.restarts => Ok(Whose::Ours),
        // The same words once more in this round's script.
        same if same == here.restarts && (same > 0 || start.is_none_or(|it| it == last.began)) => {
            Ok(Whose::Anothers)
        }
        _ if here.restarts == 0 => {
            let aside = move_aside(dir)?;
            voice.warn(format_args!(
                "{} is of an earlier job: it is kept as {}",
                dir.display(),
                aside.display()
            ));
            Ok(Whose::Nobodys)
        }
        newer => {
            let what = format!("a newer incarnation of this Slurm job (restart {newer}) is there");
            Err(Error::new(ErrorKind::Busy, what))
        }
    }
}

/// Job numbers come again, after a long time or with a new slurmctld.
fn move_aside(dir: &Path) -> Result<PathBuf> {
    let name = |n: u32| {
        let mut name = dir.to_path_buf().into_os_string();
        name.push(format!(".old-{n}"));
        PathBuf::from(name)
    };
    let failed = |e| Error::os(format!("cannot move {} out of the way", dir.display()), e);
    let aside = (1..MOST).map(name).find(|path| !path.exists());
    let aside = aside.ok_or_else(|| failed(std::io::ErrorKind::AlreadyExists.into()))?;
    std::fs::rename(dir, &aside).map_err(failed)?;
    Directory::create(dir)?;
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here(restarts: u32) -> Here {
        let variables =
            [("SLURM_JOB_ID", "7".to_owned()), ("SLURM_RESTART_COUNT", restarts.to_string())];
        Here::find(&|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
        })
        .unwrap()
    }

    fn voice() -> Voice {
        Voice::new("test", &crate::cli::Talk { verbose: 0, quiet: true, json: false })
    }

    /// Finds the place of `command`, and runs it there for a round that began at `start`.
    fn run(base: &Path, restarts: u32, command: &str, start: u64, status: Option<u8>) -> String {
        let command = [command.to_owned()];
        let place = Place::find(&here(restarts), base, &command, Some(start), &voice()).unwrap();
        let mut record = Record::read(&place.dir).unwrap().unwrap_or_default();
        record.command = command.to_vec();
        let round = Round { restarts, began: start, status, ..Round::default() };
        record.rounds.push(round);
        record.write(&place.dir).unwrap();
        place.dir.file_name().unwrap().to_string_lossy().into_owned()
    }

    #[test]
    fn each_command_finds_its_own_again() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(run(dir.path(), 0, "a", 100, Some(0)), "slurm-7");
        assert_eq!(run(dir.path(), 0, "b", 100, Some(0)), "slurm-7.2");
        assert_eq!(run(dir.path(), 0, "a", 100, None), "slurm-7.3", "the same once more");
        for restarts in [1, 2] {
            assert_eq!(run(dir.path(), restarts, "a", 200, None), "slurm-7");
            assert_eq!(run(dir.path(), restarts, "b", 200, None), "slurm-7.2");
            assert_eq!(run(dir.path(), restarts, "a", 200, None), "slurm-7.3");
            assert_eq!(run(dir.path(), restarts, "c", 200, None), "slurm-7.4");
        }
        let late = Place::find(&here(1), dir.path(), &["a".into()], None, &voice()).unwrap_err();
        assert_eq!(late.kind(), ErrorKind::Busy);
    }

    #[test]
    fn ended_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        run(dir.path(), 0, "a", 100, Some(3));
        let place = Place::find(&here(1), dir.path(), &["a".into()], None, &voice()).unwrap();
        assert_eq!(place.go(&here(1), &voice()).unwrap(), Go::Ended(3));
        place.passed(&here(1)).unwrap();
        let other = Place::find(&here(1), dir.path(), &["a".into()], None, &voice()).unwrap();
        assert_ne!(other.dir, place.dir);
        assert_eq!(other.go(&here(1), &voice()).unwrap(), Go::Begin);
    }

    #[test]
    fn an_old_job_of_this_number_is_moved_aside() {
        let dir = tempfile::tempdir().unwrap();
        run(dir.path(), 0, "a", 100, None);
        assert_eq!(run(dir.path(), 0, "a", 900, None), "slurm-7");
        assert!(dir.path().join("slurm-7.old-1/slurm.json").exists());
    }

    #[test]
    fn two_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let find = || Place::find(&here(0), dir.path(), &["a".into()], Some(1), &voice()).unwrap();
        let (first, second) = (find(), find());
        assert_ne!(first.dir, second.dir);
    }

    #[test]
    fn a_damaged_record_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        run(dir.path(), 0, "a", 100, None);
        std::fs::write(dir.path().join("slurm-7/slurm.json"), "{\"clu").unwrap();
        let place = Place::find(&here(1), dir.path(), &["a".into()], None, &voice()).unwrap();
        assert!(place.dir.ends_with("slurm-7"));
    }
}
