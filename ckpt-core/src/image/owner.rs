//! Whose images are believed. A directory may be shared (/tmp, a project's scratch): whoever can
//! write there can put an image of any job into it, and a restart runs what is in an image.

use std::path::Path;

use crate::error::{Error, ErrorKind, Result};

/// Root's files, and our own.
pub(super) fn is_trusted(owner: u32) -> bool {
    owner == 0 || owner == rustix::process::geteuid().as_raw()
}

/// Refuses the file at `path`, of user `owner`, if that is a stranger.
///
/// # Errors
///
/// [`ErrorKind::Permission`], with what to do.
pub fn check(path: &Path, owner: u32) -> Result<()> {
    if is_trusted(owner) {
        return Ok(());
    }
    let what = format!("{} belongs to user {owner}", path.display());
    Err(Error::new(ErrorKind::Permission, what).help(
        "it would run whatever that user has put into it: if you trust it, make it yours (copy \
         it, or chown)",
    ))
}
