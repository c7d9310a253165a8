//! Large memory comes back in the areas that it was in, and takes no more than it did.

use std::fs::File;

use ckpt_tests::{From, Run, User, payload};

/// Restarts what was killed after a checkpoint, twice.
fn comes_back(user: &User) {
    let payload = payload("filled");
    let go = |run: &Run| File::create(run.output().with_extension("go"));
    let mut run = Run::start(payload, user);
    assert!(run.says("ready"));
    go(&run).expect("the folder is ours");
    let expected = run.end();
    assert!(!expected.output.contains("WRONG"));
    let mut run = Run::start(payload, user);
    assert!(run.says("ready"));
    for _ in 0..2 {
        run.checkpoint().expect("nothing is in its way");
        run.kill();
        run.restore(From::Directory);
        assert!(run.answers(), "{}", run.log());
    }
    go(&run).expect("the folder is ours");
    run.end().must_equal(&expected);
}

#[test]
fn memory_is_as_it_was() {
    for user in [User::root(), Some(User::ordinary())].into_iter().flatten() {
        comes_back(&user);
    }
}
