//! Real programs, each run undisturbed, then through checkpoints, SIGKILLs and restarts: the output
//! must be the same byte for byte.

use ckpt_tests::{User, payload, survives, with_environment};

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
