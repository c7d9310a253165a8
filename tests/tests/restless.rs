//! A freeze comes in the middle of things that cannot stand still: threads that execute programs,
//! calls that a stop cuts short. None of it may be noticed, whether the checkpoint succeeds or not.

use ckpt_tests::{Ended, Payload, Run, User, payload, undisturbed};

const EXEC: &[(&str, &str)] = &[("MODE", "exec")];
const CALLS: &[(&str, &str)] = &[("MODE", "calls")];
const LOCKED: &[(&str, &str)] = &[("MODE", "calls"), ("LOCKED", "1")];
const LIMIT: &[(&str, &str)] = &[("MODE", "limit")];

fn restless(environment: &'static [(&'static str, &'static str)]) -> Payload {
    payload("restless").with(environment)
}

/// Asks for checkpoints until the job has ended; gives how many were taken and refused.
fn pester(mut run: Run, expected: &Ended) -> (usize, usize) {
    let (mut taken, mut refused) = (0, 0);
    assert!(run.reaches(1) && run.answers());
    while run.steps() < expected.steps() {
        match run.checkpoint() {
            Ok(_) => taken += 1,
            Err(refusal) => {
                println!("status {}: {}", refusal.status, refusal.message);
                assert_ne!(refusal.status, 70, "a defect: {}", refusal.message);
                // The last one may have come when the job was over.
                refused += usize::from(run.steps() < expected.steps());
            }
        }
    }
    run.end().must_equal(expected);
    println!("{taken} taken, {refused} refused");
    (taken, refused)
}

fn executed_by_threads(user: &User) {
    let expected = undisturbed(restless(EXEC), user);
    let (taken, _) = pester(Run::start(restless(EXEC), user), &expected);
    assert!(taken > 0, "not one checkpoint was taken");
}

#[test]
fn executed_by_threads_as_ordinary_user() {
    executed_by_threads(&User::ordinary());
}

#[test]
fn executed_by_threads_as_root() {
    if let Some(root) = User::root() {
        executed_by_threads(&root);
    }
}

/// Ignored signals that come while the job is traced, children's above all, end no call.
#[test]
fn calls_are_not_cut_short() {
    let user = User::ordinary();
    let expected = undisturbed(restless(CALLS), &user);
    let (taken, refused) = pester(Run::start(restless(CALLS), &user), &expected);
    assert!(taken > 0 && refused == 0);
}

/// The user's own process that may not be traced: the freeze is given up half-way.
#[test]
fn nor_by_a_freeze_that_fails() {
    let user = User::ordinary();
    let expected = undisturbed(restless(LOCKED), &user);
    let (taken, refused) = pester(Run::start(restless(LOCKED), &user), &expected);
    assert!(taken == 0 && refused > 0);
}

/// Checkpoints that come more often than an event loop's time limit do not put it off for ever.
#[test]
fn time_limits_end() {
    let user = User::ordinary();
    let expected = undisturbed(restless(LIMIT), &user);
    let mut run = Run::start(restless(LIMIT), &user);
    assert!(run.reaches(1) && run.answers());
    // Until it has ended by itself, which it would not do if each checkpoint began its time anew.
    let mut taken = 0;
    while run.answers() && taken < 3000 {
        taken += usize::from(run.checkpoint().is_ok());
    }
    assert!(taken > 1 && taken < 3000, "{taken} checkpoints");
    run.end().must_equal(&expected);
}
