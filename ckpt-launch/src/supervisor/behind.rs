//! A job that was brought back lazily, until all of its memory is there.

use std::time::Instant;

use ckpt_core::{Error, ErrorKind, Result};

use super::Supervisor;
use crate::control::protocol::Event;
use crate::root::End;
use crate::words;

impl Supervisor<'_> {
    /// Lets its tasks have what they wait for; the job's end if it cannot have all of its memory.
    pub(super) fn filled(&mut self) -> Option<End> {
        if let Some(behind) = &mut self.behind {
            match behind.turn(&mut self.job) {
                Ok(false) => {}
                Ok(true) => self.is_whole(),
                Err(error) => self.broken = Some(error),
            }
        }
        let error = self.broken.take()?;
        self.kill_all();
        Some(End::Lost(error.help(
            "the job was killed, as it would have missed memory; restore another generation",
        )))
    }

    /// Waits until all is there: before that there is nothing to save.
    pub(super) fn all_is_there(&mut self) -> Result<()> {
        let Some(behind) = &mut self.behind else { return Ok(()) };
        match behind.finish(&mut self.job) {
            Ok(()) => {
                self.is_whole();
                Ok(())
            }
            Err(error) => {
                let what = format!("the job could not be restored as a whole: {error}");
                self.broken = Some(error);
                Err(Error::new(ErrorKind::Gone, what))
            }
        }
    }

    fn is_whole(&mut self) {
        let Some(behind) = self.behind.take() else { return };
        let (bytes, since) = (behind.bytes(), Instant::now() - behind.began());
        let event = Event::Filled { bytes, total_s: since.as_secs_f64() };
        let (name, bytes) = (&self.job.name, words::bytes(bytes));
        let how =
            format_args!("all of {name} is there: {bytes} came in {}", words::duration(since));
        self.voice.say(&event, how);
    }
}
