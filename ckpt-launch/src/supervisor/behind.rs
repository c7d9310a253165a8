//! A job that was brought back lazily, until all of its memory is there.

use std::time::{Duration, Instant};

use ckpt_core::rebuild::Behind;
use ckpt_core::{Error, ErrorKind, Result};

use super::Supervisor;
use crate::control::protocol::Event;
use crate::root::End;
use crate::words;

/// How long a checkpoint waits for the memory.
const ALONE: Duration = Duration::from_secs(600);
/// The same where others wait with it, frozen: the coordinator gives up after half a minute.
const AMONG_OTHERS: Duration = Duration::from_secs(20);

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
        let patience = if self.peer.is_some() { AMONG_OTHERS } else { ALONE };
        match behind.finish(&mut self.job, Instant::now() + patience) {
            Ok(true) => {
                self.is_whole();
                Ok(())
            }
            Ok(false) => {
                let what = "the job's memory is still coming, from the image it was restored from";
                Err(Error::new(ErrorKind::Busy, what).help("try again later"))
            }
            Err(error) => {
                let what = format!("the job could not be restored as a whole: {error}");
                self.broken = Some(error);
                Err(Error::new(ErrorKind::Gone, what))
            }
        }
    }

    /// What is left of a job whose first process has ended goes on by itself, with all of its memory.
    pub(super) fn leave_whole(&mut self) {
        if let Some(behind) = &mut self.behind
            && let Err(error) = behind.finish(&mut self.job, Instant::now() + ALONE)
        {
            self.voice.warn(format_args!("{error}; what was left of the job was killed"));
        }
    }

    fn is_whole(&mut self) {
        let Some(behind) = self.behind.take().filter(Behind::is_whole) else { return };
        let (bytes, since) = (behind.bytes(), Instant::now() - behind.began());
        let event = Event::Filled { bytes, total_s: since.as_secs_f64() };
        let (name, bytes) = (&self.job.name, words::bytes(bytes));
        let how =
            format_args!("all of {name} is there: {bytes} came in {}", words::duration(since));
        self.voice.say(&event, how);
    }
}
