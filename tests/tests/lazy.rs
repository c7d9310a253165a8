//! Restarts that let the job run before its memory is there: it never sees a byte that is not its own.

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ckpt_tests::{Ended, From, Moments, Payload, Run, User, payload, undisturbed};
use nix::sys::signal::Signal;

/// What the payload does, and whether that can be done before all is there.
const ACTS: [(&str, bool); 20] = [
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
    ("heard", false),
    ("awaited", false),
    ("held", false),
];

const WITH: [[(&str, &str); 1]; 20] = {
    let mut all = [[("WITH", "")]; 20];
    let mut at = 0;
    while at < all.len() {
        all[at][0].1 = ACTS[at].0;
        at += 1;
    }
    all
};

/// A job that has not acted yet.
fn ready(payload: Payload, user: &User) -> Run {
    let mut run = Run::start(payload, user);
    assert!(run.says("ready") && run.answers());
    run
}

/// A job that has not acted yet, killed after a checkpoint, and what it should come to.
fn saved(act: usize, user: &User) -> (Run, Ended) {
    let payload = payload("lazy").with(&WITH[act]);
    let expected = undisturbed(payload, user);
    let mut run = ready(payload, user);
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
            } else {
                until("all of it", || run.log().contains("all of lazy is there"));
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
        kill_process(run.supervisor(), Signal::SIGTERM);
        assert_eq!(run.end().status, 143);
        until("the end of the job", || run.is_gone());
    }
}

/// The kernel closes the files of a dead restorer before it kills what that traced.
#[test]
fn nor_does_it_go_on_with_zeros() {
    const PAGE: usize = 4096;
    const PAGES: usize = 24 << 8;
    let user = User::ordinary();
    let payload = payload("lazy").with(&[("WITH", "spill")]);
    let mut run = ready(payload, &user);
    checkpoint(&run);
    run.kill();
    let spilled = run.output().with_extension("spill");
    let mut moments = Moments::new();
    for _ in 0..20 {
        // As it was at the checkpoint, and the same file.
        let file = File::options().write(true).open(&spilled).expect("it is the job's");
        file.set_len(0)
            .and_then(|()| file.set_len(((PAGES + 2) * PAGE) as u64))
            .expect("it is a file");
        run.restore_flagged(From::Directory, &["--lazy=touched"]);
        permit(&run, "act");
        let wanted = moments.below(PAGES as u64 * 3 / 4) as usize;
        until("some pages", || fs::read(&spilled).is_ok_and(|bytes| bytes[wanted] == 1));
        run.kill_supervisor();
        run.vanishes();
        let bytes = fs::read(&spilled).expect("it is there");
        for page in (0..PAGES).filter(|page| bytes[*page] == 1) {
            let copied = &bytes[(page + 2) * PAGE..][..PAGE];
            assert!(copied.iter().any(|byte| *byte != 0), "page {page} is missing");
        }
        fs::remove_file(run.output().with_extension("act")).expect("it is ours");
    }
}

/// The end of the first process is not that of the others.
#[test]
fn others_outlive_the_first_process() {
    for kill in [false, true] {
        let user = User::ordinary();
        let payload = payload("lazy").with(&[("WITH", "heir")]);
        let mut run = ready(payload, &user);
        checkpoint(&run);
        run.kill();
        run.restore_flagged(From::Directory, &["--lazy=touched"]);
        assert!(run.answers());
        if kill {
            kill_process(root_of(&run), Signal::SIGKILL);
        } else {
            permit(&run, "act");
        }
        assert_eq!(run.end().status, if kill { 137 } else { 4 });
        let output = run.vanishes();
        assert!(output.contains("heir ok"), "{output}");
    }
}

/// Nothing runs of a job that was stopped, and a SIGCONT to one that was not takes nothing along.
#[test]
fn stops_and_continues() {
    for user in users() {
        let payload = payload("lazy").with(&[("WITH", "heard")]);
        let expected = undisturbed(payload, &user);
        let mut run = ready(payload, &user);
        kill_process(root_of(&run), Signal::SIGSTOP);
        checkpoint(&run);
        run.kill();
        permit(&run, "act");
        permit(&run, "go");
        run.restore_flagged(From::Directory, &["--lazy"]);
        until("all of it", || run.log().contains("all of lazy is there"));
        assert!(!fs::read_to_string(run.output()).expect("it is there").contains("acted"));
        kill_process(root_of(&run), Signal::SIGCONT);
        run.end().must_equal(&expected);

        let (mut run, expected) = saved(0, &user);
        run.restore_flagged(From::Directory, &["--lazy=touched"]);
        assert!(run.answers());
        for _ in 0..10 {
            kill_process(root_of(&run), Signal::SIGCONT);
        }
        permit(&run, "act");
        assert!(run.says("acted"), "{}", run.log());
        assert!(!run.log().contains("is there"), "{}", run.log());
        permit(&run, "go");
        run.end().must_equal(&expected);
    }
}

/// PID of the job's first process.
fn root_of(run: &Run) -> i32 {
    let said = run.ckpt("status").arg("--json").output().expect("ckpt can be run");
    let said = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
    let pid = said.split("\"pid\":").nth(1).and_then(|rest| rest.split(',').next());
    pid.and_then(|pid| pid.parse().ok()).unwrap_or_else(|| panic!("no pid: {said}"))
}

fn kill_process(pid: i32, signal: Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).expect("it is there");
}
