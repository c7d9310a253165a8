//! What takes a job's checkpoints: our own engine, a DMTCP that is installed here, or whichever of them
//! the other half of this launcher has inside a container. The supervisor does not care which.

use std::path::Path;
use std::time::{Duration, Instant};

use ckpt_core::capture::{self, Gate, Options, Report};
use ckpt_core::image::Level;
use ckpt_core::job::Job;
use ckpt_core::progress::Observer;
use ckpt_core::{Result, capture::Step};

use crate::backend::{self, Backend, Choice, Driver, Found};
use crate::cli::{Engine as Wanted, Keeping, With};
use crate::container::outside::Outside;
use crate::coordinator::wire::Process;
use crate::tree;

/// A checkpoint by DMTCP that has not come to its end by then is given up.
const PATIENCE: Duration = Duration::from_secs(3600);

/// The engine of one job.
#[derive(Debug)]
pub enum Engine {
    /// `ckpt_core`.
    Native,
    /// DMTCP.
    Dmtcp(Box<Driver>),
    /// The half inside a container.
    Contained(Box<Outside>),
}

impl Engine {
    /// Takes a checkpoint; see [`capture::checkpoint_together`].
    ///
    /// # Errors
    ///
    /// Why there is none. The job runs on, unless DMTCP has lost it.
    pub fn checkpoint(
        &mut self,
        job: &mut Job,
        options: &Options,
        observer: &dyn Observer,
        gate: &dyn Gate,
    ) -> Result<Report> {
        match self {
            Self::Native => capture::checkpoint_together(job, options, observer, gate),
            Self::Contained(outside) => outside.checkpoint(job, options, gate),
            Self::Dmtcp(driver) => {
                // DMTCP freezes, captures and publishes by itself: its job goes along with others'
                // as far as it can, and is published before the last step.
                gate.pass(Step::Frozen)?;
                let report = driver.checkpoint(Instant::now() + PATIENCE)?;
                gate.pass(Step::Captured)?;
                gate.pass(Step::Durable)?;
                job.generation = report.generation;
                let alone = gate.published(report.generation, &report.path).err();
                Ok(Report { alone: alone.map(|error| error.to_string()), ..of_dmtcp(report) })
            }
        }
    }
}

impl Engine {
    /// Name and numbers of the job's processes, `parent`'s descendants.
    pub fn processes(&mut self, parent: i32) -> Vec<Process> {
        match self {
            Self::Contained(outside) => outside.census().0,
            _ => tree::processes(parent),
        }
    }

    /// Bytes of memory that they have of their own, about.
    pub fn resident(&mut self, parent: i32) -> u64 {
        match self {
            Self::Contained(outside) => outside.census().1,
            _ => tree::resident(parent),
        }
    }

    /// The half inside a container, seen from outside.
    pub fn outside(&mut self) -> Option<&mut Outside> {
        match self {
            Self::Contained(outside) => Some(outside),
            _ => None,
        }
    }
}

/// DMTCP does not tell how long the job stood: at most as long as it all took.
fn of_dmtcp(report: backend::Report) -> Report {
    Report {
        generation: report.generation,
        path: report.path,
        frozen: report.total,
        total: report.total,
        processes: report.images,
        tasks: report.images,
        bytes_read: report.bytes,
        bytes_stored: report.bytes,
        bytes_skipped: 0,
        bytes_unchanged: 0,
        needs: 0,
        alone: None,
    }
}

/// Which engine a command line is for, and why.
pub fn choose(with: &With, command: &[std::ffi::OsString]) -> Choice {
    let told = |backend, what: &str| Choice { backend, why: format!("{what}: --backend") };
    match with.backend {
        Wanted::Native => told(Backend::Native, "our own engine"),
        Wanted::Dmtcp => told(Backend::Dmtcp, "DMTCP"),
        Wanted::Auto => {
            let here = std::env::current_dir().unwrap_or_default();
            backend::auto(command, &here, &backend::choose::environment())
        }
    }
}

/// The DMTCP that is to be used.
///
/// # Errors
///
/// [`ckpt_core::ErrorKind::Unsupported`] if there is none, with the ways to get it.
pub fn dmtcp(with: &With) -> Result<Found> {
    backend::find(with.dmtcp.as_deref())
}

/// How a job is run under DMTCP.
pub fn dmtcp_options(dir: &Path, keeping: &Keeping, quiet: bool) -> backend::Options {
    let keep = keeping.keep as usize;
    backend::Options { dir: dir.to_path_buf(), keep, gzip: keeping.level != Level::Fixed(0), quiet }
}
