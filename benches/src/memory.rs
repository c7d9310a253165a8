//! Memory that a checkpoint takes besides the job's own: the launcher's, and that of the pages that
//! the job changes meanwhile, of which there are two then.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ckpt_core::image::Level;

use crate::host::meminfo;
use crate::payload::{Live, Payload, Place};
use crate::rivals::{Ours, Rival};
use crate::table::{size, table};
use crate::{ROUNDS, Result};

/// What grows when a process or the kernel takes memory, page cache aside.
const TAKEN: [&str; 4] = ["AnonPages", "PageTables", "SUnreclaim", "KernelStack"];

/// A table for a payload of this size.
///
/// # Errors
///
/// When a checkpoint fails.
pub fn extra(place: &Place, mib: u64) -> Result<String> {
    eprintln!("extra memory");
    let payload = Payload::ticker(place, "random", mib, &[])?;
    let mut rows = Vec::new();
    for (name, touches) in
        [("it touches nothing", false), ("it touches one page in a hundred", true)]
    {
        // The least: whatever else runs on the host only adds.
        let mut least = [f64::INFINITY; 2];
        for _ in 0..ROUNDS {
            let mut ours = Ours::new(&payload, Level::default());
            let live = payload.start(&ours.begin()?)?;
            let peaks = peaks(&mut ours, &live, touches)?;
            least.iter_mut().zip(peaks).for_each(|(least, peak)| *least = least.min(peak));
            ours.end(live)?;
        }
        rows.push([name.to_owned(), size(least[0]), size(least[1])]);
    }
    let head = format!("{mib} MiB, random; meanwhile");
    Ok(table([&head, "the launcher at its largest", "the host's memory, more than before"], &rows))
}

fn peaks(ours: &mut Ours<'_>, live: &Live<'_>, touches: bool) -> Result<[f64; 2]> {
    let launcher = live.process.0.id();
    // Its peak is counted from here.
    fs::write(format!("/proc/{launcher}/clear_refs"), "5")?;
    let taken = || TAKEN.iter().map(|name| meminfo(name)).sum::<f64>();
    let before = taken();
    let over = AtomicBool::new(false);
    let most = std::thread::scope(|scope| -> Result<f64> {
        let watch = scope.spawn(|| {
            let mut most = before;
            while !over.load(Ordering::Relaxed) {
                most = f64::max(most, taken());
                std::thread::sleep(Duration::from_millis(2));
            }
            most
        });
        let changes = touches.then(|| scope.spawn(|| live.touch().map_err(|e| e.to_string())));
        let outcome = ours.checkpoint(live);
        over.store(true, Ordering::Relaxed);
        outcome?;
        if let Some(changes) = changes {
            changes.join().map_err(|_| "a thread failed")??;
        }
        watch.join().map_err(|_| "a thread failed".into())
    })?;
    let status = fs::read_to_string(format!("/proc/{launcher}/status"))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak: f64 = peak.ok_or("no VmHWM")?.trim().trim_end_matches(" kB").parse()?;
    Ok([peak * 1024.0, most - before])
}
