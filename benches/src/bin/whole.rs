//! `cargo xtask bench [MIB [PART]]`: everything into docs/performance.md, or one part to stdout.

use ckpt_benches::payload::Place;
use ckpt_benches::{Result, report};

fn main() -> Result {
    let mib = std::env::args().nth(1).map_or(Ok(1024), |mib| mib.parse())?;
    let part = std::env::args().nth(2);
    let built = std::env::current_exe()?.parent().ok_or("no folder")?.to_path_buf();
    // On a disk; /tmp may be memory.
    let folder = tempfile::Builder::new().prefix("ckpt-bench-").tempdir_in("/var/tmp")?;
    report::write(&Place { dir: folder.path().to_path_buf(), built }, mib, part.as_deref())
}
