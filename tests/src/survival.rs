//! The main question: is it as if nothing had happened?

use std::time::Duration;

use crate::moments::Moments;
use crate::payload::{Payload, payload};
use crate::run::{Ended, From, Run, undisturbed};
use crate::user::User;

/// Restarts of restarts in a row.
fn in_a_row() -> usize {
    number("CKPT_TEST_IN_A_ROW").unwrap_or(5).max(1)
}

fn number(variable: &str) -> Option<usize> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Takes the payload of that name through rounds of checkpoint, SIGKILL and restart.
///
/// # Panics
///
/// When its output or its exit status is not that of an undisturbed run.
pub fn survives(name: &str, user: Option<User>) {
    with_environment(payload(name), user, number("CKPT_TEST_ROUNDS").unwrap_or(15));
}

/// The same for a payload with an environment of its own and a number of rounds.
///
/// # Panics
///
/// As [`survives`].
pub fn with_environment(payload: Payload, user: Option<User>, rounds: usize) {
    let Some(user) = user else { return };
    let mut moments = Moments::new();
    let expected = undisturbed(payload, &user);
    assert!(expected.output.contains("checksum "), "undisturbed, it ended with {expected:?}");
    assert!(!expected.output.contains("WRONG"), "undisturbed, it fails: {}", expected.output);
    is_not_harmed(payload, &user, &expected, &mut moments);
    let mut done = 0;
    // On a slow day it ends before the last checkpoint comes; such a round counts for nothing.
    for _ in 0..2 + 3 * rounds.div_ceil(in_a_row()) {
        if done < rounds {
            let wanted = in_a_row().min(rounds - done);
            done += row(payload, &user, &expected, wanted, &mut moments);
        }
    }
    assert!(done >= rounds, "only {done} of {rounds} rounds came in time");
    println!("{} as {}: {done} rounds", payload.name, user.name);
}

/// Checkpoints alone change nothing.
fn is_not_harmed(payload: Payload, user: &User, expected: &Ended, moments: &mut Moments) {
    let mut run = Run::start(payload, user);
    for step in moments.places(2, latest(expected)) {
        if run.reaches(step) && run.answers() {
            take(&mut run, expected);
        }
    }
    run.end().must_equal(expected);
}

/// The last steps are left alone, lest the job be over when its checkpoint comes.
fn latest(expected: &Ended) -> u64 {
    expected.steps() * 4 / 5
}

/// One run with up to `wanted` restarts, each of the restart before; gives how many there were.
fn row(
    payload: Payload,
    user: &User,
    expected: &Ended,
    wanted: usize,
    moments: &mut Moments,
) -> usize {
    let mut run = Run::start(payload, user);
    let mut done = 0;
    for step in moments.places(wanted, latest(expected)) {
        if !run.reaches(step) || !run.answers() {
            break;
        }
        // A line has just been written: any other moment shall be as likely.
        std::thread::sleep(moments.up_to(Duration::from_millis(60)));
        if !take(&mut run, expected) {
            break;
        }
        // Half of the time, work is lost that the restarted job must do again.
        if moments.below(2) == 1 {
            std::thread::sleep(moments.up_to(Duration::from_millis(100)));
        }
        run.kill();
        run.restore(From::Directory);
        done += 1;
    }
    run.end().must_equal(expected);
    done
}

/// Takes a checkpoint; false if the job has ended meanwhile.
fn take(run: &mut Run, expected: &Ended) -> bool {
    match run.checkpoint() {
        Ok(time) => {
            let images = run.generations();
            let size = images.last().and_then(|image| image.metadata().ok()).map_or(0, |m| m.len());
            let (step, time) = (run.steps(), time.as_secs_f64());
            println!("step {step}: checkpoint in {time:.3} s, image of {size} bytes");
            true
        }
        Err(refusal) => {
            let over = run.steps() == expected.steps();
            assert!(over, "no checkpoint, status {}: {}", refusal.status, refusal.message);
            false
        }
    }
}
