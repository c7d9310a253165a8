//! The newest generation is made complete by itself in the background, once it needs as many others as it
//! may: so chains stay short, and the job does not wait for it. A checkpoint that is due goes first.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ckpt_core::capture::Options;
use ckpt_core::image::Directory;
use ckpt_core::job::JobId;
use ckpt_core::merge::{self, Merged};
use ckpt_core::{ErrorKind, Result};

/// How long a checkpoint waits for the work to stop.
const PATIENCE: Duration = Duration::from_secs(1);

/// The work, in a thread of its own. Dropped, it is given up.
#[derive(Debug)]
pub(super) struct Merging {
    thread: Option<JoinHandle<Result<Option<Merged>>>>,
    given_up: Arc<AtomicBool>,
}

impl Merging {
    /// Begins to merge the image at `path`, when nobody else needs a core.
    pub(super) fn begin(path: &Path, job: JobId, options: &Options) -> Option<Self> {
        let given_up = Arc::new(AtomicBool::new(false));
        let (path, options, heard) = (path.to_path_buf(), options.clone(), given_up.clone());
        let work = move || merge(&path, job, &options, &heard);
        let thread = std::thread::Builder::new().name("ckpt-merge".into()).spawn(work);
        let thread =
            thread.inspect_err(|error| tracing::info!(%error, "nothing is merged")).ok()?;
        Some(Self { thread: Some(thread), given_up })
    }

    /// Gives it up if it is not done; what was merged, if it is.
    pub(super) fn end(mut self) -> Option<Merged> {
        self.give_up()
    }

    fn give_up(&mut self) -> Option<Merged> {
        self.given_up.store(true, Ordering::Relaxed);
        let thread = self.thread.take()?;
        // Near its end it may be at the disk's mercy. It is left alone then: nothing that is built upon
        // is replaced.
        let deadline = Instant::now() + PATIENCE;
        while !thread.is_finished() {
            if Instant::now() >= deadline {
                return None;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        match thread.join().ok()? {
            Ok(merged) => merged,
            Err(error) if error.kind() == ErrorKind::Busy => None,
            Err(error) => {
                tracing::info!(%error, "the newest generation goes on needing others");
                None
            }
        }
    }
}

impl Drop for Merging {
    fn drop(&mut self) {
        self.give_up();
    }
}

fn merge(
    path: &Path,
    job: JobId,
    options: &Options,
    given_up: &AtomicBool,
) -> Result<Option<Merged>> {
    merge::yield_to_others();
    let merged = merge::merge(path, options.level, &|| !given_up.load(Ordering::Relaxed))?;
    if let Some(merged) = &merged {
        tracing::info!(path = %merged.path.display(), bytes = merged.bytes, "complete by itself now");
        Directory::open(&options.dir)?.prune(job, options.keep)?;
    }
    Ok(merged)
}
