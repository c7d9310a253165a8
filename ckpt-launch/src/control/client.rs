//! The other end: finds the job that is meant, asks, and waits for the answer.

use std::io::{BufRead, BufReader, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use ckpt_core::image::{Directory, Whose};
use ckpt_core::job::JobId;
use ckpt_core::{Error, ErrorKind, Result};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use rustix::time::Timespec;

use super::place::{self, Owner, Place};
use super::protocol::{Event, MAX_LINE, ReplyBy, Request, Status, VERSION, Verb, kind_of};

/// How often a waiting client makes sure that the supervisor lives.
const LOOK_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };

/// How a checkpoint that was asked for came about.
#[derive(Debug)]
pub enum Outcome {
    /// It was taken; the event is [`Event::Checkpoint`].
    Taken(Event),
    /// We are in a job that was brought back from an image of this generation (or a later one).
    CameBack(u64),
}

/// A connection to the supervisor of a running job.
#[derive(Debug)]
pub struct Connection {
    place: Place,
    stream: BufReader<UnixStream>,
    name: String,
    incarnation: String,
    generation: u64,
}

impl Connection {
    /// Connects to the one job that runs in `dir`, or to `wanted` there.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if none runs; [`ErrorKind::Usage`] if it isn't clear which is meant.
    pub fn find(dir: &Path, wanted: Option<JobId>) -> Result<Self> {
        let (mut live, mut trouble) = (Vec::new(), None);
        for place in Place::all(dir)? {
            if wanted.is_none_or(|wanted| wanted == place.job) {
                match Self::open(place) {
                    Ok(Some(connection)) => live.push(connection),
                    Ok(None) => {}
                    Err(error) => trouble = Some(error),
                }
            }
        }
        match (live.len(), trouble) {
            (0, Some(error)) => Err(error),
            (0, None) => {
                let which = wanted.map_or_else(|| "no job".into(), |id| format!("job {id} is not"));
                let what = format!("{which} running in {}", dir.display());
                Err(Error::new(ErrorKind::NotFound, what)
                    .help("name its checkpoint directory with --ckptdir or $CKPT_DIR"))
            }
            (1, _) => Ok(live.remove(0)),
            _ => {
                let list = live.iter().map(|c| format!("{} ({})", c.place.job, c.name));
                let list = list.collect::<Vec<_>>().join(", ");
                let what = format!("several jobs run in {}: {list}", dir.display());
                Err(Error::new(ErrorKind::Usage, what).help("choose one with --job"))
            }
        }
    }

    /// Connects to the supervisor of the job at `place`; nothing if there is none.
    fn open(place: Place) -> Result<Option<Self>> {
        let path = place.record().map_or_else(|| place.socket_path(), |record| record.socket);
        match connect(&path) {
            Ok(stream) => Self::greet(place, BufReader::new(stream)).map(Some),
            Err(Errno::CONNREFUSED | Errno::NOENT) => not_connected(&place),
            Err(error) => {
                Err(Error::os(format!("cannot speak to the job at {}", path.display()), error))
            }
        }
    }

    fn greet(place: Place, mut stream: BufReader<UnixStream>) -> Result<Self> {
        let fail = |e: nix::Error| Error::os("cannot see whose the socket is", e);
        let peer = getsockopt(stream.get_ref(), PeerCredentials).map_err(fail)?.uid();
        let own = rustix::process::geteuid().as_raw();
        if peer != own && peer != 0 && own != 0 {
            let what =
                format!("the socket of job {} belongs to a stranger, user {peer}", place.job);
            return Err(Error::new(ErrorKind::Permission, what));
        }
        match next_event(&mut stream, place.job)? {
            Event::Hello { version, .. } if version > VERSION => {
                let what = format!("job {} speaks version {version}, not {VERSION}", place.job);
                Err(Error::new(ErrorKind::Unsupported, what)
                    .help("use the `ckpt` it was started with"))
            }
            Event::Hello { name, incarnation, generation, .. } => {
                Ok(Self { place, stream, name, incarnation, generation })
            }
            other => Err(failure_in(other)),
        }
    }

    /// The job's id.
    pub fn job(&self) -> JobId {
        self.place.job
    }

    /// Asks how the job is doing.
    ///
    /// # Errors
    ///
    /// When the job ends meanwhile.
    pub fn status(mut self) -> Result<Status> {
        match self.ask(Verb::Status)? {
            Event::Status(status) => Ok(*status),
            other => Err(failure_in(other)),
        }
    }

    /// Kills the job; says how many processes that were.
    ///
    /// # Errors
    ///
    /// When the supervisor ends before it could answer.
    pub fn kill(mut self) -> Result<usize> {
        match self.ask(Verb::Kill)? {
            Event::Killed { processes } => Ok(processes),
            other => Err(failure_in(other)),
        }
    }

    fn ask(&mut self, verb: Verb) -> Result<Event> {
        let line = request(verb, None)?;
        let sent = self.stream.get_mut().write_all(&line);
        sent.map_err(|e| ended(self.place.job).source(e))?;
        loop {
            let event = next_event(&mut self.stream, self.place.job)?;
            if event.is_final() {
                return Ok(event);
            }
        }
    }

    /// Has a checkpoint taken, one complete by itself if `full`, and waits until it is durable. `on_event`
    /// sees the steps.
    ///
    /// # Errors
    ///
    /// Why there is no new image.
    pub fn checkpoint(self, full: bool, on_event: &mut dyn FnMut(&Event)) -> Result<Outcome> {
        let fail = |e| Error::os("cannot make a pipe for the answer", e);
        let flags = rustix::pipe::PipeFlags::CLOEXEC;
        // Both ends stay ours, so that the whole pipe is inside the job if we are.
        let (answer, pass) = rustix::pipe::pipe_with(flags).map_err(fail)?;
        let verb = if full { Verb::FullCheckpoint } else { Verb::Checkpoint };
        self.send_with_fd(&request(verb, Some(ReplyBy::Fd))?, &pass)?;
        let Self { place, incarnation, generation, stream, .. } = self;
        drop(stream);
        let mut answer = Answer { pipe: answer.into(), input: Vec::new() };
        loop {
            let mut ready = [PollFd::new(&answer.pipe, PollFlags::IN)];
            match rustix::event::poll(&mut ready, Some(&LOOK_EVERY)) {
                Err(Errno::INTR) => {}
                Err(e) => return Err(Error::os("cannot wait for the answer", e)),
                Ok(1..) => match answer.read(on_event)? {
                    Heard::Steps => {}
                    Heard::Last(last) => return taken(last),
                    // The write end is ours as well, so this is a pipe that was put in its place.
                    Heard::Silence => return came_back(&place, generation),
                },
                Ok(0) => {
                    // The record first, the lock next, the pipe last: in this order no answer
                    // that was given can be missed.
                    let record = place.record();
                    let alive = is_alive(&place);
                    let same = record.is_some_and(|record| record.incarnation == incarnation);
                    if alive && same {
                        continue;
                    }
                    let mut ready = [PollFd::new(&answer.pipe, PollFlags::IN)];
                    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
                    if rustix::event::poll(&mut ready, Some(&now)) == Ok(1) {
                        continue;
                    }
                    return came_back(&place, generation);
                }
            }
        }
    }

    fn send_with_fd(&self, line: &[u8], fd: &OwnedFd) -> Result<()> {
        let fds = [fd.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&fds));
        let (stream, flags) = (self.stream.get_ref(), SendFlags::NOSIGNAL);
        // A line of some fifty bytes goes as a whole or not at all.
        rustix::net::sendmsg(stream, &[IoSlice::new(line)], &mut control, flags)
            .map(drop)
            .map_err(|e| ended(self.place.job).source(std::io::Error::from(e)))
    }
}

/// The pipe that the answer to a checkpoint comes through.
struct Answer {
    pipe: std::fs::File,
    input: Vec<u8>,
}

impl Answer {
    /// Reads what is there.
    fn read(&mut self, on_event: &mut dyn FnMut(&Event)) -> Result<Heard> {
        let mut bytes = [0u8; 4096];
        let got = self.pipe.read(&mut bytes).map_err(|e| Error::os("cannot read the answer", e))?;
        if got == 0 {
            return Ok(Heard::Silence);
        }
        self.input.extend_from_slice(&bytes[..got]);
        while let Some(end) = self.input.iter().position(|&b| b == b'\n') {
            let line: Vec<u8> = self.input.drain(..=end).collect();
            let Ok(event) = serde_json::from_slice::<Event>(&line) else { continue };
            if event.is_final() {
                return Ok(Heard::Last(event));
            }
            on_event(&event);
        }
        Ok(Heard::Steps)
    }
}

/// What came out of the pipe.
enum Heard {
    Steps,
    Last(Event),
    Silence,
}

fn taken(last: Event) -> Result<Outcome> {
    match last {
        Event::Checkpoint { .. } => Ok(Outcome::Taken(last)),
        other => Err(failure_in(other)),
    }
}

/// The supervisor that was asked is no more. If there is an image that is newer than the request,
/// then either we came out of it, or it was finished with the supervisor's last breath.
fn came_back(place: &Place, before: u64) -> Result<Outcome> {
    let newest = Directory::open(&place.dir)
        .and_then(|dir| dir.newest_good(Some(place.job), Whose::Anybodys, &mut |_, _| {}));
    match newest {
        Ok(image) if image.header().generation > before => {
            Ok(Outcome::CameBack(image.header().generation))
        }
        _ => Err(ended(place.job)),
    }
}

fn is_alive(place: &Place) -> bool {
    match place.owner() {
        Owner::Alive => true,
        Owner::None => false,
        Owner::Unknown => {
            let path = place.record().map_or_else(|| place.socket_path(), |record| record.socket);
            connect(&path).is_ok()
        }
    }
}

/// Says why nobody listens; cleans up after a supervisor that died.
fn not_connected(place: &Place) -> Result<Option<Connection>> {
    if place.owner() != Owner::Alive {
        place.clean_up();
        return Ok(None);
    }
    let here = place::host();
    match place.record().filter(|record| record.host != here) {
        Some(record) => {
            let what = format!("job {} runs on {}, this is {here}", place.job, record.host);
            Err(Error::new(ErrorKind::Busy, what).help("run `ckpt` there"))
        }
        None => {
            let what = format!("job {} doesn't listen: it is about to begin or end", place.job);
            Err(Error::new(ErrorKind::Busy, what))
        }
    }
}

pub(crate) fn connect(path: &Path) -> rustix::io::Result<UnixStream> {
    let (_dir, address) = place::address(path)?;
    let (kind, flags) = (SocketType::STREAM, SocketFlags::CLOEXEC);
    let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?;
    rustix::net::connect(&socket, &address)?;
    Ok(socket.into())
}

fn request(verb: Verb, reply: Option<ReplyBy>) -> Result<Vec<u8>> {
    let request = Request { version: VERSION, request: verb, reply };
    let mut line = serde_json::to_vec(&request)
        .map_err(|e| Error::new(ErrorKind::Internal, "cannot word the request").source(e))?;
    line.push(b'\n');
    Ok(line)
}

fn next_event(stream: &mut BufReader<UnixStream>, job: JobId) -> Result<Event> {
    let mut line = Vec::new();
    let got = stream.by_ref().take(MAX_LINE as u64).read_until(b'\n', &mut line);
    match got {
        Ok(_) if line.ends_with(b"\n") => serde_json::from_slice(&line).map_err(|e| {
            Error::new(ErrorKind::Internal, "the job's answer makes no sense").source(e)
        }),
        Ok(_) => Err(ended(job)),
        Err(error) => Err(ended(job).source(error)),
    }
}

fn ended(job: JobId) -> Error {
    Error::new(
        ErrorKind::Gone,
        format!("job {job} ended, or its supervisor did, before it answered"),
    )
}

fn failure_in(event: Event) -> Error {
    match event {
        Event::Failed { code, message, .. } => Error::new(kind_of(code), message),
        _ => Error::new(ErrorKind::Internal, "the job's answer was not to what it was asked"),
    }
}
