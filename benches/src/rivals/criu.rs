//! CRIU, where there is one that works: `$CRIU`, or in `$PATH`. It wants root. Where the kernel can tell
//! changed pages its way (soft-dirty bits), a second dump has those only.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

use super::Rival;
use crate::Result;
use crate::payload::{Live, Place};
use crate::run::{self, files, must};

/// A chain of dumps in folders of their own.
#[derive(Debug)]
pub struct Criu<'a> {
    place: &'a Place,
    program: PathBuf,
    tracks: bool,
    images: PathBuf,
    dumps: usize,
    pid: i32,
}

impl<'a> Criu<'a> {
    /// This program.
    pub fn new(place: &'a Place, program: &Path) -> Self {
        let mut check = Command::new(program);
        let tracks = must(check.args(["check", "--feature", "mem_dirty_track"])).is_ok();
        let (program, images) = (program.into(), PathBuf::new());
        Self { place, program, tracks, images, dumps: 0, pid: 0 }
    }

    fn folder(&self, nth: usize) -> PathBuf {
        self.images.join(nth.to_string())
    }

    fn dump(&mut self, pid: i32, more: &[&str]) -> Result {
        self.pid = pid;
        self.dumps += 1;
        let folder = self.folder(self.dumps);
        std::fs::create_dir(&folder)?;
        let mut command = Command::new(&self.program);
        command.args(["dump", "--shell-job", "-t", &pid.to_string(), "-D"]).arg(&folder).args(more);
        if self.tracks {
            command.arg("--track-mem");
        }
        if self.tracks && self.dumps > 1 {
            command.arg("--prev-images-dir").arg(format!("../{}", self.dumps - 1));
        }
        must(&mut command)?;
        // It leaves this to the kernel.
        must(Command::new("sync").args(files(&folder, ".img")?))?;
        Ok(())
    }
}

impl Rival for Criu<'_> {
    fn name(&self) -> String {
        if self.tracks { "CRIU" } else { "CRIU, pages not tracked here" }.into()
    }

    fn begin(&mut self) -> Result<Vec<String>> {
        self.images = self.place.images()?;
        self.dumps = 0;
        // A job of its own, which may be dumped without us.
        Ok(vec!["setsid".into()])
    }

    fn checkpoint(&mut self, live: &Live<'_>) -> Result<Option<f64>> {
        self.dump(live.pid, &["--leave-running"])?;
        Ok(None)
    }

    fn generations(&self) -> Result<Vec<Vec<PathBuf>>> {
        (1..=self.dumps).map(|nth| files(&self.folder(nth), ".img")).collect()
    }

    fn end(&mut self, live: Live<'_>) -> Result {
        // A last dump: its files must be as they were when it was taken.
        self.dump(self.pid, &[])?;
        live.process.ends()
    }

    fn restart(&mut self) -> Result<Vec<String>> {
        let mut words = vec![self.program.display().to_string()];
        words.extend(["restore", "--shell-job", "-D"].map(String::from));
        words.push(self.folder(self.dumps).display().to_string());
        Ok(words)
    }

    fn end_again(&mut self, live: Live<'_>) -> Result {
        kill_process(Pid::from_raw(self.pid).ok_or("it has no number")?, Signal::KILL)?;
        live.process.ends()
    }
}

/// One that can be used here.
///
/// # Errors
///
/// Why there is none.
pub fn found() -> Result<PathBuf> {
    let criu = run::found("criu", "CRIU").ok_or("CRIU: not found")?;
    must(Command::new(&criu).arg("check"))
        .map_err(|why| format!("CRIU cannot work here: {why}"))?;
    Ok(criu)
}
