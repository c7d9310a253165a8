//! Memory whose missing pages we bring ourselves, by a userfaultfd of the process: whole runs at a time,
//! which is quicker than to write through `/proc/PID/mem`, and at any time ([`super::lazy`]).

use std::borrow::Borrow;
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, socketpair};

use super::body::Body;
use super::spans::{Span, within};
use crate::error::{Error, Result};
use crate::kinds::memory::{Area, Backing};
use crate::os::fds;
use crate::os::thp;
use crate::os::uffd::{Mode, Uffd};
use crate::snapshot::Snapshot;
use crate::snapshot::pages::Located;

/// Areas that are shorter are written.
const LONG: u64 = 256 << 10;
/// A process that has less than this in such areas is sooner written than asked.
const MUCH: u64 = 16 << 20;

/// The userfaultfds of a job in the making. What is missing in their areas is zero once they are
/// dropped.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    by_process: HashMap<u32, Uffd>,
    areas: Vec<Span>,
    keeper: Option<Keeper>,
}

/// Keeps userfaultfds open beyond our own end: the kernel closes the files of one who dies before it
/// kills his tracees, which would go on for a moment with zeros where memory is missing. They are on their
/// way (`SCM_RIGHTS`) to a socket that another process has as well, the stand-in, and nobody takes them.
#[derive(Debug)]
pub(crate) struct Keeper {
    sender: OwnedFd,
    receiver: OwnedFd,
}

impl Keeper {
    /// Descriptors that are sent at once: the kernel takes no more than 253.
    const BATCH: usize = 128;

    /// Makes one.
    ///
    /// # Errors
    ///
    /// There are no descriptors left.
    pub(crate) fn new() -> Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let pair = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None);
        let (sender, receiver) = pair.map_err(|e| Error::os("cannot make a socket pair", e))?;
        Ok(Self { sender, receiver })
    }

    /// What the other process is to have.
    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.receiver
    }

    fn keep(&self, all: &[&Uffd]) -> Result<()> {
        all.chunks(Self::BATCH).try_for_each(|some| {
            fds::send(&self.sender, some).map_err(|e| Error::os("cannot keep userfaultfds", e))
        })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // What is received without room for it is closed.
        let mut bytes = [0u8; 64];
        while rustix::net::recv(&self.receiver, &mut bytes, RecvFlags::DONTWAIT)
            .is_ok_and(|(length, _)| length > 0)
        {}
    }
}

impl Faults {
    /// Registers these areas, which are mapped and empty.
    ///
    /// # Errors
    ///
    /// This kernel refuses; nothing is registered then.
    pub(crate) fn of(
        snapshot: &Snapshot,
        bodies: &[Body<'_>],
        areas: Vec<Span>,
        keeper: Option<Keeper>,
    ) -> Result<Self> {
        let mut this = Self { areas, ..Self::default() };
        for (process, body) in indexed(snapshot, bodies) {
            let mut its = this.areas.iter().filter(|area| area.process == process).peekable();
            if its.peek().is_none() {
                continue;
            }
            let uffd = body.userfault()?;
            for area in its {
                let registered = uffd.register(area.start, area.end, Mode::Missing);
                registered.map_err(|e| Error::os("cannot register memory", e))?;
            }
            this.by_process.insert(process, uffd);
        }
        if let Some(keeper) = keeper {
            keeper.keep(&this.by_process.values().collect::<Vec<_>>())?;
            this.keeper = Some(keeper);
        }
        Ok(this)
    }

    /// All areas, sorted.
    pub(crate) fn areas(&self) -> &[Span] {
        &self.areas
    }

    /// Brings what is registered, within one area, as the kernel wants it.
    ///
    /// # Errors
    ///
    /// As of [`Uffd::copy`].
    pub(crate) fn bring(&self, process: u32, at: u64, bytes: &[u8]) -> io::Result<()> {
        let none = io::ErrorKind::NotFound;
        self.of_process(process).ok_or(none)?.copy(at, bytes)
    }

    /// The userfaultfd of a process, by its index in the snapshot.
    pub(crate) fn of_process(&self, process: u32) -> Option<&Uffd> {
        self.by_process.get(&process)
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Uffd)> {
        self.by_process.iter().map(|(process, uffd)| (*process, uffd))
    }
}

/// The areas whose pages are to be brought, sorted: the long ones of large processes. Where the kernel may give
/// huge pages they are left out, as here come small ones; unless it is for `later`, a time in which the job runs.
pub(crate) fn brought(snapshot: &Snapshot, located: &[Located], later: bool) -> Vec<Span> {
    let huge = !later && thp::by_default();
    let is_wanted = |area: &&Area| {
        may_wait(area) && (later || !(huge || area.advice.contains(&libc::MADV_HUGEPAGE)))
    };
    let mut areas: Vec<Span> = Vec::new();
    for (process, live) in
        (0..).zip(&snapshot.processes).filter_map(|(n, it)| Some((n, it.live()?)))
    {
        let its = live.space.areas.iter().filter(is_wanted);
        areas.extend(its.map(|area| Span { process, start: area.start, end: area.end }));
    }
    areas.sort_unstable();
    let mut bytes: HashMap<u32, u64> = HashMap::new();
    for span in located.iter().flat_map(|block| &block.runs).filter_map(Span::of) {
        if within(&areas, span) {
            *bytes.entry(span.process).or_default() += span.length();
        }
    }
    areas.retain(|area| bytes.get(&area.process).is_some_and(|bytes| *bytes >= MUCH));
    areas
}

/// Bodies with their index in the snapshot.
pub(crate) fn indexed<'a, T: Borrow<Body<'a>>>(
    snapshot: &Snapshot,
    bodies: impl IntoIterator<Item = T>,
) -> impl Iterator<Item = (u32, T)> {
    bodies.into_iter().filter_map(|body| {
        let pid = body.borrow().process.pid;
        let index = snapshot.processes.iter().position(|it| it.pid == pid)?;
        Some((index as u32, body))
    })
}

/// Whether the kernel leaves an area alone between system calls, but for what is asked of each task.
fn may_wait(area: &Area) -> bool {
    area.backing == Backing::Anonymous
        && !(area.shared || area.grows_down || area.locked)
        && area.guards.is_empty()
        && area.end - area.start >= LONG
}
