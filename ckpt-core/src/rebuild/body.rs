//! Turns an executed, empty process into what the snapshot says.
//!
//! ```text
//! executed ─clear, map─▶ areas ─(pages)─▶ descriptors ─▶ tasks ─▶ finished ─▶ released
//! ```

use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use crate::error::{Error, ErrorKind, Result};
use crate::kinds::asks::Asks;
use crate::kinds::call::Standing;
use crate::kinds::event::Watch;
use crate::kinds::memory::{self, Backing};
use crate::kinds::{Hand, bytes_of, signals};
use crate::os::maps::{self, Kind};
use crate::os::mem::Memory;
use crate::os::ptrace::{self, Status};
use crate::os::remote::{Remote, Site};
use crate::os::scratch::Scratch;
use crate::os::tracee::{Halt, Running, Stopped};
use crate::os::uffd::Uffd;
use crate::os::{fds, numbers, sched, spawn};
use crate::snapshot::{Live, Process};

use super::alone::Alone;
use super::files::OpenFiles;

const CLONE_FLAGS: i32 = libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM;

/// Files that are sent to a process at once.
const BATCH: usize = 64;

/// How the numbers of tasks come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tids {
    Chosen,
    Cycled,
}

/// A process in the making.
#[derive(Debug)]
pub(crate) struct Body<'a> {
    pub(crate) process: &'a Process,
    pub(crate) live: &'a Live,
    /// PID as seen from here.
    pub(crate) pid: i32,
    pub(crate) memory: Memory,
    tasks: Vec<Stopped>,
    site: Site,
    scratch: Scratch,
    /// Where the vDSO ends; 0 without one.
    vdso_end: u64,
    /// The socket's number there, and our end.
    socket: (i32, &'a OwnedFd),
}

impl<'a> Body<'a> {
    /// Waits for the process (seized already) to execute its program, and empties it.
    pub(crate) fn executed(
        process: &'a Process,
        live: &'a Live,
        pid: i32,
        socket: (i32, &'a OwnedFd),
        patch_vdso: bool,
    ) -> Result<Self> {
        let leader = Stopped::adopt(pid);
        let memory = Memory::open(pid)?;
        let maps = maps::read(pid)?;
        let site = memory::first_site(&maps, &memory)?;
        let (scratch, site) = {
            let remote = live.tasks[0].borrow_early(&leader, &memory, site)?;
            let scratch = live.space.clear(&remote, &memory, &maps, patch_vdso)?;
            let site = remote.site();
            remote.end()?;
            (scratch, site)
        };
        let end = live.space.vdso.0 + live.space.vdso.1.len() as u64;
        let site = site.with_room(end, &memory)?;
        // Looked at while there are few areas.
        let maps = maps::read(pid)?;
        let vdso_end = maps.iter().find(|map| map.kind == Kind::Vdso).map_or(0, |map| map.end);
        let tasks = vec![leader];
        Ok(Self { process, live, pid, memory, tasks, site, scratch, vdso_end, socket })
    }

    /// Runs `work` with the task of this index on loan.
    fn with<T>(
        &self,
        index: usize,
        work: impl FnOnce(&Hand<'_>, &Stopped) -> Result<T>,
    ) -> Result<T> {
        let stopped = &self.tasks[index];
        let remote = self.live.tasks[index].borrow(stopped, &self.memory, self.site)?;
        self.lend(remote, |hand| work(hand, stopped))
    }

    /// Runs `work` with the first task before there is memory with contents, none of which is touched.
    fn early<T>(&self, work: impl FnOnce(&Hand<'_>) -> Result<T>) -> Result<T> {
        let remote = self.live.tasks[0].borrow_early(&self.tasks[0], &self.memory, self.site)?;
        self.lend(remote, work)
    }

    fn lend<T>(&self, remote: Remote<'_>, work: impl FnOnce(&Hand<'_>) -> Result<T>) -> Result<T> {
        let hand = Hand { remote: &remote, memory: &self.memory, scratch: self.scratch };
        let done = work(&hand)?;
        remote.end()?;
        Ok(done)
    }

    /// Maps all areas, still empty, and sets the fields of the address space.
    pub(crate) fn map(&self, files: &OpenFiles<'_>) -> Result<()> {
        self.early(|hand| {
            let mut wanted: Vec<Backing> =
                self.live.space.areas.iter().map(|a| a.backing).collect();
            wanted.retain(|backing| *backing != Backing::Anonymous);
            wanted.sort_unstable_by_key(|backing| format!("{backing:?}"));
            wanted.dedup();
            let mut asks = Asks::default();
            for area in self.live.space.areas.iter().filter(|a| a.backing == Backing::Anonymous) {
                area.map(&mut asks, None);
            }
            for batch in wanted.chunks(BATCH) {
                let sent: Vec<_> =
                    batch.iter().map(|b| files.for_mapping(*b)).collect::<Result<_>>()?;
                let numbers = self.receive(hand, &sent)?;
                for (backing, fd) in batch.iter().zip(&numbers) {
                    for area in self.live.space.areas.iter().filter(|a| a.backing == *backing) {
                        area.map(&mut asks, Some(*fd));
                    }
                }
                for fd in numbers {
                    asks.value("close a descriptor", libc::SYS_close, &[fd as u64]);
                }
                hand.do_all(std::mem::take(&mut asks))?;
            }
            hand.do_all(asks)?;
            self.live.attributes.prepare(hand)?;
            self.live.space.set_fields(hand)
        })
    }

    fn close(&self, hand: &Hand<'_>, fd: i32) -> Result<()> {
        hand.remote.try_call("close a descriptor", libc::SYS_close, &[fd as u64]).map(drop)
    }

    /// Sends copies of descriptors of ours to the process; returns their numbers there.
    fn receive(&self, hand: &Hand<'_>, sent: &[impl AsFd]) -> Result<Vec<i32>> {
        if sent.is_empty() {
            return Ok(Vec::new());
        }
        fds::send(self.socket.1, sent).map_err(|e| Error::os("cannot send descriptors", e))?;
        // In scratch memory: msghdr (7 words), iovec (2), one byte, control message.
        let base = hand.scratch.address;
        let control = 16 + 4 * sent.len() as u64;
        let header = [0, 0, base + 56, 1, base + 128, control.next_multiple_of(8), 0];
        let mut words = header.to_vec();
        words.extend([base + 120, 1]);
        hand.put(&bytes_of(&words))?;
        let arguments = [self.socket.0 as u64, base, 0];
        hand.remote.try_call("receive descriptors", libc::SYS_recvmsg, &arguments)?;
        let mut bytes = vec![0; 4 * sent.len()];
        hand.memory.read_exact(base + 128 + 16, &mut bytes)?;
        let (numbers, _) = bytes.as_chunks::<4>();
        Ok(numbers.iter().map(|number| i32::from_le_bytes(*number)).collect())
    }

    /// Puts the descriptor table in place.
    pub(crate) fn open(&self, files: &OpenFiles<'_>) -> Result<()> {
        self.with(0, |hand, _| {
            let mut descriptors = self.live.descriptors.clone();
            descriptors.sort_by_key(|descriptor| (descriptor.file, descriptor.fd));
            for group in descriptors.chunk_by(|a, b| a.file == b.file) {
                let sent = files.descriptor(group[0].file)?;
                let received = self.receive(hand, &[sent])?[0];
                let mut keep = false;
                let mut asks = Asks::default();
                for descriptor in group {
                    let fd = descriptor.fd;
                    if fd == received {
                        keep = true;
                        let flag = u64::from(descriptor.close_on_exec);
                        let arguments = [fd as u64, libc::F_SETFD as u64, flag];
                        asks.value("set FD_CLOEXEC", libc::SYS_fcntl, &arguments);
                        continue;
                    }
                    let flags = if descriptor.close_on_exec { libc::O_CLOEXEC as u64 } else { 0 };
                    let arguments = [received as u64, fd as u64, flags];
                    let what = format!("put file descriptor {fd} in place");
                    asks.value(what, libc::SYS_dup3, &arguments);
                }
                if !keep {
                    asks.value("close a descriptor", libc::SYS_close, &[received as u64]);
                }
                hand.do_all(asks)?;
            }
            Ok(())
        })
    }

    /// Adds entries to the epoll set that one of this process' descriptors is.
    pub(crate) fn watch(&self, watches: &[&Watch], set: i32) -> Result<()> {
        self.with(0, |hand, _| watches.iter().try_for_each(|watch| watch.add(hand, set)))
    }

    /// Makes the other tasks, with numbers of our choice.
    pub(crate) fn tasks(&mut self) -> Result<()> {
        let deadline = Instant::now() + numbers::PATIENCE;
        for index in 1..self.live.tasks.len() {
            let made = self.task(index, Tids::Chosen, deadline)?;
            self.tasks.push(made);
        }
        Ok(())
    }

    fn task(&self, index: usize, tids: Tids, deadline: Instant) -> Result<Stopped> {
        let wanted = self.live.tasks[index].tid;
        self.with(0, |hand, _| self.clone_task(hand, wanted, tids, deadline))
    }

    fn clone_task(
        &self,
        hand: &Hand<'_>,
        wanted: i32,
        tids: Tids,
        deadline: Instant,
    ) -> Result<Stopped> {
        let leaving = numbers::Leaving::new();
        loop {
            let what = format!("make the task {wanted}");
            let inner = if tids == Tids::Chosen {
                // clone_args (11 words), and the number behind it.
                let mut words = [0u64; 17];
                words[0] = CLONE_FLAGS as u64;
                words[8] = hand.scratch.address + 128;
                words[9] = 1;
                words[16] = wanted as u64;
                let at = hand.put(&bytes_of(&words))?;
                let code = hand.remote.call(libc::SYS_clone3, &[at, 88])?;
                if leaving.may_go(-code as i32) {
                    continue;
                }
                hand.remote.checked(&what, code)?
            } else {
                numbers::steer_to(wanted, deadline)
                    .map_err(|e| Error::os(format!("cannot get at the number {wanted}"), e))?;
                hand.remote.try_call(&what, libc::SYS_clone, &[CLONE_FLAGS as u64, 0, 0, 0, 0])?
            };
            let outer = hand.remote.event_message() as i32;
            let task = match (Running::attached(outer)).halt(deadline)? {
                Halt::Stopped(stopped) => stopped.hold(),
                Halt::Gone | Halt::Late(_) => {
                    let what = format!("task {wanted} did not come to a stop");
                    return Err(Error::new(ErrorKind::Internal, what));
                }
            };
            if inner as i32 == wanted {
                return Ok(task);
            }
            self.dismiss(&task)?;
        }
    }

    /// Ends a task that got another's number.
    fn dismiss(&self, task: &Stopped) -> Result<()> {
        let remote = self.live.tasks[0].borrow(task, &self.memory, self.site)?;
        remote.call_last(libc::SYS_exit, &[0])
    }

    /// Sets up everything else, but nothing that may fire or be seen yet.
    pub(crate) fn finish(&self) -> Result<()> {
        for (index, task) in self.live.tasks.iter().enumerate() {
            self.with(index, |hand, stopped| task.rebuild(stopped, hand))?;
        }
        self.bind()?;
        self.with(0, |hand, _| {
            self.live.attributes.rebuild(hand, self.pid)?;
            signals::rebuild(hand, &self.live.dispositions)?;
            self.live.timers.create(hand)?;
            for (fd, lock) in &self.live.locks {
                lock.take_record(hand, *fd)?;
            }
            for area in &self.live.space.areas {
                area.finish(hand.remote)?;
            }
            self.live.space.compare_break(hand)?;
            // The socket's number may be one of the job's limits' victims; it goes first.
            self.close(hand, self.socket.0)
        })?;
        self.live.attributes.limit(self.pid)
    }

    /// Binds the tasks to their CPUs, unless those were all that the launcher had.
    fn bind(&self) -> Result<()> {
        for (task, stopped) in self.live.tasks.iter().zip(&self.tasks) {
            let now = sched::Scheduling::of(stopped.tid())
                .map_err(|e| stopped.failed("read the CPUs", e))?;
            if now.affinity != task.scheduling.affinity
                && let Err(error) = task.scheduling.bind(stopped.tid())
            {
                tracing::info!(tid = task.tid, %error, "the CPUs it was bound to are not here");
            }
        }
        Ok(())
    }

    /// The very last steps before the run: privileges, pending signals, timers, scratch memory.
    pub(crate) fn arm(&self) -> Result<()> {
        let process = self.process.pid;
        let wanted = self.live.credentials.capabilities;
        for index in (0..self.tasks.len()).rev() {
            self.with(index, |hand, stopped| {
                self.live.tasks[index].requeue(hand, process)?;
                if index == 0 {
                    signals::requeue(hand, process, &self.live.pending)?;
                    self.live.timers.arm(hand)?;
                }
                drop_capabilities(hand, stopped.tid(), wanted)?;
                if index == 0 { hand.scratch.free(hand.remote) } else { Ok(()) }
            })?;
        }
        Ok(())
    }

    /// Brings every task to the point where it goes on by itself.
    pub(crate) fn poise(&self) -> Result<()> {
        let spare = self.vdso_end.saturating_sub(32);
        self.with(0, |hand, _| self.live.attributes.close(hand))?;
        let mut site = self.site;
        site.clean(&self.memory)?;
        for (task, stopped) in self.live.tasks.iter().zip(&self.tasks) {
            let mut remote = task.borrow(stopped, &self.memory, site)?;
            if let Some(call) = task.interrupted {
                call.resume(task, &mut remote, &self.memory, spare)?;
            }
            remote.end()?;
        }
        if self.live.attributes.stopped {
            spawn::kill(self.pid, libc::SIGSTOP);
        }
        Ok(())
    }

    /// A userfaultfd of the process, which is mapped and has no descriptors of its own yet.
    pub(crate) fn userfault(&self) -> Result<Uffd> {
        self.early(|hand| {
            let what = "make a userfaultfd";
            let flags = [Uffd::FLAGS as u64];
            let fd = hand.remote.try_call(what, libc::SYS_userfaultfd, &flags)? as i32;
            let taken = fds::Donor::open(self.pid).and_then(|donor| donor.copy(fd));
            self.close(hand, fd)?;
            Uffd::with(taken?, 0).map_err(|e| Error::os("cannot set up a userfaultfd", e))
        })
    }

    /// Gives up the tasks, which whoever traces them looks after.
    pub(crate) fn into_memory(self) -> Memory {
        self.memory
    }

    /// Lets all tasks go.
    pub(crate) fn release(self) {
        self.tasks.into_iter().for_each(Stopped::release);
    }

    /// Notes in which calls the tasks stand.
    pub(crate) fn note_calls(&self, standing: &mut Standing) {
        for (task, stopped) in self.live.tasks.iter().zip(&self.tasks) {
            standing.rebuilt(stopped.tid(), task);
        }
    }

    /// Where the scratch page is.
    pub(crate) fn scratch_range(&self) -> u64 {
        self.scratch.address
    }

    /// The tasks, as seen from here.
    pub(crate) fn tids(&self) -> Vec<i32> {
        self.tasks.iter().map(Stopped::tid).collect()
    }
}

/// Makes the other tasks of all processes, in the order in which their numbers come by: as far as
/// they were begun one after the other, in one turn.
pub(crate) fn tasks_by_turns(bodies: &mut [Body<'_>]) -> Result<()> {
    if bodies.iter().all(|body| body.live.tasks.len() == 1) {
        return Ok(());
    }
    let _alone = Alone::wait();
    let last = numbers::last().map_err(|e| Error::os("cannot make a process", e))?;
    let max = numbers::pid_max();
    let mut missing = Vec::new();
    for (at, body) in bodies.iter().enumerate() {
        let tids = body.live.tasks.iter().map(|task| task.tid).enumerate().skip(1);
        missing.extend(tids.map(|(index, tid)| (numbers::gap(last, tid, max), at, index)));
    }
    missing.sort_unstable();
    let deadline = Instant::now() + 2 * numbers::PATIENCE;
    let mut made = Vec::new();
    for (_, at, index) in missing {
        let body = &bodies[at];
        let task = body.task(index, Tids::Cycled, deadline).map_err(|e| e.whose(body.process))?;
        made.push((at, index, task));
    }
    made.sort_unstable_by_key(|&(at, index, _)| (at, index));
    made.into_iter().for_each(|(at, _, task)| bodies[at].tasks.push(task));
    Ok(())
}

/// Gives back the capabilities that were needed for choosing tids.
fn drop_capabilities(hand: &Hand<'_>, tid: i32, wanted: [u64; 4]) -> Result<()> {
    let status = crate::os::proc::status(tid)?;
    let now = [status.bits("CapInh")?, status.bits("CapPrm")?, status.bits("CapEff")?];
    let [inheritable, permitted, effective, _] = wanted;
    let permitted = permitted & now[1];
    if [inheritable & now[0], permitted, effective & permitted] == now {
        return Ok(());
    }
    let bytes = spawn::capset_bytes([effective & permitted, permitted, inheritable & now[0]]);
    let at = hand.put(&bytes)?;
    let arguments = [at, at + 8];
    hand.remote.try_call("set the capabilities", libc::SYS_capset, &arguments).map(drop)
}

/// Seizes a process that waits to execute its program.
pub(crate) fn seize(pid: i32) -> Result<()> {
    let options = libc::PTRACE_O_TRACESYSGOOD
        | libc::PTRACE_O_TRACEEXEC
        | libc::PTRACE_O_TRACECLONE
        | libc::PTRACE_O_EXITKILL;
    ptrace::seize(pid, options)
        .map_err(|e| Error::os(format!("cannot trace the new process {pid}"), e))
}

/// Waits until a seized process stands at its new program's first instruction; `None` if it ended
/// instead.
pub(crate) fn await_program(pid: i32) -> Result<Option<()>> {
    let failed = |e| Error::os(format!("cannot wait for the new process {pid}"), e);
    loop {
        match ptrace::wait(pid, true).map_err(failed)? {
            Some(Status::Event(libc::PTRACE_EVENT_EXEC)) => break,
            Some(Status::Ended(_)) | None => return Ok(None),
            Some(Status::Signal(signal)) => ptrace::cont(pid, signal).map_err(failed)?,
            Some(_) => ptrace::cont(pid, 0).map_err(failed)?,
        }
    }
    // Out of the execve itself, to a stop from which system calls can be made.
    Stopped::adopt(pid).settle()?;
    Ok(Some(()))
}
