//! The container runtimes: how a command line for each looks.
//!
//! Every one gets our programs, the current and the checkpoint directory under their own names, and
//! the host's network (a coordinator may be on another node). Beyond that the runtime's own defaults
//! hold, as its users know them: Apptainer and Shifter hand on the environment and the home directory,
//! podman neither.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use ckpt_core::{Error, ErrorKind, Result};
use clap::ValueEnum;

use super::Container;

/// Where our programs are, inside.
pub const PROGRAMS: &str = "/opt/ckpt";

/// The runtimes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Runtime {
    /// podman
    Podman,
    /// podman-hpc
    PodmanHpc,
    /// Apptainer, or Singularity
    Apptainer,
    /// Shifter
    Shifter,
}

/// What is run in a container.
#[derive(Debug)]
pub struct Run<'a> {
    /// The folder of our programs, outside.
    pub programs: &'a Path,
    /// The container's name, where containers have names.
    pub name: &'a str,
    /// The working directory; it must be among the container's folders.
    pub here: &'a Path,
    /// Whether the payload is to have our stdin.
    pub stdin: bool,
    /// Our umask.
    pub umask: u32,
    /// One of our programs, by its file name.
    pub program: &'a str,
    /// Its arguments.
    pub words: Vec<OsString>,
}

impl Runtime {
    /// Its name on the command line and in images.
    pub fn name(self) -> &'static str {
        match self {
            Self::Podman => "podman",
            Self::PodmanHpc => "podman-hpc",
            Self::Apptainer => "apptainer",
            Self::Shifter => "shifter",
        }
    }

    /// The runtime of that name.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] if this version knows none.
    pub fn named(name: &str) -> Result<Self> {
        Self::value_variants().iter().copied().find(|it| it.name() == name).ok_or_else(|| {
            let what = format!("the job was in a container of {name:?}, which is not known here");
            Error::new(ErrorKind::Unsupported, what)
                .help("enter the container by hand, and use `ckpt-restore --container none` there")
        })
    }

    /// Its program: the first that is in `$PATH`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if there is none.
    pub fn program(self) -> Result<PathBuf> {
        let names: &[&str] = match self {
            Self::Apptainer => &["apptainer", "singularity"],
            other => &[other.name()],
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = names.iter().find_map(|name| {
            std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
        });
        found.ok_or_else(|| {
            let what = format!("there is no {} in $PATH", self.name());
            Error::new(ErrorKind::NotFound, what).help(
                "load its module, or choose another with --container; inside a container already, \
                 leave --container away (ckpt-restore: --container none)",
            )
        })
    }

    /// Whether it keeps descriptors other than those that it is told of from its containers, and stdin
    /// for itself.
    pub fn keeps_descriptors(self) -> bool {
        matches!(self, Self::Podman | Self::PodmanHpc)
    }

    /// Refuses arguments that are ours to give.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Usage`] for such a one.
    pub fn allows(self, arguments: &[String]) -> Result<()> {
        let ours: &[&str] = match self {
            Self::Podman | Self::PodmanHpc => &["--entrypoint", "--name", "--detach", "-d"],
            Self::Apptainer => &["--pwd", "--cwd"],
            Self::Shifter => &["--image"],
        };
        let stray = arguments.iter().map(|argument| argument.split('=').next().unwrap_or_default());
        match stray.into_iter().find(|option| ours.contains(option)) {
            Some(option) => {
                let what = format!("--container-arg={option}: that is for ckpt to say");
                Err(Error::new(ErrorKind::Usage, what)
                    .help("the command behind -- is what runs in the container, here"))
            }
            None => Ok(()),
        }
    }

    /// Whether its containers are processes of ours, in our process group: a terminal's signals reach
    /// them without our help.
    pub fn is_family(self) -> bool {
        matches!(self, Self::Apptainer | Self::Shifter)
    }

    /// The command.
    ///
    /// # Errors
    ///
    /// When the runtime is not there, or cannot name a folder.
    pub fn command(self, container: &Container, run: &Run<'_>) -> Result<Command> {
        let mut command = Command::new(self.program()?);
        command.args(self.words(container, run)?);
        Ok(command)
    }

    /// Its arguments.
    fn words(self, container: &Container, run: &Run<'_>) -> Result<Vec<OsString>> {
        let mut words = match self {
            Self::Podman | Self::PodmanHpc => self.podman(container, run)?,
            Self::Apptainer => self.apptainer(container, run)?,
            Self::Shifter => shifter(container, run),
        };
        words.extend(run.words.iter().cloned());
        Ok(words)
    }

    fn podman(self, container: &Container, run: &Run<'_>) -> Result<Vec<OsString>> {
        let mut words: Vec<OsString> = words(&["run", "--rm", "--name", run.name]);
        if !says(&container.arguments, "--net") {
            words.push("--network=host".into());
        }
        // A glob: all that there are.
        words.extend(self::words(&["--env", "SLURM_*", "--env", "OMP_*"]));
        for bind in self.binds(container, run)? {
            words.extend(self::words(&["--volume", &bind]));
        }
        words.extend(self::words(&["--workdir", &self.name_of(run.here)?]));
        // A reader of podman's own would read ahead.
        words.extend(run.stdin.then(|| "--preserve-fds=1".into()));
        if !["--user", "-u"].iter().any(|it| says(&container.arguments, it)) {
            // Ours, in the namespace of a rootless container, whatever the image says.
            words.push("--user=0".into());
        }
        if !says(&container.arguments, "--umask") {
            words.push(format!("--umask={:04o}", run.umask).into());
        }
        words.extend(container.arguments.iter().map(Into::into));
        words.push(format!("--entrypoint={PROGRAMS}/{}", run.program).into());
        if container.identity.is_empty() {
            words.push((&container.image).into());
        } else {
            // What the name stood for when it was looked at.
            words.extend(self::words(&["--pull=never", &container.identity]));
        }
        Ok(words)
    }

    fn apptainer(self, container: &Container, run: &Run<'_>) -> Result<Vec<OsString>> {
        let mut words = words(&["exec"]);
        for bind in self.binds(container, run)? {
            words.extend(self::words(&["--bind", &bind]));
        }
        words.extend(self::words(&["--pwd", &self.name_of(run.here)?]));
        words.extend(container.arguments.iter().map(Into::into));
        words.push((&container.image).into());
        words.push(format!("{PROGRAMS}/{}", run.program).into());
        Ok(words)
    }

    /// Our programs, and the container's folders.
    fn binds(self, container: &Container, run: &Run<'_>) -> Result<Vec<String>> {
        let mut binds = vec![format!("{}:{PROGRAMS}:ro", self.name_of(run.programs)?)];
        for folder in &container.folders {
            let folder = self.name_of(Path::new(folder))?;
            binds.push(format!("{folder}:{folder}"));
        }
        Ok(binds)
    }

    /// A folder's name, as it can stand in a list of binds.
    fn name_of(self, path: &Path) -> Result<String> {
        let name = path.to_str().filter(|name| !name.contains([':', ',']) && !name.ends_with('\\'));
        name.map(str::to_owned).ok_or_else(|| {
            let what = format!("{} cannot be named to {}", path.display(), self.name());
            Error::new(ErrorKind::Usage, what)
                .help("use a folder without colon and comma, and no backslash at its end")
        })
    }
}

/// The site says which folders are in there; those that we need must be among them.
fn shifter(container: &Container, run: &Run<'_>) -> Vec<OsString> {
    let mut words = Vec::new();
    if container.image != "-" {
        words.push(format!("--image={}", container.image).into());
    }
    words.extend(container.arguments.iter().map(Into::into));
    words.push(run.programs.join(run.program).into_os_string());
    words
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(Into::into).collect()
}

/// Whether one of the runtime's arguments begins so.
fn says(arguments: &[String], option: &str) -> bool {
    arguments.iter().any(|argument| argument.starts_with(option))
}

#[cfg(test)]
mod tests;
