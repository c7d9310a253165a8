//! Many threads of the standard library: channels, a mutex with a condition variable, parking,
//! thread-local values. Compiled with plain `rustc -O`.

use std::cell::Cell;
use std::fs::File;
use std::io::Write;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

const STAGES: usize = 24;

thread_local!(static SEEN: Cell<u64> = const { Cell::new(0) });

fn churn(mut x: u64, rounds: u32) -> u64 {
    for _ in 0..rounds {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
    }
    x | 1
}

/// One stage of the pipeline: takes a number, works on it, hands it on.
fn stage(index: u64, from: Receiver<u64>, to: Sender<u64>) {
    for value in from {
        let seen = SEEN.replace(SEEN.get().wrapping_add(value));
        let next = churn(value ^ (index + 1), 450_000).wrapping_add(seen);
        if to.send(next).is_err() {
            break;
        }
    }
}

fn main() -> std::io::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let steps: u64 = args
        .get(2)
        .cloned()
        .or_else(|| std::env::var("STEPS").ok())
        .map_or(60, |s| s.parse().expect("STEPS is a number"));
    let mut out = File::create(&args[1])?;
    let (first, mut last) = channel();
    for index in 0..STAGES as u64 {
        let (to, from) = channel();
        let input = std::mem::replace(&mut last, from);
        thread::spawn(move || stage(index, input, to));
    }
    // A thread that is unparked once a step and answers through a condition variable.
    let answer = Arc::new((Mutex::new(0u64), Condvar::new()));
    let shared = Arc::clone(&answer);
    let parked = thread::spawn(move || {
        for round in 1..=steps {
            thread::park();
            *shared.0.lock().expect("no panic in a holder") = round;
            shared.1.notify_one();
        }
    });
    let mut sum = 0u64;
    for step in 0..steps {
        for i in 0..4 {
            first.send(step * 4 + i).expect("the pipeline runs");
        }
        for _ in 0..4 {
            sum = sum.rotate_left(5) ^ last.recv().expect("the pipeline runs");
        }
        let mut round = answer.0.lock().expect("no panic in a holder");
        // It may wake by itself and be ahead.
        while *round <= step {
            parked.thread().unpark();
            let pause = std::time::Duration::from_millis(1);
            round = answer.1.wait_timeout(round, pause).expect("no panic in a holder").0;
        }
        out.write_all(format!("step {step} {sum:016x}\n").as_bytes())?;
    }
    parked.join().expect("it ends");
    out.write_all(format!("checksum {sum:016x}\n").as_bytes())
}
