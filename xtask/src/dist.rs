//! `cargo xtask dist`: the set in one folder, which can be copied or bound into any container, and the
//! same as a tar.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::{Result, built, must, set};

/// The folder's name, and the tar's first word.
const NAME: &str = "ckpt";

/// Where the folder is if nothing is said.
pub fn folder() -> PathBuf {
    built().with_file_name("dist").join(NAME)
}

/// Builds both.
pub fn run(words: &[&str]) -> Result {
    let out = match words {
        [] => folder().parent().map(PathBuf::from).unwrap_or_default(),
        ["--out", out] => PathBuf::from(out),
        _ => return Err("usage: cargo xtask dist [--out DIR]".to_owned()),
    };
    let folder = out.join(NAME);
    set::put(&folder, true)?;
    let tar = out.join(format!("{NAME}-{}-x86_64-linux.tar.gz", env!("CARGO_PKG_VERSION")));
    // The same bytes whenever and by whomever it is made.
    let mut command = Command::new("tar");
    command.args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@0"]);
    command.args(["--use-compress-program=gzip -n", "-cf"]).arg(&tar).arg("-C").arg(&out).arg(NAME);
    must(&mut command)?;
    for path in [&folder, &tar] {
        println!("{}  {}", path.display(), size(path));
    }
    Ok(())
}

fn size(path: &PathBuf) -> String {
    let bytes: u64 = match fs::read_dir(path) {
        Ok(entries) => {
            let files = entries.flatten().filter_map(|entry| entry.metadata().ok());
            files.map(|file| file.len()).sum()
        }
        Err(_) => fs::metadata(path).map(|file| file.len()).unwrap_or_default(),
    };
    format!("{:.1} MB", bytes as f64 / 1e6)
}
