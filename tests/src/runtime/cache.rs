//! What takes long to make, kept over tests and runs: each part in a folder that is named after what
//! it is made from, made by whoever comes first while the others wait.

use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use nix::fcntl::{Flock, FlockArg};

use crate::user::User;

/// Not in /tmp: what is there may be cleared at every boot.
const CACHE: &str = "/var/tmp/ckpt-tests-runtimes";

/// Who could not be made is not tried again before this is over.
const AGAIN: Duration = Duration::from_secs(600);

/// A folder and the shell script that fills it, given the folders of the parts that it builds on as
/// `$1`, `$2` …, and these variables: `CACHE`, `SOURCES` (this folder), `PAYLOADS`, `GROUP` (the
/// ordinary user's).
#[derive(Debug, Clone)]
pub(super) struct Part {
    name: String,
    script: String,
    /// Files that the script reads.
    sources: String,
    on: Vec<Part>,
}

impl Part {
    pub(super) fn new(name: &str, script: &str, sources: &[&str], on: &[&Part]) -> Self {
        let on = on.iter().map(|&part| part.clone()).collect();
        Self { name: name.into(), script: script.into(), sources: sources.concat(), on }
    }

    /// Changes when anything does that it is made from.
    pub(super) fn key(&self) -> String {
        let mut hasher = DefaultHasher::new();
        (&self.name, &self.script, &self.sources, User::ordinary().uid()).hash(&mut hasher);
        self.on.iter().for_each(|part| part.key().hash(&mut hasher));
        format!("{:08x}", hasher.finish() as u32)
    }

    /// What it is called, key and all.
    pub(super) fn title(&self) -> String {
        format!("{}-{}", self.name, self.key())
    }

    /// Its folder, made if it is not there yet. Only root can do that.
    pub(super) fn folder(&self) -> Result<PathBuf, String> {
        let below: Result<Vec<PathBuf>, String> = self.on.iter().map(Part::folder).collect();
        let below = below?;
        let title = self.title();
        let folder = cache().join(&title);
        let beside = |ending| cache().join(format!("{title}.{ending}"));
        let _lock = lock(&title);
        if beside("ready").exists() {
            return Ok(folder);
        }
        let failed = || Err(format!("{title} cannot be made; see {}", beside("log").display()));
        if age(&beside("failed")).is_some_and(|age| age < AGAIN) {
            return failed();
        }
        let begun = Instant::now();
        if !self.make(&below, &folder, &beside("log")) {
            File::create(beside("failed")).expect("the cache is ours");
            return failed();
        }
        let took = format!("{title} made in {:.1} s\n", begun.elapsed().as_secs_f64());
        eprint!("{took}");
        fs::write(beside("ready"), took).expect("the cache is ours");
        Ok(folder)
    }

    fn make(&self, below: &[PathBuf], folder: &Path, log: &Path) -> bool {
        let _left_by_a_failure = fs::remove_dir_all(folder);
        open_folder(folder);
        let log = File::create(log).expect("the cache is ours");
        let mut shell = Command::new("/bin/sh");
        shell.args(["-euc", &self.script, "sh"]).args(below).current_dir(folder);
        shell.env("LC_ALL", "C.UTF-8").env("DEBIAN_FRONTEND", "noninteractive");
        let path = std::env::var("PATH").unwrap_or_default();
        shell
            .env("PATH", format!("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:{path}"));
        let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        shell.env("CACHE", cache()).env("SOURCES", crate_folder.join("src/runtime"));
        shell.env("PAYLOADS", crate_folder.join("payloads"));
        shell.env("GROUP", User::ordinary().gid().to_string());
        shell.stdin(Stdio::null()).stdout(log.try_clone().expect("descriptors are left"));
        shell.stderr(log).status().is_ok_and(|status| status.success())
    }
}

fn age(path: &Path) -> Option<Duration> {
    let modified = fs::metadata(path).and_then(|meta| meta.modified()).ok()?;
    Some(SystemTime::now().duration_since(modified).unwrap_or_default())
}

/// The folder of it all.
pub(super) fn cache() -> &'static Path {
    let cache = Path::new(CACHE);
    open_folder(cache);
    let meta = fs::symlink_metadata(cache).expect("it was just made");
    assert!(meta.is_dir() && meta.uid() == 0, "{CACHE} belongs to somebody else");
    cache
}

/// A folder that all may look into, whatever the umask.
fn open_folder(path: &Path) {
    let old = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(path);
    nix::sys::stat::umask(old);
    made.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// A folder of the user's own.
pub(super) fn users_folder(user: &User, path: &Path) {
    open_folder(path);
    let owner = fs::symlink_metadata(path).expect("it was just made").uid();
    if owner == 0 {
        user.own(path);
    } else {
        assert_eq!(owner, user.uid(), "{} belongs to somebody else", path.display());
    }
}

/// Held by one process at a time.
pub(super) fn lock(name: &str) -> Flock<File> {
    let path = cache().join(format!("{name}.lock"));
    let file = File::create(path).expect("the cache is ours");
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| e).expect("a lock can be had")
}
