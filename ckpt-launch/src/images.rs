//! `ckpt inspect`, `ckpt verify`, `ckpt list`: what is on disk.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use ckpt_core::image::{Ancestors, Directory, Entry, Header, ImageId, Reader, Whose};
use ckpt_core::{Error, ErrorKind, Result, regions, snapshot};
use serde_json::json;

use crate::backend;
use crate::cli;
use crate::commands::print;
use crate::voice::{Relay, Voice};
use crate::words;

/// Shows what is inside one image.
///
/// # Errors
///
/// When there is none, or it is damaged.
pub fn inspect(path: Option<&Path>, voice: &Voice) -> Result<()> {
    let path = path.map_or_else(cli::directory_by_default, PathBuf::from);
    if path.is_file() && backend::is_dmtcp_image(&path) {
        return inspect_dmtcp(&path, voice);
    }
    let image = if path.is_dir() {
        let mut on_bad = |_: &Path, error: &Error| voice.warn(format_args!("passed over: {error}"));
        Directory::open(&path)?.newest_good(None, Whose::Anybodys, &mut on_bad)?
    } else {
        Reader::open(&path)?
    };
    let (header, needs) = (image.header(), image.needed()?);
    if voice.json() {
        let mut facts = facts(image.path(), header, image.file_len());
        facts["blocks"] = image.blocks().into();
        facts["needs"] = json!(needs.iter().map(|it| it.generation).collect::<Vec<u64>>());
        if let Some(regions) = regions::of_image(&image)? {
            facts["regions"] = json!(regions.iter().map(ToString::to_string).collect::<Vec<_>>());
        }
        return print(&format!("{facts}\n"));
    }
    let needs: Vec<String> = needs.iter().map(|needed| needed.generation.to_string()).collect();
    let needs = match needs.is_empty() {
        true => "no other generation".to_owned(),
        false => format!("generations {}", needs.join(", ")),
    };
    let lines = [
        ("image", image.path().display().to_string()),
        ("id", header.id.to_string()),
        ("needs", needs),
        ("job", header.job.to_string()),
        ("generation", header.generation.to_string()),
        ("created", words::moment_and_age(header.created / 1_000_000_000)),
        ("size", format!("{} in {} blocks", words::bytes(image.file_len()), image.blocks())),
        ("format", format!("version {}", header.version)),
        ("machine", format!("{}, pages of {} bytes", machine(header.arch), header.page_size)),
    ];
    print(&lines.map(|(key, value)| format!("{key:<12} {value}\n")).concat())?;
    match regions::of_image(&image)? {
        None => print(&snapshot::describe(&image)?.to_string()),
        Some(all) => {
            let lines = all.iter().map(|region| format!("{:<12} {region}\n", "region"));
            print(&lines.collect::<String>())
        }
    }
}

/// The name of an ELF machine number.
fn machine(number: u16) -> String {
    match number {
        62 => "x86_64".to_owned(),
        183 => "aarch64".to_owned(),
        _ => format!("machine {number}"),
    }
}

/// Checks every byte of one image, or of all in a directory.
///
/// # Errors
///
/// Those of the first image that is not right; all are looked at and named.
pub fn verify(path: Option<&Path>, voice: &Voice) -> Result<()> {
    let path = path.map_or_else(cli::directory_by_default, PathBuf::from);
    if !path.is_dir() {
        let of_dmtcp = backend::is_dmtcp_image(&path);
        return if of_dmtcp {
            verify_dmtcp(&path, voice)
        } else {
            verify_one(&path, &mut HashSet::new(), voice)
        };
    }
    let images = images_in(&path)?;
    match (images.is_empty(), backend::is_dmtcp_set(&path)) {
        (_, true) => verify_dmtcp(&path, voice)?,
        (true, false) => return Err(nothing_in(&path)),
        (false, false) => {}
    }
    let (mut first, mut good) = (None, HashSet::new());
    for image in images {
        let is_part =
            |good: &HashSet<_>| image.header.as_ref().is_ok_and(|it| good.contains(&it.id));
        match verify_one(&image.path, &mut good, voice) {
            Ok(()) => {}
            // It is only there for later ones, which are looked at first: what they do not need is gone.
            Err(error) if error.kind() == ErrorKind::NotFound && is_part(&good) => {
                tell_of_part(&image, voice)?;
            }
            // The last word, and the exit status, are the first failure's.
            Err(error) => match first {
                None => first = Some(error),
                Some(_) => drop(voice.fail(&error)),
            },
        }
    }
    first.map_or(Ok(()), Err)
}

fn tell_of_part(image: &Entry, voice: &Voice) -> Result<()> {
    if let (true, Ok(header)) = (voice.json(), &image.header) {
        let mut facts = facts(&image.path, header, image.bytes);
        facts["good"] = true.into();
        facts["only_for_later"] = true.into();
        return print(&format!("{facts}\n"));
    }
    if voice.quiet() {
        return Ok(());
    }
    let path = image.path.display();
    print(&format!(
        "{path}: good for later generations, which need it; not to be restored itself\n"
    ))
}

/// What DMTCP wrote: as far as can be told from outside.
fn verify_dmtcp(path: &Path, voice: &Voice) -> Result<()> {
    let begun = Instant::now();
    let found = backend::verify(path)?;
    if voice.json() {
        let facts = json!({
            "path": path.to_string_lossy(),
            "good": true,
            "backend": "dmtcp",
            "images": found.images,
            "size": found.bytes,
        });
        return print(&format!("{facts}\n"));
    }
    if voice.quiet() {
        return Ok(());
    }
    print(&format!(
        "{}: good as far as can be told, by DMTCP; {} in {} images; {}\n",
        path.display(),
        words::bytes(found.bytes),
        found.images,
        words::duration(begun.elapsed())
    ))
}

/// What DMTCP says of its image.
fn inspect_dmtcp(path: &Path, voice: &Voice) -> Result<()> {
    let whole = backend::image::read(path, None)?;
    let head = whole.head.as_ref();
    if voice.json() {
        let facts = json!({
            "path": path.to_string_lossy(),
            "backend": "dmtcp",
            "size": whole.bytes,
            "computation": head.map(|head| head.computation.clone()),
            "generation": head.map(|head| head.generation),
            "peers": head.map(|head| head.peers),
        });
        return print(&format!("{facts}\n"));
    }
    let unknown = || "not known of this version".to_owned();
    let lines = [
        ("image", path.display().to_string()),
        ("format", "DMTCP".to_owned()),
        ("computation", head.map_or_else(unknown, |head| head.computation.clone())),
        ("generation", head.map_or_else(unknown, |head| head.generation.to_string())),
        ("processes", head.map_or_else(unknown, |head| head.peers.to_string())),
        ("size", words::bytes(whole.bytes)),
    ];
    print(&lines.map(|(key, value)| format!("{key:<12} {value}\n")).concat())
}

/// Checks an image, and all that it needs but those that are known to be `good`.
fn verify_one(path: &Path, good: &mut HashSet<ImageId>, voice: &Voice) -> Result<()> {
    let begun = Instant::now();
    let image = Reader::open(path)?;
    let summary = {
        let relay = Relay::new(voice, "verify", &mut []);
        let summary = image.verify(&relay, 0)?;
        // It is only as good as those that it needs.
        for needed in Ancestors::of(&image, Whose::Anybodys)?.iter() {
            if !good.contains(&needed.header().id) {
                needed.verify(&relay, 0)?;
                good.insert(needed.header().id);
            }
        }
        good.insert(image.header().id);
        summary
    };
    let time = begun.elapsed();
    if voice.json() {
        let mut facts = facts(path, image.header(), summary.bytes);
        facts["good"] = true.into();
        facts["blocks"] = summary.blocks.into();
        facts["sections"] = summary.sections.into();
        facts["bytes_plain"] = summary.plain.into();
        facts["bytes_in_blocks"] = summary.stored.into();
        return print(&format!("{facts}\n"));
    }
    if voice.quiet() {
        return Ok(());
    }
    print(&format!(
        "{}: good; {}, {} blocks, {} sections, {} of memory and files; {}, {}\n",
        path.display(),
        words::bytes(summary.bytes),
        summary.blocks,
        summary.sections,
        words::bytes(summary.plain),
        words::duration(time),
        words::rate(summary.bytes, time)
    ))
}

/// Lists the images of a directory, the newest first.
///
/// # Errors
///
/// When it can't be read, or holds none.
pub fn list(dir: Option<&Path>, voice: &Voice) -> Result<()> {
    let dir = dir.map_or_else(cli::directory_by_default, PathBuf::from);
    let images = images_in(&dir)?;
    if images.is_empty() {
        return Err(nothing_in(&dir));
    }
    for Entry { path, header, bytes, .. } in images {
        let line = match header {
            Ok(header) if voice.json() => format!("{}\n", facts(&path, &header, bytes)),
            Ok(header) => format!(
                "{}  generation {:<5} {}  {:>10}  {}\n",
                header.job,
                header.generation,
                words::moment(header.created / 1_000_000_000),
                words::bytes(bytes),
                path.display()
            ),
            Err(error) if voice.json() => {
                let damage = error.to_string();
                format!("{}\n", json!({ "path": path.to_string_lossy(), "damage": damage }))
            }
            Err(error) => format!("{}  not readable: {error}\n", path.display()),
        };
        print(&line)?;
    }
    Ok(())
}

fn images_in(dir: &Path) -> Result<Vec<Entry>> {
    Directory::open(dir)?.images()
}

fn nothing_in(dir: &Path) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no image in {}", dir.display()))
}

/// Bytes of a file, for display.
pub fn size(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |meta| meta.len())
}

fn facts(path: &Path, header: &Header, size: u64) -> serde_json::Value {
    json!({
        "path": path.to_string_lossy(),
        "job": header.job.to_string(),
        "generation": header.generation,
        "created": header.created as f64 / 1e9,
        "size": size,
        "version": header.version,
        "page_size": header.page_size,
    })
}
