//! Restarts that let the job run before its memory is there: it never sees a byte that is not its own.

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ckpt_tests::{Ended, From, Moments, Run, User, payload, undisturbed};

/// What the payload does, and whether that can be done before all is there.
const ACTS: [(&str, bool); 17] = [
    ("touch", true),
    ("transfer", true),
    ("vectors", true),
    ("names", true),
    ("grow", true),
    ("signalled", true),
    ("polled", true),
    ("read", true),
    ("copied", false),
    ("spawned", false),
    ("threaded", false),
    ("moved", false),
    ("dropped", false),
    ("protected", false),
    ("peeked", false),
    ("interrupted", false),
    ("executed", false),
];

const WITH: [[(&str, &str); 1]; 17] = {
    let mut all = [[("WITH", "")]; 17];
    let mut at = 0;
    while at < all.len() {
        all[at][0].1 = ACTS[at].0;
        at += 1;
    }
    all
};

/// A job that has not acted yet, killed after a checkpoint, and what it should come to.
fn saved(act: usize, user: &User) -> (Run, Ended) {
    let payload = payload("lazy").with(&WITH[act]);
    let expected = undisturbed(payload, user);
    let mut run = Run::start(payload, user);
    assert!(run.says("ready") && run.answers());
    checkpoint(&run);
    run.kill();
    (run, expected)
}

fn checkpoint(run: &Run) {
    run.checkpoint().unwrap_or_else(|e| panic!("status {}: {}", e.status, e.message));
}

/// Lets the payload act, or end.
fn permit(run: &Run, what: &str) {
    let file: PathBuf = run.output().with_extension(what);
    File::create(file).expect("the folder is ours");
}

fn users() -> impl Iterator<Item = User> {
    [User::root(), Some(User::ordinary())].into_iter().flatten()
}

fn until(what: &str, reached: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !reached() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::yield_now();
    }
}

/// Of memory that comes only when it is touched.
#[test]
fn whatever_is_done_is_done_right() {
    for user in users() {
        for (act, (name, is_lean)) in ACTS.into_iter().enumerate() {
            println!("{name}");
            let (mut run, expected) = saved(act, &user);
            run.restore_flagged(From::Directory, &["--lazy=touched"]);
            assert!(run.answers());
            assert!(run.log().contains(" follow, "), "{}", run.log());
            permit(&run, "act");
            if is_lean {
                assert!(run.says("acted"), "{}", run.log());
                assert!(!run.log().contains("is there"), "{}", run.log());
            }
            permit(&run, "go");
            run.end().must_equal(&expected);
        }
    }
}

/// The same while it comes behind.
#[test]
fn nor_is_anything_wrong_meanwhile() {
    for user in users() {
        for act in 0..ACTS.len() {
            let (mut run, expected) = saved(act, &user);
            permit(&run, "go");
            run.restore_flagged(From::Directory, &["--lazy"]);
            run.end().must_equal(&expected);
        }
    }
}

/// A checkpoint waits for all that is missing.
#[test]
fn checkpoints_are_whole() {
    let (mut run, expected) = saved(0, &User::ordinary());
    for _ in 0..3 {
        run.restore_flagged(From::Directory, &["--lazy=touched"]);
        assert!(run.answers());
        checkpoint(&run);
        assert!(run.log().contains("all of lazy is there"), "{}", run.log());
        run.kill();
    }
    run.restore_flagged(From::Directory, &["--lazy=touched"]);
    permit(&run, "go");
    run.end().must_equal(&expected);
}

/// Other programs, checkpointed and brought back at any moment.
#[test]
fn any_program_any_time() {
    let mut moments = Moments::new();
    for (user, name) in users().flat_map(|user| {
        ["changes", "memory", "vectors", "numpy_pool"].map(|name| (user.clone(), name))
    }) {
        let payload = payload(name);
        let expected = undisturbed(payload, &user);
        let mut run = Run::start(payload, &user);
        for round in 1..=4 {
            let step = (expected.steps() * round / 6).max(1) + moments.below(3);
            if !(run.reaches(step) && run.answers()) {
                break;
            }
            checkpoint(&run);
            run.kill();
            run.restore_flagged(From::Directory, &["--lazy"]);
        }
        run.end().must_equal(&expected);
    }
}

/// Damage that shows only when the memory is wanted ends the job, all of it.
#[test]
fn damage_ends_the_job() {
    for user in users() {
        let (mut run, _) = saved(0, &user);
        let image = run.generations().pop().expect("there is one");
        let mut bytes = fs::read(&image).expect("it is ours");
        // In one of the random blocks in the middle.
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&image, bytes).expect("it is ours");
        run.restore_flagged(From::Image(&image), &["--lazy=touched"]);
        permit(&run, "act");
        permit(&run, "go");
        assert_eq!(run.end().status, 65, "EX_DATAERR: {}", run.log());
        assert!(run.log().contains("is damaged"), "{}", run.log());
        until("the end of the job", || run.is_gone());
    }
}

/// Nobody would bring what is missing.
#[test]
fn without_its_restorer_it_ends() {
    for user in users() {
        let (mut run, expected) = saved(0, &user);
        run.restore_flagged(From::Directory, &["--lazy=touched"]);
        assert!(run.answers());
        run.kill_supervisor();
        run.vanishes();
        run.restore_flagged(From::Directory, &["--lazy=touched"]);
        permit(&run, "go");
        run.end().must_equal(&expected);
    }
}

/// Signals, requests and the end of a job whose memory is not there.
#[test]
fn it_can_be_ended() {
    for user in users() {
        let (mut run, _) = saved(0, &user);
        run.restore_flagged(From::Directory, &["--lazy=touched"]);
        assert!(run.answers());
        let said = run.ckpt("kill").output().expect("ckpt can be run");
        assert!(said.status.success(), "{said:?}");
        assert_eq!(run.end().status, 137);
        until("the end of the job", || run.is_gone());

        run.restore_flagged(From::Directory, &["--lazy=touched"]);
        assert!(run.answers());
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(run.supervisor()),
            nix::sys::signal::Signal::SIGTERM,
        )
        .expect("it is our child");
        assert_eq!(run.end().status, 143);
        until("the end of the job", || run.is_gone());
    }
}
