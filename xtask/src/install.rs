//! `cargo xtask install`: the commands into a folder of programs, with DMTCP's names and the library for C
//! if wanted.

use std::path::PathBuf;

use crate::{Result, library, set};

/// Builds, and installs into PREFIX/bin.
pub fn run(words: &[&str]) -> Result {
    let (mut prefix, mut names, mut library) = (PathBuf::from("/usr/local"), false, false);
    let mut words = words.iter();
    while let Some(&word) = words.next() {
        match (word, word.strip_prefix("--prefix=")) {
            ("--dmtcp-names", _) => names = true,
            ("--library", _) => library = true,
            ("--prefix", _) => prefix = words.next().ok_or("--prefix without its folder")?.into(),
            (_, Some(folder)) => prefix = folder.into(),
            _ => return Err(format!("unknown option {word}")),
        }
    }
    let prefix = std::path::absolute(&prefix)
        .map_err(|e| format!("cannot tell where {} is: {e}", prefix.display()))?;
    let folder = prefix.join("bin");
    set::put(&folder, names)?;
    println!("installed in {}", folder.display());
    if library {
        library::put(&prefix)?;
        println!("and the library for C in {}", prefix.join("lib").display());
    }
    Ok(())
}
