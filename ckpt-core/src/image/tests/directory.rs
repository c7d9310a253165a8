//! Finding, setting aside and removing images.

use super::*;
use crate::ErrorKind;

const OTHER: JobId = JobId(0xfeed);

/// Images of generations 1 to `count`.
fn filled(count: u64) -> (tempfile::TempDir, Directory) {
    let dir = tempfile::tempdir().unwrap();
    (1..=count).for_each(|generation| drop(small(dir.path(), &new(generation))));
    let directory = Directory::open(dir.path()).unwrap();
    (dir, directory)
}

fn damage(directory: &Directory, generation: u64, at: usize) {
    let path = directory.path().join(name(generation));
    let mut bytes = std::fs::read(&path).unwrap();
    let at = if at == 0 { 0 } else { bytes.len() - at };
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).unwrap();
}

fn generations(directory: &Directory) -> Vec<u64> {
    directory.images().unwrap().iter().map(|entry| entry.generation().unwrap()).collect()
}

fn newest(directory: &Directory, job: Option<JobId>) -> (Result<(JobId, u64)>, Vec<String>) {
    let mut bad = Vec::new();
    let reader =
        directory.newest_good(job, Whose::Trusted, &mut |_, error| bad.push(error.to_string()));
    (reader.map(|reader| (reader.header().job, reader.header().generation)), bad)
}

#[test]
fn file_names() {
    let name = |name| file_name(name, JOB, 7);
    assert_eq!(name("payload.sh"), "payload.sh-0123456789abcdef-000007.ckpt");
    assert_eq!(name("../a b\n\u{e9}"), "_._a_b__-0123456789abcdef-000007.ckpt");
    assert_eq!(name(""), "job-0123456789abcdef-000007.ckpt");
    assert_eq!(name(&"\u{1f980}".repeat(100)).len(), 64 + "-0123456789abcdef-000007.ckpt".len());
    assert!(file_name("x", JOB, u64::MAX).ends_with("-18446744073709551615.ckpt"));
}

#[test]
fn the_job_written_last_comes_first_and_its_newest_generation() {
    let (dir, directory) = filled(3);
    small(dir.path(), &NewHeader { job: OTHER, ..new(1) });
    let jobs: Vec<_> = directory
        .images()
        .unwrap()
        .iter()
        .map(|e| (e.job().unwrap(), e.generation().unwrap()))
        .collect();
    assert_eq!(jobs, [(OTHER, 1), (JOB, 3), (JOB, 2), (JOB, 1)]);
    assert_eq!(newest(&directory, None).0.unwrap(), (OTHER, 1));
    assert_eq!(newest(&directory, Some(JOB)).0.unwrap(), (JOB, 3));
    assert_eq!(newest(&directory, Some(JobId(5))).0.unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_bad_image_is_named_and_the_one_before_is_used() {
    let (_dir, directory) = filled(4);
    damage(&directory, 4, 0);
    damage(&directory, 3, 1);
    assert_eq!(generations(&directory), [4, 3, 2, 1]);
    for job in [None, Some(JOB)] {
        let (found, bad) = newest(&directory, job);
        assert_eq!(found.unwrap(), (JOB, 2));
        assert!(
            bad.len() == 2 && bad[0].contains("header") && bad[1].contains("trailer"),
            "{bad:?}"
        );
    }
    damage(&directory, 2, 100);
    damage(&directory, 1, 100);
    let error = newest(&directory, None).0.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert!(error.to_string().contains("none of 4 images"), "{error}");
}

#[test]
fn another_job_is_not_taken_for_one_whose_only_image_is_damaged() {
    let (dir, directory) = filled(1);
    let stray = dir.path().join("stray.ckpt");
    std::fs::write(&stray, "whatever").unwrap();
    assert_eq!(newest(&directory, None).0.unwrap(), (JOB, 1));
    assert!(directory.images().unwrap()[1].header.is_err());

    std::thread::sleep(std::time::Duration::from_millis(20));
    std::fs::write(dir.path().join(file_name("x", OTHER, 1)), "damaged").unwrap();
    let error = newest(&directory, None).0.unwrap_err();
    assert!(error.to_string().contains("which job was written last"), "{error}");
    assert_eq!(newest(&directory, Some(JOB)).0.unwrap(), (JOB, 1));
    directory.set_aside(&dir.path().join(file_name("x", OTHER, 1))).unwrap();
    assert_eq!(newest(&directory, None).0.unwrap(), (JOB, 1));
}

#[test]
fn an_empty_directory_and_one_with_strays_only() {
    let (dir, directory) = filled(0);
    assert_eq!(newest(&directory, None).0.unwrap_err().kind(), ErrorKind::NotFound);
    std::fs::write(dir.path().join("stray.ckpt"), "whatever").unwrap();
    let (found, bad) = newest(&directory, None);
    assert_eq!((found.unwrap_err().kind(), bad.len()), (ErrorKind::Damaged, 1));
    let missing = Directory::open(dir.path().join("missing")).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

#[test]
fn set_aside_keeps_all() {
    let (dir, directory) = filled(0);
    for expected in ["", "2", "3"] {
        let path = small(dir.path(), &new(1));
        let aside = directory.set_aside(&path).unwrap();
        assert_eq!(aside, dir.path().join(format!("{}.bad{expected}", name(1))));
    }
    assert!(directory.images().unwrap().is_empty());
    assert_eq!(names(dir.path()).len(), 3);
    assert!(directory.set_aside(&dir.path().join(name(1))).is_err());
}

#[test]
fn prune_keeps_the_newest_whole_ones() {
    let (dir, directory) = filled(6);
    small(dir.path(), &NewHeader { job: OTHER, ..new(1) });
    damage(&directory, 6, 1);
    damage(&directory, 4, 0);
    assert_eq!(directory.prune(JOB, 2).unwrap(), 2);
    // 5 and 3 are whole; 6 and 4 are not, and newer than 3.
    assert_eq!(generations(&directory), [1, 6, 5, 4, 3]);
    assert_eq!(directory.prune(JOB, 2).unwrap(), 0);
    assert_eq!(directory.prune(JOB, 0).unwrap(), 2);
    assert_eq!(generations(&directory), [1, 6, 5]);
    assert_eq!(directory.prune(OTHER, 5).unwrap(), 0);
    assert_eq!(directory.prune(JobId(5), 1).unwrap(), 0);
}

#[test]
fn prune_removes_nothing_when_nothing_is_whole() {
    let (_dir, directory) = filled(3);
    (1..=3).for_each(|generation| damage(&directory, generation, 1));
    assert_eq!(directory.prune(JOB, 1).unwrap(), 0);
    assert_eq!(generations(&directory), [3, 2, 1]);
}

/// An image that needs these generations.
fn needing(dir: &Path, generation: u64, needs: &[u64]) {
    let needed = |&generation: &u64| Needed {
        id: Reader::open(dir.join(name(generation))).unwrap().header().id,
        generation,
    };
    let needed: Vec<Needed> = needs.iter().map(needed).collect();
    let mut writer = Writer::create(dir, &name(generation), &new(generation), 0.into()).unwrap();
    writer.need(&needed).unwrap();
    writer.commit().unwrap();
}

#[test]
fn prune_keeps_what_is_needed() {
    let (dir, directory) = filled(4);
    needing(dir.path(), 5, &[2]);
    needing(dir.path(), 6, &[5, 2]);
    assert_eq!(directory.prune(JOB, 1).unwrap(), 3);
    assert_eq!(generations(&directory), [6, 5, 2]);
    let newest = Reader::open(dir.path().join(name(6))).unwrap();
    let ancestors = Ancestors::of(&newest, Whose::Trusted).unwrap();
    let generations = |n| ancestors.get(n, &newest).map(|image| image.header().generation);
    assert_eq!([0, 1, 2, 3].map(generations), [Some(6), Some(5), Some(2), None]);
    assert_eq!(newest.header().parent, ancestors.get(1, &newest).unwrap().header().id);
}

#[test]
fn one_whose_needs_are_gone_does_not_count() {
    let (dir, directory) = filled(3);
    needing(dir.path(), 4, &[3, 2]);
    // Another one under the name is not the one that is needed.
    small(dir.path(), &new(2));
    let (found, bad) = newest(&directory, None);
    assert_eq!(found.unwrap(), (JOB, 3));
    assert!(bad.len() == 1 && bad[0].contains("needs generation 2"), "{bad:?}");
    let newest = Reader::open(dir.path().join(name(4))).unwrap();
    let missing = Ancestors::of(&newest, Whose::Anybodys).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert_eq!(directory.prune(JOB, 1).unwrap(), 2);
    assert_eq!(generations(&directory), [4, 3]);
}

#[test]
fn a_held_image_is_not_replaced() {
    let (dir, _directory) = filled(1);
    let open = || Reader::open(dir.path().join(name(1))).unwrap();
    let (first, second) = (open(), open());
    assert!(first.hold() && second.hold());
    drop(first);
    assert!(!open().give_up());
    drop(second);
    let given_up = open();
    assert!(given_up.give_up() && !open().hold());
    small(dir.path(), &new(1));
    assert!(!given_up.hold() && open().hold());
}

#[test]
fn a_strangers_image_is_read_but_not_trusted() {
    let (dir, directory) = filled(2);
    let planted = small(dir.path(), &NewHeader { job: OTHER, ..new(9) });
    if std::os::unix::fs::chown(&planted, Some(4242), None).is_err() {
        return; // Only root can give files away.
    }
    let (found, bad) = newest(&directory, None);
    assert_eq!(found.unwrap(), (JOB, 2));
    assert!(bad.len() == 1 && bad[0].contains("user 4242"), "{bad:?}");
    let read = directory.newest_good(None, Whose::Anybodys, &mut |_, _| ()).unwrap();
    assert_eq!(read.header().job, OTHER);
    assert_eq!(read.check_owner().unwrap_err().kind(), ErrorKind::Permission);
    assert_eq!(directory.set_aside(&planted).unwrap_err().kind(), ErrorKind::Permission);
    assert_eq!(directory.prune(OTHER, 1).unwrap(), 0);
}
