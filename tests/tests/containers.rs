//! `ckpt-launch --container`: real payloads in every runtime, started from outside, killed, restored.

use std::path::{Path, PathBuf};
use std::process::Command;

use ckpt_tests::runtime::{Image, Kind, Runtime};
use ckpt_tests::{Contained, Ended, programs, said, tools};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../containers/examples").join(name)
}

/// A payload, as words and files.
#[derive(Clone, Copy)]
struct Work {
    words: &'static [&'static str],
    image: Image,
    files: fn() -> Vec<PathBuf>,
    flags: &'static [&'static str],
}

const SHELL: Work = Work {
    words: &["bash", "./shell.sh", "output", "100"],
    image: Image::Bash,
    files: || vec![tools().payloads.join("shell.sh")],
    flags: &[],
};

const GEANT4: Work = Work {
    words: &["./example_g4.sh", "short.conf"],
    image: Image::Geant4,
    files: || {
        let short = std::env::temp_dir().join(format!("ckpt-test-g4-{}", std::process::id()));
        std::fs::create_dir_all(&short).expect("a folder");
        let conf = short.join("short.conf");
        std::fs::write(&conf, "EVENTS=600\nOUTPUT=output\n").expect("the folder is ours");
        vec![example("example_g4.sh"), example("example_g4.py"), conf]
    },
    flags: &[],
};

const BARE: Work =
    Work { words: &["/payload", "output", "120"], image: Image::Bare, files: Vec::new, flags: &[] };

fn launch(job: &Contained<'_>, work: Work) -> Command {
    let mut command = job.launcher(work.image, work.flags);
    command.args(work.words);
    command
}

fn undisturbed(runtime: &Runtime, work: Work) -> Ended {
    let mut job = Contained::new(runtime, &(work.files)());
    job.start(launch(&job, work));
    let ended = job.end();
    assert!(ended.output.lines().count() > 20, "{}", job.logs());
    ended
}

/// Two checkpoints, two ends by SIGKILL, two restarts.
fn survives(kind: Kind, work: Work) {
    let Some(runtime) = Runtime::of(kind) else { return };
    let expected = undisturbed(&runtime, work);
    let lines = expected.output.lines().count();
    let mut job = Contained::new(&runtime, &(work.files)());
    job.start(launch(&job, work));
    for part in [1, 2] {
        job.reaches(lines * part / 4);
        job.checkpoint();
        job.reaches(lines * part / 4 + 3);
        job.kill();
        job.restore(&[]);
    }
    job.end().must_equal(&expected);
}

#[test]
fn shell_in_podman() {
    survives(Kind::Podman, SHELL);
}

#[test]
fn shell_in_podman_hpc() {
    survives(Kind::PodmanHpc, SHELL);
}

#[test]
fn shell_in_apptainer() {
    survives(Kind::Apptainer, SHELL);
}

#[test]
fn shell_in_shifter() {
    survives(Kind::Shifter, SHELL);
}

#[test]
fn geant4_in_podman() {
    survives(Kind::Podman, GEANT4);
}

#[test]
fn geant4_in_podman_hpc() {
    survives(Kind::PodmanHpc, GEANT4);
}

#[test]
fn geant4_in_apptainer() {
    survives(Kind::Apptainer, GEANT4);
}

#[test]
fn geant4_in_shifter() {
    survives(Kind::Shifter, GEANT4);
}

/// No loader and no library, of whatever age.
#[test]
fn the_set_needs_nothing() {
    for name in ["ckpt-launch", "ckpt", "ckpt-restore", "libckpt_preload.so"] {
        let mut readelf = Command::new("readelf");
        let (status, needs) = said(readelf.args(["-ld", "-W"]).arg(programs().join(name)));
        assert!(status == Some(0) && needs.contains("LOAD"), "{needs}");
        assert!(!needs.contains("INTERP") && !needs.contains("NEEDED"), "{name}: {needs}");
    }
}

#[test]
fn an_image_without_shell_and_libc() {
    survives(Kind::Podman, BARE);
    survives(Kind::Apptainer, BARE);
    survives(Kind::Shifter, BARE);
}

#[test]
fn an_image_with_musl() {
    survives(Kind::PodmanHpc, Work { image: Image::Musl, ..BARE });
}

#[test]
fn a_read_only_root() {
    survives(Kind::Podman, Work { flags: &["--container-arg=--read-only"], ..SHELL });
}

/// Its own exit status and signals, in every runtime.
#[test]
fn statuses_and_signals() {
    for kind in Kind::ALL {
        let Some(runtime) = Runtime::of(kind) else { return };
        let run = |script: &str| {
            let job = Contained::new(&runtime, &[]);
            said(job.launcher(Image::Bash, &["-q"]).args(["bash", "-c", script]))
        };
        let name = kind.program();
        assert_eq!(run("exit 7").0, Some(7), "{name}");
        assert_eq!(run("kill -ABRT $$").0, Some(134), "{name}");
        assert_eq!(run("exec /no/such/program").0, Some(127), "{name}");
        let missing = Contained::new(&runtime, &[]);
        let missing = said(missing.launcher(Image::Bash, &[]).arg("/no/such/program"));
        assert_eq!(missing.0, Some(127), "{name}: {}", missing.1);
        let (_, words) = run("id -u >/dev/null && pwd");
        assert!(words.contains("/ckpt-test-"), "{name}: {words}");

        let mut job = Contained::new(&runtime, &[]);
        let mut command = job.launcher(Image::Bash, &[]);
        let script = "exec >output; trap 'echo told; exit 3' TERM; echo ready; \
                      while :; do sleep 0.1; done";
        command.args(["bash", "-c", script]);
        job.start(command);
        job.reaches(1);
        kill(Pid::from_raw(job.pid()), Signal::SIGTERM).expect("it runs");
        let ended = job.end();
        assert_eq!((ended.output.as_str(), ended.status), ("ready\ntold\n", 3), "{name}");
    }
}

/// What the launcher's death leaves: the job, its control socket, and nobody beside it.
#[test]
fn the_launcher_outside_is_killed() {
    for kind in [Kind::Podman, Kind::Shifter] {
        let Some(runtime) = Runtime::of(kind) else { return };
        let expected = undisturbed(&runtime, SHELL);
        let mut job = Contained::new(&runtime, &(SHELL.files)());
        job.start(launch(&job, SHELL));
        job.reaches(5);
        job.checkpoint();
        job.kill_launcher();
        let (status, words) = job.ckpt("checkpoint");
        assert_eq!(status, Some(0), "{words}");
        let (status, words) = said(job.command("ckpt-restore").arg(&job.images));
        assert_eq!(status, Some(75), "{words}");
        ckpt_tests::until("the job's end", || job.read("output").len() >= expected.output.len());
        assert_eq!(job.read("output"), expected.output);
    }
}

/// The job is brought to its first checkpoint and killed.
fn killed_after_a_checkpoint(runtime: &Runtime) -> Contained<'_> {
    let mut job = Contained::new(runtime, &(SHELL.files)());
    job.start(launch(&job, SHELL));
    job.reaches(5);
    job.checkpoint();
    job.kill();
    job
}

/// One is refused by its identity; who insists on one that has other programs is refused by these.
#[test]
fn another_image_is_refused() {
    for kind in [Kind::Podman, Kind::Apptainer, Kind::Shifter] {
        let Some(runtime) = Runtime::of(kind) else { return };
        // A folder that stands in for an image has no identity of its own.
        if runtime.stand_in().is_some() {
            continue;
        }
        let [similar, other] = [Image::Geant4, Image::Other].map(|image| runtime.image(image));
        let expected = undisturbed(&runtime, SHELL);
        let mut job = killed_after_a_checkpoint(&runtime);
        let restore = |words: &[&str]| {
            let (status, said) = said(job.command("ckpt-restore").args(words).arg(&job.images));
            assert_eq!(status, Some(69), "{words:?}: {said}");
            said
        };
        let words = restore(&["--image", &similar]);
        assert!(words.contains(&similar) && words.contains("--other-image"), "{words}");
        let words = restore(&["--image", &other, "--other-image"]);
        assert!(words.contains("/usr/bin/bash"), "{words}");
        job.restore(&["--image", &similar, "--other-image"]);
        job.end().must_equal(&expected);
    }
}

/// Names move on; the job comes back in the image that it left, as long as there is one.
#[test]
fn a_name_that_moves_on() {
    let Some(runtime) = Runtime::of(Kind::Podman) else { return };
    let podman = |words: &[&str]| {
        let (status, said) = said(runtime.command("podman").args(words));
        assert_eq!(status, Some(0), "{words:?}: {said}");
    };
    let images = [Image::Bash, Image::Other].map(|image| runtime.image(image));
    let name = format!("localhost/ckpt-moving-{}", std::process::id());
    podman(&["tag", &images[0], &name]);
    let expected = undisturbed(&runtime, SHELL);
    let mut job = Contained::new(&runtime, &(SHELL.files)());
    let mut command = job.command("ckpt-launch");
    command.args(["--container", "podman", "--image", &name, "--ckptdir"]).arg(&job.images);
    command.arg("--").args(SHELL.words);
    job.start(command);
    job.reaches(5);
    job.checkpoint();
    job.kill();
    podman(&["tag", &images[1], &name]);
    job.restore(&[]);
    job.end().must_equal(&expected);
    podman(&["untag", &images[1], &name]);
}

/// Right here, where its program is not.
#[test]
fn without_its_container_it_is_refused() {
    let Some(runtime) = Runtime::of(Kind::Apptainer) else { return };
    let expected = undisturbed(&runtime, BARE);
    let mut job = Contained::new(&runtime, &[]);
    job.start(launch(&job, BARE));
    job.reaches(5);
    job.checkpoint();
    job.kill();
    let mut restore = job.command("ckpt-restore");
    let (status, words) = said(restore.args(["--container", "none"]).arg(&job.images));
    assert_eq!(status, Some(66), "{words}");
    assert!(words.contains("/payload"), "{words}");
    job.restore(&[]);
    job.end().must_equal(&expected);
}

/// A small file system of its own for the checkpoint directory.
struct Small(PathBuf);

impl Small {
    fn mount(job: &Contained<'_>, size: &str) -> Self {
        let path = job.path("small");
        std::fs::create_dir(&path).expect("the folder is ours");
        let options = format!("size={size},mode=0777");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "ckpt-test"]).arg(&path);
        let mounted = mount.status();
        assert!(mounted.is_ok_and(|status| status.success()), "mount");
        Self(path)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn the_checkpoint_directory_is_on_another_file_system() {
    let elsewhere = tempfile::Builder::new().prefix("ckpt-test-").tempdir_in("/dev/shm");
    let elsewhere = elsewhere.expect("there is such a file system");
    for kind in [Kind::Podman, Kind::Apptainer] {
        let Some(runtime) = Runtime::of(kind) else { return };
        runtime.user().own(elsewhere.path());
        let expected = undisturbed(&runtime, SHELL);
        let mut job = Contained::new(&runtime, &(SHELL.files)());
        job.images = elsewhere.path().join(kind.program());
        job.start(launch(&job, SHELL));
        job.reaches(5);
        job.checkpoint();
        job.kill();
        job.restore(&[]);
        job.end().must_equal(&expected);
    }
}

#[test]
fn the_file_system_is_full() {
    let Some(runtime) = Runtime::of(Kind::Apptainer) else { return };
    let expected = undisturbed(&runtime, SHELL);
    let mut job = Contained::new(&runtime, &(SHELL.files)());
    let small = Small::mount(&job, "1m");
    job.images = small.0.join("images");
    job.start(launch(&job, SHELL));
    job.reaches(5);
    job.checkpoint();
    std::fs::write(small.0.join("full"), vec![1; 2 << 20]).expect_err("it is small");
    let (status, words) = job.ckpt("checkpoint");
    assert_eq!(status, Some(74), "{words}");
    job.reaches(20);
    job.kill();
    std::fs::remove_file(small.0.join("full")).expect("it is ours");
    job.restore(&[]);
    job.end().must_equal(&expected);
}
