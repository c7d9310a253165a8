//! Our binaries and the compiled payloads, in a folder that every user can read.

use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::UNIX_EPOCH;

use nix::fcntl::{Flock, FlockArg};

use crate::payload::ALL;

const BINARIES: [&str; 3] = ["ckpt-launch", "ckpt", "ckpt-restore"];

const PRELOAD: &str = "libckpt_preload.so";

/// DMTCP's names beside them, as links.
const NAMES: [(&str, &str); 5] = [
    ("dmtcp_launch", "ckpt-launch"),
    ("dmtcp_coordinator", "ckpt-launch"),
    ("dmtcp_nocheckpoint", "ckpt-launch"),
    ("dmtcp_command", "ckpt"),
    ("dmtcp_restart", "ckpt-restore"),
];

/// Scripts that are used as they are, in a folder beside the payloads.
const SITE: &str = "site";
const SLURM: &str = "slurm";

/// Where everything is.
#[derive(Debug)]
pub struct Tools {
    /// `ckpt-launch`.
    pub launch: PathBuf,
    /// `ckpt`.
    pub ckpt: PathBuf,
    /// `ckpt-restore`.
    pub restore: PathBuf,
    /// The preload object; it is built by itself.
    pub preload: PathBuf,
    /// The folder of the payloads.
    pub payloads: PathBuf,
    /// The scripts of a computing centre.
    pub site: PathBuf,
    /// What Slurm jobs compute.
    pub slurm: PathBuf,
    /// The folder of it all; DMTCP's names are there, too.
    pub folder: PathBuf,
}

/// The tools, gathered on first use.
///
/// # Panics
///
/// When the workspace's binaries have not been built.
pub fn tools() -> &'static Tools {
    static TOOLS: OnceLock<Tools> = OnceLock::new();
    TOOLS.get_or_init(gather)
}

fn gather() -> Tools {
    // target/PROFILE/deps/this-test
    let own = std::env::current_exe().expect("a program knows its name");
    let built = own.parent().and_then(Path::parent).expect("cargo's folders").to_path_buf();
    for name in BINARIES {
        let path = built.join(name);
        assert!(path.exists(), "{} is missing; `cargo xtask test` builds it", path.display());
    }
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("payloads");
    let uid = nix::unistd::geteuid().as_raw();
    let name = format!("ckpt-tests-{uid}-{:016x}", fingerprint(&built, &sources));
    let folder = std::env::temp_dir().join(name);
    let ready = folder.join("ready");

    // One test process makes it, the others wait for that.
    let lock_name = std::env::temp_dir().join(format!("ckpt-tests-{uid}.lock"));
    let lock = File::create(&lock_name).expect("a lock file can be made");
    let lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, e)| e);
    let _lock = lock.expect("a lock can be had");
    if !ready.exists() {
        make(&built, &sources, &folder);
        File::create(&ready).expect("the folder is ours");
    }
    let owner = fs::symlink_metadata(&folder).expect("it is there").uid();
    assert_eq!(owner, uid, "{} belongs to somebody else", folder.display());
    Tools {
        launch: folder.join("ckpt-launch"),
        ckpt: folder.join("ckpt"),
        restore: folder.join("ckpt-restore"),
        preload: folder.join(PRELOAD),
        payloads: folder.join("payloads"),
        site: folder.join(SITE),
        slurm: folder.join(SLURM),
        folder,
    }
}

fn make(built: &Path, sources: &Path, folder: &Path) {
    let payloads = folder.join("payloads");
    let scripts = [SITE, SLURM].map(|name| (sources.join(name), folder.join(name)));
    for path in [&payloads, &scripts[0].1, &scripts[1].1] {
        fs::create_dir_all(path).expect("the folder can be made");
    }
    for name in BINARIES.iter().chain(&[PRELOAD]) {
        let from = built.join(name);
        if from.exists() {
            fs::copy(&from, folder.join(name)).expect("binaries can be copied");
        }
    }
    for (name, ours) in NAMES {
        let _left_by_a_crash = fs::remove_file(folder.join(name));
        symlink(ours, folder.join(name)).expect("the folder is ours");
    }
    for payload in ALL {
        payload.build(sources, &payloads);
    }
    for (from, to) in &scripts {
        for script in files(from) {
            let name = script.file_name().expect("it is a file");
            fs::copy(&script, to.join(name)).expect("scripts can be copied");
        }
    }
    for path in [folder, &payloads, &scripts[0].1, &scripts[1].1] {
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(path, open).expect("the folder is ours");
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("the payloads are there");
    entries.flatten().map(|entry| entry.path()).collect()
}

/// Changes whenever a binary or a payload's source does.
fn fingerprint(built: &Path, sources: &Path) -> u64 {
    let mut files: Vec<PathBuf> = BINARIES.iter().map(|name| built.join(name)).collect();
    files.extend(Some(built.join(PRELOAD)).filter(|path| path.exists()));
    files.extend(self::files(sources));
    files.extend([SITE, SLURM].iter().flat_map(|name| self::files(&sources.join(name))));
    files.sort();
    let mut hasher = DefaultHasher::new();
    for file in files {
        let meta = fs::metadata(&file).expect("it was just seen");
        let time = meta.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
        (&file, meta.len(), time).hash(&mut hasher);
    }
    hasher.finish()
}
