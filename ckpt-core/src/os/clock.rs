//! Clocks and their offsets in time namespaces (time_namespaces(7)).

use rustix::time::{ClockId, clock_gettime};

/// Offsets of a process' time namespace, nanoseconds: monotonic and boottime. `of` is a PID, or
/// `self`.
fn offsets(of: &str) -> (i64, i64) {
    // The file is missing where the kernel has no time namespaces.
    let text = std::fs::read(format!("/proc/{of}/timens_offsets")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let offset = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        let mut words = line.split_ascii_whitespace().skip(1).map(str::parse::<i64>);
        let (seconds, nanoseconds) = (words.next()?.ok()?, words.next()?.ok()?);
        Some(seconds * 1_000_000_000 + nanoseconds)
    };
    (offset("monotonic").unwrap_or_default(), offset("boottime").unwrap_or_default())
}

fn now(clock: ClockId) -> i64 {
    let time = clock_gettime(clock);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// Our own `CLOCK_MONOTONIC`, nanoseconds.
pub(crate) fn monotonic() -> u64 {
    now(ClockId::Monotonic).max(0) as u64
}

/// `CLOCK_REALTIME`, nanoseconds since 1970.
pub(crate) fn wall() -> i64 {
    now(ClockId::Realtime)
}

/// `CLOCK_MONOTONIC` and `CLOCK_BOOTTIME` as process `pid` reads them now, nanoseconds.
pub(crate) fn of_process(pid: i32) -> (i64, i64) {
    let (theirs, ours) = (offsets(&pid.to_string()), offsets("self"));
    let monotonic = now(ClockId::Monotonic) + theirs.0 - ours.0;
    (monotonic, now(ClockId::Boottime) + theirs.1 - ours.1)
}

/// What to write to `timens_offsets` so that the clocks there show these times now.
pub(crate) fn offsets_for(monotonic: i64, boottime: i64) -> String {
    let ours = offsets("self");
    let line = |name: &str, offset: i64| {
        let (seconds, nanoseconds) =
            (offset.div_euclid(1_000_000_000), offset.rem_euclid(1_000_000_000));
        format!("{name} {seconds} {nanoseconds}\n")
    };
    line("monotonic", monotonic - now(ClockId::Monotonic) + ours.0)
        + &line("boottime", boottime - now(ClockId::Boottime) + ours.1)
}
