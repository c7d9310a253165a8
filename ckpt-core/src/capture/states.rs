//! What procfs tells of the frozen job's processes and tasks, each file read once.
//!
//! Checks, kinds and plan ask for it again and again, and nothing of it changes while all stand still.
//! It must not be asked of them before.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use crate::error::Result;
use crate::os::proc;
use crate::os::status::Status;

/// The kinds of namespaces.
pub(crate) const NAMESPACES: [&str; 8] =
    ["user", "pid", "mnt", "net", "ipc", "uts", "cgroup", "time"];

/// A process' namespaces, in the order of [`NAMESPACES`].
pub(crate) type Namespaces = Rc<[Vec<u8>; 8]>;

/// What was read so far, by number.
#[derive(Debug, Default)]
pub(crate) struct States {
    statuses: RefCell<HashMap<i32, Rc<Status>>>,
    namespaces: RefCell<HashMap<i32, Namespaces>>,
}

impl States {
    /// The status of a process or task.
    pub(crate) fn status(&self, tid: i32) -> Result<Rc<Status>> {
        known(&self.statuses, tid, || Status::of(tid).map(Rc::new))
    }

    /// A process' own namespaces.
    pub(crate) fn namespaces(&self, pid: i32) -> Result<Namespaces> {
        known(&self.namespaces, pid, || {
            let mut all: [Vec<u8>; 8] = Default::default();
            for (namespace, kind) in all.iter_mut().zip(NAMESPACES) {
                *namespace = proc::link(pid, &format!("ns/{kind}"))?;
            }
            Ok(Rc::new(all))
        })
    }

    /// Whether a process is in all the namespaces that we are in.
    pub(crate) fn are_ours(&self, pid: i32) -> Result<bool> {
        Ok(self.namespaces(pid)? == self.namespaces(std::process::id() as i32)?)
    }
}

fn known<T: Clone>(
    all: &RefCell<HashMap<i32, T>>,
    number: i32,
    read: impl FnOnce() -> Result<T>,
) -> Result<T> {
    if let Some(known) = all.borrow().get(&number) {
        return Ok(known.clone());
    }
    let found = read()?;
    all.borrow_mut().insert(number, found.clone());
    Ok(found)
}
