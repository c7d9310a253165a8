//! Where this process is: in which container, under which restrictions.

use std::path::Path;

use super::{Fact, Grade, fact};
use crate::os::proc;

/// A container, as it looks from inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    /// None that is known.
    None,
    /// podman, podman-hpc.
    Podman,
    /// Docker.
    Docker,
    /// Apptainer, Singularity.
    Apptainer,
    /// Shifter.
    Shifter,
}

impl Container {
    /// The one around this process.
    pub fn here() -> Self {
        let has = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        // These two hand on files of the host's, and are told by what they set.
        if has("APPTAINER_CONTAINER") || has("SINGULARITY_CONTAINER") {
            Self::Apptainer
        } else if has("SHIFTER_RUNTIME") {
            Self::Shifter
        } else if Path::new("/run/.containerenv").exists() {
            Self::Podman
        } else if Path::new("/.dockerenv").exists() {
            Self::Docker
        } else {
            Self::None
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Podman => "podman",
            Self::Docker => "Docker",
            Self::Apptainer => "Apptainer",
            Self::Shifter => "Shifter",
        }
    }

    /// What lets all system calls through.
    pub(super) fn free_calls(self) -> Option<&'static str> {
        match self {
            Self::Podman => Some("--container-arg=--security-opt=seccomp=unconfined"),
            Self::Docker => Some("docker run --security-opt seccomp=unconfined"),
            Self::None | Self::Apptainer | Self::Shifter => None,
        }
    }

    /// What lets a new /proc be mounted inside.
    pub(super) fn unmasked_proc(self) -> Option<&'static str> {
        match self {
            Self::Podman => Some("--container-arg=--security-opt=unmask=ALL"),
            Self::Docker => Some("docker run --security-opt systempaths=unconfined"),
            Self::None | Self::Apptainer | Self::Shifter => None,
        }
    }
}

pub(super) fn container(container: Container) -> Fact {
    let own = std::process::id().cast_signed();
    let field = |name| proc::status_field(own, name).ok().flatten().unwrap_or_default();
    let mut way = vec![container.name().to_owned()];
    way.push(match field("Seccomp").as_str() {
        "2" => "a seccomp filter".into(),
        "1" => "strict seccomp".into(),
        _ => "no seccomp filter".into(),
    });
    way.extend((field("NoNewPrivs") == "1").then(|| "no_new_privs".to_owned()));
    fact("container", Grade::Good, way.join(", "), None)
}
