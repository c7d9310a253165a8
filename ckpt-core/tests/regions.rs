//! A program's own checkpoints: what is read is what was saved, or nothing.
#![allow(missing_docs, reason = "tests")]

use std::fs;
use std::path::Path;

use ckpt_core::ErrorKind;
use ckpt_core::image::Reader;
use ckpt_core::progress::Silent;
use ckpt_core::regions::{Keep, Options, Store};

/// As many as asked for, never twice the same.
fn noise(length: usize, seed: u64) -> Vec<f64> {
    let mut x = seed | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    };
    (0..length).map(|_| next() as f64).collect()
}

fn open(dir: &Path, options: Options) -> Store {
    Store::open(dir, "test", options).unwrap()
}

fn commit(store: &mut Store, version: u64, field: &[f64]) -> ckpt_core::regions::Report {
    let mut next = store.begin(version).unwrap();
    next.add("field", field).unwrap().add_value("step", version).unwrap();
    next.commit().unwrap()
}

fn read(store: &Store) -> (u64, Vec<f64>) {
    let version = store.latest().unwrap().expect("there is one");
    let (step, field) = (version.value("step").unwrap(), version.read_vec("field").unwrap());
    assert_eq!(version.number(), step);
    (step, field)
}

#[test]
fn what_was_saved_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path(), Options::default());
    assert!(store.latest().unwrap().is_none());
    assert!(store.restore(|_| panic!("nothing is there")).unwrap().is_none());
    let grid: Vec<i32> = (0..60).collect();
    let field = noise(300_000, 1);
    let mut next = store.begin(7).unwrap();
    next.add_shaped("grid", &grid, &[3, 4, 5]).unwrap();
    next.add("field", &field).unwrap().add("nothing", &[0u8; 0]).unwrap();
    next.add("vectors", &[[1.5f32, 2.5], [3.5, 4.5]]).unwrap().add_value("step", 7u64).unwrap();
    let report = next.commit().unwrap();
    assert_eq!((report.version, report.needs), (7, 0));
    Reader::open(&report.path).unwrap().verify(&Silent, 1).unwrap();

    // By another process, as it were, and in another order.
    let store = open(dir.path(), Options::default());
    let version = store.latest().unwrap().unwrap();
    let shapes: Vec<String> = version.regions().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(shapes[0], "grid: 3 × 4 × 5 signed integers of 4 bytes");
    assert_eq!(version.value::<u64>("step").unwrap(), 7);
    let mut again = vec![1.0; field.len()];
    version.read("field", &mut again).unwrap();
    assert!(again == field);
    assert_eq!(version.read_vec::<i32>("grid").unwrap(), grid);
    assert_eq!(version.read_vec::<u8>("nothing").unwrap(), []);
    assert_eq!(version.read_vec::<[f32; 2]>("vectors").unwrap()[1], [3.5, 4.5]);
    let mut part = [0.0; 1000];
    version.rank(0).unwrap().read_part("field", 123_456, &mut part).unwrap();
    assert!(part == field[123_456..124_456]);
}

#[test]
fn what_does_not_fit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path(), Options::default());
    commit(&mut store, 1, &noise(100, 1));
    let version = store.latest().unwrap().unwrap();
    let kind = |result: ckpt_core::Result<()>| result.unwrap_err().kind();
    assert_eq!(kind(version.read("field", &mut [0.0f64; 99])), ErrorKind::Usage);
    assert_eq!(kind(version.read("field", &mut [0.0f32; 100])), ErrorKind::Usage);
    assert_eq!(kind(version.read("field", &mut [0u64; 100])), ErrorKind::Usage);
    assert_eq!(kind(version.read("fields", &mut [0.0f64; 100])), ErrorKind::NotFound);
    let past = version.rank(0).unwrap().read_part("field", 1, &mut [0.0f64; 100]);
    assert_eq!(kind(past), ErrorKind::Usage);
    let mut next = store.begin(2).unwrap();
    let twice = next.add("a", &[1u8]).unwrap().add("a", &[2u8]).map(drop);
    assert_eq!(kind(twice), ErrorKind::Usage);
    assert_eq!(kind(next.add_shaped("b", &[1u8; 6], &[2, 2]).map(drop)), ErrorKind::Usage);
    drop(next);
    assert_eq!(store.versions().unwrap(), [1], "nothing comes of a dropped one");
    assert_eq!(store.begin(1).map(drop).unwrap_err().kind(), ErrorKind::Usage);
}

#[test]
fn little_is_stored_of_little() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path(), Options::default());
    let mut field = noise(2 << 20, 3);
    let first = commit(&mut store, 1, &field);
    field[1_000_000] = 0.5;
    field[5] = 0.25;
    let second = commit(&mut store, 2, &field);
    assert_eq!(second.needs, 1);
    assert!(second.bytes_stored < first.bytes_stored / 50, "{second:?}");
    // A longer one, of which the beginning is the same.
    field.extend(noise(1000, 4));
    let third = commit(&mut store, 3, &field);
    assert!(third.bytes_stored < first.bytes_stored / 50, "{third:?}");
    assert!(read(&store) == (3, field.clone()));
    // The first is needed by the others, whatever is to be kept.
    commit(&mut store, 4, &field);
    assert!(fs::exists(&first.path).unwrap());
    let mut all = open(dir.path(), Options { increments: 0, ..Options::default() });
    assert_eq!(commit(&mut all, 5, &field).needs, 0);
    assert_eq!(commit(&mut all, 6, &field).needs, 0);
    assert!(!fs::exists(&first.path).unwrap());
}

#[test]
fn versions_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let keep = Keep { newest: 2, every: Some(4) };
    let mut store = open(dir.path(), Options { keep, ..Options::default() });
    (1..=11).for_each(|version| drop(commit(&mut store, version, &noise(10, version))));
    assert_eq!(store.versions().unwrap(), [11, 10, 8, 4]);
    assert_eq!(store.version(4).unwrap().value::<u64>("step").unwrap(), 4);
    assert_eq!(store.version(5).map(drop).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_damaged_one_gives_way_to_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path(), Options { increments: 0, ..Options::default() });
    let fields: Vec<Vec<f64>> = (1..=3).map(|seed| noise(100_000, seed)).collect();
    let keep = Keep { newest: 3, every: None };
    store = {
        drop(store);
        open(dir.path(), Options { keep, increments: 0, ..Options::default() })
    };
    let paths: Vec<_> =
        (1..=3).map(|it| commit(&mut store, it, &fields[it as usize - 1]).path).collect();
    let mut bytes = fs::read(&paths[2]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&paths[2], bytes).unwrap();
    let mut field = vec![0.0; 100_000];
    let restored = store.restore(|version| version.read("field", &mut field)).unwrap().unwrap();
    assert_eq!((restored.version, restored.passed_over.len()), (2, 1));
    assert_eq!(restored.passed_over[0].version, 3);
    assert!(field == fields[1]);
    // Its number is free again.
    commit(&mut store, 3, &fields[0]);
    assert!(read(&store) == (3, fields[0].clone()));
}

#[test]
fn arrays_may_change_once_they_are_staged() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path(), Options::default());
    let mut field = noise(1 << 20, 1);
    let mut pending = Vec::new();
    for version in 1..=4 {
        let mut next = store.begin(version).unwrap();
        next.add("field", &field).unwrap().add_value("step", version).unwrap();
        pending.push(next.commit_async().unwrap());
        let before = field.clone();
        field.iter_mut().for_each(|value| *value += 1.0);
        if version == 4 {
            let last = pending.pop().unwrap().wait().unwrap();
            assert_eq!(last.version, 4);
            assert!(read(&store) == (4, before));
        }
    }
    assert!(pending.into_iter().all(|it| it.wait().is_ok()));
}

#[test]
fn a_version_counts_when_all_ranks_have_it() {
    let dir = tempfile::tempdir().unwrap();
    let rank = |rank, ranks| open(dir.path(), Options { rank, ranks, ..Options::default() });
    let part = |rank: u32| noise(1000, u64::from(rank) + 1);
    let mut stores: Vec<Store> = (0..4).map(|it| rank(it, 4)).collect();
    for version in 1..=3 {
        for (number, store) in (0..).zip(&mut stores) {
            // The last one is behind.
            if version < 3 || number < 3 {
                commit(store, version, &part(number));
            }
        }
    }
    assert!(stores.iter().all(|store| store.versions().unwrap() == [2, 1]));
    drop(stores);
    // As two, and as eight, each of which reads what it needs.
    for ranks in [2, 8] {
        for own in 0..ranks {
            let store = rank(own, ranks);
            let version = store.latest().unwrap().unwrap();
            assert_eq!((version.number(), version.ranks()), (2, 4));
            let error = version.read("field", &mut [0.0; 1000]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage);
            for each in 0..4 {
                assert!(
                    version.rank(each).unwrap().read_vec::<f64>("field").unwrap() == part(each)
                );
            }
            assert!(version.rank(4).is_err());
        }
    }
    // One of four goes on where all were.
    let mut again: Vec<Store> = (0..4).map(|it| rank(it, 4)).collect();
    again.iter_mut().for_each(|store| {
        let step = store.restore(|version| version.value::<u64>("step").map(drop)).unwrap();
        assert_eq!(step.unwrap().version, 2);
    });
    // The third once more: what three of them had of it is of a past that was given up.
    for store in &mut again {
        commit(store, 3, &part(7));
    }
    assert_eq!(again[0].versions().unwrap()[0], 3);
    let version = again[0].latest().unwrap().unwrap();
    assert!(
        (0..4).all(|it| version.rank(it).unwrap().read_vec::<f64>("field").unwrap() == part(7))
    );
}

/// One that cannot even be opened is damaged, not absent: it is set aside, and nothing else is removed.
#[test]
fn damage_is_not_taken_for_absence() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { increments: 0, ..Options::default() };
    let mut store = open(dir.path(), options);
    let paths: Vec<_> =
        (1..=2).map(|version| commit(&mut store, version, &noise(1000, version)).path).collect();
    let cut = |path: &Path| {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() - 3]).unwrap();
    };
    let named = |ending: &str| {
        let names = fs::read_dir(dir.path()).unwrap().map(|it| it.unwrap().file_name());
        names.filter(|name| name.to_str().unwrap().ends_with(ending)).count()
    };
    cut(&paths[1]);
    let mut store = open(dir.path(), options);
    let restored =
        store.restore(|version| version.value::<u64>("step").map(drop)).unwrap().unwrap();
    assert_eq!((restored.version, restored.passed_over.len(), named(".bad")), (1, 1, 1));
    assert_eq!(restored.passed_over[0].version, 2);
    cut(&paths[0]);
    let mut store = open(dir.path(), options);
    let error = store.restore(|_| panic!("there is none")).unwrap_err();
    assert_eq!((error.kind(), named(".bad"), named(".ckpt")), (ErrorKind::Damaged, 2, 0));
    assert!(store.restore(|_| panic!("there is none")).unwrap().is_none());
}

/// What is in care is ours: of another number of ranks it is not read without being told whose.
#[test]
fn another_number_of_ranks_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for rank in 0..4 {
        let mut store = open(dir.path(), Options { rank, ranks: 4, ..Options::default() });
        let mut regions = ckpt_core::regions::Regions::new();
        regions.protect("part", vec![f64::from(rank); 10]).unwrap();
        regions.save(&mut store, 1).unwrap();
    }
    for ranks in [2, 8] {
        let mut store = open(dir.path(), Options { rank: 1, ranks, ..Options::default() });
        let mut regions = ckpt_core::regions::Regions::new();
        let part = regions.protect("part", vec![0.0f64; 10]).unwrap();
        let error = regions.restore(&mut store).unwrap_err();
        assert_eq!((error.kind(), regions[part][0]), (ErrorKind::Usage, 0.0));
        let version = store.latest().unwrap().unwrap();
        regions.read(version.rank(3).unwrap()).unwrap();
        assert_eq!(regions[part], [3.0; 10]);
    }
}
