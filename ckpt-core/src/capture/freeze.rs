//! Brings every task of the job to a stop, and finds out which there are.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::kinds::call::undo_interruption;
use crate::os::proc;
use crate::os::tracee::{Halt, Running, Stopped};

/// How long a round waits for tasks to stop before it looks for what holds them up.
const ROUND: Duration = Duration::from_millis(5);

/// A process all of whose tasks stand still. Dropping it lets them go on.
#[derive(Debug)]
pub(crate) struct FrozenProcess {
    /// PID as seen from here.
    pub(crate) pid: i32,
    /// Its tasks, the leader first.
    pub(crate) tasks: Vec<Stopped>,
}

/// The frozen job, parents before children. Dropping it releases every task.
#[derive(Debug)]
pub(crate) struct Frozen {
    pub(crate) processes: Vec<FrozenProcess>,
    /// Zombies, as seen from here.
    pub(crate) zombies: Vec<i32>,
}

impl Frozen {
    pub(crate) fn tasks(&self) -> usize {
        self.processes.iter().map(|process| process.tasks.len()).sum()
    }
}

/// Tasks on their way to a stop.
#[derive(Default)]
struct Net {
    stopped: BTreeMap<i32, (i32, Stopped)>,
    running: BTreeMap<i32, (i32, Running)>,
}

/// Freezes all descendants of `parent`.
///
/// A frozen process makes no children and no tasks, so looking again until nothing new shows up
/// ends. A process that waits for its vfork child cannot stop before the child has gone on:
/// children of such a process are let run a little.
///
/// # Errors
///
/// A task cannot be traced, or does not stop in time; it is named. All are released.
pub(crate) fn freeze(parent: i32, timeout: Duration) -> Result<Frozen> {
    let deadline = Instant::now() + timeout;
    let mut net = Net::default();
    loop {
        let found = proc::descendants(parent);
        let fresh = net.seize_new(&found)?;
        net.gather(Instant::now() + ROUND)?;
        if net.running.is_empty() && !fresh {
            return net.into_frozen(parent);
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
    fn seize_new(&mut self, processes: &[i32]) -> Result<bool> {
        let mut fresh = false;
        for &pid in processes {
            // A process that ends meanwhile has no tasks to list.
            for tid in proc::tasks(pid).unwrap_or_default() {
                if self.stopped.contains_key(&tid) || self.running.contains_key(&tid) {
                    continue;
                }
                let seized =
                    Running::seize(tid).map_err(|e| e.of_process(pid, &proc::comm(pid)))?;
                if let Some(running) = seized {
                    running.interrupt();
                    self.running.insert(tid, (pid, running));
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
                    undo_interruption(&stopped)?;
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
        for (_, running) in self.running.values() {
            running.interrupt();
        }
        Ok(())
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
    fn into_frozen(mut self, parent: i32) -> Result<Frozen> {
        let mut frozen = Frozen { processes: Vec::new(), zombies: Vec::new() };
        for pid in proc::descendants(parent) {
            let tids: Vec<i32> =
                self.stopped.iter().filter(|(_, (p, _))| *p == pid).map(|(&t, _)| t).collect();
            let mut tasks: Vec<Stopped> =
                tids.iter().filter_map(|tid| Some(self.stopped.remove(tid)?.1)).collect();
            tasks.sort_by_key(|task| (task.tid() != pid, task.tid()));
            match tasks.first() {
                None if proc::stat(pid).is_ok() => frozen.zombies.push(pid),
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
