//! ckpt for Python, in an environment of the tests' own.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Result, built, must, workspace};

/// Where it is.
pub fn folder() -> PathBuf {
    built().parent().unwrap_or(Path::new("target")).join("python")
}

/// Makes the environment, and installs ckpt there as its users do.
pub fn put() -> Result {
    let folder = folder();
    let python = folder.join("bin/python");
    if !python.exists() {
        let mut venv = Command::new("/usr/bin/python3");
        must(venv.args(["-m", "venv", "--system-site-packages"]).arg(&folder))?;
    }
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "."]);
    must(pip.current_dir(workspace()))
}
