//! System calls that a stopped task makes for us.
//!
//! The code that the task runs meanwhile is a stub in the unused tail of its vDSO: one `syscall`
//! instruction, and behind it instructions that put back the signal mask and every register. So
//! whatever happens to *us* in between, the task finds its way back to where it was by itself: a
//! launcher that is killed in the middle of a checkpoint does not harm the payload.
//!
//! Each call takes two stops; many at once ([`batch`]) take one.
//!
//! All signals are blocked meanwhile, so that none is delivered on top of the stub, and an rseq
//! critical section (which the kernel forgets when it sees the stub's instruction pointer) is
//! remembered and put back.

mod child;

use std::cell::Cell;

use libc::user_regs_struct;

use super::batch;
use super::mem::Memory;
use super::ptrace::{self, Status};
use super::stub::{STUB_ROOM, Zero, stub};
use super::tracee::{Step, Stopped, gone};
use crate::error::{Error, ErrorKind, Result};

pub(crate) use super::stub::{Site, erase_stub};

/// A stopped task on loan: it makes our system calls until this is dropped, and is then as before.
pub(crate) struct Remote<'a> {
    task: &'a Stopped,
    memory: &'a Memory,
    site: Cell<Site>,
    message: Cell<u64>,
    saved: user_regs_struct,
    mask: u64,
    rseq_section: Option<(u64, u64)>,
    /// The signal that tells of the end of many calls, where they can be made so.
    idle: Option<i32>,
    borrowed: bool,
}

impl<'a> Remote<'a> {
    /// Borrows the task.
    pub(crate) fn begin(task: &'a Stopped, memory: &'a Memory, site: Site) -> Result<Self> {
        let saved = task.registers()?;
        let tid = task.tid();
        let mask = ptrace::signal_mask(tid).map_err(|e| task.failed("read the signal mask", e))?;
        let rseq_section = rseq_section(tid, memory);
        let idle = site.room.and_then(|_| batch::idle_signal(site.caught, mask));
        let code = stub(&saved, mask, Zero::Result);
        match idle {
            Some(_) => {
                let both = [batch::code().as_slice(), &code].concat();
                memory.write_all(site.address - batch::ROOM, &both)?;
            }
            None if site.whole => memory.write_all(site.address, &code)?,
            None => {}
        }
        let message = Cell::new(0);
        let site_cell = Cell::new(site);
        let remote = Self {
            task,
            memory,
            site: site_cell,
            message,
            saved,
            mask,
            rseq_section,
            idle,
            borrowed: true,
        };
        // The registers first: from here on the stub restores everything if we die.
        task.set_registers(&remote.loaded(libc::SYS_getpid, &[]))?;
        ptrace::set_signal_mask(tid, !0).map_err(|e| task.failed("block the signals", e))?;
        Ok(remote)
    }

    /// Borrows a task that never runs by itself: it is left as it is at the end.
    pub(crate) fn over(task: &'a Stopped, memory: &'a Memory, site: Site) -> Result<Self> {
        let mut remote = Self::become_(task, memory, site, task.registers()?, !0, None)?;
        remote.borrowed = false;
        Ok(remote)
    }

    /// Borrows a task that is being made: at the end it gets `registers` and `mask` rather than
    /// those that it has now. `section` is its `rseq_cs` address and pointer, if it had one.
    pub(crate) fn become_(
        task: &'a Stopped,
        memory: &'a Memory,
        site: Site,
        registers: user_regs_struct,
        mask: u64,
        section: Option<(u64, u64)>,
    ) -> Result<Self> {
        ptrace::set_signal_mask(task.tid(), !0).map_err(|e| task.failed("block the signals", e))?;
        // No signal gets past us, and none has been sent to it.
        let idle = site.room.filter(|_| !site.whole).map(|_| libc::SIGURG);
        let site = Cell::new(Site { whole: false, ..site });
        let (saved, rseq_section) = (registers, section);
        Ok(Self {
            task,
            memory,
            site,
            message: Cell::new(0),
            saved,
            mask,
            rseq_section,
            idle,
            borrowed: true,
        })
    }

    /// Tells that the code at the site was moved with its mapping, from one address to another.
    pub(crate) fn site_moved(&self, from: u64, to: u64) {
        let site = self.site.get();
        self.site.set(Site { address: site.address - from + to, ..site });
    }

    /// Where the calls are made now.
    pub(crate) fn site(&self) -> Site {
        self.site.get()
    }

    /// The `rseq_cs` address and pointer, if the task stands in an rseq critical section.
    pub(crate) fn rseq_section(&self) -> Option<(u64, u64)> {
        self.rseq_section
    }

    /// Begins a blocking system call and interrupts it at once, so that the kernel notes how to
    /// go on with it ("restart block"). Returns what it returned: `-ERESTART_RESTARTBLOCK`, or a
    /// result if there was no need to block. Nothing else may be called after this.
    pub(crate) fn call_and_interrupt(&self, number: i64, arguments: &[u64]) -> Result<i64> {
        self.task.set_registers(&self.loaded(number, arguments))?;
        self.to_syscall_stop()?;
        self.task.settle()?;
        Ok(self.task.registers()?.rax as i64)
    }

    /// The number of the task that the last call made (`PTRACE_GETEVENTMSG`), as seen from here.
    pub(crate) fn event_message(&self) -> u64 {
        self.message.get()
    }

    fn trace_with(&self, options: i32) -> Result<()> {
        let set = ptrace::set_options(self.tid(), libc::PTRACE_O_TRACESYSGOOD | options);
        set.map_err(|e| self.task.failed("set the options for tracing", e))
    }

    /// Lets the stub hand down what `zero` says.
    fn stub_for(&self, zero: Zero) -> Result<()> {
        let site = self.site.get();
        match site.whole {
            true => self.memory.write_all(site.address, &stub(&self.saved, self.mask, zero)),
            false => Ok(()),
        }
    }

    /// Makes a call from which the task does not come back.
    pub(crate) fn call_last(mut self, number: i64, arguments: &[u64]) -> Result<()> {
        self.borrowed = false;
        self.task.set_registers(&self.loaded(number, arguments))?;
        loop {
            if let Status::Ended(_) = self.task.step(Step::Free, 0)? {
                return Ok(());
            }
        }
    }

    /// Replaces what the task will find in the register that holds a system call's result, as of
    /// a call that has come to its end.
    pub(crate) fn finish_call(&mut self, result: i64) {
        self.saved.rax = result as u64;
        self.saved.orig_rax = u64::MAX;
    }

    fn loaded(&self, number: i64, arguments: &[u64]) -> user_regs_struct {
        let mut all = [0u64; 6];
        all[..arguments.len()].copy_from_slice(arguments);
        let mut registers = self.saved;
        registers.rip = self.site.get().address;
        if !self.site.get().whole {
            // A task in the making is never "on" its alternate signal stack: sigaltstack(2) would
            // refuse to change that.
            registers.rsp = 0;
        }
        registers.rax = number as u64;
        registers.orig_rax = u64::MAX;
        [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9] =
            all;
        registers
    }

    /// Makes one system call and returns what it returned, `-errno` included.
    pub(crate) fn call(&self, number: i64, arguments: &[u64]) -> Result<i64> {
        self.task.set_registers(&self.loaded(number, arguments))?;
        self.to_syscall_stop()?;
        self.to_syscall_stop()?;
        Ok(self.task.registers()?.rax as i64)
    }

    /// As [`Self::call`], with a failure as an error that says `what` was being done.
    pub(crate) fn try_call(&self, what: &str, number: i64, arguments: &[u64]) -> Result<u64> {
        let code = self.call(number, arguments)?;
        self.checked(what, code)
    }

    /// What a call gave, or its error.
    pub(crate) fn checked(&self, what: &str, code: i64) -> Result<u64> {
        match code {
            code @ -4095..=-1 => {
                let error = std::io::Error::from_raw_os_error(-code as i32);
                Err(Error::os(format!("cannot {what} in task {}", self.task.tid()), error))
            }
            value => Ok(value as u64),
        }
    }

    /// Makes the calls of a table (see [`batch`]), which has their results then.
    pub(crate) fn call_all(&self, table: u64, count: u64) -> Result<()> {
        let (Some(idle), Some(room)) = (self.idle, self.site.get().room) else {
            return (0..count).try_for_each(|nth| self.call_of(table + nth * batch::CALL));
        };
        self.begin_all(room, (table, count), idle)?;
        let mut signal = 0;
        loop {
            match self.task.step(Step::Free, signal)? {
                // Another's is dropped, as it would be by the process.
                Status::Signal(it) if it == idle => {
                    signal = 0;
                    if batch::is_done(&self.task.registers()?, room) {
                        return self.set_mask(!0);
                    }
                }
                // As below.
                Status::Signal(libc::SIGSTOP) => signal = libc::SIGSTOP,
                Status::EventStop(_) => signal = 0,
                Status::Ended(_) => return Err(self.task.failed("make system calls", gone())),
                other => {
                    let what = format!("{other:?} in the middle of remote system calls");
                    return Err(Error::new(ErrorKind::Internal, what));
                }
            }
        }
    }

    /// Sets the task to the beginning of the code that makes all calls. From here on it takes no more
    /// than letting it go for it to find its way back.
    fn begin_all(&self, room: u64, table: (u64, u64), idle: i32) -> Result<()> {
        let mut registers = self.loaded(libc::SYS_getpid, &[]);
        batch::load(&mut registers, room, table, idle);
        self.task.set_registers(&registers)?;
        self.set_mask(!batch::bit(idle))
    }

    /// Makes one call of the table.
    fn call_of(&self, at: u64) -> Result<()> {
        let [number, arguments @ ..] = self.memory.words::<7>(at)?;
        let result = self.call(number as i64, &arguments)?;
        self.memory.write_all(at + batch::RESULT, &result.to_le_bytes())
    }

    fn set_mask(&self, mask: u64) -> Result<()> {
        ptrace::set_signal_mask(self.task.tid(), mask)
            .map_err(|e| self.task.failed("set the signal mask", e))
    }

    /// Whose calls these are.
    pub(crate) fn tid(&self) -> i32 {
        self.task.tid()
    }

    fn to_syscall_stop(&self) -> Result<()> {
        self.task.go(Step::Syscall, 0)?;
        self.syscall_stop()
    }

    /// The system call stop that the task goes on to.
    fn syscall_stop(&self) -> Result<()> {
        loop {
            let signal = match self.task.next_stop()? {
                Status::Syscall => return Ok(()),
                Status::Ended(_) => return Err(self.task.failed("make a system call", gone())),
                // Only SIGSTOP gets past the mask; the group stop follows and is passed over.
                Status::Signal(libc::SIGSTOP) => libc::SIGSTOP,
                Status::Signal(other) => {
                    let what = format!("signal {other} in the middle of a remote system call");
                    return Err(Error::new(ErrorKind::Internal, what));
                }
                Status::Event(_) => {
                    self.message.set(ptrace::event_message(self.tid()).unwrap_or(0));
                    0
                }
                Status::EventStop(_) => 0,
            };
            self.task.go(Step::Syscall, signal)?;
        }
    }

    /// Gives the task back; errors are seen here rather than on drop.
    pub(crate) fn end(mut self) -> Result<()> {
        self.restore()
    }

    fn restore(&mut self) -> Result<()> {
        self.borrowed = false;
        ptrace::set_signal_mask(self.task.tid(), self.mask)
            .map_err(|e| self.task.failed("put back the signal mask", e))?;
        self.task.set_registers(&self.saved)?;
        self.task.settle()?;
        if let Some((address, section)) = self.rseq_section {
            self.memory.write_all(address, &section.to_le_bytes())?;
        }
        let site = self.site.get();
        // Of a task in the making the room is needed again.
        match self.idle {
            Some(_) if site.whole => {
                let both = [0; (batch::ROOM + STUB_ROOM) as usize];
                self.memory.write_all(site.address - batch::ROOM, &both)?;
            }
            None if site.whole => {
                self.memory.write_all(site.address, &[0; STUB_ROOM as usize])?;
            }
            _ => {}
        }
        Ok(())
    }
}

impl Drop for Remote<'_> {
    fn drop(&mut self) {
        if self.borrowed
            && let Err(error) = self.restore()
        {
            tracing::debug!(%error, "a task could not be given back; it is gone");
        }
    }
}

/// Address and value of the task's `rseq_cs` pointer, if it stands in a critical section.
fn rseq_section(tid: i32, memory: &Memory) -> Option<(u64, u64)> {
    let rseq = ptrace::rseq(tid).ok().filter(|rseq| rseq.pointer != 0)?;
    let mut section = [0u8; 8];
    memory.read_exact(rseq.pointer + 8, &mut section).ok()?;
    let section = u64::from_le_bytes(section);
    (section != 0).then_some((rseq.pointer + 8, section))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Command, Stdio};

    use super::super::scratch::Scratch;
    use super::super::status::Status as Shown;
    use super::super::{maps, proc};
    use std::time::Instant;

    use super::child::CHILD;
    use super::*;
    use crate::os::tracee::{Halt, Running};

    /// When the tracer ends.
    #[derive(Debug, Clone, Copy)]
    enum Moment {
        Loaded,
        LetGo,
        InTheMiddle,
        AtTheEnd,
    }

    /// Borrows a process, lets it make many calls, and ends without giving it back: ptrace belongs to
    /// the calling thread.
    fn borrow_and_end(pid: i32, moment: Moment) {
        let running = Running::seize(pid).unwrap().unwrap();
        running.interrupt().unwrap();
        let halted = running.halt(Instant::now() + CHILD).unwrap();
        let Halt::Stopped(task) = halted else { panic!("{halted:?}") };
        let task = task.hold();
        let memory = Memory::open(pid).unwrap();
        let site = Site::find(&maps::read(pid).unwrap(), &memory).unwrap().with_handlers(0);
        let remote = Remote::begin(&task, &memory, site).unwrap();
        let scratch = Scratch::map(&remote).unwrap().address;
        let idle = remote.idle.expect("there is room, and a signal");
        // Sleeps of two milliseconds each.
        let time = scratch + 16 * batch::CALL;
        let call = [libc::SYS_nanosleep as u64, time, 0, 0, 0, 0, 0, 0];
        let words: Vec<u64> = [call; 16].concat().into_iter().chain([0, 2_000_000]).collect();
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        memory.write_all(scratch, &bytes).unwrap();
        remote.begin_all(site.room.unwrap(), (scratch, 16), idle).unwrap();
        match moment {
            Moment::Loaded => {}
            Moment::LetGo => ptrace::cont(pid, 0).unwrap(),
            Moment::InTheMiddle => {
                ptrace::cont(pid, 0).unwrap();
                while proc::stat(pid).unwrap().state != 'S' {
                    std::thread::yield_now();
                }
            }
            Moment::AtTheEnd => {
                let status = task.step(Step::Free, 0).unwrap();
                assert_eq!(status, Status::Signal(idle));
                assert!(batch::is_done(&task.registers().unwrap(), site.room.unwrap()));
            }
        }
        std::mem::forget(remote);
    }

    #[test]
    fn a_task_whose_tracer_ends_in_the_middle_finds_its_way_back() {
        use Moment::{AtTheEnd, InTheMiddle, LetGo, Loaded};
        for moment in [Loaded, LetGo, InTheMiddle, AtTheEnd] {
            let mut cat = Command::new("cat");
            let mut cat = cat.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            let (mut to, from) = (cat.stdin.take().unwrap(), cat.stdout.take().unwrap());
            let mut from = BufReader::new(from);
            let mut answers = |word: &str| {
                writeln!(to, "{word}").unwrap();
                let mut line = String::new();
                from.read_line(&mut line).unwrap();
                assert_eq!(line.trim(), word, "{moment:?}");
            };
            answers("before");
            let pid = cat.id() as i32;
            let blocked = Shown::of(pid).unwrap().bits("SigBlk").unwrap();
            std::thread::spawn(move || borrow_and_end(pid, moment)).join().unwrap();
            answers("behind");
            assert_eq!(Shown::of(pid).unwrap().bits("SigBlk").unwrap(), blocked, "{moment:?}");
            assert_eq!(Shown::of(pid).unwrap().bits("SigPnd").unwrap(), 0, "{moment:?}");
            drop(to);
            assert!(cat.wait().unwrap().success(), "{moment:?}");
        }
    }

    #[test]
    fn the_stub_fits_its_room() {
        // SAFETY: user_regs_struct is plain integers, for which zero is a value.
        let registers: user_regs_struct = unsafe { std::mem::zeroed() };
        for zero in [Zero::Result, Zero::Child] {
            let code = stub(&registers, 0, zero);
            assert_eq!(code.len() as u64, STUB_ROOM);
            assert_eq!(code[STUB_ROOM as usize - 25], 0xcc, "code and data overlap");
        }
    }
}
