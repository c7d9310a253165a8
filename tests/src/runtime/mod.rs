//! Real container runtimes, as an ordinary user finds them on a site: `podman`, `podman-hpc` and
//! `apptainer`, and an imitation of Shifter, which nobody packages. They are made on first use, by
//! root, and kept.
//!
//! A test puts [`Runtime::bin`] in front of the user's `PATH`, and types what a user would, with
//! the name that [`Runtime::image`] gives.

mod apptainer;
mod cache;
mod image;
mod podman;
mod podman_hpc;
mod shifter;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub use image::Image;
use nix::unistd::Uid;

use crate::user::User;

/// The runtimes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Debian's, rootless.
    Podman,
    /// The same with NERSC's wrapper.
    PodmanHpc,
    /// Debian's (of its unstable release), rootless.
    Apptainer,
    /// An imitation.
    Shifter,
}

/// One of them, ready for its user.
#[derive(Debug)]
pub struct Runtime {
    kind: Kind,
    user: User,
    bin: PathBuf,
    stand_in: Option<String>,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Podman, Self::PodmanHpc, Self::Apptainer, Self::Shifter];

    /// The command that a user types.
    pub fn program(self) -> &'static str {
        match self {
            Self::Podman => "podman",
            Self::PodmanHpc => "podman-hpc",
            Self::Apptainer => "apptainer",
            Self::Shifter => "shifter",
        }
    }
}

impl Runtime {
    /// The runtime for the ordinary user; if it is not root that runs the tests, says that the test
    /// is left out.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    pub fn of(kind: Kind) -> Option<Self> {
        if !Uid::effective().is_root() {
            eprintln!("left out: only root can make container runtimes");
            return None;
        }
        let user = User::ordinary();
        let mut stand_in = None;
        let bin = match kind {
            Kind::Podman => podman::ready(&user),
            Kind::PodmanHpc => podman_hpc::ready(&user),
            Kind::Shifter => shifter::ready(),
            Kind::Apptainer => {
                let (bin, why) = apptainer::ready();
                stand_in = why;
                bin
            }
        };
        Some(Self { kind, user, bin, stand_in })
    }

    /// Which it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Why it is a stand-in and not the real thing, if it is one.
    pub fn stand_in(&self) -> Option<&str> {
        self.stand_in.as_deref()
    }

    /// Whose it is.
    pub fn user(&self) -> &User {
        &self.user
    }

    /// The folder with its commands.
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// A `PATH` with its commands in front.
    pub fn path(&self) -> String {
        format!("{}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", self.bin.display())
    }

    /// What the user types for that image. It is made if it is not there yet.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    pub fn image(&self, image: Image) -> String {
        match self.kind {
            Kind::Podman | Kind::PodmanHpc => podman::image(self, image),
            Kind::Apptainer if self.stand_in.is_none() => apptainer::file(image),
            Kind::Apptainer => self.root(image).display().to_string(),
            Kind::Shifter => {
                self.root(image);
                image.part().title()
            }
        }
    }

    /// The image as a plain folder, which is what Apptainer calls a sandbox.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    pub fn root(&self, image: Image) -> PathBuf {
        made(image.part().folder()).join("root")
    }

    /// One of its commands, given by the user.
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.user.command(&self.bin.join(program));
        command.env("PATH", self.path()).current_dir("/").stdin(Stdio::null());
        command
    }
}

fn made<T>(part: Result<T, String>) -> T {
    part.unwrap_or_else(|why| panic!("{why}"))
}

/// Everywhere else udev has seen to this.
fn open_fuse() {
    let fuse = "/dev/fuse";
    let mode = fs::metadata(fuse).map_or(0o666, |meta| meta.permissions().mode());
    if mode & 0o666 != 0o666 {
        let open = fs::Permissions::from_mode(0o666);
        fs::set_permissions(fuse, open).expect("root may do that");
    }
}
