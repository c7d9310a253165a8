//! `cargo xtask install`: the commands into a folder of programs, with DMTCP's names if wanted.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::{Result, built, cargo, must};

/// What is installed, and the preload object that the launcher looks for beside itself.
const FILES: [&str; 4] = ["ckpt-launch", "ckpt", "ckpt-restore", "libckpt_preload.so"];

/// DMTCP's names, and which of ours answers to each.
const NAMES: [(&str, &str); 5] = [
    ("dmtcp_launch", "ckpt-launch"),
    ("dmtcp_coordinator", "ckpt-launch"),
    ("dmtcp_nocheckpoint", "ckpt-launch"),
    ("dmtcp_command", "ckpt"),
    ("dmtcp_restart", "ckpt-restore"),
];

/// Builds, and installs into PREFIX/bin.
pub fn run(words: &[&str]) -> Result {
    let (mut prefix, mut names) = (PathBuf::from("/usr/local"), false);
    let mut words = words.iter();
    while let Some(&word) = words.next() {
        match (word, word.strip_prefix("--prefix=")) {
            ("--dmtcp-names", _) => names = true,
            ("--prefix", _) => prefix = words.next().ok_or("--prefix without its folder")?.into(),
            (_, Some(folder)) => prefix = folder.into(),
            _ => return Err(format!("unknown option {word}")),
        }
    }
    must(cargo().args(["build", "--release", "-p", "ckpt-launch", "-p", "ckpt-restore"]))?;
    must(cargo().args(["build", "--release", "-p", "ckpt-preload"]))?;
    let folder = prefix.join("bin");
    fs::create_dir_all(&folder).map_err(|e| format!("cannot make {}: {e}", folder.display()))?;
    for file in FILES {
        // A program that runs keeps its old file.
        place(&folder.join(file), |path| fs::copy(built().join(file), path).map(drop))?;
    }
    if names {
        for (name, ours) in NAMES {
            let path = folder.join(name);
            if fs::symlink_metadata(&path).is_ok_and(|meta| !meta.is_symlink()) {
                let path = path.display();
                return Err(format!("{path} is somebody else's: choose another --prefix"));
            }
            place(&path, |path| symlink(ours, path))?;
        }
    }
    println!("installed in {}", folder.display());
    Ok(())
}

/// Makes a file under a spare name, then gives it its own.
fn place(path: &Path, make: impl FnOnce(&Path) -> std::io::Result<()>) -> Result {
    let spare = path.with_extension("new");
    let _ = fs::remove_file(&spare);
    make(&spare)
        .and_then(|()| fs::rename(&spare, path))
        .map_err(|e| format!("cannot install {}: {e}", path.display()))
}
