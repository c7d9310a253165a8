//! Our programs under DMTCP's names, on one host: what batch scripts and people at a prompt do.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use ckpt_tests::{Daemon, Said, Site, User, real_dmtcp, until};
use nix::sys::signal::Signal;

/// Each as root and as an ordinary user.
macro_rules! as_both {
    ($($name:ident)*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn as_root() {
                if let Some(root) = User::root() {
                    super::$name(&root);
                }
            }

            #[test]
            fn as_ordinary_user() {
                super::$name(&User::ordinary());
            }
        }
    )*};
}

as_both! {
    job_script job_script_under_a_real_dmtcp
    restart_by_hand stopped_on_request damaged_images_are_refused
    options_without_meaning unknown_options
    coordinator_killed nobody_there
}

fn job_script(user: &User) {
    three_segments(&Site::new(user));
}

/// The same scripts, the same outcome.
fn job_script_under_a_real_dmtcp(user: &User) {
    if let Some(programs) = real_dmtcp() {
        three_segments(&Site::with(user, &programs));
    }
}

/// A job that is told twice that its time is up.
fn three_segments(site: &Site) {
    let expected = site.undisturbed();
    for restarts in 0..3 {
        let mut command = site.command("job.sh");
        command.env("SLURM_JOBID", "17").env("SLURM_RESTART_COUNT", restarts.to_string());
        let mut script = site.start(command, &format!("job-{restarts}.log"));
        if restarts < 2 {
            let step = 10 * (restarts + 1);
            site.reaches("output", step);
            script.signal(Signal::SIGTERM);
            assert_eq!(script.end(), 0, "{}", script.log());
            assert!(script.log().contains(&format!("before restart {}", restarts + 1)));
            site.empties();
            assert!(!site.path("dmtcp_command.17").exists(), "it goes with the coordinator");
            assert_eq!(site.files("dmtcp").len(), 1);
            site.go_on("output", &[step]);
        } else {
            assert_eq!(script.end(), 7, "{}", script.log());
        }
    }
    assert_eq!(site.read("output"), expected);
    site.empties();
}

/// A payload under a coordinator that is there.
fn launch(site: &Site, port: u16, output: &str, prepare: impl FnOnce(&mut Command)) -> Daemon {
    let mut command = site.command("dmtcp_launch");
    command.args(["-j", "-p", &port.to_string(), "./payload.sh", output]);
    prepare(&mut command);
    site.start(command, &format!("{output}.log"))
}

fn succeeds(said: &Said) {
    assert_eq!(said.code, 0, "{said:?}");
}

/// A coordinator that ends with its jobs, and a payload that has made its tenth step.
fn tenth_step(site: &Site) -> (Daemon, Daemon, u16) {
    let (coordinator, port) = site.coordinator(0, |c| {
        c.arg("--exit-on-last");
    });
    let job = launch(site, port, "output", |_| ());
    site.reaches("output", 10);
    (coordinator, job, port)
}

/// A site with an image of the tenth step, and what the payload is to say in the end.
fn with_an_image(user: &User) -> (Site, PathBuf, String) {
    let site = Site::new(user);
    let expected = site.undisturbed();
    let (mut coordinator, mut job, port) = tenth_step(&site);
    succeeds(&site.ask(port, &["-kc"]));
    assert_eq!(job.end(), 85, "{}", job.log());
    assert_eq!(coordinator.end(), 0, "{}", coordinator.log());
    assert!(!site.path("port").exists());
    let images = site.files("dmtcp");
    assert_eq!(images.len(), 1);
    site.go_on("output", &[10, 20]);
    (site, images.into_iter().next().expect("it was counted"), expected)
}

fn restart(site: &Site, words: &[&str]) -> Said {
    let mut command = site.command("dmtcp_restart");
    command.args(["--new-coordinator", "-p", "0"]).args(words);
    site.run(command)
}

fn restart_by_hand(user: &User) {
    let (site, image, expected) = with_an_image(user);
    let name = image.file_name().and_then(|name| name.to_str()).expect("it is ASCII");
    for words in [[name].as_slice(), &["--restartdir", "."]] {
        fs::write(site.path("output"), "").expect("the folder is ours");
        site.write("output", &expected[..expected.find("step 11 ").expect("it is there")]);
        let said = restart(&site, words);
        assert_eq!(said.code, 7, "{said:?}");
        assert_eq!(site.read("output"), expected);
        site.empties();
    }
    let script = site.read("dmtcp_restart_script.sh");
    assert!(script.contains(name), "{script}");
    let mut command = site.command("dmtcp_restart_script.sh");
    command.args(["-p", "0"]);
    let said = site.run(command);
    assert_eq!(said.code, 7, "{said:?}");
    site.empties();
}

fn stopped_on_request(user: &User) {
    for (word, wanted, code) in
        [("-kc", None, 85), ("-k", None, 86), ("-q", None, 86), ("-q", Some("0"), 0)]
    {
        let site = Site::new(user);
        let (mut coordinator, port) = site.coordinator(0, |_| ());
        let stop = |c: &mut Command| {
            c.envs(wanted.map(|status| ("CKPT_STOP_STATUS", status)));
        };
        let mut job = launch(&site, port, "output", stop);
        site.reaches("output", 10);
        succeeds(&site.ask(port, &[word]));
        assert_eq!(job.end(), code, "{word}: {}", job.log());
        assert_eq!(site.files("dmtcp").len(), usize::from(word == "-kc"), "{word}");
        if word != "-q" {
            let said = site.ask(port, &["-s"]);
            assert!(said.out.contains("NUM_PEERS=0\n  RUNNING=no\n"), "{said:?}");
            succeeds(&site.ask(port, &["-q"]));
        }
        assert_eq!(coordinator.end(), 0, "{}", coordinator.log());
        site.empties();
    }
}

fn damaged_images_are_refused(user: &User) {
    let (site, image, expected) = with_an_image(user);
    let whole = fs::read(&image).expect("it is ours");
    let step_ten = site.read("output");
    let middle = whole.len() / 2;
    let mut flipped = whole.clone();
    flipped[middle] ^= 1;
    for (damage, bytes) in
        [("flipped", &flipped[..]), ("cut", &whole[..middle]), ("empty", &[]), ("junk", b"hello\n")]
    {
        let name = format!("ckpt_{damage}_1-40000-1.dmtcp");
        site.write(&name, bytes);
        let said = restart(&site, &[&name]);
        assert_eq!(said.code, 99, "{damage}: {said:?}");
        assert!(said.err.contains(&name), "{damage}: {said:?}");
        site.empties();
        assert_eq!(site.read("output"), step_ten, "{damage}: it ran");
        fs::remove_file(site.path(&name)).expect("the folder is ours");
    }
    let said = restart(&site, &["ckpt_missing_1-40000-1.dmtcp"]);
    assert_eq!(said.code, 99, "{said:?}");
    assert_eq!(restart(&site, &["--restartdir", "."]).code, 7);
    assert_eq!(site.read("output"), expected);
    site.empties();
}

/// They are named in one line, and the job runs.
fn options_without_meaning(user: &User) {
    let one_warning = |said: &Said, options: &[&str]| {
        let lines: Vec<&str> = said.err.lines().filter(|line| line.contains("warning")).collect();
        let [line] = lines.as_slice() else { panic!("{said:?}") };
        assert!(line.contains("without effect here"), "{line}");
        assert!(options.iter().all(|option| line.contains(option)), "{line}");
    };
    let (site, image, _) = with_an_image(user);
    let mut command = site.command("dmtcp_launch");
    command.args(["--new-coordinator", "-p", "0", "--ckpt-signal", "10", "--with-plugin", "/x.so"]);
    command.args(["--modify-env", "--disable-dl-plugin", "--no-plugins"]);
    let said = site.run({
        command.args(["sh", "-c", "exit 5"]);
        command
    });
    assert_eq!(said.code, 5, "{said:?}");
    one_warning(&said, &["--ckpt-signal", "--with-plugin", "--modify-env", "--disable-dl-plugin"]);

    let image = image.to_str().expect("it is ASCII");
    let said = restart(&site, &["--debug-restart-pause", "1", image]);
    assert_eq!(said.code, 7, "{said:?}");
    one_warning(&said, &["--debug-restart-pause"]);
    site.empties();

    // Another job, to be restored along with the first.
    let (_coordinator, port) = site.coordinator(0, |c| {
        c.arg("--exit-on-last");
    });
    let mut job = launch(&site, port, "other", |_| ());
    site.reaches("other", 10);
    succeeds(&site.ask(port, &["-kc"]));
    assert_eq!(job.end(), 85);
    site.go_on("other", &[10, 20]);
    let said = restart(&site, &["--debug-restart-pause", "1", "--restartdir", "."]);
    assert_eq!(said.code, 7, "{said:?}");
    one_warning(&said, &["--debug-restart-pause"]);
    site.empties();
}

fn unknown_options(user: &User) {
    let site = Site::new(user);
    for (program, code) in [("dmtcp_launch", 99), ("dmtcp_restart", 99), ("dmtcp_coordinator", 1)] {
        let mut command = site.command(program);
        command.args(["--no-such-option", "x.dmtcp"]);
        let said = site.run(command);
        assert_eq!(said.code, code, "{said:?}");
        assert!(said.err.contains("--no-such-option"), "{said:?}");
    }
    let mut command = site.command("dmtcp_launch");
    command.args(["--no-such-option", "true"]).env("DMTCP_FAIL_RC", "33");
    assert_eq!(site.run(command).code, 33);
}

/// The jobs live on, and a new coordinator at its port has them again.
fn coordinator_killed(user: &User) {
    let site = Site::new(user);
    let expected = site.undisturbed();
    let (mut coordinator, port) = site.coordinator(0, |_| ());
    let mut jobs = ["a", "b"].map(|output| launch(&site, port, output, |_| ()));
    ["a", "b"].iter().for_each(|output| site.reaches(output, 10));
    coordinator.kill();
    let said = site.ask(port, &["-s"]);
    assert_eq!(said.code, 2, "{said:?}");
    for output in ["a", "b"] {
        site.go_on(output, &[10]);
        site.reaches(output, 20);
    }
    let (mut coordinator, _) = site.coordinator(port, |_| ());
    until("both jobs", || site.ask(port, &["-s"]).out.contains("NUM_PEERS=2\n  RUNNING=yes\n"));
    succeeds(&site.ask(port, &["-bc"]));
    assert_eq!(site.files("dmtcp").len(), 2);
    ["a", "b"].iter().for_each(|output| site.go_on(output, &[20]));
    for job in &mut jobs {
        assert_eq!(job.end(), 7, "{}", job.log());
    }
    assert_eq!([site.read("a"), site.read("b")], [expected.clone(), expected]);
    succeeds(&site.ask(port, &["-q"]));
    assert_eq!(coordinator.end(), 0);
    site.empties();
}

fn nobody_there(user: &User) {
    let site = Site::new(user);
    // Nothing listens there, ever.
    for word in ["-s", "-l", "-c", "-bc", "-kc", "-k", "-q"] {
        let said = site.ask(1, &[word]);
        assert_eq!(said.code, 2, "{said:?}");
        assert_eq!(said.err, "Coordinator not found. Please check port and host.\n");
        assert_eq!(said.out, "");
    }
    let mut command = site.command("dmtcp_launch");
    command.args(["-j", "-p", "1", "./payload.sh"]);
    let said = site.run(command);
    assert_eq!(said.code, 99, "{said:?}");
    assert!(said.err.contains("there is no coordinator") && !site.path("output").exists());
    let said = site.ask(1, &["--json", "-s"]);
    let line = "{\"schema_version\":1,\"command\":\"DMT_STATUS\",\
         \"command_status\":\"DMT_COORD_NOT_FOUND\",\"coordinator_host\":\"localhost\",\
         \"coordinator_port\":1}\n";
    assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (2, line, ""));

    let (mut coordinator, port) = site.coordinator(0, |_| ());
    let said = site.ask(port, &["-bc"]);
    assert_eq!((said.code, said.out.as_str()), (2, ""));
    assert!(said.err.starts_with("Error, computation not in running state."), "{said:?}");
    let said = site.ask(port, &["--json", "-s"]);
    assert!(said.out.contains("\"num_peers\":0,\"running\":false"), "{said:?}");
    succeeds(&site.ask(port, &["-q"]));
    assert_eq!(coordinator.end(), 0);
}

/// Somebody else on the same host.
#[test]
fn a_stranger() {
    let Some(root) = User::root() else { return };
    let (site, theirs) = (Site::new(&root), Site::new(&User::ordinary()));
    let expected = site.undisturbed();
    let (mut coordinator, job, port) = tenth_step(&site);
    let mut job = job;
    let listens = ["-h", "127.0.0.1", "-s"];

    // Their own secret is another.
    for word in ["-s", "-l", "-bc", "-k", "-q"] {
        let said = theirs.ask(port, &["-h", "127.0.0.1", word]);
        assert_eq!(said.code, 2, "{said:?}");
        assert!(said.err.contains("stranger") && !said.err.contains("NUM_PEERS"), "{said:?}");
    }
    let mut command = theirs.command("dmtcp_launch");
    command.args(["-j", "-p", &port.to_string(), "./payload.sh"]);
    assert_ne!(theirs.run(command).code, 0);
    assert!(!theirs.path("output").exists(), "it ran");

    // What is at the unix socket hangs up, even if the folder lets them in.
    let run = site.path("run");
    let sockets: Vec<PathBuf> =
        fs::read_dir(&run).expect("it is there").flatten().map(|entry| entry.path()).collect();
    let [socket] = sockets.as_slice() else { panic!("{sockets:?}") };
    for path in [socket, &run, &site.path("")] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).expect("it is ours");
    }
    assert_eq!(hello(&theirs, socket), "connected\n", "they are greeted");
    assert!(hello(&site, socket).contains("nonce"), "root is not greeted");

    // With the secret they are no strangers, as long as nobody else can read it.
    theirs.write("secret", fs::read(site.path("secret")).expect("root may read it"));
    let mode = |mode| fs::set_permissions(theirs.path("secret"), fs::Permissions::from_mode(mode));
    mode(0o644).expect("it is there");
    assert_eq!(theirs.ask(port, &listens).code, 2);
    mode(0o600).expect("it is there");
    let said = theirs.ask(port, &listens);
    succeeds(&said);
    assert!(said.out.contains("NUM_PEERS=1\n  RUNNING=yes\n"), "{said:?}");

    assert!(site.files("dmtcp").is_empty(), "it was checkpointed");
    site.go_on("output", &[10, 20]);
    assert_eq!(job.end(), 7, "{}", job.log());
    assert_eq!(site.read("output"), expected);
    assert_eq!(coordinator.end(), 0);
}

/// What whoever listens at a unix socket says first.
fn hello(site: &Site, socket: &Path) -> String {
    const TALK: &str = "use IO::Socket::UNIX; $| = 1; \
         my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die \"no connection: $!\\n\"; \
         print \"connected\\n\"; print scalar(<$s>) // '';";
    site.write("hello.pl", TALK);
    let mut perl = site.user.command(Path::new("/usr/bin/perl"));
    perl.arg(site.path("hello.pl")).arg(socket);
    let said = site.run(perl);
    let _ = std::io::stderr().write_all(said.err.as_bytes());
    said.out
}
