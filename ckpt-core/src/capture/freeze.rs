//! Brings every task of the job to a stop, and finds out which there are.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::states::States;
use crate::error::{Error, ErrorKind, Result};
use crate::kinds::call::undo_interruption;
use crate::os::proc::{self, Family};
use crate::os::tracee::{Halt, Running, Stopped};
use crate::os::{ptrace, spawn};

/// How long a round waits for tasks to stop before it looks for what holds them up.
const ROUND: Duration = Duration::from_millis(5);

/// A process all of whose tasks stand still. Dropping it lets them go on.
#[derive(Debug)]
pub(crate) struct FrozenProcess {
    /// PID as seen from here.
    pub(crate) pid: i32,
    /// Its tasks, the leader first, then those with children: in this order they are let go.
    pub(crate) tasks: Vec<Stopped>,
}

/// The frozen job, parents before children. Dropping it releases every task.
#[derive(Debug)]
pub(crate) struct Frozen {
    pub(crate) processes: Vec<FrozenProcess>,
    /// Zombies, as seen from here.
    pub(crate) zombies: Vec<i32>,
    /// System calls that the freeze has cut short and that begin anew, by tid.
    pub(crate) cut_short: BTreeMap<i32, i64>,
}

impl Frozen {
    pub(crate) fn tasks(&self) -> usize {
        self.processes.iter().map(|process| process.tasks.len()).sum()
    }

    /// The parent of one of its processes, as seen from here, or who stands for it: `above` the job.
    pub(crate) fn parent(&self, pid: i32, above: i32, states: &States) -> Result<i32> {
        let parent = states.status(pid)?.parent()?;
        let is_ours = self.processes.iter().any(|process| process.pid == parent);
        Ok(if is_ours { parent } else { above })
    }

    /// Ends all of it. None of its tasks runs another instruction.
    pub(crate) fn kill(self) {
        self.processes.iter().for_each(|process| spawn::kill(process.pid, libc::SIGKILL));
    }
}

/// Tasks on their way to a stop.
#[derive(Default)]
struct Net {
    stopped: BTreeMap<i32, (i32, Stopped)>,
    running: BTreeMap<i32, (i32, Running)>,
    cut_short: BTreeMap<i32, i64>,
    /// Tasks with children.
    parents: HashSet<i32>,
}

/// Tasks that were seized, for the [`undertaker`]; `None` when the freeze is over.
type Seized = (Mutex<Option<Vec<i32>>>, Condvar);

/// Freezes all of a family.
///
/// A frozen process makes no children and no tasks, so looking again until nothing new shows up
/// ends. A process that waits for its vfork child cannot stop before the child has gone on:
/// children of such a process are let run a little.
///
/// # Errors
///
/// The family is gone, a task cannot be traced, or does not stop in time; it is named. All are released.
pub(crate) fn freeze(family: Family, timeout: Duration) -> Result<Frozen> {
    family.must_be_there()?;
    let seized: Seized = (Mutex::new(Some(Vec::new())), Condvar::new());
    let frozen = std::thread::scope(|scope| {
        let helper = std::thread::Builder::new().name("ckpt-undertaker".into());
        let helper = helper.spawn_scoped(scope, || undertaker(&seized));
        let frozen = helper
            .map_err(|e| Error::os("cannot start a thread for the freeze", e))
            .and_then(|_| freeze_all(family, timeout, &seized))
            // A task that was killed as it was looked at.
            .map_err(|e| match e.kind() {
                ErrorKind::Gone => e.kind_is(ErrorKind::Disturbed),
                _ => e,
            });
        *seized.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
        seized.1.notify_all();
        frozen
    })?;
    // Once more: only now can its number no longer change hands.
    family.must_be_there()?;
    Ok(frozen)
}

/// Takes note of threads that die while the freeze goes on. A thread in execve(2) waits until all
/// others of its process are gone, a dead one that is traced is gone only when its tracer has heard
/// of it, and the tracer, which may be waiting in `PTRACE_SEIZE` for that very execve, cannot.
fn undertaker(seized: &Seized) {
    let mut tids = seized.0.lock().unwrap_or_else(PoisonError::into_inner);
    while let Some(known) = &mut *tids {
        known.retain(|&tid| {
            let dead = matches!(ptrace::look(tid), Ok(Some(ptrace::Status::Ended(_))));
            !(dead && !proc::is_leader(tid) && ptrace::bury(tid))
        });
        let waited = seized.1.wait_timeout(tids, ROUND);
        tids = waited.unwrap_or_else(PoisonError::into_inner).0;
    }
}

fn freeze_all(family: Family, timeout: Duration, seized: &Seized) -> Result<Frozen> {
    let deadline = Instant::now() + timeout;
    let mut net = Net::default();
    loop {
        let members = family.members();
        let fresh = net.seize_new(&members, seized)?;
        net.gather(Instant::now() + ROUND)?;
        if net.running.is_empty() && !fresh {
            return net.into_frozen(members.0);
        }
        if !net.running.is_empty() {
            if Instant::now() >= deadline {
                return Err(net.culprit());
            }
            net.let_vfork_children_run()?;
        }
    }
}

impl Net {
    /// Seizes every task not known yet; true if there was any.
    ///
    /// To a task that is traced, signals are sent that it ignores, such as a child's SIGCHLD; another
    /// thread of its process that is not traced at that moment would be woken by them, and see its
    /// call interrupted. So those that get such signals, leaders and tasks with children, come last;
    /// they are let go first ([`FrozenProcess`]).
    fn seize_new(
        &mut self,
        (processes, parents): &(Vec<i32>, HashSet<i32>),
        seized: &Seized,
    ) -> Result<bool> {
        let mut fresh = false;
        for &pid in processes {
            // A process that ends meanwhile has no tasks to list.
            let mut tids = proc::tasks(pid).unwrap_or_default();
            tids.sort_by_key(|tid| *tid == pid || parents.contains(tid));
            for tid in tids {
                if self.stopped.contains_key(&tid) || self.running.contains_key(&tid) {
                    continue;
                }
                let task = Running::seize(tid).map_err(|e| e.of_process(pid, &proc::comm(pid)))?;
                if let Some(running) = task {
                    running.interrupt()?;
                    let mut seized = seized.0.lock().unwrap_or_else(PoisonError::into_inner);
                    seized.get_or_insert_default().push(tid);
                    self.running.insert(tid, (pid, running));
                    if parents.contains(&tid) {
                        self.parents.insert(tid);
                    }
                    fresh = true;
                }
            }
        }
        Ok(fresh)
    }

    /// Waits for the stops.
    fn gather(&mut self, until: Instant) -> Result<()> {
        for (tid, (pid, running)) in std::mem::take(&mut self.running) {
            match running.halt(until)? {
                Halt::Stopped(stopped) => {
                    let number = undo_interruption(pid, &stopped)?;
                    self.cut_short.extend(number.map(|number| (tid, number)));
                    self.stopped.insert(tid, (pid, stopped));
                }
                Halt::Late(running) => drop(self.running.insert(tid, (pid, running))),
                Halt::Gone => {}
            }
        }
        Ok(())
    }

    fn let_vfork_children_run(&mut self) -> Result<()> {
        // A task that waits for its vfork child is in uninterruptible sleep; another that is late
        // just has not had its turn yet.
        let waits = |tid: i32| proc::stat(tid).is_ok_and(|stat| stat.state == 'D');
        let late: Vec<i32> =
            self.running.iter().filter(|(tid, _)| waits(**tid)).map(|(_, (pid, _))| *pid).collect();
        let children: Vec<i32> = late.iter().flat_map(|&pid| proc::children(pid)).collect();
        let tids: Vec<i32> = self
            .stopped
            .iter()
            .filter(|(_, (pid, _))| children.contains(pid))
            .map(|(&tid, _)| tid)
            .collect();
        for tid in tids {
            if let Some((pid, stopped)) = self.stopped.remove(&tid)
                && let Ok(running) = stopped.resume()
            {
                self.running.insert(tid, (pid, running));
            }
        }
        // Long enough to get to the execve, short enough not to be noticed.
        self.gather(Instant::now() + ROUND)?;
        self.running.values().try_for_each(|(_, running)| running.interrupt())
    }

    fn culprit(&self) -> Error {
        let Some((tid, (pid, _))) = self.running.iter().next() else {
            return Error::new(ErrorKind::Busy, "the job did not come to a stop in time");
        };
        let state = proc::stat(*tid).map_or('?', |stat| stat.state);
        let at = proc::read(*tid, "wchan").unwrap_or_default();
        let at = String::from_utf8_lossy(&at).into_owned();
        let what = format!("task {tid} did not stop in time (state {state}, in {at:?})");
        Error::new(ErrorKind::Busy, what)
            .of_process(*pid, &proc::comm(*pid))
            .help("a slow file system may hold it; try again later")
    }

    /// Sorts the stopped tasks by process.
    fn into_frozen(mut self, processes: Vec<i32>) -> Result<Frozen> {
        let disturbed = |tid: i32, pid: i32| {
            let what = format!("task {tid} changed while the job was being frozen");
            Error::new(ErrorKind::Disturbed, what).of_process(pid, &proc::comm(pid))
        };
        let cut_short = std::mem::take(&mut self.cut_short);
        let mut frozen = Frozen { processes: Vec::new(), zombies: Vec::new(), cut_short };
        if let Some((&tid, (pid, _))) = self.stopped.iter().find(|(_, (_, task))| !task.stands()) {
            return Err(disturbed(tid, *pid));
        }
        for pid in processes {
            let tids: Vec<i32> =
                self.stopped.iter().filter(|(_, (p, _))| *p == pid).map(|(&t, _)| t).collect();
            let mut tasks: Vec<Stopped> =
                tids.iter().filter_map(|tid| Some(self.stopped.remove(tid)?.1)).collect();
            let last = |tid: i32| !self.parents.contains(&tid);
            tasks.sort_by_key(|task| (task.tid() != pid, last(task.tid()), task.tid()));
            match tasks.first() {
                None if proc::is_zombie(pid) => frozen.zombies.push(pid),
                None if proc::stat(pid).is_ok() => return Err(disturbed(pid, pid)),
                None => {}
                Some(first) if first.tid() == pid => {
                    frozen.processes.push(FrozenProcess { pid, tasks });
                }
                Some(_) => {
                    let what = "cannot save a process whose first task has ended before others";
                    return Err(
                        Error::new(ErrorKind::Unsupported, what).of_process(pid, &proc::comm(pid))
                    );
                }
            }
        }
        Ok(frozen)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        // A freeze that was given up must not be noticed either: what has been interrupted
        // meanwhile goes on as if it had not been.
        let until = Instant::now() + Duration::from_millis(100);
        for (_, (pid, running)) in std::mem::take(&mut self.running) {
            if let Ok(Halt::Stopped(stopped)) = running.halt(until) {
                let _ = undo_interruption(pid, &stopped);
            }
        }
    }
}
