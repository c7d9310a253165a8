//! The tasks of a job that runs before all of its memory is there: each stops before every system call, and
//! goes on when what that touches has been filled. See [`super`].

use std::collections::HashSet;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags};
use rustix::time::Timespec;

use super::calls::{Use, uses};
use super::fill::Filling;
use crate::error::{Error, ErrorKind, Result};
use crate::image::Unpacker;
use crate::job::Job;
use crate::kinds::call::{Interrupted, Seen, tells_of_interruption, undo_interruption};
use crate::kinds::signals::{Effect, effect};
use crate::os::mem::Memory;
use crate::os::ptrace::{self, Call, Place, Status};
use crate::os::tracee::{Stopped, is_gone};
use crate::os::{PAGE, proc, spawn};
use crate::rebuild::Fill;
use crate::rebuild::body::Body;
use crate::rebuild::spans::Span;

/// A call that touches more than this waits for all.
const SOME: u64 = 16 << 20;
/// A path is not longer (`PATH_MAX`).
const LONGEST_PATH: u64 = 4096;
/// No more `struct iovec` than this are taken (`UIO_MAXIOV`).
const MOST_VECTORS: u64 = 1024;

/// A job that runs while its memory is still being filled.
///
/// Only the thread that has rebuilt the job can look after it: it must call [`Self::turn`] whenever a
/// SIGCHLD arrives or [`Self::poll_fd`] is readable, and must not wait for any process of the job by itself,
/// until that says that it is over. Dropped before, it ends the job.
#[derive(Debug)]
pub struct Behind {
    /// `None` once nothing is missing any more.
    filling: Option<Filling>,
    unpacker: Unpacker,
    processes: Vec<Traced>,
    tasks: Vec<Task>,
    /// Tasks that have children.
    parents: HashSet<i32>,
    bytes: u64,
    is_whole: bool,
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
    /// It stands until all is there.
    Held(Before),
    /// It was asked to stop, to be let go; what was seen of it before.
    Called(Option<Seen>),
}

/// What a task that is held will do next.
#[derive(Debug, Clone, Copy)]
enum Before {
    /// This system call.
    Call(i64),
    /// This signal's handler, or its end by that.
    Signal(i32),
    /// Whatever follows: it was in a stop of its own.
    Stop,
}

/// What became of a task.
enum Next {
    Goes(State),
    /// It has ended, or is no more our tracee.
    Left,
}

impl Behind {
    /// Lets the tasks of all bodies go on, traced, and begins to fill what they do not touch if that is
    /// wanted.
    pub(in crate::rebuild) fn begin(
        mut filling: Filling,
        bodies: Vec<(u32, Body<'_>)>,
        fill: Fill,
    ) -> Result<Self> {
        let mut unpacker = Unpacker::new()?;
        if fill == Fill::Behind {
            filling.want_all(&mut unpacker)?;
        }
        let mut this = Self {
            bytes: filling.bytes(),
            filling: Some(filling),
            unpacker,
            processes: Vec::new(),
            tasks: Vec::new(),
            parents: HashSet::new(),
            is_whole: false,
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

    /// Whether all of the memory has come: if not, the job ended before.
    pub fn is_whole(&self) -> bool {
        self.is_whole
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
        self.attend(job).map_err(|error| {
            // Who waited in vain for another's block does not know why.
            let cause = self.filling.as_ref().and_then(|filling| filling.is_over().err());
            self.end();
            cause.unwrap_or(error)
        })
    }

    /// Waits until all is there, at most until `deadline`; tells whether it is. See [`Self::turn`].
    ///
    /// # Errors
    ///
    /// As of [`Self::turn`].
    pub fn finish(&mut self, job: &mut Job, deadline: Instant) -> Result<bool> {
        const WHILE: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000 };
        if let Some(filling) = &mut self.filling
            && let Err(error) = filling.want_all(&mut self.unpacker)
        {
            self.end();
            return Err(error);
        }
        while !self.turn(job)? {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            let fd = self.poll_fd().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
            // Tasks have something to say meanwhile, and nothing here tells of that.
            let _ = rustix::event::poll(fd.into_iter().collect::<Vec<_>>().as_mut(), Some(&WHILE));
        }
        Ok(true)
    }

    fn attend(&mut self, job: &mut Job) -> Result<bool> {
        for mut task in std::mem::take(&mut self.tasks) {
            match self.listen(&task, job) {
                Ok(Next::Left) => {}
                Ok(Next::Goes(state)) => {
                    task.state = state;
                    self.tasks.push(task);
                }
                Err(error) => {
                    self.tasks.push(task);
                    return Err(error);
                }
            }
        }
        if let Some(filling) = &mut self.filling {
            let is_held = |task: &Task| matches!(task.state, State::Held(_));
            if self.tasks.iter().any(is_held) {
                filling.want_all(&mut self.unpacker)?;
            }
            self.is_whole = filling.is_over()?;
            if self.is_whole || self.tasks.is_empty() {
                // What is still missing from here on is zero.
                self.filling = None;
                self.parents = job.family().members().1;
            }
        }
        if self.filling.is_none() {
            // Nothing else tells that it is the next ones' turn.
            while self.let_go() {}
            job.standing.release();
        }
        Ok(self.tasks.is_empty())
    }

    /// Takes what a task has to say.
    fn listen(&mut self, task: &Task, job: &mut Job) -> Result<Next> {
        if let State::Held(_) = task.state
            && matches!(ptrace::look(task.tid), Ok(None))
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
            match self.heard(task, status, job) {
                Ok(Some(next)) => return Ok(next),
                Ok(None) => {}
                // It is being killed, which is what it says next.
                Err(error) if error.kind() == ErrorKind::Gone => {
                    return Ok(Next::Goes(task.state));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Does what a stop calls for; `None` if the task goes on to its next one.
    fn heard(&mut self, task: &Task, status: Status, job: &mut Job) -> Result<Option<Next>> {
        let held = |before| Some(Next::Goes(State::Held(before)));
        Ok(match (status, task.state) {
            (Status::Ended(_), _) => {
                // Its parent hears of it after us.
                ptrace::bury(task.tid);
                Some(Next::Left)
            }
            (Status::Signal(signal), state) => match (self.effect(task, signal)?, state) {
                (Effect::Nothing | Effect::Stop | Effect::End, _) => go(task, signal),
                (Effect::Handler | Effect::Core, State::Called(_)) => release(task, signal),
                (Effect::Handler | Effect::Core, _) => held(Before::Signal(signal)),
            },
            (Status::Syscall, State::Called(seen)) => match place(task)? {
                Place::Entry(call) if tells_of_interruption(call.number) => go(task, 0),
                Place::Exit(_) => {
                    self.note(task, seen, job)?;
                    release(task, 0)
                }
                _ => release(task, 0),
            },
            (Status::Syscall, _) => match place(task)? {
                Place::Entry(call) => {
                    if call.number != libc::SYS_restart_syscall {
                        job.standing.forget(task.tid);
                    }
                    match self.prepared(task, &call)? {
                        true => go(task, 0),
                        false => held(Before::Call(call.number)),
                    }
                }
                Place::Exit(result) => {
                    if result == -i64::from(libc::EINTR) {
                        // By a signal that it ignores: it is only told of that because we trace.
                        undo_interruption(self.process(task).pid, &Stopped::adopt(task.tid))?;
                    }
                    go(task, 0)
                }
                Place::Other => held(Before::Stop),
            },
            (Status::EventStop(_), State::Called(seen)) => {
                self.note(task, seen, job)?;
                release(task, 0)
            }
            // A SIGCONT to its process, even to one that runs.
            (Status::EventStop(libc::SIGTRAP), _) => go(task, 0),
            (Status::Event(_), State::Called(_)) => release(task, 0),
            (Status::EventStop(_) | Status::Event(_), _) => held(Before::Stop),
        })
    }

    fn process(&self, task: &Task) -> &Traced {
        &self.processes[task.of]
    }

    /// What a signal does that is about to be delivered.
    fn effect(&self, task: &Task, signal: i32) -> Result<Effect> {
        let (caught, ignored) = proc::status(self.process(task).pid)?.dispositions()?;
        Ok(effect(signal, caught, ignored))
    }

    /// Brings what a call touches; false if it must wait for all.
    fn prepared(&mut self, task: &Task, call: &Call) -> Result<bool> {
        let Some(uses) = uses(call) else { return Ok(false) };
        for it in uses {
            let done = match it {
                Use::Touch(at, length) => self.touched(task, at, length)?,
                Use::Path(at) => {
                    self.touched(task, at, LONGEST_PATH)? && !self.may_be_of_proc(task, at)
                }
                Use::Vectors(at, count) => self.vectors(task, at, count.min(MOST_VECTORS))?,
                Use::Remap(at, length) => self.is_elsewhere(task, at, length),
                Use::Break(to) => {
                    let brk = self.process(task).brk;
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
        Span { process: self.process(task).index, start: at, end: at.saturating_add(length) }
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

    /// Such a file may be another process' memory, which is not read like one's own.
    fn may_be_of_proc(&self, task: &Task, at: u64) -> bool {
        let mut start = [0; 5];
        let is_read = self.process(task).memory.read_exact(at, &mut start).is_ok();
        is_read && (start == *b"/proc" || start.starts_with(b"//"))
    }

    fn vectors(&mut self, task: &Task, at: u64, count: u64) -> Result<bool> {
        if !self.touched(task, at, 16 * count)? {
            return Ok(false);
        }
        for number in 0..count {
            let vector = self.process(task).memory.words::<2>(at + 16 * number);
            // What cannot be read the kernel will not read either.
            let Ok([base, length]) = vector else { return Ok(true) };
            if !self.touched(task, base, length)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Lets those go that stand, and calls the others: of each process its first task, then those with
    /// children, then the rest. To a task that is traced, signals are sent that it ignores, and another one
    /// that is not traced any more would see its call interrupted by them.
    /// Tells whether any has gone.
    fn let_go(&mut self) -> bool {
        let before = self.tasks.len();
        let rank = |task: &Task| match task.tid {
            tid if tid == self.processes[task.of].pid => 0,
            tid if self.parents.contains(&tid) => 1,
            _ => 2,
        };
        let mut first = vec![2; self.processes.len()];
        self.tasks.iter().for_each(|task| first[task.of] = first[task.of].min(rank(task)));
        let (due, mut left): (Vec<Task>, Vec<Task>) =
            std::mem::take(&mut self.tasks).into_iter().partition(|it| rank(it) == first[it.of]);
        for mut task in due {
            let released = match task.state {
                State::Held(Before::Call(number)) if !tells_of_interruption(number) => {
                    release(&task, 0)
                }
                State::Held(Before::Stop) => release(&task, 0),
                State::Held(Before::Signal(signal)) => release(&task, signal),
                // To let it go here would cut the call short: behind it that can be undone.
                State::Held(Before::Call(_)) => {
                    let _ = ptrace::interrupt(task.tid);
                    let _ = ptrace::syscall(task.tid, 0);
                    task.state = State::Called(None);
                    None
                }
                State::Called(_) => None,
                State::Runs => {
                    let seen = Seen::look(self.process(&task).pid, task.tid);
                    task.state = State::Called(seen);
                    let _ = ptrace::interrupt(task.tid);
                    None
                }
            };
            if released.is_none() {
                left.push(task);
            }
        }
        self.tasks = left;
        self.tasks.len() < before
    }

    /// This stop interrupts a call as a freeze does.
    fn note(&self, task: &Task, seen: Option<Seen>, job: &mut Job) -> Result<()> {
        let process = self.process(task);
        let stopped = Stopped::adopt(task.tid);
        let cut_short = undo_interruption(process.pid, &stopped)?;
        let (before, standing) = ((seen, cut_short), &mut job.standing);
        Interrupted::capture(process.pid, &stopped, &process.memory, before, standing).map(drop)
    }

    /// Ends the job, none of whose tasks may go on without its memory.
    fn end(&mut self) {
        // The number of one that has ended may be another's by now.
        let with_tasks: HashSet<usize> = self.tasks.iter().map(|task| task.of).collect();
        with_tasks.iter().for_each(|&of| spawn::kill(self.processes[of].pid, libc::SIGKILL));
        self.tasks.clear();
        self.filling = None;
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        self.end();
    }
}

fn place(task: &Task) -> Result<Place> {
    ptrace::place(task.tid).map_err(|error| failed(task.tid, error))
}

/// Lets a task go on to its next stop; if it was killed meanwhile, the next look tells.
fn go(task: &Task, signal: i32) -> Option<Next> {
    let _ = ptrace::syscall(task.tid, signal);
    None
}

/// Lets a task go for good; one that was killed meanwhile has yet to be heard.
fn release(task: &Task, signal: i32) -> Option<Next> {
    ptrace::detach(task.tid, signal).is_ok().then_some(Next::Left)
}

fn failed(tid: i32, error: std::io::Error) -> Error {
    Error::os(format!("cannot look after task {tid}"), error)
}
