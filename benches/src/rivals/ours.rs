//! ckpt itself, as its users run it.

use std::path::PathBuf;
use std::process::Command;

use ckpt_core::image::Level;
use serde_json::Value;

use super::Rival;
use crate::Result;
use crate::payload::{Live, Payload};
use crate::run::{files, must};

/// Our engine at one level of compression.
#[derive(Debug)]
pub struct Ours<'a> {
    payload: &'a Payload<'a>,
    level: Level,
    images: PathBuf,
}

/// What one checkpoint took, as it says itself.
#[derive(Debug, Clone, Copy)]
pub struct Taken {
    /// Seconds that all tasks stood still.
    pub frozen: f64,
    /// Seconds in all, as the supervisor sees it.
    pub total: f64,
}

impl<'a> Ours<'a> {
    /// With this level.
    pub fn new(payload: &'a Payload<'a>, level: Level) -> Self {
        Self { payload, level, images: PathBuf::new() }
    }

    /// Takes a checkpoint and gives what was said of it.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn take(&self) -> Result<Taken> {
        let output = self.ckpt("checkpoint").arg("--json").output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        let last: Value = serde_json::from_str(said.lines().next_back().unwrap_or_default())?;
        if last["event"] != "checkpoint" {
            return Err(last["message"].to_string().into());
        }
        let number = |name: &str| last[name].as_f64().ok_or(format!("it says no {name}"));
        Ok(Taken { frozen: number("frozen_s")?, total: number("total_s")? })
    }

    fn ckpt(&self, verb: &str) -> Command {
        let mut command = Command::new(self.payload.place.tool("ckpt"));
        command.arg(verb).arg("--ckptdir").arg(&self.images);
        command
    }
}

impl Rival for Ours<'_> {
    fn name(&self) -> String {
        format!("ckpt, level {}", self.level)
    }

    fn begin(&mut self) -> Result<Vec<String>> {
        self.images = self.payload.place.images()?;
        let mut words = vec![self.payload.place.tool("ckpt-launch")];
        words.extend(["-q", "-i", "0", "--backend", "native"].map(String::from));
        words.extend(["--level".into(), self.level.to_string()]);
        words.extend(["--ckptdir".into(), self.images.display().to_string(), "--".into()]);
        Ok(words)
    }

    fn checkpoint(&mut self, _: &Live<'_>) -> Result<Option<f64>> {
        // Who ticks knows better, and what is said on the way costs a little.
        if !self.payload.ticks() {
            return Ok(Some(self.take()?.frozen));
        }
        must(self.ckpt("checkpoint").arg("-q"))?;
        Ok(None)
    }

    fn generations(&self) -> Result<Vec<Vec<PathBuf>>> {
        Ok(files(&self.images, ".ckpt")?.into_iter().map(|image| vec![image]).collect())
    }

    fn end(&mut self, live: Live<'_>) -> Result {
        must(self.ckpt("kill").arg("-q"))?;
        live.process.ends()
    }

    fn restart(&mut self) -> Result<Vec<String>> {
        let images = self.images.display().to_string();
        Ok(vec![self.payload.place.tool("ckpt-restore"), "-q".into(), images])
    }

    fn restart_lazily(&mut self) -> Result<Option<Vec<String>>> {
        let mut words = self.restart()?;
        words.insert(1, "--lazy".into());
        // Who says a line now and then may say the next one too late to tell.
        Ok(self.payload.ticks().then_some(words))
    }
}
