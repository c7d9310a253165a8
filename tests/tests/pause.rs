//! The job runs on while its memory is read from a copy-on-write twin, and cannot tell.

use ckpt_tests::{From, Run, User, payload, undisturbed};

/// Takes the payload through checkpoints, kills and restarts; what the first launcher said.
fn comes_back(with: &'static [(&'static str, &'static str)], user: &User) -> String {
    let payload = payload("pause").with(with);
    let expected = undisturbed(payload, user);
    assert!(!expected.output.contains("WRONG"), "{}", expected.output);
    let mut run = Run::start(payload, user);
    let mut said = String::new();
    for round in 1..=3 {
        assert!(run.reaches(expected.steps() * round / 5) && run.answers());
        run.checkpoint().unwrap_or_else(|e| panic!("status {}: {}", e.status, e.message));
        said.push_str(&run.log());
        run.kill();
        run.restore(From::Directory);
    }
    run.end().must_equal(&expected);
    said
}

const STANDS: &str = "the job stands still until all is read";

#[test]
fn what_a_fork_has_and_what_not() {
    for user in [User::root(), Some(User::ordinary())].into_iter().flatten() {
        let said = comes_back(&[("WITH", "plain")], &user);
        assert!(!said.contains(STANDS), "{said}");
    }
}

/// A copy would be an orphan in the job's own care.
#[test]
fn a_subreaper_is_copied_as_it_stands() {
    let said = comes_back(&[("WITH", "subreaper")], &User::ordinary());
    assert!(said.contains(STANDS) && said.contains("subreaper"), "{said}");
}

/// One checkpoint right after the other: none finds the one before's twin.
#[test]
fn nothing_is_left_to_the_next_one() {
    for user in [User::root(), Some(User::ordinary())].into_iter().flatten() {
        let payload = payload("pause").with(&[("WITH", "plain"), ("STEPS", "800")]);
        let expected = undisturbed(payload, &user);
        let mut run = Run::start(payload, &user);
        assert!(run.reaches(3) && run.answers());
        run.checkpoint().unwrap_or_else(|e| panic!("status {}: {}", e.status, e.message));
        run.kill();
        run.restore(From::Directory);
        assert!(run.answers());
        for _ in 0..20 {
            run.checkpoint().unwrap_or_else(|e| panic!("status {}: {}", e.status, e.message));
        }
        let log = run.log();
        let frozen: Vec<&str> =
            log.lines().filter(|line| line.contains(" frozen processes=")).collect();
        assert!(frozen.len() >= 20, "{log}");
        assert!(frozen.iter().all(|line| line.contains("processes=1 tasks=2")), "{log}");
        run.end().must_equal(&expected);
    }
}

/// A control group with a limit, around one job.
struct Group(std::path::PathBuf);

impl Group {
    /// Of one of these: a controller's folder and a file in it. None where there is no such controller, or we
    /// may not make a group.
    fn new(limits: &[(&str, &str)], limit: u64) -> Option<Self> {
        let folder = format!("ckpt-test-{}", std::process::id());
        for (root, file) in limits {
            let group = std::path::Path::new(root).join(&folder);
            if std::fs::create_dir(&group).is_ok() {
                let group = Self(group);
                if group.set(file, limit).is_ok() {
                    return Some(group);
                }
            }
        }
        None
    }

    fn set(&self, file: &str, value: u64) -> std::io::Result<()> {
        std::fs::write(self.0.join(file), value.to_string())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// A copy of which every page may have to be made would not fit: none is made, and nobody is killed.
#[test]
fn no_copy_where_memory_is_limited() {
    let Some(root) = User::root() else { return };
    let (one, two) = ("/sys/fs/cgroup/memory", "/sys/fs/cgroup");
    let limits = [(one, "memory.limit_in_bytes"), (two, "memory.max")];
    let Some(group) = Group::new(&limits, 110 << 20) else {
        println!("left out: no memory controller");
        return;
    };
    let payload = payload("memory").with(&[("MIB", "64"), ("STEPS", "20")]);
    let expected = undisturbed(payload, &root);
    let enter = format!("echo $$ > {}/cgroup.procs; exec \"$@\"", group.0.display());
    let mut run = Run::start_under(payload, &root, &["sh", "-c", &enter, "sh"]);
    assert!(run.reaches(3) && run.answers());
    run.checkpoint().unwrap_or_else(|e| panic!("status {}: {}", e.status, e.message));
    let log = run.log();
    assert!(log.contains(STANDS) && log.contains("no room for a copy"), "{log}");
    run.kill();
    run.restore(From::Directory);
    run.end().must_equal(&expected);
}

/// One copy of two can be made, and is not left over.
#[test]
fn no_copy_where_processes_are_limited() {
    let Some(root) = User::root() else { return };
    let limits = [("/sys/fs/cgroup/pids", "pids.max"), ("/sys/fs/cgroup", "pids.max")];
    let Some(group) = Group::new(&limits, 1000) else {
        println!("left out: no pids controller");
        return;
    };
    let expected = undisturbed(payload("changes"), &root);
    let mut run = Run::start(payload("changes"), &root);
    assert!(run.reaches(3) && run.answers());
    // It, its child, and now and then one more.
    for pid in run.processes() {
        group.set("cgroup.procs", pid as u64).expect("it is there");
    }
    // One that makes the copy, for each of them; and one copy.
    group.set("pids.max", 5).expect("it is ours");
    run.checkpoint().unwrap_or_else(|e| panic!("status {}: {}", e.status, e.message));
    let log = run.log();
    assert!(log.contains(STANDS) && log.contains("no copy of it"), "{log}");
    group.set("pids.max", 1000).expect("it is ours");
    let before = log.len();
    run.checkpoint().unwrap_or_else(|e| panic!("status {}: {}", e.status, e.message));
    let log = run.log().split_off(before);
    assert!(!log.contains(STANDS) && !log.contains("zombie"), "{log}");
    let few = [2, 3].map(|count| format!("frozen processes={count} "));
    assert!(few.iter().any(|few| log.contains(few)), "{log}");
    run.kill();
    run.restore(From::Directory);
    run.end().must_equal(&expected);
}
