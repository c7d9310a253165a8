//! A job that ran in a container: the same one is entered again, and our other half restores it there.

use std::path::PathBuf;

use ckpt_core::image::Tag;
use ckpt_core::job::JobId;
use ckpt_core::{Error, ErrorKind, Result};
use ckpt_launch::container::enter::{self, Around, Inner};
use ckpt_launch::container::flags::Wanted;
use ckpt_launch::container::outside::another;
use ckpt_launch::container::runtime::Runtime;
use ckpt_launch::container::{Container, identity};
use ckpt_launch::launch::With;
use ckpt_launch::signals::Signals;
use ckpt_launch::slurm::round::Round;
use ckpt_launch::voice::Voice;

use crate::choose::{self, Choice};
use crate::cli::{Pids, Restore};
use crate::{dmtcp, twin};

/// A job, and the container that it is restored in.
#[derive(Debug)]
pub struct Contained {
    container: Container,
    job: JobId,
    generation: u64,
    dir: PathBuf,
}

impl Contained {
    /// What the image and the flags say; nothing if the job is to be restored right here.
    ///
    /// # Errors
    ///
    /// When there is no image.
    pub fn of(args: &Restore, voice: &Voice) -> Result<Option<Self>> {
        let flags = &args.container;
        if flags.inside.is_some() || flags.container == Some(Wanted::None) {
            return Ok(None);
        }
        let path = args.image.clone().unwrap_or_else(|| args.place.directory());
        if dmtcp::is_meant(&path) {
            let Some(container) = given(args) else { return Ok(None) };
            let dir = ckpt_launch::cli::absolute(&path)?;
            return Ok(Some(Self { container, job: JobId::random(), generation: 0, dir }));
        }
        let choice = Choice::of(args)?;
        let image = choice.open(args, voice)?;
        let then: Option<Container> = image.section(Tag::CTNR)?;
        let Some(container) = then.or_else(|| given(args)) else { return Ok(None) };
        let dir = choose::home(args, &choice)?;
        let (job, generation) = (image.header().job, image.header().generation);
        Ok(Some(Self { container, job, generation, dir }))
    }

    /// Enters the container, and stays with the job; gives the exit status.
    ///
    /// # Errors
    ///
    /// When the job is not back.
    pub fn restore<'a>(
        self,
        args: &Restore,
        with: &With,
        voice: &'a Voice,
        round: Option<(Round<'a>, Signals)>,
    ) -> Result<u8> {
        let Self { mut container, job, generation, dir } = self;
        if !args.force {
            twin::check(job, false)?;
        }
        let flags = &args.container;
        let runtime = match flags.container.and_then(Wanted::runtime) {
            Some(runtime) => runtime,
            None => Runtime::named(&container.runtime)?,
        };
        if !flags.container_arg.is_empty() {
            container.arguments.clone_from(&flags.container_arg);
        }
        settle_image(&mut container, runtime, args, voice)?;
        container.runtime = runtime.name().to_owned();
        container.folders.retain(|folder| std::path::Path::new(folder).is_dir());
        let name = container.image.clone();
        let inner = Inner { program: "ckpt-restore", words: words(args), job, name, generation };
        let (keeping, backend, talk) = (&args.keeping, &args.engine, &args.talk);
        let around = Around { dir, keeping, with, backend, talk };
        enter::supervise(runtime, container, inner, &around, voice, round)
    }
}

/// The container that the flags alone describe.
fn given(args: &Restore) -> Option<Container> {
    let runtime = args.container.container.and_then(Wanted::runtime)?;
    let image = args.container.image.clone()?;
    Some(Container { runtime: runtime.name().to_owned(), image, ..Container::default() })
}

/// Which container image it is to be, and whether it is the right one.
fn settle_image(
    container: &mut Container,
    runtime: Runtime,
    args: &Restore,
    voice: &Voice,
) -> Result<()> {
    let flags = &args.container;
    // Names move on: an image that is still here is known by what it is.
    if flags.image.is_none() && identity::is_here(runtime, &container.identity)? {
        return Ok(());
    }
    let image = flags.image.as_deref().unwrap_or(&container.image);
    let now = identity::look(runtime, image)?.identity;
    let image = enter::lasting(runtime, image);
    let then = std::mem::replace(&mut container.image, image);
    if runtime == Runtime::Shifter {
        // Only the inside can tell.
        if flags.other_image {
            container.identity.clear();
        }
        return Ok(());
    }
    let expected = std::mem::replace(&mut container.identity, now);
    if expected.is_empty() || expected == container.identity {
        return Ok(());
    }
    if flags.other_image {
        let image = &container.image;
        voice.warn(format_args!("the job goes on in {image}, another image than {then}"));
        return Ok(());
    }
    Err(another(&container.image, &container.identity, &expected))
}

/// What the inside half is told of the image that is meant.
fn words(args: &Restore) -> Vec<std::ffi::OsString> {
    let mut words: Vec<std::ffi::OsString> = Vec::new();
    let mut option = |name: &str, value: Option<String>| {
        words.extend(value.map(|value| format!("--{name}={value}").into()));
    };
    option("job", args.job.map(|job| job.to_string()));
    option("generation", args.generation.map(|generation| generation.to_string()));
    option(
        "pids",
        match args.pids {
            Pids::Auto => None,
            Pids::SetTid => Some("set-tid".into()),
            Pids::Namespace => Some("namespace".into()),
            Pids::Cycle => Some("cycle".into()),
        },
    );
    words.extend(args.cut_appended.then(|| "--cut-appended".into()));
    words.extend(args.force.then(|| "--force".into()));
    if let Some(image) = &args.image {
        // By its absolute name: the folder is in the container, and may not be the current one.
        let image = image.canonicalize().unwrap_or_else(|_| image.clone());
        words.push(image.into_os_string());
    }
    words
}

/// The word for a flag that makes no sense without a container.
///
/// # Errors
///
/// [`ErrorKind::Usage`] if one was given.
pub fn none_wanted(args: &Restore) -> Result<()> {
    let flags = &args.container;
    let stray = flags.image.is_some() || !flags.container_arg.is_empty() || flags.other_image;
    if stray && flags.inside.is_none() {
        let what =
            "this job was in no container: --image and its like say nothing without --container";
        return Err(Error::new(ErrorKind::Usage, what));
    }
    Ok(())
}
