//! Whose a job is: that it stays what it was, is restored by its owner only, and once.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use ckpt_tests::{From, Payload, Run, User, descendants, payload, undisturbed};

fn with(what: &'static [(&'static str, &'static str)]) -> Payload {
    payload("identity").with(what)
}

/// Takes it to a checkpoint in its middle.
fn checkpointed(mut run: Run) -> Run {
    assert!(run.reaches(5) && run.answers());
    run.checkpoint().unwrap_or_else(|e| panic!("status {}: {}", e.status, e.message));
    run
}

fn image(run: &Run) -> PathBuf {
    run.generations().pop().expect("there is one")
}

/// A file of somebody else's, with the image's contents and a higher generation in its name.
fn planted(run: &Run) -> PathBuf {
    let name = image(run).display().to_string().replace("-000001.", "-000002.");
    fs::copy(image(run), &name).expect("root can do that");
    std::os::unix::fs::chown(&name, Some(4242), Some(4242)).expect("root can do that");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    fs::set_permissions(&name, open).expect("root can do that");
    name.into()
}

fn strangers_images(user: &User) {
    let payload = with(&[("WITH", "nothing")]);
    let expected = undisturbed(payload, user);
    let mut run = checkpointed(Run::start(payload, user));
    run.kill();
    let planted = planted(&run);
    let (status, message) = run.refusal(user, &planted, &[]);
    assert!(status == 77 && message.contains("user 4242"), "{status}: {message}");
    // Damaged, it would be newer still; and nobody sets it aside but its owner.
    let damaged = PathBuf::from(planted.display().to_string().replace("-000002.", "-000003."));
    fs::write(&damaged, "not an image").expect("root can do that");
    std::os::unix::fs::chown(&damaged, Some(4242), Some(4242)).expect("root can do that");
    run.restore(From::Directory);
    run.end().must_equal(&expected);
    let log = run.log();
    assert!(log.contains("passed over") && log.contains("user 4242"), "{log}");
    assert!(planted.exists() && damaged.exists(), "it was set aside");
}

#[test]
fn strangers_images_as_root() {
    if let Some(root) = User::root() {
        strangers_images(&root);
    }
}

#[test]
fn strangers_images_as_ordinary_user() {
    // Only root can make files of somebody else's.
    if User::root().is_some() {
        strangers_images(&User::ordinary());
    }
}

#[test]
fn a_users_image_is_not_roots() {
    let Some(root) = User::root() else { return };
    let mut run = checkpointed(Run::start(with(&[("WITH", "nothing")]), &User::ordinary()));
    run.kill();
    let (status, message) = run.refusal(&root, &image(&run), &[]);
    assert!(status == 77 && message.contains("chown"), "{status}: {message}");
}

fn id_in(image: &Path) -> String {
    let name = image.file_name().expect("it has one").to_string_lossy().into_owned();
    name.split('-').nth_back(1).expect("the job's id").to_owned()
}

fn must_be_busy(run: &Run, user: &User, pid: i32) {
    let (status, message) = run.refusal(user, &run.images(), &[]);
    let named = message.contains(&pid.to_string());
    assert!(status == 75 && named && message.contains("--force"), "{status}: {message}");
}

/// A job that has lost its launcher runs on, and must not run twice.
fn once_only(user: &User) {
    // It must live longer than a restorer waits for processes that are about to end.
    let payload = with(&[("WITH", "nothing"), ("STEPS", "120")]);
    let expected = undisturbed(payload, user);
    let mut run = Run::start(payload, user);
    for _ in 0..2 {
        run = checkpointed(run);
        let pids = descendants(run.supervisor());
        run.kill_supervisor();
        must_be_busy(&run, user, *pids.last().expect("the payload"));
        run.kill();
        run.restore(From::Directory);
    }
    run.end().must_equal(&expected);
    // Something that only looks like it.
    let variable = format!("CKPT_JOB_ID={}", id_in(&image(&run)));
    let mut sleep = user.command(Path::new("/usr/bin/env"));
    let mut sleep = sleep.args([&variable, "sleep", "100"]).spawn().expect("it can be run");
    while !fs::read(format!("/proc/{}/environ", sleep.id()))
        .is_ok_and(|text| text.windows(variable.len()).any(|part| part == variable.as_bytes()))
    {
        std::thread::yield_now();
    }
    must_be_busy(&run, user, sleep.id() as i32);
    let (status, message) = run.refusal(user, &run.images(), &["--force"]);
    assert_eq!(status, 0, "{message}");
    let _ = sleep.kill().and_then(|()| sleep.wait());
    // A shell of the job's may restore it: those above the restorer do not count.
    let script = format!(
        "'{}' '{}'; exit $?",
        ckpt_tests::tools().restore.display(),
        run.images().display()
    );
    let mut shell = user.command(Path::new("/usr/bin/env"));
    let status = shell.args([&variable, "sh", "-c", &script]).stdin(std::process::Stdio::null());
    assert!(
        status.status().is_ok_and(|status| status.success()),
        "its own shell stands in the way"
    );
}

#[test]
fn once_only_as_root() {
    if let Some(root) = User::root() {
        once_only(&root);
    }
}

#[test]
fn once_only_as_ordinary_user() {
    once_only(&User::ordinary());
}

/// A process with this number; numbers are handed out in turn.
fn occupy(pid: i32) -> Child {
    for _ in 0..1000 {
        fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).expect("root may");
        let mut child = Command::new("sleep").arg("100").spawn().expect("it can be run");
        if child.id() as i32 == pid {
            return child;
        }
        let _ = child.kill().and_then(|()| child.wait());
    }
    panic!("the number {pid} cannot be had");
}

/// Where its number is taken, root's job gets a PID namespace, and is root's still.
#[test]
fn privileges_with_numbers_taken() {
    let Some(root) = User::root() else { return };
    let payload = with(&[("WITH", "chown")]);
    let expected = undisturbed(payload, &root);
    let mut run = checkpointed(Run::start(payload, &root));
    let pid = *descendants(run.supervisor()).last().expect("the payload");
    run.kill();
    let mut other = occupy(pid);
    for _ in 0..2 {
        run.restore(From::Directory);
        run = checkpointed(run);
        run.kill();
    }
    run.restore(From::Directory);
    run.end().must_equal(&expected);
    let log = run.log();
    let owner = fs::metadata(run.output()).expect("it is there").uid();
    let _ = other.kill().and_then(|()| other.wait());
    assert!(log.contains("own PID namespace"), "{log}");
    assert_eq!(owner, 1, "chown did nothing");
}

fn comes_back(payload: Payload, user: &User) {
    let expected = undisturbed(payload, user);
    assert!(!expected.output.contains("WRONG"), "undisturbed, it fails: {}", expected.output);
    let mut run = Run::start(payload, user);
    for _ in 0..2 {
        run = checkpointed(run);
        run.kill();
        run.restore(From::Directory);
    }
    run.end().must_equal(&expected);
}

#[test]
fn undumpable() {
    if let Some(root) = User::root() {
        comes_back(with(&[("WITH", "undumpable")]), &root);
    }
}

/// An ordinary user may not trace it, which is said.
#[test]
fn undumpable_as_ordinary_user() {
    let mut run = Run::start(with(&[("WITH", "undumpable")]), &User::ordinary());
    assert!(run.reaches(3) && run.answers());
    let refusal = run.checkpoint().expect_err("it cannot be traced");
    println!("status {}: {}", refusal.status, refusal.message);
    assert_eq!(refusal.status, 77, "{}", refusal.message);
    assert!(run.reaches(run.steps() + 2), "the job does not go on");
}

#[test]
fn locked_memory_as_root() {
    if let Some(root) = User::root() {
        comes_back(with(&[("WITH", "mlock")]), &root);
    }
}

#[test]
fn locked_memory_as_ordinary_user() {
    comes_back(with(&[("WITH", "mlock")]), &User::ordinary());
}

#[test]
fn lazily_locked_memory() {
    comes_back(with(&[("WITH", "mlock onfault")]), &User::ordinary());
}

#[test]
fn groups_as_root() {
    let Some(root) = User::root() else { return };
    let payload = with(&[("WITH", "nothing")]);
    let expected = undisturbed(payload, &root);
    let setpriv = ["setpriv", "--regid=4245", "--groups=4242,4243"];
    let mut run = checkpointed(Run::start_under(payload, &root, &setpriv));
    run.kill();
    run.unwrap();
    run.restore(From::Directory);
    run = checkpointed(run);
    run.kill();
    run.restore(From::Directory);
    run.end().must_equal(&expected);
}

#[test]
fn groups_as_ordinary_user() {
    if User::root().is_none() {
        return;
    }
    let user = User::ordinary();
    let payload = with(&[("WITH", "file")]);
    let (uid, gid) = (format!("--reuid={}", user.uid()), format!("--regid={}", user.uid()));
    let setpriv = ["setpriv", &uid, &gid, "--groups=4242,4243"];
    let mut run = checkpointed(Run::start_under(payload, &user, &setpriv));
    run.kill();
    let file = run.output().with_file_name("group's");
    fs::write(&file, "").expect("root can do that");
    std::os::unix::fs::chown(&file, Some(0), Some(4243)).expect("root can do that");
    let closed = std::os::unix::fs::PermissionsExt::from_mode(0o040);
    fs::set_permissions(&file, closed).expect("root can do that");
    let (status, message) = run.refusal(&user, &run.images(), &[]);
    assert!(status == 77 && message.contains("newgrp"), "{status}: {message}");
    run.restore(From::Directory);
    let ended = run.end();
    assert!(ended.output.contains("group's file ok"), "{}", ended.output);
    assert!(!ended.output.contains("WRONG") && ended.status == 0, "{}", ended.output);
}

/// The restorer opens the file anew; the job has read a part of it.
fn input(user: &User) {
    let payload = with(&[("WITH", "stdin")]);
    let text: String = ('0'..='z').collect();
    let (mut run, ()) = Run::start_with(payload, user, |images| {
        fs::write(images.with_file_name("input"), &text).expect("the folder is there");
    });
    for _ in 0..2 {
        run = checkpointed(run);
        run.kill();
        run.restore(From::Directory);
    }
    let ended = run.end();
    let steps: Vec<&str> = ended.output.lines().filter(|line| line.starts_with("step")).collect();
    let expected: Vec<String> =
        text.chars().take(40).enumerate().map(|(at, byte)| format!("step {at} {byte}")).collect();
    assert_eq!(steps, expected);
    assert_eq!(ended.status, 0);
}

#[test]
fn input_as_root() {
    if let Some(root) = User::root() {
        input(&root);
    }
}

#[test]
fn input_as_ordinary_user() {
    input(&User::ordinary());
}
