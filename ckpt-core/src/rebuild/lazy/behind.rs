//! The tasks of a job that runs before all of its memory is there: each stops before every system call, and
//! goes on when what that touches has been filled. See [`super`].

use std::os::fd::BorrowedFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags};
use rustix::time::Timespec;

use super::calls::{Use, uses};
use super::choose::Lazy;
use super::fill::Filling;
use crate::error::{Error, Result};
use crate::image::Unpacker;
use crate::job::Job;
use crate::kinds::call::{Interrupted, Seen, undo_interruption};
use crate::os::mem::Memory;
use crate::os::ptrace::{self, Call, Place, Status};
use crate::os::tracee::{Stopped, is_gone};
use crate::os::{PAGE, proc, spawn};
use crate::rebuild::body::Body;
use crate::rebuild::faults::Faults;
use crate::rebuild::pages::Pages;
use crate::rebuild::spans::Span;
use crate::rebuild::{Fill, Options};

/// A call that touches more than this waits for all.
const SOME: u64 = 16 << 20;
/// A path is not longer (`PATH_MAX`).
const LONGEST_PATH: u64 = 4096;
/// No more `struct iovec` than this are taken (`UIO_MAXIOV`).
const MOST_VECTORS: u64 = 1024;

/// A job that runs while its memory is still being filled.
///
/// Only the thread that has rebuilt the job can look after it: it must call [`Self::turn`] whenever a
/// SIGCHLD arrives or [`Self::poll_fd`] is readable, and must not wait for any child but with
/// [`Self::turn`], until that says that it is over. Dropped before, it ends the job.
#[derive(Debug)]
pub struct Behind {
    filling: Option<Filling>,
    unpacker: Unpacker,
    processes: Vec<Traced>,
    tasks: Vec<Task>,
    bytes: u64,
    began: Instant,
}

/// A process whose tasks are traced.
#[derive(Debug)]
struct Traced {
    pid: i32,
    /// Its index in the snapshot.
    index: u32,
    memory: Memory,
    /// The program break that it had.
    brk: u64,
}

#[derive(Debug)]
struct Task {
    tid: i32,
    /// Its process' index in [`Behind::processes`].
    of: usize,
    state: State,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Runs,
    /// It stands until all is there, and goes on with this signal (0: none).
    Held(i32),
    /// It was asked to stop, to be let go; what was seen of it before.
    Called(Option<Seen>),
}

/// What became of a task.
enum Next {
    Goes(State),
    /// It has ended, or is no more our tracee.
    Left,
}

impl Behind {
    /// Lets the tasks of all bodies go on, traced, and begins to fill.
    pub(in crate::rebuild) fn begin(
        (pages, lazy, faults): (Pages, Lazy, Faults),
        bodies: Vec<(u32, Body<'_>)>,
        options: &Options,
    ) -> Result<Self> {
        let (bytes, unpacker) = (lazy.bytes, Unpacker::new()?);
        let mut filling = Filling::begin(pages, &lazy, faults, options.workers)?;
        if options.fill == Fill::Behind {
            filling.want_all()?;
        }
        let mut this = Self {
            filling: Some(filling),
            unpacker,
            processes: Vec::new(),
            tasks: Vec::new(),
            bytes,
            began: Instant::now(),
        };
        for (index, body) in bodies {
            let of = this.processes.len();
            let brk = body.live.space.brk();
            let tids = body.tids();
            let (pid, memory) = (body.pid, body.into_memory());
            this.processes.push(Traced { pid, index, memory, brk });
            this.tasks.extend(tids.into_iter().map(|tid| Task { tid, of, state: State::Runs }));
        }
        // One that has been killed meanwhile is noticed in its turn.
        this.tasks.iter().for_each(|task| drop(ptrace::syscall(task.tid, 0)));
        Ok(this)
    }

    /// Bytes of memory that were not there when the job began to run.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// When the job began to run.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// Readable when there is something to do that no SIGCHLD tells of.
    pub fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        self.filling.as_ref().map(Filling::poll_fd)
    }

    /// Does what there is to do at the moment; true once all of the memory is there and the job is
    /// on its own, with `job` told about its calls. This must not be used any more then.
    ///
    /// # Errors
    ///
    /// The image is damaged, or the kernel refuses something: the job has been ended, as it cannot have
    /// all of its memory.
    pub fn turn(&mut self, job: &mut Job) -> Result<bool> {
        let done = self.attend(job);
        if done.is_err() {
            self.end();
        }
        done
    }

    /// Waits until all is there; see [`Self::turn`].
    ///
    /// # Errors
    ///
    /// As of [`Self::turn`].
    pub fn finish(&mut self, job: &mut Job) -> Result<()> {
        const WHILE: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000 };
        if let Some(filling) = &mut self.filling {
            filling.want_all()?;
        }
        while !self.turn(job)? {
            let mut fds: Vec<_> = self
                .poll_fd()
                .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
                .into_iter()
                .collect();
            // Tasks have something to say meanwhile, and nothing here tells of that.
            let _ = rustix::event::poll(&mut fds, Some(&WHILE));
        }
        Ok(())
    }

    fn attend(&mut self, job: &mut Job) -> Result<bool> {
        for mut task in std::mem::take(&mut self.tasks) {
            if let Next::Goes(state) = self.listen(&task, job)? {
                task.state = state;
                self.tasks.push(task);
            }
        }
        let is_held = |task: &Task| matches!(task.state, State::Held(_));
        if let Some(filling) = self.filling.as_mut().filter(|_| self.tasks.iter().any(is_held)) {
            filling.want_all()?;
        }
        let is_over = self.filling.as_ref().map_or(Ok(true), Filling::is_over)?;
        if is_over || self.tasks.is_empty() {
            // What is still missing from here on is zero.
            self.filling = None;
            self.let_go();
            job.standing.release();
        }
        Ok(self.tasks.is_empty())
    }

    /// Takes what a task has to say.
    fn listen(&mut self, task: &Task, job: &mut Job) -> Result<Next> {
        if let State::Held(_) = task.state
            && !has_ended(task.tid)
        {
            return Ok(Next::Goes(task.state));
        }
        loop {
            let status = match ptrace::wait(task.tid, false) {
                Ok(Some(status)) => status,
                Ok(None) => return Ok(Next::Goes(task.state)),
                Err(error) if is_gone(&error) => return Ok(Next::Left),
                Err(error) => return Err(failed(task.tid, error)),
            };
            let next = match (status, task.state) {
                (Status::Ended(_), _) => {
                    // Its parent hears of it after us.
                    ptrace::bury(task.tid);
                    Some(Next::Left)
                }
                (Status::Signal(signal), _) if !self.does_something(task, signal)? => {
                    undo_interruption(self.processes[task.of].pid, &Stopped::adopt(task.tid))?;
                    self.go(task, signal)
                }
                (Status::Signal(signal), State::Called(_)) => self.release(task, signal),
                (Status::Signal(signal), _) => Some(Next::Goes(State::Held(signal))),
                (Status::EventStop(_), State::Called(seen)) => {
                    self.note(task, seen, job)?;
                    self.release(task, 0)
                }
                (_, State::Called(_)) => self.release(task, 0),
                (Status::Syscall, _) => match ptrace::place(task.tid) {
                    Ok(Place::Exit) => self.go(task, 0),
                    Ok(Place::Entry(call)) if self.prepared(task, &call)? => self.go(task, 0),
                    Ok(_) => Some(Next::Goes(State::Held(0))),
                    Err(error) if is_gone(&error) => None,
                    Err(error) => return Err(failed(task.tid, error)),
                },
                (Status::EventStop(_) | Status::Event(_), _) => Some(Next::Goes(State::Held(0))),
            };
            if let Some(next) = next {
                return Ok(next);
            }
        }
    }

    /// Lets a task go on to its next stop; it is looked at again at once.
    fn go(&self, task: &Task, signal: i32) -> Option<Next> {
        // If it was killed meanwhile, the next look tells.
        let _ = ptrace::syscall(task.tid, signal);
        None
    }

    /// Lets a task go for good.
    fn release(&self, task: &Task, signal: i32) -> Option<Next> {
        // One that was killed meanwhile has yet to be heard.
        ptrace::detach(task.tid, signal).is_ok().then_some(Next::Left)
    }

    /// Whether a signal runs a handler, or ends or stops the process: others are only told to us because
    /// we trace.
    fn does_something(&self, task: &Task, signal: i32) -> Result<bool> {
        const HARMLESS: [i32; 4] = [libc::SIGCHLD, libc::SIGURG, libc::SIGWINCH, libc::SIGCONT];
        let status = match proc::status(self.processes[task.of].pid) {
            Ok(status) => status,
            Err(_) => return Ok(true),
        };
        let (caught, ignored) = status.dispositions()?;
        let has = |set: u64| (1..=64).contains(&signal) && set >> (signal - 1) & 1 == 1;
        Ok(has(caught) || !has(ignored) && !HARMLESS.contains(&signal))
    }

    /// Brings what a call touches; false if it must wait for all.
    fn prepared(&mut self, task: &Task, call: &Call) -> Result<bool> {
        let Some(uses) = uses(call) else { return Ok(false) };
        for it in uses {
            let done = match it {
                Use::Touch(at, length) => self.touched(task, at, length)?,
                Use::Path(at) => {
                    self.touched(task, at, LONGEST_PATH)? && !self.is_of_proc(task, at)
                }
                Use::Vectors(at, count) => self.vectors(task, at, count.min(MOST_VECTORS))?,
                Use::Remap(at, length) => self.is_elsewhere(task, at, length),
                Use::Break(to) => {
                    let brk = self.processes[task.of].brk;
                    self.is_elsewhere(task, to, brk.saturating_sub(to))
                }
            };
            if !done {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn span(&self, task: &Task, at: u64, length: u64) -> Span {
        let process = self.processes[task.of].index;
        Span { process, start: at, end: at.saturating_add(length) }
    }

    fn touched(&mut self, task: &Task, at: u64, length: u64) -> Result<bool> {
        let span = self.span(task, at, length);
        let Some(filling) = &self.filling else { return Ok(true) };
        if filling.store().extent(span) > SOME {
            return Ok(false);
        }
        filling.store().ensure(span, &mut self.unpacker).map(|()| true)
    }

    fn is_elsewhere(&self, task: &Task, at: u64, length: u64) -> bool {
        let span = self.span(task, at & !(PAGE - 1), length.saturating_add(2 * PAGE));
        self.filling.as_ref().is_none_or(|filling| filling.store().extent(span) == 0)
    }

    /// Another process' memory may be read by such a file.
    fn is_of_proc(&self, task: &Task, at: u64) -> bool {
        let mut start = [0; 5];
        let memory = &self.processes[task.of].memory;
        memory.read_exact(at, &mut start).is_ok() && start == *b"/proc"
    }

    fn vectors(&mut self, task: &Task, at: u64, count: u64) -> Result<bool> {
        if !self.touched(task, at, 16 * count)? {
            return Ok(false);
        }
        for number in 0..count {
            let vector = self.processes[task.of].memory.words::<2>(at + 16 * number);
            // What cannot be read the kernel will not read either.
            let Ok([base, length]) = vector else { return Ok(true) };
            if !self.touched(task, base, length)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Lets those go that stand, and calls the others. A process' first task is let go before the others:
    /// to a task that is traced, signals are sent that it ignores, and another one that is not traced would see
    /// its call interrupted by them.
    fn let_go(&mut self) {
        let is_first = |task: &Task| task.tid == self.processes[task.of].pid;
        let waits: Vec<usize> =
            self.tasks.iter().filter(|task| is_first(task)).map(|task| task.of).collect();
        let mut left = Vec::new();
        for mut task in std::mem::take(&mut self.tasks) {
            let pid = self.processes[task.of].pid;
            if task.tid != pid && waits.contains(&task.of) {
                left.push(task);
                continue;
            }
            match task.state {
                State::Held(signal) if self.release(&task, signal).is_some() => continue,
                State::Held(_) | State::Called(_) => {}
                State::Runs => {
                    task.state = State::Called(Seen::look(pid, task.tid));
                    let _ = ptrace::interrupt(task.tid);
                }
            }
            left.push(task);
        }
        self.tasks = left;
    }

    /// This stop interrupts a call as a freeze does.
    fn note(&self, task: &Task, seen: Option<Seen>, job: &mut Job) -> Result<()> {
        let process = &self.processes[task.of];
        let stopped = Stopped::adopt(task.tid);
        let cut_short = undo_interruption(process.pid, &stopped)?;
        let (before, standing) = ((seen, cut_short), &mut job.standing);
        Interrupted::capture(process.pid, &stopped, &process.memory, before, standing).map(drop)
    }

    /// Ends the job, none of whose tasks may go on without its memory.
    fn end(&mut self) {
        self.processes.iter().for_each(|process| spawn::kill(process.pid, libc::SIGKILL));
        self.tasks.clear();
        self.filling = None;
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        if !self.tasks.is_empty() {
            self.end();
        }
    }
}

fn has_ended(tid: i32) -> bool {
    !matches!(ptrace::look(tid), Ok(None))
}

fn failed(tid: i32, error: std::io::Error) -> Error {
    Error::os(format!("cannot look after task {tid}"), error)
}
