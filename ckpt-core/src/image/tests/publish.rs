//! An image is there as a whole or not at all, whatever its writer meets with.

use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;
use crate::ErrorKind;
use crate::image::format::HEADER_LEN;

#[test]
fn nothing_is_visible_before_commit_and_nothing_left_after_drop() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Writer::create(dir.path(), &name(1), &new(1), 1.into()).unwrap();
    writer.append(&[1; 5000], &mut Packer::new().unwrap()).unwrap();
    let temp = format!(".{}.tmp-{}", name(1), std::process::id());
    assert_eq!(names(dir.path()), [temp]);
    assert!(Directory::open(dir.path()).unwrap().images().unwrap().is_empty());
    drop(writer);
    assert!(names(dir.path()).is_empty());
}

#[test]
fn images_and_directories_are_private() {
    let dir = tempfile::tempdir().unwrap();
    let dir = Directory::create(dir.path().join("a/b")).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(dir.path()), 0o700);
    assert_eq!(mode(dir.path().parent().unwrap()), 0o700);
    assert_eq!(mode(&small(dir.path(), &new(1))), 0o600);
    Directory::create(dir.path()).unwrap();
}

#[test]
fn a_symbolic_link_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let victim = dir.path().join("victim");
    std::fs::write(&victim, "precious").unwrap();
    let temp = format!(".{}.tmp-{}", name(1), std::process::id());
    symlink(&victim, dir.path().join(name(1))).unwrap();
    symlink(&victim, dir.path().join(&temp)).unwrap();
    let error = Writer::create(dir.path(), &name(1), &new(1), 1.into()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    std::fs::remove_file(dir.path().join(&temp)).unwrap();
    let path = small(dir.path(), &new(1));
    assert!(std::fs::symlink_metadata(&path).unwrap().is_file());
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");

    let link = dir.path().join(name(2));
    symlink(&path, &link).unwrap();
    let error = Reader::open(&link).unwrap_err();
    assert!(error.to_string().contains("symbolic link"), "{error}");
    assert!(Reader::open(dir.path()).is_err());
    let mut bad = 0;
    let directory = Directory::open(dir.path()).unwrap();
    let good = directory.newest_good(None, Whose::Trusted, &mut |_, _| bad += 1).unwrap();
    assert_eq!((good.header().generation, bad), (1, 1));
}

#[test]
fn a_pipe_in_an_images_place_does_not_block() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name(1));
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode).unwrap();
    assert!(Reader::open(&path).unwrap_err().to_string().contains("not a regular file"));
    assert!(Directory::open(dir.path()).unwrap().images().unwrap()[0].header.is_err());
}

#[test]
fn names_that_are_none_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let long = format!("{}.ckpt", "x".repeat(250));
    for name in ["", "x", ".ckpt", ".x.ckpt", "../x.ckpt", "a/b.ckpt", "a\0.ckpt", &long] {
        let error = Writer::create(dir.path(), name, &new(1), 1.into()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage, "{name}");
    }
    let missing = dir.path().join("missing");
    let error = Writer::create(&missing, "x.ckpt", &new(1), 1.into()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn what_dead_writers_left_is_removed_and_what_live_ones_write_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let live = Writer::create(dir.path(), &name(1), &new(1), 1.into()).unwrap();
    // One of another process, one with our own PID (in containers they come again), and files
    // that are none of ours.
    let own = format!(".{}.tmp-{}", name(2), std::process::id());
    let others = [".x.ckpt.tmp-", ".x.ckpt.tmp-1a", ".x.tmp-12", "x.ckpt.tmp-12", "x.ckpt.bad"];
    for stale in [".x.ckpt.tmp-4194303", &own].iter().chain(&others) {
        std::fs::write(dir.path().join(stale), "left").unwrap();
    }
    small(dir.path(), &new(2));
    let error = Writer::create(dir.path(), &name(1), &new(1), 1.into()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    live.commit().unwrap();
    let mut left: Vec<String> = others.iter().map(|name| name.to_string()).collect();
    left.extend([name(1), name(2)]);
    left.sort();
    assert_eq!(names(dir.path()), left);
}

#[test]
fn writers_at_once_do_not_disturb_each_other() {
    let dir = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let dir = dir.path();
            scope.spawn(move || (0..20).for_each(|n| drop(small(dir, &new(thread * 100 + n)))));
        }
    });
    let images = Directory::open(dir.path()).unwrap().images().unwrap();
    assert_eq!(images.len(), 160);
    assert_eq!(names(dir.path()).len(), 160);
    assert!(images.iter().all(|entry| check(&entry.path).is_ok()));
}

/// Until the rename only the temporary file changes, so a crash leaves any length of it; some file
/// systems also lose bytes of what was renamed.
#[test]
fn a_crash_at_any_point_leaves_the_generation_before() {
    let whole = tempfile::tempdir().unwrap();
    let whole = std::fs::read(small(whole.path(), &new(2))).unwrap();
    let dir = tempfile::tempdir().unwrap();
    small(dir.path(), &new(1));
    let directory = Directory::open(dir.path()).unwrap();
    let temp = dir.path().join(format!(".{}.tmp-4194303", name(2)));
    let last = dir.path().join(name(2));
    let newest = || {
        let mut bad = Vec::new();
        let reader = directory
            .newest_good(None, Whose::Trusted, &mut |path, _| bad.push(path.to_owned()))
            .unwrap();
        assert!(bad.is_empty() || bad == [last.clone()]);
        (reader.header().generation, bad.len())
    };
    for length in 0..=whole.len() {
        std::fs::write(&temp, &whole[..length]).unwrap();
        assert_eq!(newest(), (1, 0), "temporary file of {length}");
        std::fs::rename(&temp, &last).unwrap();
        let after = newest();
        // Blocks are not looked at here; all else is.
        assert_eq!(after, if length == whole.len() { (2, 0) } else { (1, 1) }, "{length}");
        std::fs::remove_file(&last).unwrap();
        // Or the blocks were lost and the rest was not written either.
        if length > HEADER_LEN {
            let mut holes = whole.clone();
            holes[length - 1..].fill(0);
            std::fs::write(&last, holes).unwrap();
            assert_eq!(newest(), (1, 1));
            std::fs::remove_file(&last).unwrap();
        }
    }
    std::fs::write(&temp, &whole).unwrap();
    small(dir.path(), &new(3));
    assert_eq!(newest(), (3, 0));
    assert!(!temp.exists());
}
