//! What a program pays that saves its own arrays: beside memcpy, beside write(2) and fsync(2) of the same bytes, and
//! beside numpy's `savez`.

use std::fs::{self, File};
use std::hint::black_box;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use ckpt_core::regions::{Options, Store};

use crate::payload::Place;
use crate::run::median;
use crate::table::{cell, seconds, size, table};
use crate::{ROUNDS, Result};

/// What a row measures, in seconds and bytes.
#[derive(Debug, Default)]
struct Row {
    name: String,
    staged: Option<f64>,
    durable: Option<f64>,
    bytes: Option<f64>,
    again: Option<f64>,
    restored: Option<f64>,
}

/// A table for arrays of this size in all.
///
/// # Errors
///
/// When a file cannot be written or read.
pub fn costs(place: &Place, mib: u64) -> Result<String> {
    let mut text = String::new();
    for kind in ["random", "mixed"] {
        eprintln!("arrays: {kind}");
        let array = contents(kind, (mib << 20) as usize / 8);
        let folder = place.dir.join(format!("arrays-{kind}"));
        fs::create_dir(&folder)?;
        let rows = [copied(&array), plain(&folder, &array)?, ours(&folder, &array)?];
        let rows: Vec<Row> = rows.into_iter().chain(numpy(&folder, &array)?).collect();
        text.push_str(&printed(&format!("{mib} MiB, {kind}"), &rows));
        fs::remove_dir_all(&folder)?;
    }
    Ok(text)
}

fn contents(kind: &str, words: usize) -> Vec<u64> {
    let mut x = 88_172_645_463_325_252_u64;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    };
    let quarter = words / 4;
    let of = |index: usize, random: u64| match (kind, index / quarter.max(1)) {
        ("random", _) | (_, 0) => random,
        (_, 1) => (1.0 + index as f64 * 1e-6).to_bits(),
        (_, 2) => index as u64 * 7 % 97,
        _ => 0,
    };
    (0..words).map(|index| of(index, next())).collect()
}

fn bytes(array: &[u64]) -> &[u8] {
    bytemuck::must_cast_slice(array)
}

fn timed(mut work: impl FnMut() -> Result) -> Result<Option<f64>> {
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        work()?;
        times.push(begun.elapsed().as_secs_f64());
    }
    Ok(median(times))
}

fn copied(array: &[u64]) -> Row {
    let mut copy = array.to_vec();
    let staged = timed(|| {
        copy.copy_from_slice(black_box(array));
        black_box(&copy);
        Ok(())
    });
    Row { name: "memcpy".into(), staged: staged.ok().flatten(), ..Row::default() }
}

/// In the manner of VeloC's sync mode, and of most programs' own checkpoints.
fn plain(folder: &Path, array: &[u64]) -> Result<Row> {
    let path = folder.join("plain");
    let save = || {
        let mut file = File::create(&path)?;
        file.write_all(bytes(array))?;
        Ok(file.sync_all()?)
    };
    let durable = timed(save)?;
    let again = timed(save)?;
    let mut into = vec![0u64; array.len()];
    let restored = timed(|| {
        let into: &mut [u8] = bytemuck::must_cast_slice_mut(&mut into);
        Ok(File::open(&path)?.read_exact(into)?)
    })?;
    let bytes = Some(fs::metadata(&path)?.len() as f64);
    fs::remove_file(&path)?;
    Ok(Row { name: "write, fsync".into(), staged: durable, durable, bytes, again, restored })
}

fn ours(folder: &Path, array: &[u64]) -> Result<Row> {
    let mut array = array.to_vec();
    let (mut staged, mut durable, mut again, mut stored) = (vec![], vec![], vec![], 0);
    let mut restored = None;
    for round in 0..ROUNDS {
        let dir = folder.join(format!("ours-{round}"));
        let mut store = Store::open(&dir, "bench", Options::default())?;
        let begun = Instant::now();
        let mut first = store.begin(1)?;
        first.add("array", &array)?;
        stored = first.commit()?.bytes_stored;
        durable.push(begun.elapsed().as_secs_f64());
        // One page in a hundred.
        array.iter_mut().step_by(512 * 100).for_each(|word| *word ^= 1);
        let begun = Instant::now();
        let mut second = store.begin(2)?;
        second.add("array", &array)?;
        second.commit()?;
        again.push(begun.elapsed().as_secs_f64());
        // The memory for copies is there from the second on.
        for version in 3..=4 {
            let begun = Instant::now();
            let mut next = store.begin(version)?;
            next.add("array", &array)?;
            let pending = next.commit_async()?;
            if version > 3 {
                staged.push(begun.elapsed().as_secs_f64());
            }
            pending.wait()?;
        }
        drop(store);
        let mut store = Store::open(&dir, "bench", Options::default())?;
        let mut into = vec![0u64; array.len()];
        restored = timed(|| {
            store.restore(|version| version.read("array", &mut into))?;
            Ok(())
        })?;
        if into != array {
            return Err("what was restored is not what was saved".into());
        }
        fs::remove_dir_all(&dir)?;
    }
    let bytes = Some(stored as f64);
    let (staged, durable, again) = (median(staged), median(durable), median(again));
    Ok(Row { name: "ckpt".into(), staged, durable, bytes, again, restored })
}

/// `numpy.savez`, made durable; left out where there is no numpy.
fn numpy(folder: &Path, array: &[u64]) -> Result<Option<Row>> {
    let (raw, path) = (folder.join("raw"), folder.join("numpy.npz"));
    fs::write(&raw, bytes(array))?;
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", SCRIPT]).arg(&raw).arg(&path).arg(ROUNDS.to_string());
    let output = python.stderr(Stdio::inherit()).output()?;
    fs::remove_file(&raw)?;
    let text = String::from_utf8(output.stdout)?;
    let figures: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [durable, restored, bytes] = figures[..] else { return Ok(None) };
    let (durable, bytes, restored) = (Some(durable), Some(bytes), Some(restored));
    let name = "numpy.savez, fsync".into();
    Ok(Some(Row { name, staged: durable, durable, bytes, again: durable, restored }))
}

const SCRIPT: &str = r#"
import numpy, os, statistics, sys, time
raw, path, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
array = numpy.fromfile(raw, dtype=numpy.uint64)

def timed(work):
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)

def save():
    with open(path, "wb") as file:
        numpy.savez(file, array=array)
        file.flush()
        os.fsync(file.fileno())

print(timed(save), timed(lambda: numpy.load(path)["array"]), os.path.getsize(path))
"#;

fn printed(title: &str, rows: &[Row]) -> String {
    let first = |get: fn(&Row) -> Option<f64>| rows.iter().find_map(get);
    let lines = rows.iter().map(|row| {
        [
            row.name.clone(),
            cell(row.staged, first(|it| it.staged), seconds),
            cell(row.durable, first(|it| it.durable), seconds),
            cell(row.bytes, first(|it| it.bytes), size),
            cell(row.again, first(|it| it.again), seconds),
            cell(row.restored, first(|it| it.restored), seconds),
        ]
    });
    let lines: Vec<[String; 6]> = lines.collect();
    table([title, "staged", "durable", "bytes", "2nd: durable", "restored"], &lines)
}
