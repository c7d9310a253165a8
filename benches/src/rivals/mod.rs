//! Everything that copies the same bytes, or the program that has them. All of them answer with
//! [`Figures`]; [`all`] has them take turns on one payload.

mod copies;
mod criu;
mod dmtcp;
mod ours;

use std::path::PathBuf;
use std::slice;
use std::time::Duration;

use ckpt_core::image::Level;

use crate::payload::{Live, Payload};
use crate::run::{bytes, cache, median, timed, wall_clock};
use crate::{ROUNDS, Result};

pub use criu::found as criu;
pub use dmtcp::found as dmtcp;
pub use ours::{Ours, Taken};

/// Above this, and for programs, a rival that takes a minute for a GiB is left out.
const PATIENT: f64 = 1.5 * (1 << 30) as f64;

/// What one way of doing it took: seconds and bytes.
#[derive(Debug, Default, Clone)]
pub struct Figures {
    /// Whose they are.
    pub name: String,
    /// How long the payload stood still.
    pub stopped: Option<f64>,
    /// Until all was on disk.
    pub durable: Option<f64>,
    /// On disk.
    pub bytes: Option<f64>,
    /// The same three of a second checkpoint, after one page in a hundred has changed.
    pub second: [Option<f64>; 3],
    /// Until the payload goes on, with the image in the page cache.
    pub warm: Option<f64>,
    /// The same with the image on disk only.
    pub cold: Option<f64>,
    /// The same before its memory is there.
    pub lazy: Option<f64>,
}

/// A way to take checkpoints, as [`measure`] uses it.
pub trait Rival {
    /// Its row's name.
    fn name(&self) -> String;
    /// How often everything is done.
    fn rounds(&self) -> usize {
        ROUNDS
    }
    /// Forgets the images of the job before; the words to start the payload under.
    ///
    /// # Errors
    ///
    /// When there is no room for new ones.
    fn begin(&mut self) -> Result<Vec<String>>;
    /// Takes a checkpoint, until it is durable; how long it stood still, where the rival tells.
    ///
    /// # Errors
    ///
    /// When there is none.
    fn checkpoint(&mut self, live: &Live<'_>) -> Result<Option<f64>>;
    /// The files of each generation that is left, the newest last.
    ///
    /// # Errors
    ///
    /// When they cannot be listed.
    fn generations(&self) -> Result<Vec<Vec<PathBuf>>>;
    /// Ends the job so that it can be restarted.
    ///
    /// # Errors
    ///
    /// When it does not end.
    fn end(&mut self, live: Live<'_>) -> Result;
    /// The words that restart it from the newest generation.
    ///
    /// # Errors
    ///
    /// When there is none.
    fn restart(&mut self) -> Result<Vec<String>>;
    /// The same without waiting for the memory, for those who can.
    ///
    /// # Errors
    ///
    /// As of [`Self::restart`].
    fn restart_lazily(&mut self) -> Result<Option<Vec<String>>> {
        Ok(None)
    }
    /// Ends a job that was restarted.
    ///
    /// # Errors
    ///
    /// When it does not end.
    fn end_again(&mut self, live: Live<'_>) -> Result {
        self.end(live)
    }
}

/// Takes the payload through two checkpoints and restarts, as often as the rival's rounds.
///
/// # Errors
///
/// Whatever goes wrong on the way.
pub fn measure(rival: &mut dyn Rival, payload: &Payload<'_>) -> Result<Figures> {
    let mut taken: [[Vec<f64>; 3]; 2] = Default::default();
    for _ in 0..rival.rounds() {
        let live = payload.start(&rival.begin()?)?;
        for (nth, [stopped, durable, stored]) in taken.iter_mut().enumerate() {
            if nth > 0 {
                live.touch()?;
            }
            let when = wall_clock();
            let (told, seconds) = timed(|| rival.checkpoint(&live))?;
            stopped.extend(live.stopped(when)?.or(told));
            durable.push(seconds);
            stored.push(bytes(rival.generations()?.last().ok_or("it has written nothing")?)?);
        }
        rival.end(live)?;
    }
    let [[stopped, durable, bytes], second] = taken.map(|three| three.map(median));
    let (mut warm, mut cold) = (Vec::new(), Vec::new());
    let end = payload.end()?;
    for _ in 0..rival.rounds() {
        for (is_warm, times) in [(true, &mut warm), (false, &mut cold)] {
            cache(&rival.generations()?.concat(), is_warm)?;
            let (live, seconds) = payload.restart(&rival.restart()?, end)?;
            times.push(seconds);
            rival.end_again(live)?;
        }
    }
    let mut lazy = Vec::new();
    for _ in 0..rival.rounds() {
        cache(&rival.generations()?.concat(), false)?;
        if let Some(words) = rival.restart_lazily()? {
            let (live, seconds) = payload.restart(&words, end)?;
            lazy.push(seconds);
            rival.end_again(live)?;
        }
    }
    let [warm, cold, lazy] = [warm, cold, lazy].map(median);
    Ok(Figures { name: rival.name(), stopped, durable, bytes, second, warm, cold, lazy })
}

/// Everybody's figures for one payload; and why some have none.
///
/// # Errors
///
/// When the payload does not even run by itself.
pub fn all(payload: &Payload<'_>) -> Result<(Vec<Figures>, Vec<String>)> {
    let mut rows = alone(payload)?;
    let mut missing = Vec::new();
    if let Some(dump) = &payload.dump {
        rows.push(copies::dd(dump)?);
        rows.push(copies::zstd(dump)?);
    }
    let size =
        payload.dump.as_ref().map_or(Ok(f64::INFINITY), |dump| bytes(slice::from_ref(dump)))?;
    let (ours, place) =
        (|level| Box::new(Ours::new(payload, level)) as Box<dyn Rival>, payload.place);
    let mut rivals = vec![ours(Level::default()), ours(Level::Auto), ours(Level::Fixed(0))];
    if let Some(bin) = dmtcp() {
        for packs in [true, false] {
            if !packs || size < PATIENT {
                rivals.push(Box::new(dmtcp::Dmtcp::new(place, &bin, packs)));
            }
        }
    }
    if let Ok(criu) = criu() {
        rivals.push(Box::new(criu::Criu::new(place, &criu)));
    }
    for rival in &mut rivals {
        let name = rival.name();
        eprintln!("{}: {name}", payload.title);
        match measure(rival.as_mut(), payload) {
            Ok(figures) => rows.push(figures),
            Err(error) => {
                eprintln!("  {error}");
                missing.push(format!("{name}: {error}"));
            }
        }
    }
    Ok((rows, missing))
}

/// What is without any of them: a fork, and how evenly the payload ticks.
fn alone(payload: &Payload<'_>) -> Result<Vec<Figures>> {
    if !payload.ticks() {
        return Ok(Vec::new());
    }
    let mut live = payload.start(&[])?;
    let fork = live.fork.map(|fork| ("a bare fork()", fork));
    let when = wall_clock();
    std::thread::sleep(Duration::from_secs(1));
    let quiet = live.stopped(when)?.map(|quiet| ("left alone for a second", quiet));
    live.process.0.kill()?;
    let row = |(name, stopped): (&str, f64)| Figures {
        name: name.into(),
        stopped: Some(stopped),
        ..Figures::default()
    };
    Ok([fork, quiet].into_iter().flatten().map(row).collect())
}
