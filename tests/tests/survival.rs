//! Real programs, each run undisturbed, then through checkpoints, SIGKILLs and restarts: the output
//! must be the same byte for byte.

use ckpt_tests::{From, Run, User, payload, survives, undisturbed, with_environment};

/// Two tests for each payload, one for each kind of user.
macro_rules! survives {
    ($($name:ident)*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn as_root() {
                survives(stringify!($name), User::root());
            }

            #[test]
            fn as_ordinary_user() {
                survives(stringify!($name), Some(User::ordinary()));
            }
        }
    )*};
}

survives! {
    shell numpy_pool perl tcl awk
    threads vectors signals blocked channels
    forkbomb family objects state memory critical
}

mod linked_statically {
    use super::*;

    #[test]
    fn as_root() {
        survives("static", User::root());
    }

    #[test]
    fn as_ordinary_user() {
        survives("static", Some(User::ordinary()));
    }
}

/// 2 GiB of mixed content.
#[test]
fn large_memory() {
    with_environment(payload("memory").with(&[("MIB", "2048")]), Some(User::ordinary()), 2);
}

/// Blocks of one image may be packed harder or less than others.
#[test]
fn as_hard_as_the_disk_allows() {
    let (payload, user) = (payload("memory").with(&[("MIB", "512")]), User::ordinary());
    let expected = undisturbed(payload, &user);
    let mut run = Run::start_flagged(payload, &user, &["--level", "auto"]);
    for step in [4, 12] {
        assert!(run.reaches(step) && run.answers(), "{}", run.log());
        run.checkpoint().unwrap_or_else(|e| panic!("status {}: {}", e.status, e.message));
        run.kill();
        run.restore(From::Directory);
    }
    run.end().must_equal(&expected);
}
