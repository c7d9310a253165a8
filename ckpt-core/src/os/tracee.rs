//! Tracees as types: a running one cannot be asked for its registers, and death is a value.

use std::io;
use std::time::{Duration, Instant};

use libc::pid_t;

use super::ptrace::{self, Status};
use crate::error::{Error, ErrorKind, Result};

/// A task that was seized and is not known to be stopped.
///
/// Only a stopped task can be detached; one that never stops is let go by the kernel when the
/// tracing thread ends, which is why a checkpoint runs in a thread of its own.
#[derive(Debug)]
pub(crate) struct Running {
    tid: pid_t,
    armed: bool,
}

/// A task that stands still in a ptrace stop. Dropping it lets it go on, untraced.
#[derive(Debug)]
pub(crate) struct Stopped {
    tid: pid_t,
    /// It stands in a group stop (SIGSTOP and its like), not only in ours.
    pub(crate) group_stop: bool,
    armed: bool,
}

/// How an attempt to stop a task came out.
#[derive(Debug)]
pub(crate) enum Halt {
    /// It stands.
    Stopped(Stopped),
    /// It has ended (or is a zombie).
    Gone,
    /// It did not come to a stop in time: uninterruptible, or waiting for its vfork child.
    Late(Running),
}

/// True for the errors that mean "this task is no more".
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ESRCH | libc::ECHILD))
}

impl Running {
    /// Seizes a task (`PTRACE_SEIZE`); `None` if there is no such task any more.
    ///
    /// # Errors
    ///
    /// It is traced by somebody else, or we may not.
    pub(crate) fn seize(tid: pid_t) -> Result<Option<Self>> {
        let (mut tries, mut waited, mut again) = (0, false, 0);
        loop {
            match ptrace::seize(tid, libc::PTRACE_O_TRACESYSGOOD) {
                Ok(()) => return Ok(Some(Self { tid, armed: true })),
                Err(e) if is_gone(&e) => return Ok(None),
                // EPERM is also what a zombie and a task in the middle of its death answer.
                Err(e) if super::proc::is_dying(tid) => {
                    tracing::trace!(tid, error = %e, "dying task not seized");
                    return Ok(None);
                }
                // One that has just taken the number of a dead leader (execve(2) in a thread).
                Err(_) if tries == 0 => tries += 1,
                // The thread of a freeze before this one may still be on its way out: whoever waits
                // for a thread's end is woken before the kernel lets go of its tracees.
                Err(_) if tries < 1000 && is_a_thread_of_ours(super::proc::tracer(tid)) => {
                    tries += 1;
                    waited = true;
                    std::thread::sleep(Duration::from_micros(200));
                }
                Err(_) if std::mem::take(&mut waited) => {}
                // One whose tracer has just let go, or that dies at this moment.
                Err(_) if again < 5 && super::proc::tracer(tid) == 0 => {
                    again += 1;
                    std::thread::sleep(again * Duration::from_micros(100));
                }
                Err(e) if super::proc::tracer(tid) == gettid() => {
                    let what = format!("task {tid} has become another by execve");
                    return Err(Error::new(ErrorKind::Disturbed, what).source(e));
                }
                Err(e) => {
                    let by = super::proc::tracer(tid);
                    let by = if by > 0 { format!(", which {by} traces") } else { String::new() };
                    return Err(Error::os(format!("cannot trace task {tid}{by}"), e).help(
                        "a debugger or strace may hold it, or the process is not dumpable or not \
                         yours",
                    ));
                }
            }
        }
    }

    /// A task that its tracee parent has just made: it is ours, and about to stop.
    pub(crate) fn attached(tid: pid_t) -> Self {
        Self { tid, armed: true }
    }

    /// Kills it; nobody waits for its end.
    pub(crate) fn kill(mut self) {
        self.armed = false;
        super::spawn::kill(self.tid, libc::SIGKILL);
    }

    /// Asks it to stop; see [`Self::halt`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Disturbed`]: another task has its number now, by execve(2). One that is gone is
    /// noticed in [`Self::halt`].
    pub(crate) fn interrupt(&self) -> Result<()> {
        match ptrace::interrupt(self.tid) {
            Err(e) if is_gone(&e) && !super::proc::is_dying(self.tid) => {
                let what = format!("task {} has become another by execve", self.tid);
                Err(Error::new(ErrorKind::Disturbed, what).source(e))
            }
            _ => Ok(()),
        }
    }

    /// Waits until it stands, at most until `deadline`.
    pub(crate) fn halt(mut self, deadline: Instant) -> Result<Halt> {
        let mut tries = 0u32;
        loop {
            match ptrace::wait(self.tid, false) {
                Ok(Some(Status::EventStop(signal))) => {
                    let group_stop = signal != libc::SIGTRAP;
                    self.armed = false;
                    return Ok(Halt::Stopped(Stopped { tid: self.tid, group_stop, armed: true }));
                }
                // A signal on its way comes first; the stop that we asked for follows.
                Ok(Some(Status::Signal(signal))) => drop(ptrace::cont(self.tid, signal)),
                Ok(Some(Status::Syscall | Status::Event(_))) => drop(ptrace::cont(self.tid, 0)),
                Ok(Some(Status::Ended(_))) => {
                    self.armed = false;
                    return Ok(Halt::Gone);
                }
                Ok(None) if Instant::now() >= deadline => {
                    let dying = super::proc::is_dying(self.tid);
                    // Another thread's death is about to be told, and must be heard.
                    if dying && !super::proc::is_leader(self.tid) {
                        pause(&mut tries);
                        continue;
                    }
                    // A leader that has ended before its process' other tasks says nothing.
                    self.armed = !dying;
                    return Ok(if dying { Halt::Gone } else { Halt::Late(self) });
                }
                Ok(None) => pause(&mut tries),
                Err(e) if is_gone(&e) => {
                    self.armed = false;
                    return Ok(Halt::Gone);
                }
                Err(e) => return Err(Error::os(format!("cannot wait for task {}", self.tid), e)),
            }
        }
    }
}

fn is_a_thread_of_ours(tid: pid_t) -> bool {
    tid != gettid() && std::path::Path::new(&format!("/proc/self/task/{tid}")).exists()
}

fn gettid() -> pid_t {
    rustix::thread::gettid().as_raw_nonzero().get()
}

/// Yields at first, as a stop takes microseconds, then sleeps a little.
fn pause(tries: &mut u32) {
    *tries += 1;
    if *tries < 50 {
        std::thread::yield_now();
    } else {
        std::thread::sleep(Duration::from_micros(50));
    }
}

impl Stopped {
    /// A task in the making that stands already. Dropping it does not let it go: half made, it
    /// must not run one instruction. See [`Self::release`].
    pub(crate) fn adopt(tid: pid_t) -> Self {
        Self { tid, group_stop: false, armed: false }
    }

    /// The same of a task that was waited for.
    pub(crate) fn hold(mut self) -> Self {
        self.armed = false;
        self
    }

    /// Ends the process, which does not run another instruction, and hears of its end.
    pub(crate) fn kill(mut self) {
        self.armed = false;
        super::spawn::kill(self.tid, libc::SIGKILL);
        while !matches!(ptrace::wait(self.tid, true), Ok(Some(Status::Ended(_))) | Err(_)) {}
        ptrace::bury(self.tid);
    }

    /// Lets the task go on, untraced.
    pub(crate) fn release(mut self) {
        self.armed = true;
    }

    pub(crate) fn tid(&self) -> pid_t {
        self.tid
    }

    /// Whether it still stands, and has nothing new to say: it may have been killed, or another task
    /// have taken its number by execve(2).
    pub(crate) fn stands(&self) -> bool {
        matches!(ptrace::look(self.tid), Ok(None)) && ptrace::registers(self.tid).is_ok()
    }

    /// Lets it run on for a moment, still seized.
    pub(crate) fn resume(mut self) -> Result<Running> {
        self.armed = false;
        match ptrace::cont(self.tid, 0) {
            Ok(()) => Ok(Running { tid: self.tid, armed: true }),
            Err(e) => Err(Error::os(format!("cannot resume task {}", self.tid), e)),
        }
    }

    pub(crate) fn registers(&self) -> Result<libc::user_regs_struct> {
        ptrace::registers(self.tid).map_err(|e| self.failed("read the registers", e))
    }

    pub(crate) fn set_registers(&self, registers: &libc::user_regs_struct) -> Result<()> {
        ptrace::set_registers(self.tid, registers).map_err(|e| self.failed("set the registers", e))
    }

    pub(crate) fn failed(&self, what: &str, error: io::Error) -> Error {
        Error::os(format!("cannot {what} of task {}", self.tid), error)
    }

    /// Continues to the next stop, with `signal` delivered (0 for none).
    pub(crate) fn step(&self, how: Step, signal: i32) -> Result<Status> {
        self.go(how, signal)?;
        self.next_stop()
    }

    /// Continues; [`Self::next_stop`] must follow.
    pub(crate) fn go(&self, how: Step, signal: i32) -> Result<()> {
        let go = match how {
            Step::Syscall => ptrace::syscall(self.tid, signal),
            Step::Free => ptrace::cont(self.tid, signal),
        };
        go.map_err(|e| self.failed("resume the run", e))
    }

    /// The next stop of one that goes on.
    pub(crate) fn next_stop(&self) -> Result<Status> {
        // A system call is mostly over sooner than we could fall asleep and be woken.
        for _ in 0..SOON {
            match ptrace::wait(self.tid, false) {
                Ok(Some(status)) => return Ok(status),
                Ok(None) => std::thread::yield_now(),
                Err(_) => break,
            }
        }
        match ptrace::wait(self.tid, true) {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err(self.failed("wait for the stop", io::ErrorKind::WouldBlock.into())),
            Err(e) => Err(self.failed("wait for the stop", e)),
        }
    }

    /// Brings it from any ptrace stop to a fresh `PTRACE_EVENT_STOP` without one instruction of
    /// its own in between: there the kernel settles interrupted system calls when it goes on.
    pub(crate) fn settle(&self) -> Result<()> {
        ptrace::interrupt(self.tid).map_err(|e| self.failed("interrupt the run", e))?;
        loop {
            match self.step(Step::Free, 0)? {
                Status::EventStop(_) => return Ok(()),
                Status::Ended(_) => return Err(self.failed("stop the run", gone())),
                _ => {}
            }
        }
    }
}

/// How often a stop is looked for before it is waited for.
const SOON: u32 = 64;

/// How far [`Stopped::step`] goes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    /// To the next entry or exit of a system call.
    Syscall,
    /// To the next event or signal.
    Free,
}

pub(crate) fn gone() -> io::Error {
    io::Error::from_raw_os_error(libc::ESRCH)
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if self.armed {
            let _ = ptrace::detach(self.tid, 0);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let _ = self.interrupt();
        let deadline = Instant::now() + Duration::from_millis(100);
        let mut tries = 0;
        while Instant::now() < deadline {
            match ptrace::wait(self.tid, false) {
                Ok(Some(Status::Ended(_))) | Err(_) => return,
                Ok(Some(status)) => {
                    let signal = if let Status::Signal(signal) = status { signal } else { 0 };
                    let _ = ptrace::detach(self.tid, signal);
                    return;
                }
                Ok(None) => pause(&mut tries),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use super::*;
    use crate::os::proc;

    /// A process whose two tasks come to their end while they are traced.
    #[test]
    fn a_process_with_threads_ends_under_the_tracer() {
        let script = "import sys, threading\n\
                      t = threading.Thread(target=sys.stdin.read)\n\
                      t.start()\n\
                      print('ready', flush=True)\n\
                      t.join()\n";
        let mut python = Command::new("/usr/bin/python3");
        python.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = python.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let tids = proc::tasks(child.id() as i32).unwrap();
        assert_eq!(tids.len(), 2);
        let seized: Vec<Running> =
            tids.iter().map(|&tid| Running::seize(tid).unwrap().unwrap()).collect();
        drop(child.stdin.take());

        let deadline = Instant::now() + Duration::from_secs(60);
        let mut left = seized;
        while !left.is_empty() && Instant::now() < deadline {
            left = left
                .into_iter()
                .filter_map(|running| match running.halt(Instant::now()).unwrap() {
                    Halt::Late(running) => Some(running),
                    Halt::Stopped(_) | Halt::Gone => None,
                })
                .collect();
        }
        assert!(left.is_empty(), "{left:?} did not end");
        assert!(child.wait().unwrap().code().is_some(), "the status is the parent's");
    }
}
