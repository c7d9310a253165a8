//! The flags that speak of containers.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::runtime::Runtime;

/// In which container.
#[derive(Debug, Clone, Args, Default)]
#[command(next_help_heading = "Container")]
pub struct InContainer {
    /// In a container, by this runtime
    #[arg(long, value_name = "RUNTIME", requires = "image")]
    pub container: Option<Runtime>,
    /// The container image, as the runtime knows it (Shifter: or "-", the Slurm job's)
    #[arg(long, value_name = "IMAGE", requires = "container", allow_hyphen_values = true)]
    pub image: Option<String>,
    /// A further argument for the runtime's run or exec; may be given several times
    #[arg(long, value_name = "ARG", requires = "container", allow_hyphen_values = true)]
    pub container_arg: Vec<String>,
    /// The socket of the half outside
    #[arg(long, value_name = "SOCKET", hide = true)]
    pub inside: Option<PathBuf>,
}

impl InContainer {
    /// The same as words of a command line.
    pub fn words(&self) -> Vec<OsString> {
        let mut words = Vec::new();
        if let (Some(runtime), Some(image)) = (self.container, &self.image) {
            words.push(format!("--container={}", runtime.name()).into());
            words.push(format!("--image={image}").into());
        }
        let arguments = self.container_arg.iter();
        words.extend(arguments.map(|word| format!("--container-arg={word}").into()));
        words
    }
}

/// In which container a job comes back.
#[derive(Debug, Clone, Args, Default)]
#[command(next_help_heading = "Container")]
pub struct BackInContainer {
    /// Which runtime [default: the one that the job was started with]; none: right here
    #[arg(long, value_name = "RUNTIME|none")]
    pub container: Option<Wanted>,
    /// The container image [default: the job's]
    // (The other IMAGE of ckpt-restore is called so, too.)
    #[arg(
        id = "container_image",
        long = "image",
        value_name = "IMAGE",
        allow_hyphen_values = true
    )]
    pub image: Option<String>,
    /// A further argument for the runtime; may be given several times [default: those that the job
    /// was started with]
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub container_arg: Vec<String>,
    /// Go on although the container image is another one; programs and libraries that the job has
    /// mapped must be the same all the same
    #[arg(long)]
    pub other_image: bool,
    /// The socket of the half outside
    #[arg(long, value_name = "SOCKET", hide = true)]
    pub inside: Option<PathBuf>,
}

/// A runtime, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum Wanted {
    Podman,
    PodmanHpc,
    Apptainer,
    Shifter,
    /// Right here
    None,
}

impl Wanted {
    /// The runtime.
    pub fn runtime(self) -> Option<Runtime> {
        Some(match self {
            Self::Podman => Runtime::Podman,
            Self::PodmanHpc => Runtime::PodmanHpc,
            Self::Apptainer => Runtime::Apptainer,
            Self::Shifter => Runtime::Shifter,
            Self::None => return None,
        })
    }
}
