//! The restorer's environment, for programs that ask for it (`dmtcp_get_restart_env`): they wake up
//! with that of their first start, and may want to know, say, where they run now.

use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;

use ckpt_core::{Error, Result};
use rustix::fs::{Mode, OFlags};

use super::place::Place;

/// Writes our environment as `environ` has it: `NAME=VALUE` and a 0 for each variable. It may hold
/// secrets, so nobody else can read the file.
///
/// # Errors
///
/// When the directory doesn't take it.
pub fn write(place: &Place) -> Result<()> {
    let path = place.environment_path();
    let mut block = Vec::new();
    for (name, value) in std::env::vars_os() {
        for part in [name.as_bytes(), b"=", value.as_bytes(), b"\0"] {
            block.extend_from_slice(part);
        }
    }
    // What a restorer before us has left.
    let _ = std::fs::remove_file(&path);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let written = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)
        .map_err(Into::into)
        .and_then(|fd| File::from(fd).write_all(&block));
    written.map_err(|e| Error::os(format!("cannot write {}", path.display()), e))
}
