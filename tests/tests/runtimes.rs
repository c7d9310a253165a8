//! The container runtimes that other tests use are what they should be: real ones for an ordinary
//! user, each with the limits that make it special.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};

use ckpt_tests::runtime::{Image, Kind, Runtime};
use ckpt_tests::{Cluster, Options, payload, undisturbed};
use tempfile::TempDir;

/// Says what a process may do there: the results of system calls, as errno or 0.
const PROBE: &str = r#"
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def errno(*call):
    ctypes.set_errno(0)
    return 0 if libc.syscall(*call) >= 0 else ctypes.get_errno()
status = dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\t" in line)
print("uid", os.getuid())
print("pidns", os.readlink("/proc/self/ns/pid"))
print("no_new_privs", status["NoNewPrivs"])
print("seccomp", status["Seccomp"])
print("kcmp", errno(312, os.getpid(), os.getpid(), 0, 0, 0))
print("personality", errno(135, 0x40000))
print("userns", errno(272, 0x10000000))
"#;

/// A folder of the user's, and the command line to run something there.
struct Place {
    runtime: Runtime,
    folder: TempDir,
}

impl Place {
    fn of(kind: Kind) -> Option<Self> {
        let runtime = Runtime::of(kind)?;
        let folder = tempfile::Builder::new().prefix("ckpt-test-").tempdir().expect("a folder");
        runtime.user().own(folder.path());
        Some(Self { runtime, folder })
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// `words` in the image, with the folder where it is, and another bound to /opt/ckpt.
    fn command(&self, image: &str, words: &[&str]) -> Command {
        let kind = self.runtime.kind();
        let here = self.path().display().to_string();
        let bound = format!("{here}:/opt/ckpt");
        let read_only = format!("{bound}:ro");
        let mut command = self.runtime.command(kind.program());
        command.current_dir(self.path());
        match kind {
            Kind::Podman | Kind::PodmanHpc => {
                command.args(["run", "--rm", "--network=host", "--userns=keep-id", "--read-only"]);
                command.args([
                    "-i",
                    "-v",
                    &read_only,
                    "-v",
                    &format!("{here}:{here}"),
                    "-w",
                    &here,
                ]);
            }
            Kind::Apptainer => {
                command.args(["exec", "-B", &read_only, "--pwd", &here]);
            }
            Kind::Shifter => {
                command.args([&format!("--volume={read_only}"), &format!("--image={image}")]);
                command.args(words);
                return command;
            }
        }
        command.arg(image).args(words);
        command
    }

    fn run(&self, image: Image, words: &[&str]) -> Output {
        let image = self.runtime.image(image);
        self.command(&image, words).output().expect("it can be run")
    }

    /// What a line of the probe says.
    fn probe(&self) -> impl Fn(&str) -> String {
        let output = self.run(Image::Bash, &["python3", "-c", PROBE]);
        let said = text(&output);
        assert!(output.status.success(), "{said}");
        move |name| {
            let line = said.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
            line.unwrap_or_else(|| panic!("no {name} in\n{said}")).to_owned()
        }
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

fn number(errno: i32) -> String {
    errno.to_string()
}

/// Exit status, signal, folders, environment's kind, and that it is the image's program that runs.
fn works(kind: Kind) {
    let Some(place) = Place::of(kind) else { return };
    if let Some(why) = place.runtime.stand_in() {
        println!("with a stand-in: {why}");
    }
    let script = "pwd; id -u; grep ^VERSION_CODENAME /etc/os-release; test -e /opt/ckpt/here && \
                  ! touch /opt/ckpt/not && echo yes >here && test ! -e /usr/bin/cc && exit 7";
    fs::write(place.path().join("here"), "").expect("the folder is ours");
    place.runtime.user().own(&place.path().join("here"));
    let output = place.run(Image::Bash, &["bash", "-c", script]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(7), "{said}");
    let (uid, here) = (place.runtime.user().uid().to_string(), place.path().display().to_string());
    assert!(said.lines().any(|line| line == uid), "{said}");
    assert!(said.lines().any(|line| line == here), "{said}");
    assert_eq!(fs::read_to_string(place.path().join("here")).ok().as_deref(), Some("yes\n"));
    // The first process of a PID namespace cannot kill itself.
    let status = place.run(Image::Bash, &["bash", "-c", "kill -KILL $$; exit 137"]).status;
    assert!(status.code() == Some(137) || status.signal() == Some(9), "{status:?}");
}

#[test]
fn podman_works() {
    works(Kind::Podman);
    let Some(place) = Place::of(Kind::Podman) else { return };
    let probe = place.probe();
    assert_eq!((probe("kcmp"), probe("personality")), (number(libc::EPERM), number(libc::ENOSYS)));
    assert_eq!((probe("userns"), probe("seccomp")), (number(0), "2".into()));
    assert_ne!(probe("pidns"), own_pidns());
}

#[test]
fn podman_hpc_works() {
    works(Kind::PodmanHpc);
    let Some(place) = Place::of(Kind::PodmanHpc) else { return };
    let probe = place.probe();
    assert_eq!((probe("kcmp"), probe("personality")), (number(0), number(0)));
    assert_eq!((probe("userns"), probe("seccomp")), (number(0), "0".into()));
    assert_ne!(probe("pidns"), own_pidns());
}

#[test]
fn apptainer_works() {
    works(Kind::Apptainer);
    let Some(place) = Place::of(Kind::Apptainer) else { return };
    let probe = place.probe();
    assert_eq!((probe("kcmp"), probe("userns")), (number(0), number(0)));
    assert_eq!((probe("no_new_privs"), probe("pidns")), ("1".into(), own_pidns()));
    // As a plain folder, too; and what the user has set is there.
    let root = place.runtime.root(Image::Bash).display().to_string();
    let mut command = place.command(&root, &["bash", "-c", "echo $WORD $TMPDIR; exit 3"]);
    let output = command.env("WORD", "said").env("TMPDIR", "/tmp").output().expect("it runs");
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(text(&output).contains("said /tmp"), "{}", text(&output));
}

#[test]
fn shifter_works() {
    works(Kind::Shifter);
    let Some(place) = Place::of(Kind::Shifter) else { return };
    let probe = place.probe();
    assert_eq!((probe("kcmp"), probe("userns")), (number(0), number(libc::EPERM)));
    assert_eq!((probe("no_new_privs"), probe("pidns")), ("1".into(), own_pidns()));
    let image = place.runtime.image(Image::Bash);
    let output = place.run(Image::Bash, &["bash", "-c", "echo $SHIFTER_RUNTIME $SHIFTER_IMAGE"]);
    let mut lookup = place.runtime.command("shifterimg");
    let id = lookup.args(["lookup", &image]).output().expect("it runs");
    assert_eq!(text(&output), format!("1 {}", text(&id)));
    // No mount points but below the root and in /opt; nor folders that are not there inside.
    for volume in ["/tmp:/usr/new", "/tmp:/etc/x", "/tmp:/opt", "/nowhere:/opt/x"] {
        let mut refused = place.runtime.command("shifter");
        refused.args([&format!("--image={image}"), &format!("--volume={volume}"), "true"]);
        assert_eq!(refused.output().expect("it runs").status.code(), Some(1), "{volume}");
    }
}

fn own_pidns() -> String {
    fs::read_link("/proc/self/ns/pid").expect("it can be read").display().to_string()
}

#[test]
fn images_differ() {
    let Some(podman) = Runtime::of(Kind::Podman) else { return };
    let Some(shifter) = Runtime::of(Kind::Shifter) else { return };
    let ids = |image| {
        let name = podman.image(image);
        let mut inspect = podman.command("podman");
        inspect.args(["image", "inspect", "--format", "{{.Id}}", &name]);
        let mut lookup = shifter.command("shifterimg");
        lookup.args(["lookup", &shifter.image(image)]);
        [inspect, lookup].map(|mut command| {
            let output = command.output().expect("it runs");
            assert!(output.status.success(), "{}", text(&output));
            text(&output)
        })
    };
    let (bash, other) = (ids(Image::Bash), ids(Image::Other));
    assert!(bash.iter().zip(&other).all(|(one, two)| one != two), "{bash:?} {other:?}");
    let files = ["usr/bin/bash", "usr/lib/x86_64-linux-gnu/libc.so.6"];
    for file in files {
        let [one, two] = [Image::Bash, Image::Other]
            .map(|image| fs::read(shifter.root(image).join(file)).expect("it is there"));
        assert!(one.len() == two.len() && one != two, "{file} is the same in both");
    }
}

/// In a batch job there is no login, no XDG_RUNTIME_DIR and another session.
#[test]
fn batch_jobs_run() {
    let runtimes: Vec<Runtime> = Kind::ALL.into_iter().filter_map(Runtime::of).collect();
    let Some(cluster) = (!runtimes.is_empty()).then(|| Cluster::start(Options::default())) else {
        return;
    };
    let Some(cluster) = cluster else { return };
    let lines: Vec<String> = runtimes
        .iter()
        .map(|runtime| {
            let (program, image) = (runtime.kind().program(), runtime.image(Image::Bash));
            let words = match runtime.kind() {
                Kind::Podman | Kind::PodmanHpc => {
                    format!("run --rm --network=host -v $PWD:$PWD -w $PWD {image}")
                }
                Kind::Apptainer => format!("exec {image}"),
                Kind::Shifter => format!("--image={image}"),
            };
            let bin = runtime.bin().display();
            format!(
                "{bin}/{program} {words} bash -c 'pwd >{program}.out; exit 7'; echo {program} $?"
            )
        })
        .collect();
    let job = cluster.submit("runtimes", &["-t 2"], &lines.join("\n"));
    job.until_state("COMPLETED");
    for kind in Kind::ALL {
        let line = format!("{} 7", kind.program());
        assert!(job.log().lines().any(|l| l == line), "no {line} in\n{}", job.log());
        assert!(job.path(&format!("{}.out", kind.program())).exists(), "{kind:?}");
    }
}

/// The smallest images: what runs there brings all that it needs.
fn runs_payloads(kind: Kind) {
    let Some(place) = Place::of(kind) else { return };
    for (image, name) in [(Image::Bare, "static"), (Image::Musl, "threads")] {
        let expected = undisturbed(payload(name).with(&[("STEPS", "8")]), place.runtime.user());
        let file = place.path().join(name).display().to_string();
        let output = place.run(image, &["/payload", &file, "8"]);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(expected.status), "{kind:?} {name}: {said}");
        let lines = fs::read_to_string(&file).expect("it has written that");
        assert_eq!(lines, expected.output, "{kind:?} {name}");
        assert!(
            !place.run(image, &["/bin/sh", "-c", "true"]).status.success(),
            "{name} has a shell"
        );
    }
}

#[test]
fn bare_images_run() {
    Kind::ALL.into_iter().for_each(runs_payloads);
}

/// The example of the documentation, shorter.
fn simulates(kind: Kind) -> Option<String> {
    let place = Place::of(kind)?;
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../containers/examples");
    for file in ["example_g4.sh", "example_g4.py", "g4bench.conf"] {
        fs::copy(examples.join(file), place.path().join(file)).expect("it can be copied");
        place.runtime.user().own(&place.path().join(file));
    }
    let conf = fs::read_to_string(place.path().join("g4bench.conf")).expect("it was copied");
    let conf = conf.replace("EVENTS=1200", "EVENTS=120");
    fs::write(place.path().join("g4bench.conf"), conf).expect("the folder is ours");
    let output = place.run(Image::Geant4, &["./example_g4.sh"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let lines = fs::read_to_string(place.path().join("g4bench.out")).expect("it has written that");
    assert_eq!(lines.lines().filter(|line| line.starts_with("step ")).count(), 10, "{lines}");
    Some(lines)
}

#[test]
fn geant4_is_the_same_everywhere() {
    let Some(expected) = simulates(Kind::Shifter) else { return };
    for kind in [Kind::Shifter, Kind::Podman, Kind::PodmanHpc, Kind::Apptainer] {
        assert_eq!(simulates(kind).as_ref(), Some(&expected), "{kind:?}");
    }
}
