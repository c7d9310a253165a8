//! What happens at the coordinator's descriptors, told by the kernel: nobody else is looked at.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use rustix::time::Timespec;

use super::guests::Guest;

/// Stands for whoever has no number yet.
pub(super) const LISTENERS: u64 = 0;
/// Taken in at one look; what is left comes with the next.
const AT_ONCE: usize = 256;
/// Old kernels cannot be told to wait for many days.
const LONGEST: Duration = Duration::from_secs(3600);
/// How long who comes waits at the door when there are no descriptors left.
const FULL: Duration = Duration::from_millis(10);

/// An epoll instance. A descriptor that is closed leaves it by itself.
#[derive(Debug)]
pub(super) struct Events(OwnedFd);

impl Events {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(epoll::CreateFlags::CLOEXEC)?))
    }

    /// From here on it is heard of under this number.
    pub(super) fn add(&self, fd: impl AsFd, number: u64) -> io::Result<()> {
        Ok(epoll::add(&self.0, fd, EventData::new_u64(number), EventFlags::IN)?)
    }

    /// A guest that has not read all that it was sent is heard of, too, when it can be sent more.
    pub(super) fn watch(&self, number: u64, guest: &mut Guest) {
        let slow = guest.channel.has_output();
        if slow != guest.slow {
            let mut wanted = EventFlags::IN;
            wanted.set(EventFlags::OUT, slow);
            let data = EventData::new_u64(number);
            // It is in there, and this takes no memory: there is nothing to fail.
            let done = epoll::modify(&self.0, guest.channel.stream(), data, wanted);
            debug_assert!(done.is_ok(), "{done:?}");
            guest.slow = slow;
        }
    }

    /// Waits, and gives the numbers of those that something happened to.
    pub(super) fn wait(&self, most: Option<Duration>) -> io::Result<Vec<u64>> {
        let most = most.and_then(|most| Timespec::try_from(most.min(LONGEST)).ok());
        let mut happened = Vec::<Event>::with_capacity(AT_ONCE);
        match epoll::wait(&self.0, spare_capacity(&mut happened), most.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(happened.iter().map(|event| event.data.u64()).collect())
    }
}

/// Who has come next.
pub(super) fn accepted(listener: impl AsFd) -> Option<OwnedFd> {
    let stream = rustix::net::accept_with(listener, SocketFlags::CLOEXEC);
    if matches!(stream, Err(Errno::MFILE | Errno::NFILE)) {
        // The kernel goes on telling of it, and we would do nothing else but listen to that.
        std::thread::sleep(FULL);
    }
    stream.ok()
}
