//! Descriptors without a file: eventfd(2), timerfd_create(2), signalfd(2), epoll(7), pidfds.
//!
//! All that the kernel knows of them stands in `/proc/PID/fdinfo` (proc_pid_fdinfo(5)).

use std::io::Write;
use std::os::fd::OwnedFd;

use rustix::event::epoll;

use super::{Hand, bytes_of};
use crate::error::{Error, ErrorKind, Result};
use crate::os::{fds, proc};

/// `TFD_IOC_SET_TICKS` of linux/timerfd.h.
const SET_TICKS: u64 = 0x4008_5400;

/// One of these descriptors, as plain data.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum Event {
    /// eventfd(2).
    Counter {
        /// Its value.
        count: u64,
        /// `EFD_SEMAPHORE`.
        semaphore: bool,
    },
    /// timerfd_create(2).
    Timer {
        /// Clock.
        clock: i32,
        /// Expirations not read yet.
        ticks: u64,
        /// `timerfd_settime` flags.
        flags: i32,
        /// Time left: seconds, nanoseconds.
        value: (i64, i64),
        /// Interval: seconds, nanoseconds.
        interval: (i64, i64),
    },
    /// signalfd(2) with its mask.
    Signal(u64),
    /// epoll(7) with what it watches.
    Poll(Vec<Watch>),
    /// pidfd_open(2) of a process of the job (its number there).
    Process(i32),
}

/// One entry of an epoll set.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Watch {
    /// Descriptor in the process that added it.
    pub fd: i32,
    /// `EPOLL*` bits.
    pub events: u32,
    /// User data.
    pub data: u64,
}

impl Event {
    /// Understands a descriptor by its link text and its fdinfo; `None` if it is not of this kind.
    pub(crate) fn capture(link: &[u8], info: &str) -> Result<Option<Self>> {
        let field = |name: &str| info.lines().find_map(|line| field_of(line, name));
        let found = match link {
            b"anon_inode:[eventfd]" => field("eventfd-count").and_then(|count| {
                Some(Self::Counter {
                    count: u64::from_str_radix(count, 16).ok()?,
                    semaphore: field("eventfd-semaphore") == Some("1"),
                })
            }),
            b"anon_inode:[timerfd]" => timer(field),
            b"anon_inode:[signalfd]" => field("sigmask")
                .and_then(|mask| Some(Self::Signal(u64::from_str_radix(mask, 16).ok()?))),
            b"anon_inode:[eventpoll]" => info
                .lines()
                .filter(|line| line.starts_with("tfd:"))
                .map(watch)
                .collect::<Option<_>>()
                .map(Self::Poll),
            _ if link == b"anon_inode:[pidfd]" || link.starts_with(b"pidfd:") => {
                let pid = field("Pid").and_then(|pid| pid.parse::<i32>().ok());
                match pid.filter(|&pid| pid > 0) {
                    Some(pid) => Some(Self::Process(proc::inner_pid(pid)?)),
                    None => None,
                }
            }
            _ => return Ok(None),
        };
        found.map(Some).ok_or_else(|| {
            let link = String::from_utf8_lossy(link);
            Error::new(ErrorKind::Unsupported, format!("cannot understand {link}: {info:?}"))
        })
    }

    /// Makes it. An epoll set is empty at first; see [`Self::watch`]. `outer` translates a process
    /// number of the job into one that is valid here.
    pub(crate) fn rebuild(&self, outer: &dyn Fn(i32) -> Option<i32>) -> Result<OwnedFd> {
        let made = match self {
            Self::Counter { count, semaphore } => fds::eventfd(0, *semaphore).and_then(|fd| {
                let mut file = std::fs::File::from(fd);
                if *count > 0 {
                    file.write_all(&count.to_le_bytes())?;
                }
                Ok(file.into())
            }),
            Self::Timer { clock, ticks, value, interval, .. } => {
                fds::timerfd(*clock).and_then(|fd| {
                    // A periodic one whose tick was not read yet shows no time left.
                    let fired = *value == (0, 0) && *ticks > 0;
                    let next = if fired { *interval } else { *value };
                    fds::arm_timerfd(&fd, 0, next, *interval)?;
                    if *ticks > 0 {
                        fds::ioctl_word(&fd, SET_TICKS, *ticks)?;
                    }
                    Ok(fd)
                })
            }
            Self::Signal(mask) => fds::signalfd(*mask),
            Self::Poll(_) => epoll::create(epoll::CreateFlags::CLOEXEC).map_err(Into::into),
            Self::Process(pid) => {
                let pid = outer(*pid).and_then(rustix::process::Pid::from_raw);
                let flags = rustix::process::PidfdFlags::empty();
                pid.ok_or(rustix::io::Errno::SRCH)
                    .and_then(|pid| rustix::process::pidfd_open(pid, flags))
                    .map_err(Into::into)
            }
        };
        made.map_err(|e| Error::os(format!("cannot make {self:?}"), e))
    }

    /// Fills the epoll set that is descriptor `fd` of the process at hand.
    pub(crate) fn watch(&self, hand: &Hand<'_>, fd: i32) -> Result<()> {
        let Self::Poll(watches) = self else { return Ok(()) };
        for watch in watches {
            // struct epoll_event is packed: four bytes of events, eight of data.
            let words = [u64::from(watch.events) | watch.data << 32, watch.data >> 32];
            let at = hand.put(&bytes_of(&words))?;
            let arguments = [fd as u64, libc::EPOLL_CTL_ADD as u64, watch.fd as u64, at];
            let what = format!("watch file descriptor {} by epoll", watch.fd);
            hand.remote.try_call(&what, libc::SYS_epoll_ctl, &arguments)?;
        }
        Ok(())
    }
}

fn field_of<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    Some(line.strip_prefix(name)?.strip_prefix(':')?.trim())
}

fn timer<'a>(field: impl Fn(&str) -> Option<&'a str>) -> Option<Event> {
    let pair = |name: &str| {
        let (seconds, nanoseconds) =
            field(name)?.trim_matches(|c| c == '(' || c == ')').split_once(", ")?;
        Some((seconds.parse().ok()?, nanoseconds.parse().ok()?))
    };
    Some(Event::Timer {
        clock: field("clockid")?.parse().ok()?,
        ticks: field("ticks")?.parse().ok()?,
        flags: i32::from_str_radix(field("settime flags")?.trim_start_matches('0'), 8)
            .unwrap_or_default(),
        value: pair("it_value")?,
        interval: pair("it_interval")?,
    })
}

/// `tfd:        5 events:       19 data:                5  pos:0 ino:1 sdev:e`
fn watch(line: &str) -> Option<Watch> {
    let mut words = line.split_ascii_whitespace();
    let mut after = |name: &str| {
        let word = words.find(|word| word.starts_with(name))?;
        match word.strip_prefix(name)? {
            "" => words.next(),
            value => Some(value),
        }
    };
    Some(Watch {
        fd: after("tfd:")?.parse().ok()?,
        events: u32::from_str_radix(after("events:")?, 16).ok()?,
        data: u64::from_str_radix(after("data:")?, 16).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    fn round_trip(event: &Event, link: &[u8]) {
        let fd = event.rebuild(&|pid| Some(pid)).unwrap();
        let info = format!("/proc/self/fdinfo/{}", fd.as_raw_fd());
        let info = std::fs::read_to_string(info).unwrap();
        let found = Event::capture(link, &info).unwrap().unwrap();
        assert_eq!(&found, event);
    }

    #[test]
    fn counters_signals_and_idle_timers_come_back_the_same() {
        round_trip(&Event::Counter { count: 7, semaphore: true }, b"anon_inode:[eventfd]");
        round_trip(&Event::Signal(0x200), b"anon_inode:[signalfd]");
        let (value, interval) = ((0, 0), (0, 0));
        let idle = Event::Timer { clock: 1, ticks: 0, flags: 0, value, interval };
        round_trip(&idle, b"anon_inode:[timerfd]");
        round_trip(&Event::Poll(Vec::new()), b"anon_inode:[eventpoll]");
    }

    #[test]
    fn an_epoll_line_is_understood() {
        let line = "tfd:        5 events:       19 data:         ffff0005  pos:0 ino:1 sdev:e";
        assert_eq!(watch(line), Some(Watch { fd: 5, events: 0x19, data: 0xffff_0005 }));
    }
}
