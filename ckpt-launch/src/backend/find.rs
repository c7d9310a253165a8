//! Where a real DMTCP is. Commands of ours go by the same names, as links, and are passed over.

use std::env;
use std::ffi::OsStr;
use std::fs::Metadata;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use ckpt_core::{Error, ErrorKind, Result};

use crate::run;

/// What a DMTCP must have to be of use.
const COMMANDS: [&str; 4] = ["dmtcp_launch", "dmtcp_coordinator", "dmtcp_command", "dmtcp_restart"];
/// What links of ours may resolve to.
const OURS: [&str; 3] = ["ckpt-launch", "ckpt-restore", "ckpt"];
/// `dmtcp_launch --version` needs some milliseconds, and longer from a network's disk.
const VERSION_TIME: Duration = Duration::from_secs(10);

/// A DMTCP that is installed here.
#[derive(Debug, Clone)]
pub struct Found {
    /// The directory of its commands.
    pub bin: PathBuf,
    /// As it says itself: "5.0".
    pub version: String,
}

impl Found {
    /// One of its commands, ready for arguments.
    pub(super) fn command(&self, name: &str) -> Command {
        Command::new(self.bin.join(name))
    }
}

/// Finds a DMTCP in `named` (a prefix or its `bin`), else in `$DMTCP_HOME`, else in `$PATH`.
///
/// # Errors
///
/// [`ErrorKind::Unsupported`] if there is none, or none where it was said to be; otherwise what
/// went wrong when it was asked for its version.
pub fn find(named: Option<&Path>) -> Result<Found> {
    let (home, path) = (env::var_os("DMTCP_HOME"), env::var_os("PATH"));
    let bin = locate(named, home.as_deref(), path.as_deref())?;
    let mut command = Command::new(bin.join("dmtcp_launch"));
    let said = run::run(command.arg("--version"), Instant::now() + VERSION_TIME)?;
    let version = said.text.lines().next().and_then(|line| line.rsplit(' ').next());
    match version.filter(|_| said.status.success()) {
        Some(version) => Ok(Found { version: version.to_owned(), bin }),
        None => {
            let program = bin.join("dmtcp_launch");
            let last = said.text.lines().last().unwrap_or("it says nothing");
            Err(missing(format!("{} does not tell its version ({last})", program.display())))
        }
    }
}

/// The bin directory.
fn locate(named: Option<&Path>, home: Option<&OsStr>, path: Option<&OsStr>) -> Result<PathBuf> {
    let home = home.filter(|home| !home.is_empty()).map(Path::new);
    if let Some(place) = named.or(home) {
        let bins = [place.join("bin"), place.to_owned()];
        let found = bins.into_iter().find(|bin| is_dmtcp(bin));
        return found
            .ok_or_else(|| missing(format!("there is no DMTCP in {}", place.display())))
            .map(|bin| std::path::absolute(&bin).unwrap_or(bin));
    }
    let mut bins = path.map(env::split_paths).into_iter().flatten();
    let bin = bins.find(|bin| bin.is_absolute() && is_dmtcp(bin));
    bin.ok_or_else(|| missing("there is no DMTCP on this host".to_owned()))
}

fn is_dmtcp(bin: &Path) -> bool {
    COMMANDS.iter().all(|name| {
        let path = bin.join(name);
        path.metadata().is_ok_and(|meta| {
            meta.is_file() && meta.permissions().mode() & 0o111 != 0 && !is_ours(&path, &meta)
        })
    })
}

fn is_ours(path: &Path, meta: &Metadata) -> bool {
    let by_name = path.canonicalize().is_ok_and(|target| {
        target.file_name().is_some_and(|name| OURS.iter().any(|ours| name == *ours))
    });
    // "/proc/self/exe" is right even where our file was renamed since.
    let own = Path::new("/proc/self/exe").metadata();
    by_name || own.is_ok_and(|own| (own.dev(), own.ino()) == (meta.dev(), meta.ino()))
}

fn missing(what: String) -> Error {
    Error::new(ErrorKind::Unsupported, what).help(
        "get it with Spack (spack install dmtcp), from EPEL (dnf install dmtcp), on openSUSE \
         (zypper install dmtcp) or by your site's module (module load dmtcp); where it is can be \
         said with --dmtcp DIR or $DMTCP_HOME",
    )
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn install(bin: &Path, make: impl Fn(&Path)) {
        fs::create_dir_all(bin).unwrap();
        COMMANDS.iter().for_each(|name| make(&bin.join(name)));
    }

    fn program(path: &Path) {
        fs::write(path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn our_own_links_are_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let (links, same, real) =
            (dir.path().join("links"), dir.path().join("same"), dir.path().join("real/bin"));
        program(&dir.path().join("ckpt-launch"));
        install(&links, |path| symlink("../ckpt-launch", path).unwrap());
        install(&same, |path| symlink(env::current_exe().unwrap(), path).unwrap());
        install(&real, program);
        let path = env::join_paths([&links, &same, &real]).unwrap();
        assert_eq!(locate(None, None, Some(&path)).unwrap(), real);
        let none = locate(None, None, Some(links.as_os_str())).unwrap_err();
        assert_eq!(none.kind(), ErrorKind::Unsupported);
        assert!(none.to_string().contains("spack install dmtcp"), "{none}");
    }

    #[test]
    fn what_is_named_goes_first_and_must_be_there() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        install(&one.join("bin"), program);
        install(&two.join("bin"), program);
        let located =
            |named: Option<&Path>, home: &Path| locate(named, Some(home.as_os_str()), None);
        assert_eq!(located(Some(&one), &two).unwrap(), one.join("bin"));
        assert_eq!(located(Some(&one.join("bin")), &two).unwrap(), one.join("bin"));
        assert_eq!(located(None, &two).unwrap(), two.join("bin"));
        assert!(located(Some(dir.path()), &two).unwrap_err().to_string().contains("no DMTCP in"));
        assert_eq!(located(None, Path::new("")).unwrap_err().kind(), ErrorKind::Unsupported);
    }
}
