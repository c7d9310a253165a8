//! DMTCP, where there is one: `$DMTCP_HOME`, `$CKPT_TEST_DMTCP`, or in `$PATH`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use super::Rival;
use crate::Result;
use crate::payload::{Live, Place};
use crate::run::{self, files, must};

/// It stores the whole of a job each time; the more so for its gzip, it is asked but once.
#[derive(Debug)]
pub struct Dmtcp<'a> {
    place: &'a Place,
    bin: PathBuf,
    packs: bool,
    images: PathBuf,
    /// When the newest generation was asked for.
    asked: SystemTime,
}

impl<'a> Dmtcp<'a> {
    /// The one in `bin`, with or without its gzip.
    pub fn new(place: &'a Place, bin: &Path, packs: bool) -> Self {
        let (bin, images) = (bin.into(), PathBuf::new());
        Self { place, bin, packs, images, asked: SystemTime::UNIX_EPOCH }
    }

    fn tool(&self, name: &str) -> String {
        self.bin.join(name).display().to_string()
    }

    /// What every command begins with: a coordinator of the job's own.
    fn with_coordinator(&self, name: &str) -> Vec<String> {
        let words = ["-q", "-q", "--new-coordinator", "--coord-port", "0", "--port-file"];
        let words = words.map(String::from).into_iter();
        [self.tool(name)].into_iter().chain(words).chain([self.port()]).collect()
    }

    fn port(&self) -> String {
        self.images.join("port").display().to_string()
    }

    fn say(&self, word: &str) -> Result {
        let port = fs::read_to_string(self.port())?;
        let mut command = Command::new(self.tool("dmtcp_command"));
        must(command.args(["-q", "--coord-port", port.trim(), word]))?;
        Ok(())
    }
}

impl Rival for Dmtcp<'_> {
    fn name(&self) -> String {
        format!("DMTCP, {}", if self.packs { "gzip" } else { "--no-gzip" })
    }

    fn rounds(&self) -> usize {
        1
    }

    fn begin(&mut self) -> Result<Vec<String>> {
        self.images = self.place.images()?;
        let mut words = self.with_coordinator("dmtcp_launch");
        words.push(if self.packs { "--gzip" } else { "--no-gzip" }.into());
        words.extend(["--ckptdir".into(), self.images.display().to_string()]);
        Ok(words)
    }

    fn checkpoint(&mut self, _: &Live<'_>) -> Result<Option<f64>> {
        self.asked = SystemTime::now();
        self.say("-bc")?;
        // It says that it is done before the bytes are on disk.
        must(Command::new("sync").args(self.generations()?.concat()))?;
        Ok(None)
    }

    fn generations(&self) -> Result<Vec<Vec<PathBuf>>> {
        // One of each process. A second checkpoint takes their place, but for those of processes that
        // have ended since: a restart would wait for these.
        let mut images = files(&self.images, ".dmtcp")?;
        let time = |image: &PathBuf| image.metadata().and_then(|meta| meta.modified());
        images.retain(|image| time(image).is_ok_and(|time| time >= self.asked));
        Ok(vec![images])
    }

    fn end(&mut self, live: Live<'_>) -> Result {
        self.say("--quit")?;
        live.process.ends()
    }

    fn restart(&mut self) -> Result<Vec<String>> {
        let mut words = self.with_coordinator("dmtcp_restart");
        words.extend(["--ckptdir".into(), self.images.display().to_string()]);
        let images = self.generations()?.concat();
        words.extend(images.iter().map(|image| image.display().to_string()));
        Ok(words)
    }
}

/// The folder of its commands.
pub fn found() -> Option<PathBuf> {
    let homes = ["DMTCP_HOME", "CKPT_TEST_DMTCP"].into_iter().filter_map(std::env::var_os);
    let mut bins = homes.map(|home| PathBuf::from(home).join("bin"));
    let in_path = || run::found("dmtcp_launch", "")?.parent().map(Path::to_path_buf);
    bins.find(|bin| bin.join("dmtcp_launch").exists()).or_else(in_path)
}
