//! What procfs tells of a frozen process.
//!
//! It is most of what there is to know, and any thread may read it: while the tracer asks one process for what
//! only that can tell, another thread reads the sheets of the next ones.

use std::fs::{self, Metadata};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::freeze::{Frozen, FrozenProcess};
use crate::error::{Error, ErrorKind, Result};
use crate::kinds::file;
use crate::kinds::memory::AddressSpace;
use crate::kinds::process::Attributes;
use crate::os::maps::{self, Map};
use crate::os::proc;

/// Of one process, before anything of it is touched.
#[derive(Debug)]
pub(super) struct Sheet {
    pub(super) maps: Vec<Map>,
    /// The names of its tasks.
    pub(super) names: Vec<Vec<u8>>,
    pub(super) descriptors: Vec<Seen>,
    pub(super) attributes: Attributes,
    pub(super) space: AddressSpace,
}

/// A descriptor as procfs shows it.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) pid: i32,
    pub(super) fd: i32,
    /// `/proc/PID/fd/FD`.
    pub(super) at: String,
    /// Where that leads.
    pub(super) link: Vec<u8>,
    /// `/proc/PID/fdinfo/FD`.
    pub(super) info: String,
    pub(super) meta: Metadata,
    pub(super) flags: i32,
    pub(super) position: u64,
}

impl Sheet {
    fn read(process: &Numbers) -> Result<Self> {
        let pid = process.pid;
        let name = |&tid: &i32| {
            let mut name = proc::read(pid, &format!("task/{tid}/comm"))?;
            name.pop();
            Ok(name)
        };
        Ok(Self {
            maps: maps::read(pid)?,
            names: process.tids.iter().map(name).collect::<Result<_>>()?,
            descriptors: descriptors(pid)?,
            attributes: Attributes::told(pid)?,
            space: AddressSpace::told(pid)?,
        })
    }
}

fn descriptors(pid: i32) -> Result<Vec<Seen>> {
    let seen = |fd| {
        let link = proc::link(pid, &format!("fd/{fd}"))?;
        Seen::look(pid, fd, link)
    };
    proc::descriptors(pid)?.into_iter().map(seen).collect()
}

impl Seen {
    pub(super) fn is_timer(&self) -> bool {
        self.link == b"anon_inode:[timerfd]"
    }

    /// Looks at it once more.
    pub(super) fn again(&mut self) -> Result<()> {
        *self = Self::look(self.pid, self.fd, std::mem::take(&mut self.link))?;
        Ok(())
    }

    fn look(pid: i32, fd: i32, link: Vec<u8>) -> Result<Self> {
        let at = format!("/proc/{pid}/fd/{fd}");
        let info = proc::read(pid, &format!("fdinfo/{fd}"))?;
        let info = String::from_utf8_lossy(&info).into_owned();
        let meta = fs::metadata(&at).map_err(|e| Error::os(format!("cannot look at {at}"), e))?;
        let (position, flags) = file::position_and_flags(&info).ok_or_else(|| {
            Error::new(ErrorKind::Os, format!("cannot understand /proc/{pid}/fdinfo/{fd}"))
        })?;
        Ok(Self { pid, fd, at, link, info, meta, flags, position })
    }
}

/// The sheets of all processes, each read by whoever comes to it first.
#[derive(Debug)]
pub(super) struct Sheets {
    numbers: Vec<Numbers>,
    /// In the order of the processes.
    places: Vec<Mutex<Place>>,
    enough: AtomicBool,
}

#[derive(Debug, Default)]
enum Place {
    #[default]
    Empty,
    Full(Box<Sheet>),
    Taken,
}

#[derive(Debug)]
struct Numbers {
    pid: i32,
    tids: Vec<i32>,
}

impl Sheets {
    pub(super) fn of(frozen: &Frozen) -> Self {
        let tids = |process: &FrozenProcess| process.tasks.iter().map(|task| task.tid()).collect();
        let numbers = frozen.processes.iter().map(|it| Numbers { pid: it.pid, tids: tids(it) });
        let places = frozen.processes.iter().map(|_| Mutex::default()).collect();
        Self { numbers: numbers.collect(), places, enough: AtomicBool::new(false) }
    }

    /// Lets `work` take sheets that another thread reads ahead, if there are several.
    pub(super) fn with<T>(&self, work: impl FnOnce() -> T) -> T {
        std::thread::scope(|scope| {
            if self.numbers.len() > 1 {
                // Without it all goes on, more slowly.
                let thread = std::thread::Builder::new().name("ckpt-ahead".into());
                let _ = thread.spawn_scoped(scope, || self.read_ahead());
            }
            let result = work();
            self.enough.store(true, Ordering::Relaxed);
            result
        })
    }

    /// What cannot be read is left to who takes it.
    fn read_ahead(&self) {
        for (process, place) in self.numbers.iter().zip(&self.places) {
            // One that is held is being read.
            let Ok(mut place) = place.try_lock() else { continue };
            if self.enough.load(Ordering::Relaxed) {
                return;
            }
            if matches!(*place, Place::Empty)
                && let Ok(sheet) = Sheet::read(process)
            {
                *place = Place::Full(Box::new(sheet));
            }
        }
    }

    /// The sheet of a process by its index, which nobody may have touched before.
    pub(super) fn take(&self, index: usize) -> Result<Sheet> {
        let mut place = self.places[index].lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *place, Place::Taken) {
            Place::Full(sheet) => Ok(*sheet),
            // Held meanwhile, so that nobody else does the same.
            Place::Empty | Place::Taken => Sheet::read(&self.numbers[index]),
        }
    }
}
