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
    /// The folder of the image.
    images: PathBuf,
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
            let (job, images) = (JobId::random(), dir.clone());
            return Ok(Some(Self { container, job, generation: 0, dir, images }));
        }
        let choice = Choice::of(args)?;
        let image = choice.open(args, voice)?;
        let then: Option<Container> = image.section(Tag::CTNR)?;
        let Some(container) = then.or_else(|| given(args)) else { return Ok(None) };
        let dir = choose::home(args, &choice)?;
        let (job, generation) = (image.header().job, image.header().generation);
        let images = image.path().parent().unwrap_or(&dir).to_path_buf();
        let images = images.canonicalize().unwrap_or(images);
        Ok(Some(Self { container, job, generation, dir, images }))
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
        let Self { mut container, job, generation, dir, images } = self;
        if !args.force {
            twin::check(job, false)?;
        }
        let flags = &args.container;
        let runtime = match flags.container.and_then(Wanted::runtime) {
            Some(runtime) => runtime,
            None => Runtime::named(&container.runtime)?,
        };
        // Another runtime would not understand those of the one that was.
        if !flags.container_arg.is_empty() || runtime.name() != container.runtime {
            container.arguments.clone_from(&flags.container_arg);
        }
        settle_image(&mut container, runtime, args, voice)?;
        container.runtime = runtime.name().to_owned();
        container.folders.retain(|folder| std::path::Path::new(folder).is_dir());
        let name = container.image.clone();
        // Of one that no image describes the current folder is part, as at a launch.
        let here = match container.folders.is_empty() {
            true => enter::with_current(&mut container, runtime)?,
            false => dir.clone(),
        };
        let (program, words) = ("ckpt-restore", words(args));
        let seen = vec![images];
        let inner = Inner { program, words, job, name, generation, here, seen };
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
    // Of some the name is all that is known; programs and libraries are compared inside.
    let by_name = expected.is_empty();
    if if by_name { then == container.image } else { expected == container.identity } {
        return Ok(());
    }
    if flags.other_image {
        let image = &container.image;
        voice.warn(format_args!("the job goes on in {image}, another image than {then}"));
        return Ok(());
    }
    let (expected, now) = match by_name {
        true => (&then, &container.image),
        false => (&expected, &container.identity),
    };
    Err(another(&container.image, now, expected))
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
    words.extend(args.lazy.map(|lazily| lazily.word().into()));
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    /// A folder that serves as an image has no identity.
    #[test]
    fn another_name_is_another_image() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [then, now] =
            folders.each_ref().map(|it| it.path().canonicalize().unwrap().display().to_string());
        let settled = |words: &[&str]| {
            let args = Restore::parse_from([&["ckpt-restore"], words].concat());
            let mut container = Container { image: then.clone(), ..Container::default() };
            let voice = Voice::new("ckpt-restore", &args.talk);
            settle_image(&mut container, Runtime::Apptainer, &args, &voice)
                .map(|()| container.image)
        };
        assert_eq!(settled(&[]).unwrap(), then);
        assert_eq!(settled(&["--image", &then]).unwrap(), then);
        let error = settled(&["--image", &now]).unwrap_err().to_string();
        assert!(error.contains(&now) && error.contains(&then), "{error}");
        assert_eq!(settled(&["--image", &now, "--other-image"]).unwrap(), now);
        let error = settled(&["--image", "/no/such.sif"]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
}
