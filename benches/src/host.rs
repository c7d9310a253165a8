//! The machine and the programs, as the report names them.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::rivals;
use crate::run::must;

/// The machine in one line, the versions in the next.
pub fn surroundings() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("?", |line| line.trim_start_matches(['\t', ' ', ':']));
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    let release = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or("?");
    let total = meminfo("MemTotal") / f64::from(1 << 30);
    let mut versions = vec![format!("ckpt {}", env!("CARGO_PKG_VERSION"))];
    let dmtcp = rivals::dmtcp().map(|bin| bin.join("dmtcp_launch"));
    let dmtcp = dmtcp.and_then(|it| version(&it, "--version", 2));
    versions.extend(dmtcp.map(|it| format!("DMTCP {it}")));
    let criu = rivals::criu().ok().and_then(|it| version(&it, "--version", 1));
    versions.extend(criu.map(|it| format!("CRIU {it}")));
    for (program, word) in [("zstd", 4), ("dd", 2)] {
        versions.extend(
            version(Path::new(program), "--version", word).map(|it| format!("{program} {it}")),
        );
    }
    format!(
        "{count} × {model}, {total:.0} GiB, Linux {}, load {load} at the beginning.\n{}.\n",
        release.trim(),
        versions.join(", ")
    )
}

/// The word at this place of what a program says of its version.
fn version(program: &Path, flag: &str, word: usize) -> Option<String> {
    let said = must(Command::new(program).arg(flag)).ok()?;
    Some(said.split_whitespace().nth(word)?.trim_matches([',', '(', ')', 'v']).to_owned())
}

/// A line of /proc/meminfo, in bytes.
pub fn meminfo(name: &str) -> f64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.unwrap_or_default() * 1024.0
}
