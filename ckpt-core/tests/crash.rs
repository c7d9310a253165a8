//! A program that dies between any two system calls of a commit finds its last version.
#![allow(missing_docs, reason = "tests")]

use std::path::Path;

use ckpt_core::regions::{Options, Store};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

const LENGTH: usize = 1 << 20;

fn open(dir: &Path) -> Store {
    Store::open(dir, "crash", Options { workers: 1, ..Options::default() }).unwrap()
}

/// What version `number` holds: each is partly as the one before.
fn field(number: u64) -> Vec<u64> {
    let value = |index: usize| match index / (LENGTH / 16) {
        3 => number * 0x9e37_79b9_7f4a_7c15 + index as u64,
        _ => (index as u64).wrapping_mul(0xd134_2543_de82_ef95),
    };
    (0..LENGTH).map(value).collect()
}

fn commit(store: &mut Store, number: u64, field: &[u64]) {
    let mut next = store.begin(number).unwrap();
    next.add("field", field).unwrap().add_value("number", number).unwrap();
    next.commit().unwrap();
}

/// The child commits version `number`, and dies before its `calls`-th system call; false if it has
/// come to its end before.
fn dies_before(dir: &Path, number: u64, field: &[u64], calls: usize) -> bool {
    // SAFETY: the child uses nothing that another thread of ours may hold, but for the allocator's
    // locks, which the C library takes care of.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let mut store = open(dir);
            ptrace::traceme().unwrap();
            nix::sys::signal::raise(Signal::SIGSTOP).unwrap();
            commit(&mut store, number, field);
            std::process::exit(0);
        }
        ForkResult::Parent { child } => !ends_within(child, calls),
    }
}

/// Lets it make so many calls; kills it if that is not its end.
fn ends_within(child: Pid, calls: usize) -> bool {
    assert!(matches!(waitpid(child, None), Ok(WaitStatus::Stopped(_, Signal::SIGSTOP))));
    // Each stops twice.
    for _ in 0..2 * calls {
        ptrace::syscall(child, None).unwrap();
        match waitpid(child, None).unwrap() {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => {}
            WaitStatus::Exited(_, status) => {
                assert_eq!(status, 0);
                return true;
            }
            other => panic!("{other:?}"),
        }
    }
    nix::sys::signal::kill(child, Signal::SIGKILL).unwrap();
    waitpid(child, None).unwrap();
    false
}

/// The newest version, which must be whole.
fn found(dir: &Path) -> u64 {
    let mut number = 0;
    let restored = open(dir).restore(|version| {
        number = version.value("number")?;
        assert!(version.read_vec::<u64>("field")? == field(number), "version {number} is wrong");
        Ok(())
    });
    let restored = restored.unwrap().expect("there is one");
    assert_eq!((restored.version, restored.passed_over.len()), (number, 0));
    number
}

#[test]
fn between_any_two_calls() {
    let dir = tempfile::tempdir().unwrap();
    commit(&mut open(dir.path()), 1, &field(1));
    commit(&mut open(dir.path()), 2, &field(2));
    let next = field(3);
    let mut calls = 0;
    // Again and again the third, which builds upon the second.
    while dies_before(dir.path(), 3, &next, calls) {
        let version = found(dir.path());
        assert!(version == 2 || version == 3, "{version} after {calls} calls");
        if version == 3 {
            let image = open(dir.path()).version(3).unwrap().rank(0).unwrap().path().to_owned();
            std::fs::remove_file(image).unwrap();
        }
        calls += 1;
    }
    assert!(calls > 50, "that were only {calls}");
    assert_eq!(found(dir.path()), 3);
    println!("{calls} calls");
}
