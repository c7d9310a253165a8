//! `cargo xtask install`: the commands into a folder of programs, with DMTCP's names if wanted.

use std::path::PathBuf;

use crate::{Result, set};

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
    let folder = prefix.join("bin");
    set::put(&folder, names)?;
    println!("installed in {}", folder.display());
    Ok(())
}
