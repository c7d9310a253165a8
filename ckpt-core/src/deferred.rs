//! Signals that another process would die of, held back while it waits for us.
//!
//! A batch system signals the shell that runs the job's script. A shell without a trap dies of that,
//! and everything with it, though its only business is to wait for us. So the signals are blocked in
//! the shell: they stay pending there, where procfs shows them ([`Deferred::arrived`]), and nothing
//! is lost. At the end they are let through, but for those that were acted upon.
//!
//! The mask is changed by ptrace(2) (`PTRACE_SETSIGMASK`); the process does not run an instruction of
//! its own meanwhile, and the call that it waits in goes on. If we are killed, the signals stay
//! blocked there until it ends.

use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::os::proc;
use crate::os::ptrace::{self, Status};
use crate::os::tracee::{Halt, Running, Stopped};

/// How long a process that sleeps may take to stop.
const PATIENCE: Duration = Duration::from_secs(2);

/// Signals that are held back from a process. Dropped, it lets all through.
#[derive(Debug)]
pub struct Deferred {
    pid: i32,
    /// `1 << (signal - 1)` for each.
    held: u64,
}

fn bit(signal: i32) -> u64 {
    1u64.checked_shl(signal.wrapping_sub(1).cast_unsigned()).unwrap_or_default()
}

fn signals_in(mask: u64) -> Vec<i32> {
    (1..=64).filter(|&signal| mask & bit(signal) != 0).collect()
}

/// A mask in `/proc/PID/status`.
fn mask(pid: i32, field: &str) -> Result<u64> {
    let text = proc::status_field(pid, field)?.unwrap_or_default();
    u64::from_str_radix(text.trim(), 16).map_err(|e| {
        Error::new(ErrorKind::Os, format!("cannot read {field} of process {pid}")).source(e)
    })
}

/// Which of `signals` the process neither handles nor ignores nor blocks.
///
/// # Errors
///
/// It is gone.
fn unhandled(pid: i32, signals: &[i32]) -> Result<Vec<i32>> {
    let handled = mask(pid, "SigBlk")? | mask(pid, "SigIgn")? | mask(pid, "SigCgt")?;
    Ok(signals.iter().copied().filter(|&signal| bit(signal) & !handled != 0).collect())
}

impl Deferred {
    /// Holds back those of `signals` that process `pid` neither handles nor ignores, in all its threads.
    /// Called when it waits for one of its children, or is about to.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Permission`] where we may not trace it (Yama: it is not our descendant).
    pub fn begin(pid: i32, signals: &[i32]) -> Result<Self> {
        let deadline = Instant::now() + PATIENCE;
        let stopped = loop {
            let stopped = stop(pid)?;
            // Around a fork shells block signals for a moment, and put the old mask back.
            if waits_for_a_child(&stopped)? || Instant::now() >= deadline {
                break stopped;
            }
            drop(stopped);
            std::thread::sleep(Duration::from_millis(1));
        };
        let held = unhandled(pid, signals)?.into_iter().fold(0, |mask, signal| mask | bit(signal));
        change(&stopped, |mask| mask | held)?;
        drop(stopped);
        let mut this = Self { pid, held };
        this.renew()?;
        Ok(this)
    }

    /// Holds them back again where the process has put back a mask of its own, as some shells do; true
    /// if it had.
    ///
    /// # Errors
    ///
    /// It is gone, or cannot be traced any more.
    pub fn renew(&mut self) -> Result<bool> {
        let mut lost = false;
        for tid in proc::tasks(self.pid)? {
            if mask(tid, "SigBlk")? & self.held != self.held {
                change(&stop(tid)?, |mask| mask | self.held)?;
                lost = true;
            }
        }
        Ok(lost)
    }

    /// The signals that are held back.
    pub fn held(&self) -> Vec<i32> {
        signals_in(self.held)
    }

    /// Those that have come.
    ///
    /// # Errors
    ///
    /// The process is gone.
    pub fn arrived(&self) -> Result<Vec<i32>> {
        let pending = mask(self.pid, "ShdPnd")? | mask(self.pid, "SigPnd")?;
        Ok(signals_in(pending & self.held))
    }

    /// Lets all through but `taken`, which the process never gets to see.
    ///
    /// # Errors
    ///
    /// It cannot be traced any more.
    pub fn end(mut self, taken: &[i32]) -> Result<()> {
        self.let_through(taken)
    }

    fn let_through(&mut self, taken: &[i32]) -> Result<()> {
        let held = std::mem::take(&mut self.held);
        if held == 0 {
            return Ok(());
        }
        let pending = mask(self.pid, "ShdPnd")? | mask(self.pid, "SigPnd")?;
        let taken = taken.iter().fold(0, |mask, &signal| mask | bit(signal)) & pending & held;
        let mut stopped = stop(self.pid)?;
        let deadline = Instant::now() + PATIENCE;
        // One after the other comes to be delivered, is reported to us first, and is dropped.
        for signal in signals_in(taken) {
            change(&stopped, |mask| mask & !bit(signal))?;
            stopped = without(stopped, signal, deadline)?;
        }
        change(&stopped, |mask| mask & !held)?;
        drop(stopped);
        for tid in proc::tasks(self.pid)?.into_iter().filter(|&tid| tid != self.pid) {
            change(&stop(tid)?, |mask| mask & !held)?;
        }
        Ok(())
    }
}

impl Drop for Deferred {
    fn drop(&mut self) {
        if let Err(error) = self.let_through(&[]) {
            tracing::debug!(pid = self.pid, %error, "its signals stay held back");
        }
    }
}

fn stop(pid: i32) -> Result<Stopped> {
    let gone = || Error::new(ErrorKind::Gone, format!("process {pid} has ended"));
    let running = Running::seize(pid)?.ok_or_else(gone)?;
    running.interrupt()?;
    match running.halt(Instant::now() + PATIENCE)? {
        Halt::Stopped(stopped) => Ok(stopped),
        Halt::Gone => Err(gone()),
        Halt::Late(_) => Err(Error::new(ErrorKind::Busy, format!("process {pid} does not stop"))),
    }
}

fn waits_for_a_child(stopped: &Stopped) -> Result<bool> {
    let call = stopped.registers()?.orig_rax as i64;
    Ok([libc::SYS_wait4, libc::SYS_waitid, libc::SYS_rt_sigsuspend].contains(&call))
}

fn change(stopped: &Stopped, to: impl FnOnce(u64) -> u64) -> Result<()> {
    let mask = ptrace::signal_mask(stopped.tid());
    mask.and_then(|mask| ptrace::set_signal_mask(stopped.tid(), to(mask)))
        .map_err(|e| stopped.failed("change the signal mask", e))
}

/// Lets it go on until `signal`, which is pending and not blocked, is about to be delivered, and
/// stops it again without.
fn without(stopped: Stopped, signal: i32, deadline: Instant) -> Result<Stopped> {
    let tid = stopped.tid();
    let running = stopped.resume()?;
    loop {
        match ptrace::wait(tid, false) {
            Ok(Some(Status::Signal(got))) if got == signal => {
                // What is delivered is what the next request says: nothing.
                ptrace::interrupt(tid).and_then(|()| ptrace::cont(tid, 0)).map_err(|e| {
                    Error::os(format!("cannot hold signal {signal} back from process {tid}"), e)
                })?;
                return match running.halt(deadline)? {
                    Halt::Stopped(stopped) => Ok(stopped),
                    _ => Err(Error::new(ErrorKind::Gone, format!("process {tid} has ended"))),
                };
            }
            Ok(Some(Status::Signal(other))) => drop(ptrace::cont(tid, other)),
            Ok(Some(Status::Ended(_))) => {
                return Err(Error::new(ErrorKind::Gone, format!("process {tid} has ended")));
            }
            Ok(Some(_)) => drop(ptrace::cont(tid, 0)),
            Ok(None) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_micros(100));
            }
            Ok(None) => {
                let what = format!("signal {signal} does not come to process {tid}");
                return Err(Error::new(ErrorKind::Busy, what));
            }
            Err(e) => return Err(Error::os(format!("cannot wait for process {tid}"), e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A shell that waits for `cat`, as a batch script waits for us.
    fn shell() -> Child {
        let mut shell = Command::new("bash");
        shell.args(["-c", "echo begins; cat >/dev/null; echo goes on; exit 3"]);
        let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut byte = BufReader::with_capacity(1, shell.stdout.as_mut().unwrap());
        byte.read_line(&mut line).unwrap();
        while proc::children(shell.id().cast_signed()).is_empty() {
            std::thread::yield_now();
        }
        shell
    }

    fn send(shell: &Child, signal: i32) {
        crate::os::spawn::kill(shell.id().cast_signed(), signal);
    }

    fn end(mut shell: Child) -> (String, std::process::ExitStatus) {
        drop(shell.stdin.take());
        let output = shell.wait_with_output().unwrap();
        (String::from_utf8(output.stdout).unwrap(), output.status)
    }

    #[test]
    fn what_was_taken_never_comes() {
        let mut shell = shell();
        let signals = [libc::SIGUSR1, libc::SIGTERM];
        let deferred = Deferred::begin(shell.id().cast_signed(), &signals).unwrap();
        assert_eq!(deferred.held(), signals);
        assert_eq!(deferred.arrived().unwrap(), []);
        send(&shell, libc::SIGUSR1);
        send(&shell, libc::SIGTERM);
        assert_eq!(deferred.arrived().unwrap(), signals);
        assert_eq!(shell.try_wait().unwrap(), None);
        deferred.end(&signals).unwrap();
        let (said, status) = end(shell);
        assert_eq!((said.as_str(), status.code()), ("goes on\n", Some(3)));
    }

    #[test]
    fn what_was_not_taken_comes_late() {
        for drop_it in [true, false] {
            let shell = shell();
            let signals = [libc::SIGUSR1, libc::SIGTERM];
            let deferred = Deferred::begin(shell.id().cast_signed(), &signals).unwrap();
            send(&shell, libc::SIGTERM);
            send(&shell, libc::SIGUSR1);
            if drop_it {
                drop(deferred)
            } else {
                deferred.end(&[libc::SIGUSR1]).unwrap()
            }
            let (said, status) = end(shell);
            let died = status.signal().expect("a shell without traps dies of them");
            assert_eq!(said, "");
            assert!(died == libc::SIGTERM || drop_it && died == libc::SIGUSR1, "{died}");
        }
    }

    /// A thread and a mask of its own, put back on request: `python3 -c` waits for `cat`.
    #[test]
    fn threads_and_masks_that_are_put_back() {
        let script = "import signal, subprocess, sys, threading\n\
                      threading.Thread(target=threading.Event().wait, daemon=True).start()\n\
                      for _ in range(2):\n    \
                          print('waits', flush=True)\n    \
                          subprocess.call(['head', '-n1'], stdout=subprocess.DEVNULL)\n    \
                          signal.pthread_sigmask(signal.SIG_SETMASK, [])\n\
                      sys.exit(3)\n";
        let mut python = Command::new("/usr/bin/python3");
        python.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut python = python.spawn().unwrap();
        let pid = python.id().cast_signed();
        let mut lines = BufReader::new(python.stdout.take().unwrap()).lines();
        let mut waits = || {
            assert_eq!(lines.next().unwrap().unwrap(), "waits");
            while proc::children(pid).is_empty() {
                std::thread::yield_now();
            }
        };
        waits();
        let signals = [libc::SIGUSR1, libc::SIGTERM];
        let mut deferred = Deferred::begin(pid, &signals).unwrap();
        assert!(!deferred.renew().unwrap());
        send(&python, libc::SIGUSR1);
        deferred.end(&signals).unwrap();
        let mut deferred = Deferred::begin(pid, &signals).unwrap();
        python.stdin.as_mut().unwrap().write_all(b"1\n").unwrap();
        waits();
        // While it makes a process, it blocks all for a moment.
        while !deferred.renew().unwrap() {
            std::thread::yield_now();
        }
        send(&python, libc::SIGTERM);
        assert_eq!(deferred.arrived().unwrap(), [libc::SIGTERM]);
        deferred.end(&signals).unwrap();
        python.stdin.as_mut().unwrap().write_all(b"1\n").unwrap();
        assert_eq!(python.wait().unwrap().code(), Some(3));
    }

    #[test]
    fn traps_are_left_alone() {
        let mut shell = Command::new("bash");
        shell.args(["-c", "trap 'echo trapped' USR1; echo; trap '' USR2; cat; wait; exit 0"]);
        let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        while proc::children(shell.id().cast_signed()).is_empty() {
            std::thread::yield_now();
        }
        let signals = [libc::SIGUSR1, libc::SIGUSR2, libc::SIGTERM];
        let deferred = Deferred::begin(shell.id().cast_signed(), &signals).unwrap();
        assert_eq!(deferred.held(), [libc::SIGTERM]);
        deferred.end(&[]).unwrap();
        shell.stdin.take().unwrap().write_all(b"x\n").unwrap();
        assert!(shell.wait().unwrap().success());
    }
}
