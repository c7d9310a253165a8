//! The set of programs that is installed, put into containers, and handed out. It is static: the same
//! files run in any container and under any C library.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::{Result, built, cargo, must};

/// The target is named, so that the flag is not for build scripts and macros as well.
const TARGET: &str = "x86_64-unknown-linux-gnu";
const STATIC: (&str, &str) =
    ("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS", "-C target-feature=+crt-static");

const PROGRAMS: [&str; 3] = ["ckpt-launch", "ckpt", "ckpt-restore"];
/// The launcher looks for it beside itself.
const PRELOAD: &str = "libckpt_preload.so";

/// DMTCP's names, and which of ours answers to each.
const NAMES: [(&str, &str); 5] = [
    ("dmtcp_launch", "ckpt-launch"),
    ("dmtcp_coordinator", "ckpt-launch"),
    ("dmtcp_nocheckpoint", "ckpt-launch"),
    ("dmtcp_command", "ckpt"),
    ("dmtcp_restart", "ckpt-restore"),
];

/// Builds the set, and puts it into `folder`, with DMTCP's names if wanted.
pub fn put(folder: &Path, names: bool) -> Result {
    let mut build = cargo();
    build.args([
        "build",
        "--release",
        "--target",
        TARGET,
        "-p",
        "ckpt-launch",
        "-p",
        "ckpt-restore",
    ]);
    must(build.env(STATIC.0, STATIC.1).env_remove("RUSTFLAGS"))?;
    must(cargo().args(["build", "--release", "-p", "ckpt-preload"]))?;
    fs::create_dir_all(folder).map_err(|e| format!("cannot make {}: {e}", folder.display()))?;
    let programs = built().parent().unwrap_or(Path::new("target")).join(TARGET).join("release");
    let files = PROGRAMS.iter().map(|name| programs.join(name));
    for from in files.chain([built().join(PRELOAD)]) {
        let name = from.file_name().unwrap_or_default();
        // A program that runs keeps its old file.
        place(&folder.join(name), |path| fs::copy(&from, path).and_then(|_| readable(path)))?;
    }
    for (name, ours) in NAMES.iter().filter(|_| names) {
        let path = folder.join(name);
        if fs::symlink_metadata(&path).is_ok_and(|meta| !meta.is_symlink()) {
            return Err(format!("{} is somebody else's: choose another folder", path.display()));
        }
        place(&path, |path| symlink(ours, path))?;
    }
    Ok(())
}

/// Whatever umask we were built under.
fn readable(path: &Path) -> std::io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

/// Makes a file under a spare name, then gives it its own.
fn place(path: &Path, make: impl FnOnce(&PathBuf) -> std::io::Result<()>) -> Result {
    let spare = path.with_extension("new");
    let _ = fs::remove_file(&spare);
    make(&spare)
        .and_then(|()| fs::rename(&spare, path))
        .map_err(|e| format!("cannot install {}: {e}", path.display()))
}
