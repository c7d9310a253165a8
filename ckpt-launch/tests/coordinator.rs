//! Several launchers under one coordinator: one generation of all, or none.
#![allow(missing_docs, reason = "tests")]

mod common;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ckpt_core::ErrorKind;
use ckpt_launch::coordinator::channel::Channel;
use ckpt_launch::coordinator::client::ask;
use ckpt_launch::coordinator::place::Address;
use ckpt_launch::coordinator::serve::{Coordinator, Generation, Options};
use ckpt_launch::coordinator::wire::{Command, Down, Joining, Stage, Up};
use common::{Running, ckpt, launcher};

/// Only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

const SLEEP: &str = "echo ready; exec sleep 1000";

struct Led {
    address: Address,
    thread: JoinHandle<()>,
    generations: Arc<Mutex<Vec<Generation>>>,
    _folder: tempfile::TempDir,
}

fn led(options: Options) -> Led {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    let coordinator =
        Coordinator::new(Options { secret: secret.clone(), ..options }, None).unwrap();
    let address = Address { host: "127.0.0.1".into(), port: coordinator.port(), secret };
    let generations = Arc::new(Mutex::new(Vec::new()));
    let list = Arc::clone(&generations);
    let thread = std::thread::spawn(move || {
        coordinator.run(&mut |generation| list.lock().unwrap().push(generation.clone())).unwrap();
    });
    Led { address, thread, generations, _folder: folder }
}

impl Led {
    fn launch(&self, dir: &Path) -> Running {
        let mut command = launcher();
        command.env("CKPT_SECRET_FILE", &self.address.secret);
        command.args(["--join", &self.address.port.to_string(), "--ckptdir"]).arg(dir);
        command.args(["--", "sh", "-c", SLEEP]);
        Running::start_command(command)
    }

    fn ask(&self, command: Command) -> ckpt_launch::coordinator::wire::Answer {
        ask(&self.address, command).unwrap()
    }

    /// A peer that has no job and does as the test says.
    fn pretender(&self) -> Pretender {
        let mut channel = self.address.connect().unwrap();
        let joining = Joining {
            job: "0".repeat(16),
            name: "pretender".into(),
            host: "elsewhere".into(),
            pid: 1,
            generation: 0,
            computation: None,
        };
        channel.send(&Up::Join(joining)).unwrap();
        let mut pretender = Pretender { channel, round: 0 };
        assert!(matches!(pretender.hear(), Down::Welcome { .. }));
        pretender
    }

    fn end(self) {
        self.ask(Command::Quit);
        self.thread.join().unwrap();
    }
}

struct Pretender {
    channel: Channel,
    round: u64,
}

impl Pretender {
    fn hear(&mut self) -> Down {
        loop {
            match self.channel.receive(Instant::now() + PATIENCE).unwrap() {
                Down::Ping => {}
                Down::Census => {
                    self.channel.send(&Up::Census { processes: Vec::new() }).unwrap();
                }
                word => return word,
            }
        }
    }

    fn begins(&mut self) {
        match self.hear() {
            Down::Checkpoint { round, .. } => self.round = round,
            other => panic!("{other:?}"),
        }
    }

    fn reaches(&mut self, step: Stage) {
        let word = Up::Reached { round: self.round, step, image: None };
        self.channel.send(&word).unwrap();
    }

    fn passes(&mut self, step: Stage) {
        self.reaches(step);
        let heard = self.hear();
        assert!(matches!(heard, Down::Go { step: s, .. } if s == step), "{step:?}: {heard:?}");
    }
}

fn images(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut images: Vec<_> =
        entries.filter(|path| path.extension() == Some("ckpt".as_ref())).collect();
    images.sort();
    images
}

#[test]
fn two_jobs_one_generation() {
    let led = led(Options { interval: 0, ..Options::default() });
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let jobs = [led.launch(dirs[0].path()), led.launch(dirs[1].path())];
    let status = led.ask(Command::Status);
    assert_eq!((status.processes, status.running, status.interval), (2, true, 0));

    let answer = led.ask(Command::CheckpointAndWait);
    assert!(answer.done && answer.failure.is_none(), "{answer:?}");
    assert!(dirs.iter().all(|dir| images(dir.path()).len() == 1), "durable when it says so");
    // A command that knows one job only means all of them.
    ckpt().args(["checkpoint", "--ckptdir"]).arg(dirs[0].path()).assert().success();
    assert!(dirs.iter().all(|dir| images(dir.path()).len() == 2));

    let generations = led.generations.lock().unwrap().clone();
    assert_eq!(generations.iter().map(|g| g.generation).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(generations[1].images.len(), 2);
    let list = led.ask(Command::List);
    assert_eq!(list.workers.len(), 2);
    assert!(list.workers.iter().all(|worker| worker.process.name == "sleep"));

    led.ask(Command::CheckpointAndKill);
    for job in jobs {
        let (code, said) = job.end();
        assert_eq!(code, Some(85), "stopped after a checkpoint: {said}");
    }
    assert_eq!(led.generations.lock().unwrap().len(), 3);
    led.end();
}

#[test]
fn killed_without_a_checkpoint() {
    let led = led(Options { exit_on_last: true, ..Options::default() });
    let dir = tempfile::tempdir().unwrap();
    let job = led.launch(dir.path());
    led.ask(Command::Kill);
    assert_eq!(job.end().0, Some(86));
    assert_eq!(images(dir.path()).len(), 0);
    // The last has gone, and so does the coordinator.
    led.thread.join().unwrap();
}

/// Of several that one command restores, the first may have ended before the last has joined.
#[test]
fn stays_for_whoever_brings_more() {
    let led = led(Options { exit_on_last: true, ..Options::default() });
    let held = led.address.connect().unwrap();
    for _ in 0..2 {
        let mut peer = led.pretender();
        peer.channel.send(&Up::Leave).unwrap();
        drop(peer);
        let deadline = Instant::now() + PATIENCE;
        while led.ask(Command::Status).processes > 0 && Instant::now() < deadline {
            std::thread::yield_now();
        }
    }
    drop(held);
    led.thread.join().unwrap();
}

/// A generation of some of them would push out the one that all have.
#[test]
fn none_is_missing() {
    let led = led(Options { peers: 2, ..Options::default() });
    let dir = tempfile::tempdir().unwrap();
    let job = led.launch(dir.path());
    let why = |command| led.ask(command).failure.expect("a reason").message;
    assert_eq!(why(Command::CheckpointAndWait), "1 of 2 launchers have joined");
    let mut other = led.pretender();
    assert!(led.ask(Command::Status).running);
    drop(other);
    let deadline = Instant::now() + PATIENCE;
    while led.ask(Command::Status).processes > 1 && Instant::now() < deadline {
        std::thread::yield_now();
    }
    assert!(why(Command::CheckpointAndKill).contains("elsewhere has vanished"));
    assert_eq!(images(dir.path()).len(), 0);
    // One that has ended in order is not missed.
    other = led.pretender();
    other.channel.send(&Up::Leave).unwrap();
    drop(other);
    while !led.ask(Command::CheckpointAndWait).done && Instant::now() < deadline {
        std::thread::yield_now();
    }
    assert_eq!(images(dir.path()).len(), 1);
    led.ask(Command::Kill);
    assert_eq!(job.end().0, Some(86));
    led.end();
}

#[test]
fn nothing_runs() {
    let led = led(Options::default());
    let answer = led.ask(Command::CheckpointAndWait);
    assert!(!answer.done && answer.failure.is_none() && !answer.running);
    led.ask(Command::Interval(7));
    assert_eq!(led.ask(Command::Status).interval, 7);
    led.end();
}

/// One that vanishes in any phase before the publishing costs everybody the image, nobody the job.
#[test]
fn a_peer_vanishes_in_each_phase() {
    let led = led(Options::default());
    let dir = tempfile::tempdir().unwrap();
    let job = led.launch(dir.path());
    for passed in 0..=3 {
        let mut pretender = led.pretender();
        let address = led.address.clone();
        let asking = std::thread::spawn(move || ask(&address, Command::CheckpointAndWait).unwrap());
        pretender.begins();
        for step in [Stage::Frozen, Stage::Captured, Stage::Durable].into_iter().take(passed) {
            pretender.passes(step);
        }
        drop(pretender);
        let answer = asking.join().unwrap();
        assert!(answer.failure.is_some_and(|f| f.message.contains("vanished")), "phase {passed}");
        let durable = usize::from(passed == 3);
        let deadline = Instant::now() + PATIENCE;
        // In the last phase the others may have published already.
        while durable == 1 && images(dir.path()).is_empty() && Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert_eq!(images(dir.path()).len(), durable, "phase {passed}");
    }
    let answer = led.ask(Command::CheckpointAndWait);
    assert!(answer.done, "the next one succeeds: {answer:?}");
    led.ask(Command::Kill);
    assert_eq!(job.end().0, Some(86), "it has lived all the time");
    led.end();
}

#[test]
fn a_peer_that_fails_is_named() {
    let led = led(Options::default());
    let dir = tempfile::tempdir().unwrap();
    let job = led.launch(dir.path());
    let mut pretender = led.pretender();
    let address = led.address.clone();
    let asking = std::thread::spawn(move || ask(&address, Command::CheckpointAndWait).unwrap());
    pretender.begins();
    let (round, message) = (pretender.round, "no space left".to_owned());
    pretender.channel.send(&Up::Failed { round, code: 74, message }).unwrap();
    let failure = asking.join().unwrap().failure.expect("it failed");
    assert_eq!(failure.code, 74);
    assert!(failure.message.contains("pretender on elsewhere): no space left"), "{failure:?}");
    assert_eq!(images(dir.path()).len(), 0);
    drop(pretender);
    led.ask(Command::Kill);
    assert_eq!(job.end().0, Some(86));
    led.end();
}

#[test]
fn who_does_not_know_the_secret_stays_outside() {
    let led = led(Options::default());
    let folder = tempfile::tempdir().unwrap();
    // Not by the unix socket, which knows us.
    let tcp = |secret: &str| {
        let stream = std::net::TcpStream::connect(("127.0.0.1", led.address.port)).unwrap();
        let secret = folder.path().join(secret);
        Address { host: "127.0.0.1".into(), port: led.address.port, secret }.greeted(stream)
    };
    let error = tcp("another").expect_err("it has another secret");
    assert_eq!(error.kind(), ErrorKind::Permission);
    std::fs::copy(&led.address.secret, folder.path().join("same")).unwrap();
    let mut channel = tcp("same").unwrap();
    channel.send(&Up::Ask { command: Command::Status }).unwrap();
    let answer: Down = channel.receive(Instant::now() + PATIENCE).unwrap();
    assert!(matches!(answer, Down::Answer(_)));
    led.end();
}
