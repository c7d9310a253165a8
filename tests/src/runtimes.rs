//! Real container runtimes for an ordinary user, as a site has them: podman (the machine's), podman-hpc
//! (from PyPI), Apptainer (from another Debian, in a root of its own), and what stands in for Shifter,
//! which nobody packages.
//!
//! They are made when they are first asked for, and kept: a folder `bin` for `$PATH`, roots that images
//! are made of, and the user's stores of images. Each part has a mark of its own, so that an interrupted
//! test leaves nothing half made.

mod images;
mod parts;

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use nix::fcntl::{Flock, FlockArg};

use crate::user::User;

pub use images::Image;

/// The runtimes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Runtime {
    Podman,
    PodmanHpc,
    Apptainer,
    Shifter,
}

/// All of them.
pub const RUNTIMES: [Runtime; 4] =
    [Runtime::Podman, Runtime::PodmanHpc, Runtime::Apptainer, Runtime::Shifter];

impl Runtime {
    /// Its name, for `--container`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Podman => "podman",
            Self::PodmanHpc => "podman-hpc",
            Self::Apptainer => "apptainer",
            Self::Shifter => "shifter",
        }
    }
}

/// Where all of it is.
#[derive(Debug)]
pub struct Runtimes {
    /// Who uses them.
    pub user: User,
    folder: PathBuf,
}

/// The runtimes, or nothing, which is said, where only root could make them.
///
/// # Panics
///
/// When one of them cannot be had.
pub fn runtimes() -> Option<&'static Runtimes> {
    static ALL: OnceLock<Option<Runtimes>> = OnceLock::new();
    ALL.get_or_init(|| {
        User::root()?;
        let user = User::ordinary();
        let folder = PathBuf::from("/var/tmp/ckpt-tests-runtimes");
        fs::create_dir_all(&folder).expect("root may");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))
            .expect("the folder is ours");
        let all = Runtimes { user, folder };
        all.prepare();
        Some(all)
    })
    .as_ref()
}

impl Runtimes {
    /// The folder with the runtimes' programs.
    pub fn bin(&self) -> PathBuf {
        self.at("bin")
    }

    /// The static set, where every user and every container can read it: `/tmp` is among the folders
    /// that the site brings into Shifter's.
    pub fn programs(&self) -> PathBuf {
        std::env::temp_dir().join("ckpt-tests-static")
    }

    /// What `$PATH` is for whoever works here.
    pub fn path(&self) -> String {
        let (programs, bin) = (self.programs(), self.bin());
        format!("{}:{}:/usr/bin:/bin:/usr/sbin:/sbin", programs.display(), bin.display())
    }

    /// The word for `--image`; the image is made if it is not there yet.
    pub fn image(&self, runtime: Runtime, image: Image) -> String {
        let _lock = self.lock();
        images::ready(self, runtime, image)
    }

    /// A command of the user's that finds the runtimes.
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.user.command(Path::new(program));
        command.env("PATH", self.path());
        command
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// One test process makes things, the others wait for that.
    fn lock(&self) -> Flock<File> {
        let file = File::create(self.at("lock")).expect("the folder is ours");
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| e).expect("a lock can be had")
    }

    fn prepare(&self) {
        let _lock = self.lock();
        parts::programs(self);
        self.once("debian", parts::debian);
        self.once("sid", parts::sid);
        self.once("hpc", parts::podman_hpc);
        self.once("bin", parts::wrappers);
    }

    /// Makes a part, unless it is there.
    fn once(&self, name: &str, make: impl FnOnce(&Self)) {
        let mark = self.at(&format!("{name}.made"));
        if !mark.exists() {
            let begun = std::time::Instant::now();
            make(self);
            File::create(mark).expect("the folder is ours");
            println!("{name} made in {:.1} s", begun.elapsed().as_secs_f64());
        }
    }
}

/// Runs a command that must succeed.
fn must(command: &mut Command) {
    let output = command.stdin(std::process::Stdio::null()).output();
    let output = output.unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&said));
}

fn executable(path: &Path, text: &str) {
    fs::write(path, text).expect("the folder is ours");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("the file is ours");
}
