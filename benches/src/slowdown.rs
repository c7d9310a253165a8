//! What a job loses between checkpoints: the same piece of work alone, under `ckpt-launch`, and under
//! it behind a checkpoint. They take turns, so that whatever else the host does hits them alike.

use ckpt_core::image::Level;

use crate::Result;
use crate::payload::{Payload, Place, READY};
use crate::rivals::{Ours, Rival};
use crate::run::{median, until};
use crate::table::{seconds, table};

const WAYS: [&str; 3] = ["alone", "under ckpt-launch", "behind a checkpoint"];

/// A kind of work: its name, pieces in a turn, turns.
const KINDS: [(&str, &str, usize, usize); 2] =
    [("compute", "arithmetic", 50, 6), ("spawn", "10 000 × fork + exec", 50, 4)];

/// A table with ratios.
///
/// # Errors
///
/// When a job does not run.
pub fn ratios(place: &Place) -> Result<String> {
    let mut rows = Vec::new();
    for (kind, name, pieces, turns) in KINDS {
        eprintln!("slowdown: {name}");
        let payload = Payload {
            place,
            title: name.into(),
            words: vec![place.compiled("steady")?, kind.into()],
            environment: Vec::new(),
            begins: READY,
            dump: None,
            touches: false,
        };
        let mut times: [Vec<f64>; 3] = Default::default();
        for _ in 0..turns {
            times.iter_mut().enumerate().try_for_each(|(way, times)| {
                times.extend(turn(&payload, way, pieces)?);
                Result::Ok(())
            })?;
        }
        let least = times.clone().map(|times| times.into_iter().fold(f64::INFINITY, f64::min));
        let middle = times.map(|times| median(times).unwrap_or_default());
        for way in 0..WAYS.len() {
            let cell = |all: &[f64; 3]| format!("{} ({:.3})", seconds(all[way]), all[way] / all[0]);
            rows.push([format!("{name}, {}", WAYS[way]), cell(&middle), cell(&least)]);
        }
    }
    Ok(table(["one piece of", "median", "least"], &rows))
}

/// So many pieces, one way.
fn turn(payload: &Payload<'_>, way: usize, pieces: usize) -> Result<Vec<f64>> {
    let mut ours = Ours::new(payload, Level::default());
    let mut live = payload.start(&if way > 0 { ours.begin()? } else { vec![] })?;
    if way > 1 {
        ours.checkpoint(&live)?;
    }
    // The first one fills caches, or began before the checkpoint ended.
    let known = live.said("chunk ")?.len() + 1;
    let times = until("pieces of work", || {
        let times = live.said("chunk ")?;
        Ok((times.len() >= known + pieces).then(|| times[known..known + pieces].to_vec()))
    })?;
    if way > 0 {
        ours.end(live)?;
    } else {
        live.process.0.kill()?;
    }
    Ok(times)
}
