//! Memory comes back in huge pages where it was dense, if the kernel has any, and nowhere else.

use std::fs::File;

use ckpt_tests::{From, Run, User, payload};

/// Takes huge pages from the program that it becomes, and from its children.
const WITHOUT: [&str; 3] = [
    "python3",
    "-c",
    "import ctypes, os, sys
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)
os.execv(sys.argv[1], sys.argv[1:])",
];

/// Restarts what was killed after a checkpoint, `how` the run is prepared for that.
fn comes_back(user: &User, how: impl Fn(&mut Run)) {
    let payload = payload("dense");
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
        how(&mut run);
        run.restore(From::Directory);
        assert!(run.answers(), "{}", run.log());
    }
    go(&run).expect("the folder is ours");
    run.end().must_equal(&expected);
}

#[test]
fn memory_is_as_dense_as_it_was() {
    for user in [User::root(), Some(User::ordinary())].into_iter().flatten() {
        comes_back(&user, |_| {});
    }
}

/// What the kernel refuses to make huge is filled as ever.
#[test]
fn where_there_are_no_huge_pages_it_comes_back_without() {
    let Some(root) = User::root() else { return };
    comes_back(&root, |run| run.wrap(&WITHOUT));
}
