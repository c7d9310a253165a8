//! `ckpt gc`: removes from a directory what no restart will need, and nothing else. What a kept
//! generation refers to stays, whatever its age.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ckpt_core::image::{Directory, Entry, Level, Reader};
use ckpt_core::job::JobId;
use ckpt_core::merge::{self, Merged};
use ckpt_core::{Error, ErrorKind, Result};
use clap::Args;
use serde_json::json;

use crate::cli;
use crate::commands::print;
use crate::voice::Voice;
use crate::words;

/// What is to go.
#[derive(Debug, Clone, Args)]
pub struct Gc {
    /// The directory [default: the checkpoint directory]
    #[arg(value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Generations of each job that stay, with all that they need
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    pub keep: u32,
    /// Only images of this job
    #[arg(long, value_name = "ID")]
    pub job: Option<JobId>,
    /// First make each job's newest generation complete by itself, so that those it needs can go
    #[arg(long)]
    pub merge: bool,
    /// Only say what would be done
    #[arg(long, short = 'n')]
    pub dry_run: bool,
}

/// Removes it, and says so.
///
/// # Errors
///
/// When the directory or an image cannot be worked on; the jobs after it are left as they are.
pub fn run(args: &Gc, voice: &Voice) -> Result<()> {
    let dir = args.dir.clone().unwrap_or_else(cli::directory_by_default);
    let directory = Directory::open(&dir)?;
    let images = directory.images()?;
    let jobs: BTreeSet<JobId> = images.iter().filter_map(Entry::job).collect();
    if let Some(job) = args.job.filter(|job| !jobs.contains(job)) {
        let what = format!("there is no image of job {job} in {}", dir.display());
        return Err(Error::new(ErrorKind::NotFound, what).help("see `ckpt list`"));
    }
    let mut freed = 0;
    for job in jobs.into_iter().filter(|job| args.job.is_none_or(|only| only == *job)) {
        if args.merge {
            // The list is made anew: the job before this one may have taken long.
            merge_newest(&directory.images()?, job, args.dry_run, voice)?;
        }
        for entry in directory.superfluous(job, args.keep as usize)? {
            if args.dry_run || directory.remove(&entry)? {
                freed += entry.bytes;
                say("removed", &entry.path, entry.bytes, voice)?;
            }
        }
    }
    if !args.dry_run {
        directory.sweep();
    }
    if !voice.json() && !voice.quiet() {
        let would = if args.dry_run { "would free" } else { "freed" };
        print(&format!("{would} {}\n", words::bytes(freed)))?;
    }
    Ok(())
}

fn merge_newest(images: &[Entry], job: JobId, dry_run: bool, voice: &Voice) -> Result<()> {
    let of_job = |image: &&Entry| image.job() == Some(job) && image.header.is_ok();
    let Some(newest) = images.iter().find(|image| of_job(image) && image.is_trusted()) else {
        return Ok(());
    };
    if dry_run && Reader::open(&newest.path)?.needed()?.is_empty() {
        return Ok(());
    }
    if dry_run {
        return say("would be made complete", &newest.path, newest.bytes, voice);
    }
    match merge::merge(&newest.path, Level::default(), &|| true)? {
        Some(Merged { path, bytes, .. }) => say("made complete", &path, bytes, voice),
        None => Ok(()),
    }
}

fn say(what: &str, path: &Path, bytes: u64, voice: &Voice) -> Result<()> {
    if voice.json() {
        let facts = json!({ "done": what, "path": path.to_string_lossy(), "bytes": bytes });
        return print(&format!("{facts}\n"));
    }
    if voice.quiet() {
        return Ok(());
    }
    print(&format!("{what} {} ({})\n", path.display(), words::bytes(bytes)))
}
