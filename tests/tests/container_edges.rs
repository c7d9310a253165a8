//! `ckpt-launch --container` where things come at the wrong moment, or from an odd place.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;
use std::process::Command;

use ckpt_tests::runtime::{Image, Kind, Runtime};
use ckpt_tests::{Contained, descendants, said};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).expect("it is there");
}

/// A shell script in a container, with its output in a file.
fn begun<'a>(runtime: &'a Runtime, script: &str) -> Contained<'a> {
    let mut job = Contained::new(runtime, &[]);
    let mut command = job.launcher(Image::Bash, &["-i", "0"]);
    command.args(["bash", "-c", &format!("exec >output; {script}")]);
    job.start(command);
    job
}

const TRAPS: &str = "trap 'echo told; exit 5' TERM; echo ready; while :; do sleep 0.1; done";

/// One that comes before there is a payload waits for it.
#[test]
fn signals_that_come_early() {
    for kind in [Kind::Podman, Kind::Apptainer, Kind::Shifter] {
        let Some(runtime) = Runtime::of(kind) else { return };
        let mut job = begun(&runtime, TRAPS);
        job.is_met();
        signal(job.pid(), Signal::SIGTERM);
        // It may come before the trap.
        let status = job.end().status;
        assert!(matches!(status, 5 | 143), "{kind:?}: {status}\n{}", job.logs());

        let mut job = begun(&runtime, TRAPS);
        job.reaches(1);
        job.checkpoint();
        job.kill();
        job.restore(&[]);
        job.is_met();
        signal(job.pid(), Signal::SIGTERM);
        let ended = job.end();
        assert_eq!((ended.status, ended.output.as_str()), (5, "ready\ntold\n"), "{kind:?}");
    }
}

const WAITS: &str = "echo ready; until [ -e go ]; do sleep 0.05; done; echo done; exit 7";

/// The job ends while its launcher is stopped.
#[test]
fn last_words_are_heard() {
    for kind in [Kind::Podman, Kind::Apptainer] {
        let Some(runtime) = Runtime::of(kind) else { return };
        let mut job = begun(&runtime, WAITS);
        job.reaches(1);
        signal(job.pid(), Signal::SIGSTOP);
        File::create(job.path("go")).expect("the folder is ours");
        let is_dead = |pid: &i32| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
            status.map_or(true, |status| status.contains("State:\tZ"))
        };
        ckpt_tests::until("the container's end", || descendants(job.pid()).iter().all(is_dead));
        signal(job.pid(), Signal::SIGCONT);
        let ended = job.end();
        assert_eq!((ended.status, ended.output.as_str()), (7, "ready\ndone\n"), "{kind:?}");
    }
}

/// The container goes on without the process that has started it, and its end is noticed.
#[test]
fn the_runtimes_process_is_killed() {
    let Some(runtime) = Runtime::of(Kind::Podman) else { return };
    let mut job = begun(&runtime, WAITS);
    job.reaches(1);
    job.until("its launcher inside", |job| job.ckpt("status").0 == Some(0));
    // Before that, podman has not done with the start, and its monitor would give it up.
    let locks = std::fs::read_dir(&job.images).expect("it is there").flatten();
    let mut locks = locks.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let id =
        locks.find_map(|it| Some(it.strip_prefix(".ckpt-")?.strip_suffix(".lock")?.to_owned()));
    let name = format!("name=ckpt-{}", id.expect("it runs"));
    job.until("podman's word", |_| {
        let ps = ["ps", "--filter", &name, "--format", "{{.Status}}"];
        said(runtime.command("podman").args(ps)).1.contains("Up ")
    });
    // The child first: from its parent's death it would make a SIGTERM for the job.
    descendants(job.pid()).into_iter().rev().for_each(|pid| signal(pid, Signal::SIGKILL));
    // The launcher has noticed when it answers a request that goes through it.
    assert_eq!(job.ckpt("checkpoint").0, Some(0), "{}", job.logs());
    File::create(job.path("go")).expect("the folder is ours");
    assert_eq!(job.end().status, 7, "{}", job.logs());
}

/// What has been read is not read again; what has not been is left to others.
#[test]
fn input_is_read_on() {
    for kind in [Kind::Podman, Kind::PodmanHpc, Kind::Apptainer] {
        let Some(runtime) = Runtime::of(kind) else { return };
        let mut job = Contained::new(&runtime, &[]);
        let lines: String = (1..=60).map(|line| format!("line {line}\n")).collect();
        std::fs::write(job.path("input"), &lines).expect("the folder is ours");
        let input = |job: &Contained<'_>| File::open(job.path("input")).expect("it is there");
        let mut command = job.launcher(Image::Bash, &["-i", "0"]);
        let script = "exec >output; while read -r line; do echo \"$line\"; sleep 0.05; done";
        command.args(["bash", "-c", script]).stdin(input(&job));
        job.start(command);
        job.reaches(10);
        job.checkpoint();
        job.kill();
        let mut command = job.restorer(&[]);
        command.stdin(input(&job));
        job.start(command);
        let ended = job.end();
        assert_eq!((ended.status, ended.output), (0, lines.clone()), "{kind:?}");

        let mut shared = input(&job);
        let mut command = job.launcher(Image::Bash, &["-q"]);
        command.args(["bash", "-c", "read -r line"]);
        command.stdin(shared.try_clone().expect("descriptors are left"));
        let (status, words) = said(&mut command);
        assert_eq!(status, Some(0), "{words}");
        let at = shared.stream_position().expect("it is a file");
        let mut rest = String::new();
        shared.read_to_string(&mut rest).expect("it is text");
        assert!(at > 0 && lines.ends_with(&rest) && rest.len() + at as usize == lines.len());
    }
}

/// The current folder of whoever restarts it is nothing to the job.
#[test]
fn restarts_from_anywhere() {
    for kind in [Kind::Podman, Kind::Apptainer] {
        let Some(runtime) = Runtime::of(kind) else { return };
        let script = "echo in $(</etc/debian_version); \
                      for i in {1..40}; do echo $i $(</etc/debian_version); sleep 0.05; done";
        let mut job = begun(&runtime, script);
        job.reaches(5);
        job.checkpoint();
        let first = job.read("output").lines().next().expect("it has lines").replace("in ", "");
        job.kill();
        // A copy of the image, in a folder that the container knows nothing of.
        let elsewhere = job.path("elsewhere");
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(&job.images).arg(&elsewhere);
        assert_eq!(said(&mut copy).0, Some(0));
        for folder in ["/etc", "/"] {
            let mut command = job.command("ckpt-restore");
            command.arg(&elsewhere).arg("--ckptdir").arg(&job.images).current_dir(folder);
            job.start(command);
            let ended = job.end();
            let expected: String = (1..=40).map(|i| format!("{i} {first}\n")).collect();
            assert_eq!((ended.status, ended.output), (0, format!("in {first}\n{expected}")));
        }
        for folder in ["/etc", "/"] {
            let mut launch = job.launcher(Image::Bash, &[]);
            let (status, words) = said(launch.arg("true").current_dir(folder));
            assert!(status == Some(64) && words.contains("a folder of your own"), "{words}");
        }
    }
}

/// Variables of another runtime, an image with a user of its own, a umask: none is in the way.
#[test]
fn odd_surroundings() {
    let Some(runtime) = Runtime::of(Kind::Apptainer) else { return };
    let mut job = Contained::new(&runtime, &[]);
    let mut command = job.launcher(Image::Bash, &["-i", "0"]);
    command.args(["bash", "-c", &format!("exec >output; {WAITS}")]).env("SHIFTER_IMAGE", "stray");
    job.start(command);
    job.reaches(1);
    job.checkpoint();
    job.kill();
    File::create(job.path("go")).expect("the folder is ours");
    job.restore(&[]);
    assert_eq!(job.end().status, 7, "{}", job.logs());

    let Some(runtime) = Runtime::of(Kind::Podman) else { return };
    let podman = |words: &[&str]| {
        let (status, said) = said(runtime.command("podman").args(words));
        assert_eq!(status, Some(0), "{words:?}: {said}");
    };
    let name = format!("localhost/ckpt-user-{}", std::process::id());
    let mut job = Contained::new(&runtime, &[]);
    let recipe = format!("FROM {}\nUSER 1000\n", runtime.image(Image::Bash));
    std::fs::write(job.path("Dockerfile"), recipe).expect("the folder is ours");
    podman(&["build", "-q", "-t", &name, &job.path(".").display().to_string()]);
    let launcher = job.command("ckpt-launch").get_program().to_owned();
    let mut command = runtime.user().command(Path::new("/bin/sh"));
    let path = format!("{}:{}", ckpt_tests::programs().display(), runtime.path());
    command.args(["-c", "umask 027; exec \"$@\"", "sh"]).arg(launcher).env("PATH", path);
    command.args(["--container", "podman", "--image", &name, "--ckptdir"]).arg(&job.images);
    command.args(["--", "bash", "-c", "umask >output; id -u >>output"]);
    command.current_dir(job.path("."));
    job.start(command);
    let ended = job.end();
    assert_eq!((ended.status, ended.output.as_str()), (0, "0027\n0\n"), "{}", job.logs());
    podman(&["rmi", &name]);
}
