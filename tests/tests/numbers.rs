//! Process numbers: what comes after those of the image; and where they can be neither chosen nor had
//! in a namespace of one's own, as in Shifter, they are waited for.

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::time::Instant;

use ckpt_tests::{From, Numbers, Payload, Run, User, payload, undisturbed};

const ROUNDS: u64 = 2;

/// What goes before a command of this user where no numbers are used up but the test's own.
fn apart(numbers: Option<&Numbers>, user: &User) -> Vec<String> {
    numbers.map(|numbers| numbers.words(user)).unwrap_or_default()
}

fn start(payload: Payload, user: &User, wrapper: &[String]) -> Run {
    let words: Vec<&str> = wrapper.iter().map(String::as_str).collect();
    Run::start_under(payload, user, &words)
}

/// Takes a payload through kills and restarts that wait for the numbers.
fn comes_back(name: &str, user: &User, wrapper: &[String], flags: &[&str]) {
    let payload = payload(name);
    let expected = undisturbed(payload, user);
    let mut run = start(payload, user, wrapper);
    for round in 1..=ROUNDS {
        assert!(run.reaches(expected.steps() * round / (ROUNDS + 2)) && run.answers());
        run.checkpoint().unwrap_or_else(|e| panic!("status {}: {}", e.status, e.message));
        run.kill();
        let begun = Instant::now();
        // The restorer itself, or somebody else's, may have one of the numbers just then.
        for again in (0..30).rev() {
            run.restore_flagged(From::Directory, flags);
            if run.answers() || again == 0 || !run.log().contains("is in use by") {
                break;
            }
        }
        assert!(run.log().contains("PIDs: fork until they come by"), "{}", run.log());
        println!("{name}: back after {:.2} s", begun.elapsed().as_secs_f64());
    }
    run.end().must_equal(&expected);
}

fn waited_for(name: &str, numbers: Option<&Numbers>) {
    let user = User::ordinary();
    comes_back(name, &user, &apart(numbers, &user), &["--pids", "cycle"]);
}

#[test]
fn of_a_shell_and_its_children() {
    waited_for("shell", Numbers::new().as_ref());
}

#[test]
fn of_threads() {
    waited_for("threads", Numbers::new().as_ref());
}

#[test]
fn of_sessions_and_orphans() {
    waited_for("family", Numbers::new().as_ref());
}

#[test]
fn of_a_restorer_with_time_namespaces() {
    // Its children's clocks are not its own.
    if let Some(root) = User::root() {
        let numbers = Numbers::new();
        comes_back("channels", &root, &apart(numbers.as_ref(), &root), &["--pids", "cycle"]);
    }
}

/// Each would take what the other waits for.
#[test]
fn of_several_restarts_at_once() {
    let numbers = Numbers::new();
    std::thread::scope(|all| {
        (0..3).for_each(|_| drop(all.spawn(|| waited_for("shell", numbers.as_ref()))));
    });
}

/// Who has been told that a child has ended takes the next one with its number for the same.
fn comes_only_once(user: &User, flags: &[&str]) {
    let numbers = Numbers::new();
    let births = payload("births").with(&[("STEPS", "300")]);
    let mut run = start(births, user, &apart(numbers.as_ref(), user));
    for round in 1..=4 {
        assert!(run.reaches(round * 30) && run.answers());
        run.checkpoint().unwrap_or_else(|e| panic!("status {}: {}", e.status, e.message));
        run.kill();
        run.restore_flagged(From::Directory, flags);
    }
    fs::write(run.output().with_file_name("output.go"), "").expect("the folder is there");
    let ended = run.end();
    let mut seen = HashSet::new();
    for (line, step) in ended.output.lines().zip(1..) {
        let words: Vec<&str> = line.split(' ').collect();
        assert!(seen.insert(words[3]), "{line}: that number was there before\n{}", run.log());
        assert_eq!(words[5], (step % 100).to_string(), "{line}");
    }
    assert!(seen.len() == 300, "{ended:?}");
}

#[test]
fn in_an_own_namespace_none_comes_again() {
    comes_only_once(&User::ordinary(), &["--pids", "namespace"]);
}

#[test]
fn among_others_none_comes_again() {
    comes_only_once(&User::ordinary(), &["--pids", "cycle"]);
    if let Some(root) = User::root() {
        comes_only_once(&root, &["--pids", "set-tid"]);
    }
}

/// Containers of LXC have a `/proc/loadavg` of their own.
#[test]
fn where_nobody_tells_the_last_one() {
    let (Some(numbers), Some(root)) = (Numbers::new(), User::root()) else { return };
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    writeln!(file, "0.10 0.20 0.30 1/88 4711").expect("it can be written");
    let enter = format!("mount --bind {} /proc/loadavg && exec \"$@\"", file.path().display());
    let unshare = ["unshare", "-m", "--propagation", "private", "sh", "-c", &enter, "sh"];
    let wrapper = [numbers.words(&root), unshare.map(str::to_owned).to_vec()].concat();
    comes_back("shell", &root, &wrapper, &["--pids", "cycle"]);
}

/// Shifter's way: a chroot in a mount namespace, no capability to come by, and numbers that are not the
/// job's alone. The ladder gets to its third rung by itself.
#[test]
fn in_a_chroot_without_privileges() {
    let (Some(numbers), Some(root)) = (Numbers::new(), User::root()) else { return };
    let user = User::ordinary();
    let place = tempfile::Builder::new().prefix("ckpt-test-root-").tempdir().expect("a folder");
    let enter = format!(
        "mount --rbind / {0} && exec chroot {0} setpriv --reuid {1} --regid {1} --clear-groups \
         --bounding-set=-all --inh-caps=-all --no-new-privs env SHIFTER_RUNTIME=1 \"$@\"",
        place.path().display(),
        user.name
    );
    let unshare = ["unshare", "-m", "--propagation", "private"];
    let words = [&unshare[..], &["sh", "-c", &enter, "sh"]].concat();
    let wrapper = [numbers.words(&root), words.into_iter().map(str::to_owned).collect()].concat();
    comes_back("shell", &user, &wrapper, &[]);
}
