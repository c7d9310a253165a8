//! Makes the processes: each with its number, parent, session and group, waiting to execute the
//! program that it is to become.
//!
//! ```text
//! restorer ─fork─▶ [init of the PID namespace ─▶] [session helper ─▶] stand-in ─▶ the job
//! ```
//!
//! Every process walks its own part of the [`Tree`] and meets the others at the board's steps.

mod make;

use std::collections::HashSet;
use std::ffi::CString;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use super::tree::{Index, Role, Tree};
use super::turns::Turns;
use crate::error::{Error, ErrorKind, Result};
use crate::os::board::Board;
use crate::os::proc;
use crate::os::spawn::{self, Fork};
use crate::os::{clock, numbers, ptrace};

/// Steps of the board, in order.
mod step {
    /// Everybody has been made; groups are joined.
    pub(super) const JOIN: u32 = 1;
    /// Helpers and zombies end.
    pub(super) const END: u32 = 2;
    /// The others execute their programs.
    pub(super) const EXECUTE: u32 = 3;
}

/// How long the processes may take to a step.
const PATIENCE: Duration = Duration::from_secs(150);
/// The same where their numbers have to come by.
const PATIENCE_WITH_TURNS: Duration = Duration::from_secs(300);

/// How numbers are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    /// By clone3(2).
    SetTid,
    /// By forking until the number comes by.
    Cycle,
}

/// What a PID namespace is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Within {
    /// The user namespace that we are in: needs privilege, and leaves the job what it has of it.
    Ours,
    /// One of its own, in which the job's privileges hold for nothing outside.
    Own,
}

/// What is needed to make the processes.
pub(crate) struct Recipe<'a> {
    pub(crate) tree: &'a Tree,
    pub(crate) choice: Choice,
    /// An own PID namespace around the job, within an own user namespace or without.
    pub(crate) namespace: Option<Within>,
    /// The number that was handed out last: an own namespace goes on from there.
    pub(crate) last_number: i32,
    /// Monotonic and boot time that the job is to see.
    pub(crate) clocks: (i64, i64),
    /// Program and personality of each of the snapshot's processes.
    pub(crate) programs: &'a [(CString, u32)],
    /// The job's first process, whose status the stand-in reports.
    pub(crate) root: i32,
    /// The socket that each process keeps, and the number that it gets there.
    pub(crate) socket: (&'a OwnedFd, i32),
    /// What the stand-in keeps.
    pub(crate) legacy: Legacy<'a>,
}

/// Descriptors that the stand-in keeps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Legacy<'a> {
    /// Where it reports.
    pub(crate) status: &'a OwnedFd,
    /// What it holds on to without knowing it; see [`super::faults::Keeper`].
    pub(crate) kept: Option<&'a OwnedFd>,
}

/// The processes, made and waiting. Dropping it ends them all.
#[derive(Debug)]
pub(crate) struct Skeleton {
    /// Child of ours that all others descend from: the namespace's init, or the stand-in.
    top: i32,
    /// The stand-in, as seen from here.
    pub(crate) stand_in: i32,
    /// The snapshot's living processes, as seen from here: `(index, pid)`.
    pub(crate) processes: Vec<(usize, i32)>,
    /// The processes that end at once, as seen from here.
    zombies: Vec<i32>,
    board: Board,
    alive: bool,
}

/// What a process was doing when it failed, for the message.
const DOING: [&str; 8] = [
    "make a child with the number",
    "begin the session",
    "join the group",
    "execute the program",
    "enter the time namespace",
    "become the subreaper",
    "set the personality",
    "set up the namespace",
];

impl Skeleton {
    /// Makes all processes of the recipe.
    ///
    /// # Errors
    ///
    /// With errno `EEXIST`/`EPERM`/`EAGAIN` in the source, another rung may do.
    pub(crate) fn grow(recipe: &Recipe<'_>) -> Result<Self> {
        let board = Board::new().map_err(|e| Error::os("cannot share memory", e))?;
        let turns = match recipe.choice {
            Choice::SetTid => None,
            Choice::Cycle => {
                let last = numbers::last().map_err(|e| Error::os("cannot make a process", e))?;
                Some(Turns::of(recipe.tree, last, numbers::pid_max()))
            }
        };
        let plan = Family { recipe, board: &board, turns: turns.as_ref() };
        let top = plan.start()?;
        let mut skeleton = Self {
            top,
            stand_in: top,
            processes: Vec::new(),
            zombies: Vec::new(),
            board,
            alive: true,
        };
        let count = recipe.tree.nodes.len() as u32;
        skeleton.step(recipe, turns.as_ref(), count)?;
        skeleton.board.begin(step::JOIN);
        skeleton.step(recipe, turns.as_ref(), count)?;
        skeleton.find(recipe)?;
        skeleton.board.begin(step::END);
        skeleton.await_zombies()?;
        Ok(skeleton)
    }

    fn step(&self, recipe: &Recipe<'_>, turns: Option<&Turns>, count: u32) -> Result<()> {
        let patience = if turns.is_some() { PATIENCE_WITH_TURNS } else { PATIENCE };
        self.board.gather(count, patience).map_err(|(who, doing, error)| {
            let late = || turns?.at(self.board.turn());
            let node = recipe.tree.nodes.get(who as usize);
            let pid = node.or_else(|| recipe.tree.nodes.get(late()?)).and_then(|node| node.pid);
            if let (Some(pid), Some(_), 0) = (pid, turns, doing)
                && let Some(error) = make::never_came(pid, &error)
            {
                return error;
            }
            let doing = DOING.get(doing as usize).copied().unwrap_or("go on");
            match pid {
                Some(pid) => Error::os(format!("cannot {doing} (process {pid})"), error),
                None => Error::os(format!("cannot {doing}"), error),
            }
        })
    }

    /// Which process, as seen from here, is which.
    fn find(&mut self, recipe: &Recipe<'_>) -> Result<()> {
        let all = std::iter::once(self.top).chain(proc::Family::Below(self.top).pids());
        let numbers: std::collections::HashMap<i32, i32> =
            all.filter_map(|pid| Some((proc::inner_pid(pid).ok()?, pid))).collect();
        for (index, node) in recipe.tree.nodes.iter().enumerate() {
            let outer = node.pid.and_then(|pid| numbers.get(&pid).copied());
            match (node.role, outer) {
                (Role::Process(process), Some(pid)) => self.processes.push((process, pid)),
                (Role::Process(_), None) => {
                    let what = format!("process {:?} of the job is not there", node.pid);
                    return Err(Error::new(ErrorKind::Internal, what));
                }
                (Role::Zombie(_), Some(pid)) => self.zombies.push(pid),
                (Role::StandIn, Some(pid)) if index == recipe.tree.stand_in => self.stand_in = pid,
                _ => {}
            }
        }
        Ok(())
    }

    /// Waits until those that are to be zombies are: one that ended later, while its parent's
    /// dispositions are being set, would vanish.
    fn await_zombies(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        for &pid in &self.zombies {
            while !matches!(proc::stat(pid)?.state, 'Z' | 'X') {
                if Instant::now() >= deadline {
                    let what = format!("the new process {pid} does not end");
                    return Err(Error::new(ErrorKind::Busy, what));
                }
                std::thread::sleep(Duration::from_micros(100));
            }
        }
        Ok(())
    }

    /// Lets every process execute its program; the caller traces them and sees them stop there.
    pub(crate) fn execute(&self) {
        self.board.begin(step::EXECUTE);
    }

    /// What went wrong in a process that did not get to its program.
    pub(crate) fn failure(&self) -> Option<io::Error> {
        self.board.gather(0, Duration::ZERO).err().map(|(_, _, error)| error)
    }

    /// From here on the processes are on their own.
    pub(crate) fn release(mut self) {
        self.alive = false;
    }
}

impl Drop for Skeleton {
    fn drop(&mut self) {
        if !self.alive {
            return;
        }
        // Children first: the stand-in's death would send its orphans to us one by one. Who is
        // orphaned while we look may be overlooked, so what we made is remembered. It is our tracee,
        // and no parent, not even the namespace's init, can end before it has been buried.
        let mut made: HashSet<i32> = self.processes.iter().map(|&(_, pid)| pid).collect();
        made.iter().for_each(|&pid| spawn::kill(pid, libc::SIGKILL));
        loop {
            let left = proc::Family::Below(self.top).pids();
            made.extend(&left);
            let living: Vec<i32> = left.into_iter().filter(|&pid| !proc::is_dying(pid)).collect();
            living.iter().for_each(|&pid| spawn::kill(pid, libc::SIGKILL));
            bury_all(&made);
            if living.is_empty() {
                break;
            }
        }
        spawn::kill(self.top, libc::SIGKILL);
        while ptrace::bury(self.top) {
            bury_all(&made);
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

/// Takes note of the deaths among these processes and their threads.
fn bury_all(processes: &HashSet<i32>) {
    for &pid in processes {
        // The leader last: it cannot go before its threads.
        let tasks = proc::tasks(pid).unwrap_or_default();
        for &tid in tasks.iter().rev() {
            ptrace::bury(tid);
        }
    }
}

/// The recipe as its processes see it.
struct Family<'a> {
    recipe: &'a Recipe<'a>,
    board: &'a Board,
    /// Where numbers have to come by.
    turns: Option<&'a Turns>,
}

impl Family<'_> {
    /// Restorer: makes the first process.
    fn start(&self) -> Result<i32> {
        let first = self.recipe.tree.first;
        let Some(within) = self.recipe.namespace else {
            let made = self
                .make(first)
                .map_err(|e| Error::os("cannot make the stand-in for the launcher", e))?;
            return Ok(made);
        };
        let user = if within == Within::Own { libc::CLONE_NEWUSER } else { 0 };
        let namespaces = user | libc::CLONE_NEWPID | libc::CLONE_NEWNS;
        let (ready, go) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|e| Error::os("cannot make a pipe", e))?;
        let refused = |e| match within {
            Within::Ours => Error::os("cannot make a PID namespace", e)
                .help("the system may forbid it (user.max_pid_namespaces, a container's profile)"),
            Within::Own => Error::os("cannot make a user and PID namespace", e).help(
                "the system may forbid user namespaces (user.max_user_namespaces, \
                 kernel.unprivileged_userns_clone, or the container's own profile)",
            ),
        };
        match spawn::fork(namespaces, None).map_err(refused)? {
            Fork::Child => {
                drop(go);
                // One byte says that our ids are mapped; no byte, that all is off.
                let mut byte = [0];
                match rustix::io::read(&ready, &mut byte) {
                    Ok(1) => self.init(),
                    _ => spawn::exit(1),
                }
            }
            Fork::Parent(pid) => {
                let mapped = if within == Within::Own { map_ids(pid) } else { Ok(()) };
                if mapped.is_ok() {
                    let _ = rustix::io::write(&go, b"g");
                }
                drop(go);
                if mapped.is_err() {
                    let _ = spawn::reap(pid);
                }
                mapped.map_err(refused)?;
                Ok(pid)
            }
        }
    }

    /// The PID namespace's first process: makes the others, and reaps until none is left.
    fn init(&self) -> ! {
        spawn::reset_signals(true);
        spawn::set_name(c"ckpt-init");
        // Where that is not allowed the old /proc stays, in which /proc/self still works.
        let _ = spawn::mount_proc();
        numbers::begin_after(self.recipe.last_number);
        let first = self.recipe.tree.first;
        let node = &self.recipe.tree.nodes[first];
        match (node.pid, node.role) {
            // The launcher was a container's first process, and so is this one.
            (Some(1), Role::StandIn) => self.live(first),
            // Its session's leader was.
            (Some(1), _) => match self.settle(first) {
                Ok(()) => {
                    self.board.arrive();
                    self.board.wait_for(step::JOIN);
                    self.board.arrive();
                }
                Err((who, doing, error)) => self.board.fail(who, doing, &error),
            },
            _ => {
                if let Err(error) = self.make(first) {
                    self.board.fail(first as u32, 0, &error);
                }
            }
        }
        forget_descriptors(&[]);
        while spawn::reap_any().is_ok() {}
        spawn::exit(0)
    }

    /// A new process: makes its children, joins its group, and turns into what it is to be.
    fn live(&self, index: Index) -> ! {
        let node = &self.recipe.tree.nodes[index];
        let who = index as u32;
        if let Err((who, doing, error)) = self.settle(index) {
            self.board.fail(who, doing, &error);
            spawn::exit(1);
        }
        self.board.arrive();
        self.board.wait_for(step::JOIN);
        if let Some(group) = node.group.filter(|&group| Some(group) != node.pid)
            && let Err(error) = spawn::join_group(group)
        {
            self.board.fail(who, 2, &error);
            spawn::exit(1);
        }
        self.board.arrive();
        self.board.wait_for(step::END);
        match node.role {
            Role::StandIn => self.stand_in(),
            Role::Helper => spawn::exit(0),
            Role::Zombie(status) => spawn::end_with(status),
            Role::Process(process) => {
                self.board.wait_for(step::EXECUTE);
                let (doing, error) = self.execute(process);
                self.board.fail(who, doing, &error);
                spawn::exit(1)
            }
        }
    }

    /// Session, group leadership, children.
    fn settle(&self, index: Index) -> Result<(), (u32, u32, io::Error)> {
        let node = &self.recipe.tree.nodes[index];
        let make = |child: Index| self.make(child).map_err(|e| (child as u32, 0, e));
        let own = |doing: u32| move |error: io::Error| (index as u32, doing, error);
        spawn::reset_signals(node.role == Role::StandIn);
        for child in self.in_order(&node.early) {
            make(child)?;
        }
        if node.leads_session {
            spawn::new_session().map_err(own(1))?;
        } else if node.group.is_some() && node.group == node.pid {
            spawn::join_group(0).map_err(own(2))?;
        }
        if node.role == Role::StandIn {
            spawn::become_subreaper().map_err(own(5))?;
            enter_time_namespace(self.recipe.clocks).map_err(own(4))?;
        }
        for child in self.in_order(&node.late) {
            make(child)?;
        }
        Ok(())
    }

    /// Waits for the job's processes, as the launcher did.
    fn stand_in(&self) -> ! {
        spawn::set_name(c"ckpt-stand-in");
        let Legacy { status, kept } = self.recipe.legacy;
        let keep: Vec<i32> =
            [Some(status), kept].into_iter().flatten().map(AsRawFd::as_raw_fd).collect();
        forget_descriptors(&keep);
        while let Ok((pid, status)) = spawn::reap_any() {
            if pid == self.recipe.root {
                let _ = rustix::io::write(self.recipe.legacy.status, &status.to_le_bytes());
            }
        }
        spawn::exit(0)
    }

    fn execute(&self, process: usize) -> (u32, io::Error) {
        let (program, personality) = &self.recipe.programs[process];
        if let Err(error) = spawn::set_personality(*personality) {
            return (6, error);
        }
        let (socket, number) = self.recipe.socket;
        if let Err(error) = keep_only(socket, number) {
            return (3, error);
        }
        spawn::keep_tid_capabilities();
        (3, spawn::execute(program))
    }
}

/// Closes all descriptors but the socket, which gets its number.
fn keep_only(socket: &OwnedFd, number: i32) -> io::Result<()> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, raised);
    spawn::duplicate(socket, number)?;
    spawn::close_range(0, number as u32 - 1);
    spawn::close_range(number as u32 + 1, u32::MAX);
    Ok(())
}

/// Lets go of everything that the restorer had open, but these.
fn forget_descriptors(keep: &[i32]) {
    let mut first = 0;
    let mut keep = keep.to_vec();
    keep.sort_unstable();
    for fd in keep {
        if fd > 0 {
            spawn::close_range(first, fd as u32 - 1);
        }
        first = fd as u32 + 1;
    }
    spawn::close_range(first, u32::MAX);
}

/// Children of this process see the clocks go on from the given times, where that can be had.
fn enter_time_namespace((monotonic, boottime): (i64, i64)) -> io::Result<()> {
    const CLONE_NEWTIME: i32 = 0x80;
    if let Err(error) = spawn::unshare(CLONE_NEWTIME) {
        tracing::info!(%error, "no time namespace: the monotonic clock jumps");
        return Ok(());
    }
    let offsets = clock::offsets_for(monotonic, boottime);
    let mut file = fs::OpenOptions::new().write(true).open("/proc/self/timens_offsets")?;
    match file.write_all(offsets.as_bytes()) {
        // Without CAP_SYS_TIME. In a namespace without offsets the clocks are the host's.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            tracing::info!(%error, "the monotonic clock jumps");
            Ok(())
        }
        other => other,
    }
}

/// Maps our own user and group id into the namespace of `pid`.
fn map_ids(pid: i32) -> io::Result<()> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    fs::write(format!("/proc/{pid}/setgroups"), "deny")?;
    fs::write(format!("/proc/{pid}/uid_map"), format!("{uid} {uid} 1\n"))?;
    fs::write(format!("/proc/{pid}/gid_map"), format!("{gid} {gid} 1\n"))
}
