//! A coordinator with a crowd: joining it, one generation of it, counting it.
//!
//! The peers have no jobs: one thread speaks for all of them, and answers at once. What is measured
//! is what the coordinator's loop and the lines cost. Two sizes each: what grows by more than the
//! number of peers is a mistake.

#![allow(missing_docs, reason = "criterion's macros make public functions")]

use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ckpt_launch::coordinator::channel::Channel;
use ckpt_launch::coordinator::place::Address;
use ckpt_launch::coordinator::serve::{Coordinator, Options};
use ckpt_launch::coordinator::wire::{Answer, Command, Down, Joining, Process, Stage, Up};
use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use rustix::event::epoll;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy)]
enum Way {
    Unix,
    Tcp,
}

const CROWDS: [(&str, Way, usize); 3] =
    [("unix", Way::Unix, 100), ("unix", Way::Unix, 1000), ("tcp", Way::Tcp, 1000)];

struct Led {
    address: Address,
    thread: Option<JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

impl Led {
    fn begin() -> Self {
        let most = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most })
            .expect("our own limit");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let secret = folder.path().join("secret");
        let options = Options { secret: secret.clone(), ..Options::default() };
        let coordinator = Coordinator::new(options, None).expect("a free port");
        let address = Address { host: "127.0.0.1".into(), port: coordinator.port(), secret };
        let thread = std::thread::spawn(move || coordinator.run(&mut |_| {}).expect("poll"));
        Self { address, thread: Some(thread), _folder: folder }
    }

    fn connect(&self, way: Way) -> Channel {
        match way {
            Way::Unix => self.address.connect().expect("it listens"),
            Way::Tcp => {
                let stream = TcpStream::connect(("127.0.0.1", self.address.port));
                self.address.greeted(stream.expect("it listens")).expect("it knows the secret")
            }
        }
    }
}

impl Drop for Led {
    fn drop(&mut self) {
        let mut channel = self.connect(Way::Unix);
        channel.send(&Up::Ask { command: Command::Quit }).expect("it lives");
        if let Some(thread) = self.thread.take() {
            thread.join().expect("it ends well");
        }
    }
}

/// Peers that say yes to everything; the last channel is whose who asks.
struct Crowd {
    channels: Vec<Channel>,
    epoll: OwnedFd,
    led: Led,
}

impl Crowd {
    fn join(led: Led, way: Way, size: usize) -> Self {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("a descriptor");
        let mut this = Self { channels: Vec::new(), epoll, led };
        for number in 0..size {
            let channel = this.add(way);
            let joining = Joining {
                job: format!("{number:016x}"),
                name: "pretender".into(),
                host: "elsewhere".into(),
                pid: 1,
                generation: 0,
                computation: None,
            };
            channel.send(&Up::Join(joining)).expect("it listens");
            let welcome = channel.receive(Instant::now() + PATIENCE).expect("it answers");
            assert!(matches!(welcome, Down::Welcome { .. }));
        }
        this.add(way);
        this
    }

    fn add(&mut self, way: Way) -> &mut Channel {
        let (channel, at) = (self.led.connect(way), self.channels.len());
        let data = epoll::EventData::new_u64(at as u64);
        epoll::add(&self.epoll, channel.stream(), data, epoll::EventFlags::IN).expect("its own");
        self.channels.push(channel);
        &mut self.channels[at]
    }

    /// Asks, and does for all peers what follows, until there is an answer.
    fn ask(&mut self, command: Command) -> Answer {
        let asker = self.channels.last_mut().expect("there is one");
        asker.send(&Up::Ask { command }).expect("it listens");
        let mut events = Vec::with_capacity(64);
        loop {
            epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None)
                .expect("events");
            for event in events.drain(..) {
                let at = usize::try_from(event.data.u64()).expect("an index");
                let channel = &mut self.channels[at];
                channel.fill().expect("it lives");
                while let Some(word) = channel.message().expect("it makes sense") {
                    match reply(word) {
                        Ok(Some(up)) => channel.send(&up).expect("it listens"),
                        Ok(None) => {}
                        Err(answer) => return answer,
                    }
                }
            }
        }
    }
}

/// What a peer says to that; or the answer that was waited for.
fn reply(word: Down) -> Result<Option<Up>, Answer> {
    let reached = |round, step| {
        let image = (step == Stage::Published).then(|| "/scratch/ckpt_name_0123.dmtcp".to_owned());
        Ok(Some(Up::Reached { round, step, image }))
    };
    match word {
        Down::Checkpoint { round, .. } => reached(round, Stage::Frozen),
        Down::Go { round, step: Stage::Frozen } => reached(round, Stage::Captured),
        Down::Go { round, step: Stage::Captured } => reached(round, Stage::Durable),
        Down::Go { round, step: Stage::Published } => reached(round, Stage::Named),
        Down::Go { round, .. } => reached(round, Stage::Published),
        Down::Census => {
            let process = Process { name: "pretender".into(), pid: 1, inner: 1 };
            Ok(Some(Up::Census { processes: vec![process] }))
        }
        Down::Answer(answer) => Err(answer),
        _ => Ok(None),
    }
}

fn joining(c: &mut Criterion) {
    let mut group = c.benchmark_group("join");
    group.sample_size(10);
    for (name, way, size) in CROWDS {
        group.bench_function(BenchmarkId::new(name, size), |bencher| {
            let crowd = |led| Crowd::join(led, way, size);
            bencher.iter_batched(Led::begin, crowd, BatchSize::PerIteration);
        });
    }
    group.finish();
}

fn asking(c: &mut Criterion) {
    let commands = [
        ("generation", Command::CheckpointAndWait),
        ("status", Command::Status),
        ("list", Command::List),
    ];
    for (what, command) in commands {
        let mut group = c.benchmark_group(what);
        group.sample_size(10);
        for (name, way, size) in CROWDS {
            let mut crowd = Crowd::join(Led::begin(), way, size);
            group.bench_function(BenchmarkId::new(name, size), |bencher| {
                bencher.iter(|| {
                    let answer = crowd.ask(command);
                    assert!(answer.done && answer.processes == size, "{answer:?}");
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, joining, asking);
criterion_main!(benches);
