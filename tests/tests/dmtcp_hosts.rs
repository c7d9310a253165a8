//! One coordinator for jobs on two hosts, which are network namespaces with names of their own. As on
//! a cluster, they share the file system and the user's secret.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use ckpt_tests::{Daemon, Said, Site, User, until};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::Signal;

const ADDRESSES: [&str; 2] = ["10.199.7.1", "10.199.7.2"];

/// Two hosts that see each other and nobody else. They go with this.
struct Hosts {
    names: [String; 2],
    site: Site,
}

fn ip(words: &str) -> bool {
    let status = Command::new("ip").args(words.split_whitespace()).status();
    status.is_ok_and(|status| status.success())
}

impl Hosts {
    /// None where they cannot be had, which is said.
    fn new() -> Option<Self> {
        let root = User::root()?;
        if Command::new("ip").arg("-V").output().is_err() {
            println!("skipped: ip (iproute2) is missing");
            return None;
        }
        let names = ["a", "b"].map(|host| format!("ckpt-{}-{host}", std::process::id()));
        let hosts = Self { names, site: Site::new(&root) };
        let [a, b] = &hosts.names;
        assert!(ip(&format!("netns add {a}")) && ip(&format!("netns add {b}")));
        // Inside the namespaces only, so that no name or address can meet another's.
        assert!(ip(&format!("-n {a} link add wire type veth peer name wire netns {b}")));
        for (name, address) in hosts.names.iter().zip(ADDRESSES) {
            assert!(ip(&format!("-n {name} addr add {address}/24 dev wire")));
            assert!(ip(&format!("-n {name} link set wire up")));
            assert!(ip(&format!("-n {name} link set lo up")));
        }
        Some(hosts)
    }

    /// The command on the host with this number.
    fn on(&self, host: usize, mut command: Command) -> Command {
        let name = self.names[host].clone();
        let network = File::open(Path::new("/run/netns").join(&name)).expect("it was made");
        // SAFETY: plain system calls on what was allocated before.
        unsafe {
            command.pre_exec(move || {
                setns(&network, CloneFlags::CLONE_NEWNET)?;
                unshare(CloneFlags::CLONE_NEWUTS)?;
                let done = libc::sethostname(name.as_ptr().cast(), name.len());
                if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
            });
        }
        command
    }

    /// A coordinator on the first host.
    fn coordinator(&self) -> (Daemon, u16) {
        self.site.coordinator(0, |command| {
            command.args(["--bind", ADDRESSES[0]]);
            *command = self.on(0, std::mem::replace(command, Command::new("")));
        })
    }

    fn command(&self, host: usize, program: &str, port: u16) -> Command {
        let mut command = self.on(host, self.site.command(program));
        command.args(["--coord-host", ADDRESSES[0], "--coord-port", &port.to_string()]);
        command
    }

    /// A payload that has made its tenth step.
    fn launch(&self, host: usize, port: u16, output: &str) -> Daemon {
        let mut command = self.command(host, "dmtcp_launch", port);
        command.args(["-j", "./payload.sh", output]);
        let job = self.site.start(command, &format!("{output}.log"));
        self.site.reaches(output, 10);
        job
    }

    fn ask(&self, port: u16, word: &str) -> Said {
        let mut command = self.command(1, "dmtcp_command", port);
        command.arg(word);
        self.site.run(command)
    }

    fn succeeds(&self, port: u16, word: &str) {
        let said = self.ask(port, word);
        assert_eq!(said.code, 0, "{said:?}");
    }

    /// Waits until the list says this of the process on a host.
    fn is(&self, host: usize, port: u16, state: &str) {
        let (place, state) = (format!("@{},", self.names[host]), format!("::{state},"));
        until(&state, || {
            let said = self.ask(port, "-l");
            said.out.lines().any(|line| line.contains(&place) && line.contains(&state))
        });
    }

    /// Names of the images of a generation.
    fn images(&self, generation: u32) -> Vec<String> {
        let ending = format!("-{generation:06}.ckpt");
        let names = self.site.files("ckpt").into_iter();
        let names = names.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()));
        names.filter(|name| name.ends_with(&ending)).collect()
    }

    /// Ends the coordinator, and sees that all has gone.
    fn end(self, (mut coordinator, port): (Daemon, u16)) {
        self.succeeds(port, "-q");
        assert_eq!(coordinator.end(), 0, "{}", coordinator.log());
        self.site.empties();
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = ip(&format!("netns del {name}"));
        }
    }
}

/// The script restarts the images of each host there.
#[test]
fn restart_on_both() {
    let Some(hosts) = Hosts::new() else { return };
    let site = &hosts.site;
    let expected = site.undisturbed();
    let (coordinator, port) = hosts.coordinator();
    let mut jobs = [hosts.launch(0, port, "a"), hosts.launch(1, port, "b")];
    hosts.succeeds(port, "-bc");
    assert_eq!((hosts.images(1).len(), site.files("dmtcp").len()), (2, 2));
    hosts.succeeds(port, "-kc");
    for job in &mut jobs {
        assert_eq!(job.end(), 85, "{}", job.log());
    }
    let script = site.read("dmtcp_restart_script.sh");
    let [a, b] = &hosts.names;
    assert!(script.contains(&format!("hosts=('{a}' '{b}')")), "{script}");

    ["a", "b"].iter().for_each(|output| site.go_on(output, &[10, 20]));
    let mut command = hosts.on(0, site.command("dmtcp_restart_script.sh"));
    command.args(["-h", ADDRESSES[0], "-p", &port.to_string()]);
    site.write("remote.sh", "exec nsenter --net=/run/netns/$1 sh -c \"$2\"");
    command.env("DMTCP_REMOTE_SHELL_CMD", "sh ./remote.sh");
    let mut script = site.start(command, "restart.log");
    assert_eq!(script.end(), 7, "{}", script.log());
    for output in ["a", "b"] {
        until("the same output", || site.read(output) == expected);
    }
    hosts.end((coordinator, port));
}

/// How far a round has come when the second host's launcher is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Phase {
    /// It waits for the other to freeze.
    Freezing,
    /// Both are frozen, it has captured nothing.
    Capturing,
    /// Its image is durable, the other's is not.
    Writing,
}

/// No image stays of the generation, neither job is harmed, and the next generation is made.
#[test]
fn launcher_killed_in_each_phase() {
    let Some(hosts) = Hosts::new() else { return };
    let site = &hosts.site;
    let expected = site.undisturbed();
    let (coordinator, port) = hosts.coordinator();
    let mut other = hosts.launch(0, port, "other");
    let mut generation = 0;
    for phase in [Phase::Freezing, Phase::Capturing, Phase::Writing] {
        let output = format!("{phase:?}");
        let mut killed = hosts.launch(1, port, &output);
        hosts.is(1, port, "RUNNING");
        other.stop();
        let mut command = hosts.command(1, "dmtcp_command", port);
        command.arg("-bc");
        let mut asking = site.start(command, "asking.log");
        // Whoever is to wait stands still, so that only the other comes further.
        hosts.is(1, port, "SUSPENDED");
        if phase >= Phase::Capturing {
            killed.stop();
            other.signal(Signal::SIGCONT);
            hosts.is(0, port, "CHECKPOINTING");
        }
        if phase >= Phase::Writing {
            other.stop();
            killed.signal(Signal::SIGCONT);
            hosts.is(1, port, "CHECKPOINTED");
        }
        killed.kill();
        other.signal(Signal::SIGCONT);
        assert_eq!(asking.end(), 2, "{phase:?}: {}", asking.log());
        assert!(asking.log().contains("vanished"), "{phase:?}: {}", asking.log());
        hosts.is(0, port, "RUNNING");
        assert_eq!(hosts.images(generation + 1), [""; 0], "{phase:?}");

        // Without its launcher the job runs on as any program would.
        site.go_on(&output, &[10, 20]);
        until("the end of the job without launcher", || site.read(&output) == expected);
        hosts.succeeds(port, "-bc");
        generation += 1;
        assert_eq!(hosts.images(generation).len(), 1, "{phase:?}: {}", other.log());
        assert_eq!(site.files("dmtcp").len(), 1, "{phase:?}");
    }
    site.go_on("other", &[10, 20]);
    assert_eq!(other.end(), 7, "{}", other.log());
    assert_eq!(site.read("other"), expected);
    hosts.end((coordinator, port));
}
