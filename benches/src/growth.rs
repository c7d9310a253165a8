//! How the cost grows: with bytes, threads, areas, processes, and from one generation to the next.

use ckpt_core::image::Level;

use crate::payload::{Payload, Place};
use crate::plot::Panel;
use crate::rivals::{Ours, Rival};
use crate::run::{bytes, median, timed, wall_clock};
use crate::table::{seconds, size, table};
use crate::{ROUNDS, Result};

/// What is measured at one point: how much, stopped, durable, bytes.
type Point = [f64; 4];

/// Tables; and the panels of a picture.
///
/// # Errors
///
/// When a checkpoint fails.
pub fn all(place: &Place, mib: u64, panels: &mut Vec<Panel>) -> Result<String> {
    let mut text = String::new();
    let sizes: Vec<u64> = (6..).map(|power| 1 << power).take_while(|&it| it <= 2 * mib).collect();
    let axes: [(&str, &[u64]); 4] = [
        ("MiB", &sizes),
        ("threads", &[1, 16, 128]),
        ("vmas", &[100, 1000, 10000]),
        ("processes", &[1, 8, 64]),
    ];
    for (what, points) in axes {
        eprintln!("growth: {what}");
        let points: Result<Vec<Point>> = points.iter().map(|&it| first(place, what, it)).collect();
        let name = if what == "vmas" { "memory areas" } else { what };
        add(name, &points?, &mut text, panels);
    }
    eprintln!("growth: generations");
    let points = generations(place)?;
    add("generation, 64 MiB, 1 % changed", &points, &mut text, panels);
    Ok(text)
}

fn add(name: &str, points: &[Point], text: &mut String, panels: &mut Vec<Panel>) {
    let rows: Vec<[String; 4]> = points
        .iter()
        .map(|&[x, stopped, durable, bytes]| {
            [x.to_string(), seconds(stopped), seconds(durable), size(bytes)]
        })
        .collect();
    text.push_str(&table([name, "stopped", "durable", "bytes"], &rows));
    let curve = |nth: usize| points.iter().map(|point| (point[0], point[nth])).collect();
    let curves = vec![("stopped", curve(1)), ("durable", curve(2))];
    panels.push(Panel { title: name.into(), curves });
}

/// The first checkpoint of a job with so much of it.
fn first(place: &Place, what: &str, count: u64) -> Result<Point> {
    let of_memory = what == "MiB";
    let more = if of_memory { vec![] } else { vec![what.to_owned(), count.to_string()] };
    let payload = Payload::ticker(place, "random", if of_memory { count } else { 1 }, &more)?;
    let mut ours = Ours::new(&payload, Level::default());
    let mut taken: [Vec<f64>; 3] = Default::default();
    for _ in 0..ROUNDS {
        let live = payload.start(&ours.begin()?)?;
        let point = one(&mut ours, &live)?;
        taken.iter_mut().zip(point).for_each(|(values, value)| values.push(value));
        ours.end(live)?;
    }
    let [stopped, durable, bytes] = taken.map(|values| median(values).unwrap_or_default());
    Ok([count as f64, stopped, durable, bytes])
}

fn one(ours: &mut Ours<'_>, live: &crate::payload::Live<'_>) -> Result<[f64; 3]> {
    let when = wall_clock();
    let durable = timed(|| ours.checkpoint(live))?.1;
    let stopped = live.stopped(when)?.unwrap_or_default();
    let newest = ours.generations()?.pop().ok_or("it has written nothing")?;
    Ok([stopped, durable, bytes(&newest)?])
}

/// One job's, one after the other, with something changed between them.
fn generations(place: &Place) -> Result<Vec<Point>> {
    let payload = Payload::ticker(place, "random", 64, &[])?;
    let mut ours = Ours::new(&payload, Level::default());
    let live = payload.start(&ours.begin()?)?;
    let mut points = Vec::new();
    for generation in 1..=20 {
        let [stopped, durable, bytes] = one(&mut ours, &live)?;
        points.push([f64::from(generation), stopped, durable, bytes]);
        live.touch()?;
    }
    ours.end(live)?;
    Ok(points)
}
