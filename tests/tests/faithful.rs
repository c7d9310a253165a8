//! What a restart must not change, object by object: the job's own later doings, a long pause or a
//! refused restart in between make no difference. And what cannot be brought back is refused at the
//! checkpoint.

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::Duration;

use ckpt_tests::{Ended, From, Payload, Run, User, payload, undisturbed};
use nix::fcntl::{Flock, FlockArg};

fn of(what: &'static str) -> Payload {
    payload("faithful").with(Box::leak(Box::new([("WHAT", what)])))
}

/// A file beside the output.
fn beside(run: &Run, ending: &str) -> PathBuf {
    run.output().with_file_name(format!("output.{ending}"))
}

fn touch(run: &Run, ending: &str) {
    File::create(beside(run, ending)).expect("the folder is there");
}

/// The job when it has set up its object, and how it ends undisturbed.
fn ready(what: &'static str, user: &User) -> (Run, Ended) {
    let expected = undisturbed(of(what), user);
    let sound = expected.output.contains("checksum ") && !expected.output.contains("WRONG");
    assert!(sound, "undisturbed, it ended with {expected:?}");
    let mut run = Run::start(of(what), user);
    assert!(run.says("ready") && run.answers());
    (run, expected)
}

fn checkpoint(run: &Run) {
    run.checkpoint().unwrap_or_else(|e| panic!("status {}: {}", e.status, e.message));
}

/// Lets the job spoil its object, as it might after any checkpoint.
fn spoil(run: &Run) {
    touch(run, "spoil");
    while !beside(run, "spoilt").exists() {
        assert!(!run.is_gone(), "the job has ended");
        std::thread::sleep(Duration::from_millis(2));
    }
    fs::remove_file(beside(run, "spoil")).expect("it was just made");
}

/// Checkpoint, `meanwhile`, SIGKILL, a pause, restart.
fn comes_back(what: &'static str, user: &User, meanwhile: fn(&Run), pause: Duration) {
    let (mut run, expected) = ready(what, user);
    checkpoint(&run);
    meanwhile(&run);
    run.kill();
    std::thread::sleep(pause);
    touch(&run, "go");
    run.restore(From::Directory);
    run.end().must_equal(&expected);
}

/// The same twice over: a restarted job is a job like any other.
fn comes_back_again(what: &'static str, user: &User) {
    let (mut run, expected) = ready(what, user);
    for _ in 0..2 {
        checkpoint(&run);
        run.kill();
        run.restore(From::Directory);
        assert!(run.answers());
    }
    touch(&run, "go");
    run.end().must_equal(&expected);
}

/// Refused while the object is there, with these words, and only then.
fn refused(what: &'static str, user: &User, words: &str) {
    let (mut run, expected) = ready(what, user);
    let refusal = run.checkpoint().expect_err("it could not be restored");
    assert_eq!(refusal.status, 69, "EX_UNAVAILABLE: {}", refusal.message);
    assert!(refusal.message.contains(words), "no word of {words}: {}", refusal.message);
    assert!(run.generations().is_empty(), "there is an image");
    touch(&run, "go");
    assert!(run.reaches(1));
    checkpoint(&run);
    run.kill();
    run.restore(From::Directory);
    run.end().must_equal(&expected);
}

/// A restart that cannot have a lock back leaves the user's files as they are.
fn refused_restart(user: &User) {
    let (mut run, expected) = ready("claims", user);
    checkpoint(&run);
    spoil(&run);
    run.kill();
    let files = |run: &Run| ["shared", "appended"].map(|name| fs::read(beside(run, name)).ok());
    let before = files(&run);
    let lock = File::open(beside(&run, "lock")).expect("the job has made it");
    let lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, e)| e);
    run.restore_flagged(From::Directory, &["--cut-appended"]);
    assert_ne!(run.end().status, expected.status, "the lock is ours");
    assert!(run.log().contains("lock"), "the message does not speak of a lock: {}", run.log());
    assert_eq!(files(&run), before, "the refused restart has written to the job's files");
    drop(lock);
    touch(&run, "go");
    run.restore_flagged(From::Directory, &["--cut-appended"]);
    run.end().must_equal(&expected);
}

const NO: Duration = Duration::ZERO;

/// Two tests for each case, one for each kind of user.
macro_rules! faithful {
    ($($name:ident: $case:expr;)*) => {$(
        mod $name {
            use super::*;

            fn case(user: &User) {
                let case: fn(&User) = $case;
                case(user);
            }

            #[test]
            fn as_root() {
                if let Some(root) = User::root() {
                    case(&root);
                }
            }

            #[test]
            fn as_ordinary_user() {
                case(&User::ordinary());
            }
        }
    )*};
}

faithful! {
    zero_pages_of_files: |user| comes_back("zeroes", user, spoil, NO);
    refused_restarts_harm_no_files: refused_restart;
    rights_of_mappings: |user| comes_back("rights", user, spoil, NO);
    watches_of_epoll: |user| comes_back_again("watches", user);
    lost_watches_of_epoll: |user| refused("lost watch", user, "epoll");
    packets_of_pipes: |user| comes_back_again("packets", user);
    timers: |user| comes_back("timers", user, |_| (), Duration::from_secs(3));
    lost_directory: |user| refused("lost directory", user, "working directory");
    odd_directory: |user| comes_back("odd directory", user, |_| (), NO);
    own_maps: |user| comes_back_again("own maps", user);
    seals: |user| comes_back_again("seals", user);
    sessions: |user| refused("sessions", user, "session");
}
