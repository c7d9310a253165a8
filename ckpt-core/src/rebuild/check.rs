//! Checks, before anything is made, that this host can bring the job back rightly.

use std::ffi::{CString, OsStr};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;

use crate::error::{Error, ErrorKind, Result};
use crate::image::Reader;
use crate::kinds::credentials::Credentials;
use crate::kinds::file::{Named, What};
use crate::os::{PAGE, cpu, elf, proc, spawn};
use crate::snapshot::{Mapped, Snapshot};

/// `EM_X86_64` of elf(5).
const X86_64: u16 = 62;

/// Compares the image with this host.
///
/// # Errors
///
/// What differs in a way that would make the restart wrong.
pub(crate) fn host(image: &Reader, snapshot: &Snapshot, force: bool) -> Result<()> {
    let header = image.header();
    if header.arch != X86_64 || u64::from(header.page_size) != PAGE {
        let (arch, size) = (header.arch, header.page_size);
        let what = format!("the image is of machine type {arch} with pages of {size} bytes");
        return Err(Error::new(ErrorKind::Unsupported, what));
    }
    features(snapshot)?;
    let own = Credentials::of(std::process::id() as i32)?;
    if own.uids[1] != snapshot.launcher.credentials.uids[1] {
        let (theirs, ours) = (snapshot.launcher.credentials.uids[1], own.uids[1]);
        let what = format!("the job is of user {theirs}, and this is user {ours}");
        return Err(
            Error::new(ErrorKind::Permission, what).help("restart it as the user who started it")
        );
    }
    groups(&own, &snapshot.launcher.credentials, force)?;
    for (process, live) in snapshot.alive() {
        let root = proc::link(std::process::id() as i32, "root")?;
        if live.attributes.root != root {
            let root = String::from_utf8_lossy(&live.attributes.root).into_owned();
            let what = format!("the root directory was {root}");
            return Err(Error::new(ErrorKind::Unsupported, what).whose(process));
        }
        let first = live.tasks.first();
        if first.is_none_or(|task| task.tid != process.pid) {
            return Err(Error::new(ErrorKind::Damaged, "a process has no first task"));
        }
        if live.space.vdso.0 == 0 {
            let what = "the image comes from a kernel without a vDSO";
            return Err(Error::new(ErrorKind::Unsupported, what));
        }
        let cwd = OsStr::from_bytes(&live.attributes.cwd);
        if !fs::metadata(cwd).is_ok_and(|meta| meta.is_dir()) {
            let what = format!("the working directory {} is not there", cwd.display());
            return Err(Error::new(ErrorKind::NotFound, what).whose(process));
        }
    }
    files(snapshot)
}

/// The job has the groups that we have, and must not find itself without one. Root takes those of
/// the job: the restorer, with one thread as yet, stands where the launcher stood.
fn groups(own: &Credentials, job: &Credentials, force: bool) -> Result<()> {
    if own.has_groups_of(job) {
        return Ok(());
    }
    if spawn::may_set_groups() {
        match job.take_groups() {
            Err(error) if force => tracing::warn!(%error, "it goes on with others"),
            taken => return taken,
        }
    }
    let shown = |credentials: &Credentials| {
        let groups = std::iter::once(&credentials.gids[1]).chain(&credentials.groups);
        groups.map(u32::to_string).collect::<Vec<_>>().join(" ")
    };
    let what = format!("the job is of the groups {}, and this is of {}", shown(job), shown(own));
    if force {
        tracing::warn!("{what}: it goes on with these");
        return Ok(());
    }
    Err(Error::new(ErrorKind::Permission, what).help(
        "restart it with the groups that it was started with (`newgrp`, `sg`), or with these by \
         --force",
    ))
}

fn features(snapshot: &Snapshot) -> Result<()> {
    let here = cpu::features();
    let missing: Vec<&str> = snapshot
        .host
        .features
        .iter()
        .filter(|feature| here.binary_search(feature).is_err())
        .map(String::as_str)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let what = format!("this processor lacks what the job may use: {}", missing.join(", "));
    Err(Error::new(ErrorKind::Unsupported, what)
        .help("restart on a node of the kind where the job was started"))
}

fn files(snapshot: &Snapshot) -> Result<()> {
    for mapped in &snapshot.mapped {
        self::mapped(mapped)?;
    }
    for file in &snapshot.files {
        if let What::Named(named) = &file.what {
            let writable = file.flags & libc::O_ACCMODE != libc::O_RDONLY;
            // A file of procfs is another with every process.
            if !named.path.starts_with(b"/proc/") && file.flags & libc::O_PATH == 0 {
                named.check(file.position, writable)?;
            }
        }
    }
    Ok(())
}

/// A mapped file must be the one that it was: its clean pages are not in the image.
fn mapped(mapped: &Mapped) -> Result<()> {
    let file = &mapped.file;
    let path = OsStr::from_bytes(&file.path);
    let meta = fs::metadata(path).map_err(|e| {
        let error = Error::os(format!("cannot find {}, which the job maps", file.shown()), e);
        error.help("restart in the same container image, or where the file is")
    })?;
    if mapped.writable {
        return Ok(());
    }
    let now = Named::of(&file.path, &meta);
    // A build id decides where there is one: a package built anew may have the old time stamp.
    let same = match mapped.build_id.as_deref() {
        known @ Some(_) => elf::build_id(&file.path).as_deref() == known,
        None => now.modified == file.modified,
    };
    if same && now.size == file.size {
        return Ok(());
    }
    let what = format!("{}, which the job maps, is not the file that it was", file.shown());
    Err(Error::new(ErrorKind::Unsupported, what)
        .help("restart in the same container image, or put the old file back"))
}

/// Program and personality of each process, for its execve(2).
pub(crate) fn programs(snapshot: &Snapshot) -> Result<Vec<(CString, u32)>> {
    let program = |process: &crate::snapshot::Process| {
        let Some(live) = process.live() else { return Ok((CString::default(), 0)) };
        let path = OsStr::from_bytes(&live.space.program);
        let executable = fs::metadata(path).is_ok_and(|m| m.permissions().mode() & 0o111 != 0);
        let path = CString::new(live.space.program.clone()).ok().filter(|_| executable);
        path.map(|path| (path, live.attributes.personality)).ok_or_else(|| {
            let program = String::from_utf8_lossy(&live.space.program);
            Error::new(ErrorKind::NotFound, format!("the program {program} is not there"))
                .whose(process)
                .help("restart in the same container image")
        })
    };
    snapshot.processes.iter().map(program).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    /// This test's own program, which has a build id.
    fn own() -> Mapped {
        let path = std::env::current_exe().unwrap().into_os_string().into_vec();
        let file = Named::of(&path, &fs::metadata(OsStr::from_bytes(&path)).unwrap());
        let build_id = elf::build_id(&path);
        assert!(build_id.is_some());
        Mapped { file, build_id, writable: false }
    }

    #[test]
    fn a_mapped_file_is_known_by_its_build_id_else_by_its_time_and_always_by_its_size() {
        let change = |change: fn(&mut Mapped)| {
            let mut mapped = own();
            change(&mut mapped);
            super::mapped(&mapped).is_ok()
        };
        assert!(change(|_| ()));
        assert!(change(|m| m.file.modified += 1));
        assert!(!change(|m| m.build_id = Some(vec![1; 20])));
        assert!(!change(|m| m.file.size += 1));
        assert!(change(|m| m.build_id = None));
        assert!(!change(|m| (m.build_id, m.file.modified) = (None, 1)));
        assert!(!change(|m| (m.build_id, m.file.size) = (None, 1)));
    }
}
