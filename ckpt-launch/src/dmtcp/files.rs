//! Names and small files that other programs look for.

use std::fmt;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ckpt_core::{Error, ErrorKind, Result};

/// A process or a computation, told from all others: `98ff-40000-fac0f3ea34`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UniqueId {
    /// A number for the host.
    pub host: u64,
    /// The process as the job numbers it.
    pub pid: i32,
    /// When it began.
    pub time: u64,
}

impl fmt::Display for UniqueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{}-{:x}", self.host, self.pid, self.time)
    }
}

impl FromStr for UniqueId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let read = || {
            let mut parts = text.splitn(3, '-');
            let host = u64::from_str_radix(parts.next()?, 16).ok()?;
            let pid = parts.next()?.parse().ok()?;
            Some(Self { host, pid, time: u64::from_str_radix(parts.next()?, 16).ok()? })
        };
        let wrong = || Error::new(ErrorKind::Usage, format!("{text:?} is no process of DMTCP's"));
        read().ok_or_else(wrong)
    }
}

/// The name of an image: `ckpt_bash_98ff-40000-fac0f3ea34.dmtcp`.
pub fn image_name(program: &str, hostid: u64, vpid: i32, time: u64) -> String {
    // A program's name is that of a file, but a process may call itself anything.
    let program = program.replace(['/', '\0'], "_");
    format!("ckpt_{program}_{}.dmtcp", UniqueId { host: hostid, pid: vpid, time })
}

/// Program and process of an image with such a name.
pub fn parse_image_name(name: &str) -> Option<(&str, UniqueId)> {
    let (program, id) = name.strip_prefix("ckpt_")?.strip_suffix(".dmtcp")?.rsplit_once('_')?;
    Some((program, id.parse().ok()?))
}

/// The directory that a generation has to itself, with unique file names.
pub fn unique_directory(computation: UniqueId, generation: u32) -> String {
    format!("ckpt_{computation}_{generation:05}")
}

/// Writes the port that is used, for those who asked for any: decimal, without a newline. Whoever
/// finds the file finds all of it.
///
/// # Errors
///
/// When it cannot be written.
pub fn write_port(path: &Path, port: u16) -> Result<()> {
    let text = port.to_string();
    // A pipe or /dev/stdout cannot be replaced and needn't be.
    if fs::metadata(path).is_ok_and(|meta| !meta.is_file()) {
        return fs::write(path, text).map_err(|e| cannot_write(path, e));
    }
    publish(path, text.as_bytes(), 0o600)
}

/// Puts a file in place, all at once, replacing what had its name.
///
/// # Errors
///
/// When it cannot be written; nothing is left behind.
pub fn publish(path: &Path, contents: &[u8], mode: u32) -> Result<()> {
    replace(path, |temporary| {
        let mut file: File =
            OpenOptions::new().write(true).create_new(true).mode(mode).open(temporary)?;
        // The umask may have taken something away.
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(contents)?;
        file.sync_all()
    })
}

/// Puts a symbolic link in place, all at once, replacing what had its name.
///
/// # Errors
///
/// When it cannot be made; nothing is left behind.
pub fn publish_link(path: &Path, target: &str) -> Result<()> {
    replace(path, |temporary| symlink(target, temporary))
}

fn replace(path: &Path, make: impl Fn(&Path) -> io::Result<()>) -> Result<()> {
    let temporary = temporary(path);
    let _left_by_a_crash = fs::remove_file(&temporary);
    make(&temporary).and_then(|()| fs::rename(&temporary, path)).map_err(|e| {
        let _ = fs::remove_file(&temporary);
        cannot_write(path, e)
    })
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.temp", std::process::id()));
    path.with_file_name(name)
}

fn cannot_write(path: &Path, error: io::Error) -> Error {
    Error::os(format!("cannot write {}", path.display()), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_names() {
        let name = image_name("my_prog-1", 0x98ff, 40000, 0xfa_c0f3_ea34);
        assert_eq!(name, "ckpt_my_prog-1_98ff-40000-fac0f3ea34.dmtcp");
        let id = UniqueId { host: 0x98ff, pid: 40000, time: 0xfa_c0f3_ea34 };
        assert_eq!(parse_image_name(&name), Some(("my_prog-1", id)));
        assert_eq!(image_name("a/b", 1, 2, 3), "ckpt_a_b_1-2-3.dmtcp");
        assert_eq!(unique_directory(id, 7), "ckpt_98ff-40000-fac0f3ea34_00007");
        for bad in [
            "",
            "ckpt_x.dmtcp",
            "ckpt_x_1-2.dmtcp",
            "ckpt_x_1-2-3",
            "x_1-2-3.dmtcp",
            "ckpt_x_1-2-3-4.dmtcp",
            "ckpt_x_g-2-3.dmtcp",
            "ckpt_x_1-2-3.dmtcp.temp",
        ] {
            assert_eq!(parse_image_name(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_port_file_is_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("port");
        fs::write(&path, "123456789").unwrap();
        write_port(&path, 7779).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"7779");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        write_port(Path::new("/dev/null"), 1).unwrap();
        let error = write_port(&dir.path().join("no/port"), 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("no/port"), "{error}");
    }
}
