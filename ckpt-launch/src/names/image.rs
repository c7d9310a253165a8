//! A job's newest image under a name in DMTCP's manner, `ckpt_<prog>_<id>.dmtcp`: scripts look for
//! such files, hand them to `dmtcp_restart`, and remove them.
//!
//! The name is a second link to the image itself, not a symbolic one: it may be copied or moved by
//! itself, and stays good when older generations go.

use std::path::{Path, PathBuf};

use ckpt_core::job::{Job, JobId};
use ckpt_core::{Error, Result};

use crate::dmtcp::files::{UniqueId, image_name};

/// The virtual PID of the first process under DMTCP.
const FIRST_PID: i32 = 40000;

/// A job's id in DMTCP's form; `pid` is a process of it.
pub fn unique_id(job: JobId, pid: i32) -> UniqueId {
    UniqueId { host: job.0 >> 32, pid, time: job.0 & 0xffff_ffff }
}

/// The path of `image` in DMTCP's manner, which is the same for all generations of the job.
pub fn alias_of(image: &Path, job: &Job) -> PathBuf {
    let id = unique_id(job.id, FIRST_PID);
    image.with_file_name(image_name(&plain(&job.name), id.host, id.pid, id.time))
}

/// Gives `image`, which is durable, its name in DMTCP's manner, in place of the generation that had
/// it.
///
/// # Errors
///
/// What link(2) and rename(2) say.
pub fn alias(image: &Path, job: &Job) -> Result<()> {
    let path = alias_of(image, job);
    let spare = path.with_extension("dmtcp.temp");
    let failed = |e| Error::os(format!("cannot name the image {}", path.display()), e);
    let _ = std::fs::remove_file(&spare);
    // Some file systems have no links.
    std::fs::hard_link(image, &spare)
        .or_else(|_| std::os::unix::fs::symlink(image.file_name().unwrap_or_default(), &spare))
        .and_then(|()| std::fs::rename(&spare, &path))
        .map_err(failed)
}

/// The program's name without what a script would stumble on.
fn plain(name: &str) -> String {
    let fine = |c: char| if c.is_ascii_alphanumeric() || "._+-".contains(c) { c } else { '_' };
    name.chars().take(64).map(fine).collect()
}
