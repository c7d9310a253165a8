//! Which container image a name stands for: names move on, and a job must come back in the image that
//! it left.
//!
//! podman tells an image's id, the digest of its configuration, which holds the digests of its layers.
//! A SIF file has a UUID of its own, drawn when it is built. Shifter tells the image's id inside, in
//! `$SHIFTER_IMAGE`. A plain folder has nothing of the kind: there the engine's own check of programs
//! and libraries (build ids, sizes, times) must do.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ckpt_core::{Error, ErrorKind, Result};
use sha2::{Digest, Sha256};

use super::runtime::Runtime;
use crate::run::run;

/// How long a runtime may take to tell of an image.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is known of a container image, from outside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// What no other image has; empty if nothing is known.
    pub identity: String,
    /// What the image runs commands by.
    pub entrypoint: Vec<String>,
}

/// Looks at an image; has the runtime get it if it is not here.
///
/// # Errors
///
/// When there is no such image.
pub fn look(runtime: Runtime, image: &str) -> Result<Known> {
    match runtime {
        Runtime::Podman | Runtime::PodmanHpc => match inspect(runtime, image)? {
            Some(known) => Ok(known),
            None => {
                pull(runtime, image)?;
                inspect(runtime, image)?.ok_or_else(|| missing(runtime, image))
            }
        },
        Runtime::Apptainer => {
            if image.starts_with('/') && !Path::new(image).exists() {
                let what = format!("there is no container image {image}");
                return Err(Error::new(ErrorKind::NotFound, what)
                    .help("it may have been moved: name it with --image"));
            }
            let identity = sif(Path::new(image))?.unwrap_or_default();
            Ok(Known { identity, entrypoint: Vec::new() })
        }
        Runtime::Shifter => Ok(Known::default()),
    }
}

/// The image with this identity, if it is here.
///
/// # Errors
///
/// When the runtime cannot be asked.
pub fn is_here(runtime: Runtime, identity: &str) -> Result<bool> {
    let by_identity = matches!(runtime, Runtime::Podman | Runtime::PodmanHpc);
    Ok(by_identity && !identity.is_empty() && inspect(runtime, identity)?.is_some())
}

/// What the runtime says of the image around this process.
pub fn inside() -> String {
    std::env::var("SHIFTER_IMAGE").unwrap_or_default()
}

fn inspect(runtime: Runtime, image: &str) -> Result<Option<Known>> {
    let mut command = Command::new(runtime.program()?);
    command.args(["image", "inspect", "--format", "{{.Id}} {{json .Config.Entrypoint}}", image]);
    let said = run(&mut command, Instant::now() + PATIENCE)?;
    tracing::debug!(image, said.text, "inspected");
    // Warnings may stand around the line.
    Ok(said.text.lines().filter(|_| said.status.success()).find_map(inspected))
}

fn inspected(line: &str) -> Option<Known> {
    let (id, entrypoint) = line.trim().split_once(' ')?;
    let id = id.strip_prefix("sha256:").unwrap_or(id);
    let is_id = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let entrypoint: Option<Vec<String>> = serde_json::from_str(entrypoint).ok()?;
    is_id.then(|| Known { identity: id.to_owned(), entrypoint: entrypoint.unwrap_or_default() })
}

fn pull(runtime: Runtime, image: &str) -> Result<()> {
    // What it says, and how far it is, is for the user to see.
    let mut command = Command::new(runtime.program()?);
    command.args(["pull", image]).stdin(Stdio::null());
    let to_stderr = rustix::stdio::stderr().try_clone_to_owned();
    command.stdout(to_stderr.map_or_else(|_| Stdio::null(), Stdio::from));
    let status = command.status();
    let status = status.map_err(|e| Error::os(format!("cannot run {}", runtime.name()), e))?;
    if status.success() { Ok(()) } else { Err(missing(runtime, image)) }
}

fn missing(runtime: Runtime, image: &str) -> Error {
    let what = format!("{} has no image {image}, and cannot get it", runtime.name());
    Error::new(ErrorKind::NotFound, what).help(format!("see `{} images`", runtime.name()))
}

/// The identity of a SIF file; nothing for a folder, or what Apptainer gets from elsewhere.
fn sif(path: &Path) -> Result<Option<String>> {
    const MAGIC: (usize, &[u8]) = (32, b"SIF_MAGIC\0");
    const ID: (usize, usize) = (48, 64);
    if !path.is_file() {
        return Ok(None);
    }
    let fail = |e| Error::os(format!("cannot read {}", path.display()), e);
    let mut file = File::open(path).map_err(fail)?;
    let mut head = [0u8; ID.1];
    if file.read_exact(&mut head).is_ok() && head[MAGIC.0..].starts_with(MAGIC.1) {
        let id = &head[ID.0..ID.1];
        // A reproducible build has none.
        if id.iter().any(|&byte| byte != 0) {
            return Ok(Some(format!("uuid:{}", hex(id))));
        }
    }
    let (mut sum, mut bytes) = (Sha256::new(), vec![0u8; 1 << 20]);
    let mut file = File::open(path).map_err(fail)?;
    loop {
        match file.read(&mut bytes).map_err(fail)? {
            0 => return Ok(Some(format!("sha256:{}", hex(&sum.finalize())))),
            n => sum.update(&bytes[..n]),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_podman_says() {
        let id = "ab".repeat(32);
        let known = |entrypoint: &[&str]| {
            let entrypoint = entrypoint.iter().map(|&word| word.to_owned()).collect();
            Some(Known { identity: id.clone(), entrypoint })
        };
        assert_eq!(inspected(&format!("{id} null")), known(&[]));
        assert_eq!(inspected(&format!("sha256:{id} []\n")), known(&[]));
        assert_eq!(inspected(&format!(r#"{id} ["/bin/sh","-c"]"#)), known(&["/bin/sh", "-c"]));
        for other in ["", "WARN[0000] x", "Error: no such image", "abcd null"] {
            assert_eq!(inspected(other), None, "{other}");
        }
    }

    #[test]
    fn sif_files() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(sif(dir.path()).unwrap(), None);
        let path = dir.path().join("x.sif");
        let mut bytes = vec![0u8; 200];
        bytes[32..42].copy_from_slice(b"SIF_MAGIC\0");
        std::fs::write(&path, &bytes).unwrap();
        let without = sif(&path).unwrap().unwrap();
        assert!(without.starts_with("sha256:"), "{without}");
        bytes[48] = 0xa7;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(sif(&path).unwrap().unwrap(), format!("uuid:a7{}", "00".repeat(15)));
    }
}
