//! The list of what a generation must have: `ckpt.json`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};

use ckpt_core::Result;
use serde::{Deserialize, Serialize};

use super::set::{WORK, cannot, damaged};

pub(super) const MANIFEST: &str = "ckpt.json";
pub(super) const FORMAT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) format: u32,
    pub(super) generation: u64,
    /// The computation's name with DMTCP.
    pub(super) job: String,
    pub(super) peers: usize,
    pub(super) dmtcp: String,
    /// Seconds since 1970.
    pub(super) created: u64,
    /// Where DMTCP wrote it.
    pub(super) work: PathBuf,
    pub(super) files: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) name: PathBuf,
    pub(super) bytes: u64,
    pub(super) crc32: u32,
}

impl Manifest {
    /// The manifest of a generation; nothing if there is none.
    pub(super) fn read(dir: &Path) -> Result<Option<Self>> {
        let file = dir.join(MANIFEST);
        let text = match fs::read(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(cannot("read", &file, error)),
        };
        let manifest = serde_json::from_slice(&text).ok();
        let manifest = manifest.filter(|it: &Self| it.format == FORMAT && it.is_sane());
        manifest.map(Some).ok_or_else(|| damaged(&file, "it is not a manifest of ours"))
    }

    /// Writes it: with this, all that is in `dir` counts.
    pub(super) fn commit(&self, dir: &Path) -> Result<()> {
        let write = || {
            let mut file = tempfile::NamedTempFile::new_in(dir)?;
            serde_json::to_writer_pretty(&mut file, self)?;
            file.flush()?;
            file.as_file().sync_all()?;
            file.persist(dir.join(MANIFEST))?;
            File::open(dir)?.sync_all()
        };
        write().map_err(|error| cannot("write", &dir.join(MANIFEST), error))
    }

    /// Its names must not lead elsewhere, whoever wrote them.
    fn is_sane(&self) -> bool {
        let inside = |entry: &Entry| {
            entry.name.components().all(|part| matches!(part, Component::Normal(_)))
        };
        let work = self
            .work
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(WORK.as_bytes()));
        work && self.work.is_absolute() && self.files.iter().all(inside)
    }
}
