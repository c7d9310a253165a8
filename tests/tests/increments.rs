//! A generation stores what has changed since the one before it; restarts are as right as from one that has
//! everything.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use ckpt_core::ErrorKind;
use ckpt_core::image::Reader;
use ckpt_core::merge::merge;
use ckpt_tests::{Ended, From, Moments, Run, User, payload, undisturbed};

/// A job of which little changes between checkpoints, and what it should come to.
fn changing(user: &User, flags: &[&str]) -> (Run, Ended) {
    let payload = payload("changes");
    let expected = undisturbed(payload, user);
    (Run::start_flagged(payload, user, flags), expected)
}

fn checkpoint(run: &Run) {
    run.checkpoint().unwrap_or_else(|e| panic!("status {}: {}", e.status, e.message));
}

/// One after each of these steps.
fn checkpoints_at(run: &mut Run, steps: &[u64]) {
    for &step in steps {
        assert!(run.reaches(step) && run.answers());
        checkpoint(run);
    }
}

/// How many others each generation on disk needs, the oldest first.
fn needs(run: &Run) -> Vec<usize> {
    let of = |path: &PathBuf| Reader::open(path).and_then(|image| image.needed());
    run.generations().iter().map(|path| of(path).expect("it is whole").len()).collect()
}

fn size(path: &Path) -> u64 {
    path.metadata().expect("it is there").len()
}

fn users() -> impl Iterator<Item = User> {
    [User::root(), Some(User::ordinary())].into_iter().flatten()
}

/// `ckpt VERB WORDS… DIR`.
fn tool(run: &Run, words: &[&str], path: &Path) -> Output {
    let mut command = run.user().command(&ckpt_tests::tools().ckpt);
    command.args(words).arg(path).current_dir("/").stdin(Stdio::null());
    command.output().expect("ckpt can be run")
}

fn must(output: Output) -> String {
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{}: {said}", output.status);
    said
}

/// Many small steps between many checkpoints, kills at any moment, restarts from what is there.
#[test]
fn whatever_changes_is_stored() {
    let mut moments = Moments::new();
    // What follows what depends on how many workers there are.
    for (user, cpus) in users().zip(["0", "1"]) {
        let (mut run, expected) = changing(&user, &["--cpus", cpus]);
        let mut step = 1;
        for round in 1..=4 {
            for _ in 0..1 + moments.below(5) {
                step += moments.below(4);
                assert!(run.reaches(step) && run.answers());
                checkpoint(&run);
                step = run.steps().min(expected.steps() * round / 6);
            }
            run.kill();
            must(tool(&run, &["verify"], &run.images()));
            run.restore_flagged(From::Directory, &["--cpus", cpus]);
            assert!(run.answers());
            step = run.steps();
        }
        run.end().must_equal(&expected);
    }
}

/// The second is a small part of the first, and needs it, until one is complete by itself.
#[test]
fn little_is_stored_of_little() {
    let (mut run, expected) = changing(&User::ordinary(), &["--keep", "9"]);
    checkpoints_at(&mut run, &[3, 5, 7]);
    assert_eq!(needs(&run), [0, 1, 2]);
    must(run.ckpt("checkpoint").arg("--full").output().expect("ckpt can be run"));
    assert_eq!(needs(&run), [0, 1, 2, 0]);
    let sizes: Vec<u64> = run.generations().iter().map(|path| size(path)).collect();
    assert!(sizes[1] < sizes[0] / 4 && sizes[2] < sizes[0] / 4, "{sizes:?}");
    assert!(sizes[3] > sizes[0] / 2, "{sizes:?}");
    run.kill();
    // From one in the middle, which goes on with a higher number.
    let second = run.generations()[1].clone();
    run.restore_flagged(From::Image(&second), &["--keep", "9"]);
    assert!(run.answers());
    checkpoint(&run);
    assert_eq!(needs(&run), [0, 1, 2, 0, 1]);
    run.kill();
    run.restore(From::Directory);
    run.end().must_equal(&expected);
}

/// What a kept one needs stays, by itself and with `ckpt gc`; merged, it needs nothing.
#[test]
fn nothing_goes_that_is_needed() {
    let (mut run, expected) = changing(&User::ordinary(), &["--keep", "1"]);
    checkpoints_at(&mut run, &[3, 5, 7]);
    assert_eq!(needs(&run), [0, 1, 2]);
    run.kill();
    must(tool(&run, &["gc", "--keep", "1"], &run.images()));
    assert_eq!(needs(&run), [0, 1, 2]);
    let would = must(tool(&run, &["gc", "--keep", "1", "--merge", "-n"], &run.images()));
    assert!(would.contains("000003.ckpt"), "{would}");
    assert_eq!(needs(&run), [0, 1, 2]);
    must(tool(&run, &["gc", "--keep", "1", "--merge"], &run.images()));
    assert_eq!(needs(&run), [0]);
    must(tool(&run, &["verify"], &run.images()));
    run.restore(From::Directory);
    assert!(run.answers());
    checkpoint(&run);
    assert_eq!(needs(&run), [0, 1]);
    run.kill();
    run.restore(From::Directory);
    run.end().must_equal(&expected);
}

/// Once it needs as many as it may, the newest becomes complete in the background, and the next goes on
/// from there.
#[test]
fn chains_stay_short() {
    let (mut run, expected) = changing(&User::ordinary(), &["--keep", "1", "--increments", "2"]);
    checkpoints_at(&mut run, &[3, 5, 7]);
    // By the supervisor, at its leisure. The others may go just as they are looked at.
    let alone = || run.generations().len() == 1 && needs(&run) == [0];
    let merged = || alone() && run.log().contains("complete by itself now");
    let mut tries = 0;
    while !merged() {
        assert!(tries < 60_000, "nothing is merged: {:?}\n{}", needs(&run), run.log());
        tries += 1;
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert!(run.answers());
    let complete = size(&run.generations()[0]);
    checkpoint(&run);
    assert_eq!(needs(&run), [0, 1]);
    assert!(size(&run.generations()[1]) < complete / 2);
    run.kill();
    run.restore(From::Directory);
    run.end().must_equal(&expected);
}

/// Checkpoints that follow each other while one is being merged: whatever comes of it, all are right.
#[test]
fn a_checkpoint_goes_before_a_merge() {
    let (mut run, expected) = changing(&User::ordinary(), &["--increments", "1"]);
    for _ in 0..12 {
        assert!(run.answers());
        checkpoint(&run);
    }
    run.kill();
    must(tool(&run, &["verify"], &run.images()));
    run.restore(From::Directory);
    run.end().must_equal(&expected);
}

/// Without what it needs an image is refused by name; a directory's next one takes its place.
#[test]
fn one_that_lacks_what_it_needs_is_refused() {
    let user = User::ordinary();
    let (mut run, expected) = changing(&user, &["--keep", "9"]);
    checkpoints_at(&mut run, &[3, 5]);
    must(run.ckpt("checkpoint").arg("--full").output().expect("ckpt can be run"));
    assert!(run.answers());
    checkpoint(&run);
    run.kill();
    let generations = run.generations();
    assert_eq!(needs(&run), [0, 1, 0, 1]);
    let hidden = generations[2].with_extension("elsewhere");
    fs::rename(&generations[2], &hidden).expect("it is ours");
    let (status, said) = run.refusal(&user, &generations[3], &[]);
    assert_eq!(status, 66, "EX_NOINPUT: {said}");
    assert!(said.contains("needs generation 3") && said.contains("000004"), "{said}");
    let verdict = tool(&run, &["verify"], &generations[3]);
    assert_eq!(verdict.status.code(), Some(66));
    run.restore(From::Directory);
    assert!(run.answers());
    assert!(run.log().contains("generation 2 of"), "{}", run.log());
    run.end().must_equal(&expected);
    assert!(generations[3].exists(), "it is whole, and may be completed yet");
}

/// Damage in a generation that another needs is found where it matters.
#[test]
fn damage_in_what_is_needed_is_found() {
    let user = User::ordinary();
    let (mut run, _) = changing(&user, &["--keep", "9"]);
    checkpoints_at(&mut run, &[3, 5]);
    run.kill();
    let generations = run.generations();
    let mut bytes = fs::read(&generations[0]).expect("it is ours");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(&generations[0], bytes).expect("it is ours");
    for image in &generations {
        let verdict = tool(&run, &["verify"], image);
        assert_eq!(verdict.status.code(), Some(65), "EX_DATAERR");
        let (status, said) = run.refusal(&user, image, &[]);
        assert!(status == 65 && said.contains("000001.ckpt is damaged"), "{status}: {said}");
    }
}

/// Where the kernel may not be asked what was written to, or is not to be, pages are compared. Nothing at
/// all is different for the job then.
#[test]
fn without_a_watch_pages_are_compared() {
    let payload = payload("changes").with(&[("WITH", "exact")]);
    let user = User::ordinary();
    let expected = undisturbed(payload, &user);
    let mut run = Run::start_flagged(payload, &user, &["--keep", "9", "--no-watch"]);
    checkpoints_at(&mut run, &[3, 5, 12]);
    assert_eq!(needs(&run), [0, 1, 2]);
    run.kill();
    // A restart has no watch over what it brings back.
    run.restore_flagged(From::Directory, &["--keep", "9", "--no-watch"]);
    assert!(run.answers());
    checkpoint(&run);
    assert_eq!(needs(&run), [0, 1, 2, 3]);
    let sizes: Vec<u64> = run.generations().iter().map(|path| size(path)).collect();
    // Where the machine is slow, the job makes more steps between two of them.
    assert!(sizes[1..].iter().all(|size| *size < sizes[0]), "{sizes:?}");
    run.kill();
    run.restore(From::Directory);
    run.end().must_equal(&expected);
}

/// Pages that the parent and its child both have are in the image once.
#[test]
fn what_processes_share_is_stored_once() {
    let (mut run, expected) = changing(&User::ordinary(), &["--increments", "0"]);
    assert!(run.reaches(2) && run.answers());
    checkpoint(&run);
    let newest = run.generations().pop().expect("there is one");
    // The parent's 24 MiB, of which the child has 20 as well, and some 16 of other things.
    assert!(size(&newest) < 50 << 20, "{} bytes", size(&newest));
    run.kill();
    run.restore(From::Directory);
    run.end().must_equal(&expected);
}

/// An image that another one needs by now is not replaced.
#[test]
fn what_is_built_upon_is_not_merged() {
    let Some(user) = User::root() else { return };
    let (mut run, expected) = changing(&user, &["--keep", "9"]);
    checkpoints_at(&mut run, &[3, 5, 7]);
    run.kill();
    let generations = run.generations();
    let refused = merge(&generations[1], 1.into(), &|| true).expect_err("the third needs it");
    assert_eq!(refused.kind(), ErrorKind::Busy);
    assert_eq!(needs(&run), [0, 1, 2]);
    let merged = merge(&generations[2], 1.into(), &|| true).expect("nobody needs it");
    assert_eq!(merged.expect("it needed others").path, generations[2]);
    assert_eq!(needs(&run), [0, 1, 0]);
    must(tool(&run, &["verify"], &run.images()));
    run.restore(From::Directory);
    run.end().must_equal(&expected);
}

/// Has the payload `parts` change its next part.
fn tell(run: &mut Run, number: u32) {
    let told = run.output().with_extension(number.to_string());
    fs::write(told, "").expect("the folder is ours");
    assert!(run.says(&format!("part {number}")));
}

/// What a new child has is what its parent had.
#[test]
fn a_new_child_is_no_new_memory() {
    let payload = payload("parts").with(&[("WITH", "child")]);
    let user = User::ordinary();
    for watch in [&[][..], &["--no-watch"]] {
        // With many workers none is soon done with what another could refer to.
        let flags = [&["--keep", "9", "--cpus", "1"], watch].concat();
        let mut run = Run::start_flagged(payload, &user, &flags);
        tell(&mut run, 1);
        checkpoint(&run);
        tell(&mut run, 2);
        checkpoint(&run);
        let sizes: Vec<u64> = run.generations().iter().map(|path| size(path)).collect();
        // Of three parts one has changed.
        assert!(sizes[1] < sizes[0] / 2, "{sizes:?}");
        run.kill();
        run.restore(From::Directory);
        (3..=4).for_each(|number| tell(&mut run, number));
        let restored = run.end();
        let mut run = Run::start(payload, &user);
        (1..=4).for_each(|number| tell(&mut run, number));
        restored.must_equal(&run.end());
    }
}

/// One that others need, and whose own needs are gone, is no fault of theirs.
#[test]
fn a_part_of_later_ones_is_good() {
    let user = User::ordinary();
    let four = || {
        let mut run = Run::start_flagged(payload("parts"), &user, &["--keep", "1"]);
        assert!(run.says("part 0"));
        checkpoint(&run);
        for number in 1..=3 {
            tell(&mut run, number);
            checkpoint(&run);
        }
        run
    };
    // The second has the first part as it was once; the third needs that, and the fourth does not, unless
    // something else has become again what it was then: a few words of the C library's do, now and then.
    let mut runs = (0..30).map(|_| four());
    let mut run = runs.find(|run| needs(run) == [0, 2, 2]).expect("one is so");
    run.kill();
    let said = must(tool(&run, &["verify"], &run.images()));
    assert!(said.contains("000003.ckpt: good for later generations"), "{said}");
    let third = run.generations()[1].clone();
    let output = tool(&run, &["verify"], &third);
    assert!(!output.status.success(), "by itself it is not: {said}");
    run.restore(From::Directory);
    tell(&mut run, 4);
    let restored = run.end();
    let mut run = Run::start(payload("parts"), &user);
    (1..=4).for_each(|number| tell(&mut run, number));
    restored.must_equal(&run.end());
}
