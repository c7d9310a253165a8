//! `dmtcp_restart_script.sh`, with which DMTCP's users bring a job back.
//!
//! The script is a handful of facts about one checkpoint, followed by `restart_script.sh`, which is
//! always the same.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ckpt_core::Result;

use super::files::{UniqueId, publish, publish_link};
use crate::words::moment;

/// What comes after the facts.
const BODY: &str = include_str!("restart_script.sh");

/// The name that always leads to the newest script.
pub const LINK: &str = "dmtcp_restart_script.sh";

/// A checkpoint, as its restart script knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script<'a> {
    /// The computation.
    pub computation: UniqueId,
    /// With unique file names, the generation.
    pub generation: Option<u32>,
    /// When the checkpoint was taken, in seconds since 1970.
    pub taken: u64,
    /// The coordinator's host.
    pub host: &'a str,
    /// The coordinator's port.
    pub port: u16,
    /// Seconds between checkpoints; 0 for none.
    pub interval: u32,
    /// Where our `dmtcp_restart` is; if it is not there or not given, one is looked for in `$PATH`.
    pub programs: Option<&'a Path>,
    /// The images of each host.
    pub images: &'a BTreeMap<String, Vec<PathBuf>>,
}

impl Script<'_> {
    /// The script's own name.
    pub fn name(&self) -> String {
        let generation = self.generation.map(|g| format!("_{g:05}")).unwrap_or_default();
        format!("dmtcp_restart_script_{}{generation}.sh", self.computation)
    }

    /// The script, as bytes, since paths need not be text.
    pub fn text(&self) -> Vec<u8> {
        let processes: usize = self.images.values().map(Vec::len).sum();
        let mut text = format!(
            "#!/bin/bash\n\
             # Restarts a computation from its checkpoint: {processes} processes on {} hosts.\n\
             set -u\n\n\
             ckpt_timestamp={}\n\
             default_host={}\n\
             default_port={}\n\
             default_interval={}\n\
             dmtcp_restart=",
            self.images.len(),
            quoted_str(&moment(self.taken)),
            quoted_str(self.host),
            self.port,
            self.interval,
        )
        .into_bytes();
        let restart = self.programs.map(|dir| dir.join("dmtcp_restart")).unwrap_or_default();
        text.extend(quoted(restart.as_os_str()));
        let hosts: Vec<_> = self.images.keys().map(|host| quoted_str(host)).collect();
        text.extend(format!("\nhosts=({})\n", hosts.join(" ")).bytes());
        for (group, images) in self.images.values().enumerate() {
            text.extend(format!("images_{group}=(\n").bytes());
            for image in images {
                text.extend(b"    ");
                text.extend(quoted(image.as_os_str()));
                text.push(b'\n');
            }
            text.extend(b")\n");
        }
        text.extend(BODY.bytes());
        text
    }

    /// Writes the script into `dir`, points [`LINK`] there to it, and says where it is.
    ///
    /// # Errors
    ///
    /// When one of them cannot be written.
    pub fn publish(&self, dir: &Path) -> Result<PathBuf> {
        let path = dir.join(self.name());
        publish(&path, &self.text(), 0o744)?;
        publish_link(&dir.join(LINK), &self.name())?;
        Ok(path)
    }
}

/// A word of the shell that stands for just these bytes.
fn quoted(word: &OsStr) -> Vec<u8> {
    let escaped = word.as_bytes().iter().flat_map(|byte| match byte {
        b'\'' => b"'\\''".as_slice(),
        byte => std::slice::from_ref(byte),
    });
    b"'".iter().chain(escaped).chain(b"'").copied().collect()
}

fn quoted_str(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests;
