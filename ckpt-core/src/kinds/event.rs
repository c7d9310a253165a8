//! Descriptors without a file: eventfd(2), timerfd_create(2), signalfd(2), epoll(7), pidfds.
//!
//! All that the kernel knows of them stands in `/proc/PID/fdinfo` (proc_pid_fdinfo(5)).

use std::io::Write;
use std::os::fd::OwnedFd;

use rustix::event::epoll;

use super::{Hand, bytes_of};
use crate::error::{Error, ErrorKind, Result};
use crate::os::{clock, fds, proc};

/// `TFD_IOC_SET_TICKS` of linux/timerfd.h.
const SET_TICKS: u64 = 0x4008_5400;

/// Nanoseconds.
const SECOND: i64 = 1_000_000_000;

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
        /// When it fires, seconds and nanoseconds since 1970: only of one that was set to an
        /// absolute time of the wall clock, which goes on while the job does not.
        due: Option<(i64, i64)>,
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
    /// The number by which it was added.
    pub fd: i32,
    /// `EPOLL*` bits.
    pub events: u32,
    /// User data.
    pub data: u64,
    /// Inode number of its file at the checkpoint.
    pub inode: u64,
    /// A process that has both set and file open.
    pub process: i32,
    /// That process' descriptor for the file: another than `fd` if that was closed since, or leads
    /// elsewhere.
    pub through: i32,
}

/// Events that no program asks for: with these alone, an entry is one that `EPOLLONESHOT` disarmed.
const HOW: u32 =
    (libc::EPOLLONESHOT | libc::EPOLLET | libc::EPOLLWAKEUP | libc::EPOLLEXCLUSIVE) as u32;
/// All that a file may be ready for.
const ANYTHING: u32 = (libc::EPOLLIN
    | libc::EPOLLPRI
    | libc::EPOLLOUT
    | libc::EPOLLRDNORM
    | libc::EPOLLRDBAND
    | libc::EPOLLWRNORM
    | libc::EPOLLWRBAND
    | libc::EPOLLRDHUP) as u32;

impl Event {
    /// Understands a descriptor by its link text and its fdinfo; `None` if it is not of this kind.
    pub(crate) fn capture(link: &[u8], info: &str) -> Result<Option<Self>> {
        let field = |name: &str| info.lines().find_map(|line| field_of(line, name));
        let found = match link {
            b"anon_inode:[eventfd]" if field("eventfd-semaphore").is_none() => {
                let what = "this kernel does not tell whether an eventfd is a semaphore";
                return Err(Error::new(ErrorKind::Unsupported, what)
                    .help("Linux 6.5 and later do; or use --backend dmtcp"));
            }
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

    /// Makes it. An epoll set is empty at first; see [`Watch::add`]. `outer` translates a process
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
            Self::Timer { clock, ticks, flags, value, interval, due } => fds::timerfd(*clock)
                .and_then(|fd| {
                    // A periodic one that has just ticked shows no time left.
                    let ticked = *value == (0, 0) && *ticks > 0;
                    let left = if ticked { *interval } else { *value };
                    let (flags, next) = due.map_or((0, left), |due| (*flags, due));
                    fds::arm_timerfd(&fd, flags, next, *interval)?;
                    if *ticks > 0 {
                        fds::ioctl_word(&fd, SET_TICKS, *ticks)?;
                    }
                    Ok(fd)
                }),
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
}

impl Watch {
    /// Whether it has fired, and waits to be armed again (`EPOLLONESHOT`).
    pub(crate) fn is_disarmed(&self) -> bool {
        self.events & libc::EPOLLONESHOT as u32 != 0 && self.events & !HOW == 0
    }

    /// Adds it to the epoll set that is descriptor `set` of the process at hand. A set's disarmed
    /// entries come first.
    pub(crate) fn add(&self, hand: &Hand<'_>, set: i32) -> Result<()> {
        if self.through == self.fd {
            return self.enter(hand, set);
        }
        // The number is part of what an entry is known by: for a moment it leads to the file again.
        let what = format!("lend the file descriptor {}", self.fd);
        let call = |number: i64, arguments: &[u64]| hand.remote.try_call(&what, number, arguments);
        let (fd, through) = (self.fd as u64, self.through as u64);
        let flags = hand.remote.call(libc::SYS_fcntl, &[fd, libc::F_GETFD as u64, 0])?;
        let spare = match flags {
            0.. => Some(call(libc::SYS_fcntl, &[fd, libc::F_DUPFD_CLOEXEC as u64, 0])?),
            _ => None,
        };
        call(libc::SYS_dup3, &[through, fd, 0])?;
        self.enter(hand, set)?;
        if let Some(spare) = spare {
            let cloexec = flags as i32 & libc::FD_CLOEXEC != 0;
            call(libc::SYS_dup3, &[spare, fd, if cloexec { libc::O_CLOEXEC as u64 } else { 0 }])?;
        }
        call(libc::SYS_close, &[spare.unwrap_or(fd)]).map(drop)
    }

    fn enter(&self, hand: &Hand<'_>, set: i32) -> Result<()> {
        let control = |how: i32, events: u32| {
            // struct epoll_event is packed: four bytes of events, eight of data.
            let words = [u64::from(events) | self.data << 32, self.data >> 32];
            let at = hand.put(&bytes_of(&words))?;
            let what = format!("watch file descriptor {} by epoll", self.fd);
            let arguments = [set as u64, how as u64, self.fd as u64, at];
            hand.remote.try_call(&what, libc::SYS_epoll_ctl, &arguments)
        };
        if !self.is_disarmed() {
            return control(libc::EPOLL_CTL_ADD, self.events).map(drop);
        }
        // The kernel adds EPOLLERR and EPOLLHUP to whatever is asked for: only an entry that fires
        // is without.
        control(libc::EPOLL_CTL_ADD, self.events | ANYTHING)?;
        let arguments = [set as u64, hand.scratch.address, 1, 0];
        let fired = hand.remote.try_call("try epoll", libc::SYS_epoll_wait, &arguments)?;
        if fired == 0 {
            // Neither ready nor a pipe (see `Keeper::rouse`): such files have no errors to tell.
            control(libc::EPOLL_CTL_MOD, self.events)?;
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
    let clock = field("clockid")?.parse().ok()?;
    let flags =
        i32::from_str_radix(field("settime flags")?.trim_start_matches('0'), 8).unwrap_or_default();
    let value: (i64, i64) = pair("it_value")?;
    let by_the_wall = matches!(clock, libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_ALARM)
        && flags & libc::TFD_TIMER_ABSTIME != 0
        && value != (0, 0);
    // In parts: what is left may be more nanoseconds than can be counted.
    let due = by_the_wall.then(|| {
        let now = clock::wall();
        let parts = now % SECOND + value.1;
        (now / SECOND + value.0 + parts / SECOND, parts % SECOND)
    });
    let (ticks, interval) = (field("ticks")?.parse().ok()?, pair("it_interval")?);
    Some(Event::Timer { clock, ticks, flags, value, interval, due })
}

/// `tfd:        5 events:       19 data:                5  pos:0 ino:1 sdev:e`; whose descriptor
/// leads there is found out later.
fn watch(line: &str) -> Option<Watch> {
    let mut words = line.split_ascii_whitespace();
    let mut after = |name: &str| {
        let word = words.find(|word| word.starts_with(name))?;
        match word.strip_prefix(name)? {
            "" => words.next(),
            value => Some(value),
        }
    };
    let fd = after("tfd:")?.parse().ok()?;
    Some(Watch {
        fd,
        events: u32::from_str_radix(after("events:")?, 16).ok()?,
        data: u64::from_str_radix(after("data:")?, 16).ok()?,
        inode: u64::from_str_radix(after("ino:")?, 16).ok()?,
        process: 0,
        through: fd,
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
        let idle = Event::Timer { clock: 1, ticks: 0, flags: 0, value, interval, due: None };
        round_trip(&idle, b"anon_inode:[timerfd]");
        round_trip(&Event::Poll(Vec::new()), b"anon_inode:[eventpoll]");
    }

    #[test]
    fn a_timer_by_the_wall_clock_stays_one() {
        let (value, interval) = ((5, 0), (0, 0));
        let due = (clock::wall() / SECOND + 1000, 0);
        let (flags, ticks) = (libc::TFD_TIMER_ABSTIME, 3);
        let set = Event::Timer { clock: 0, ticks, flags, value, interval, due: Some(due) };
        let fd = set.rebuild(&|pid| Some(pid)).unwrap();
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()));
        let found = Event::capture(b"anon_inode:[timerfd]", &info.unwrap()).unwrap();
        let Some(Event::Timer { ticks: 3, flags: 1, due: Some(found), .. }) = found else {
            panic!("{found:?}");
        };
        assert!((found.0 - due.0).abs() <= 1, "{found:?} instead of {due:?}");
        let far =
            Event::Timer { clock: 0, ticks, flags, value, interval, due: Some((i64::MAX, 0)) };
        let fd = far.rebuild(&|pid| Some(pid)).unwrap();
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()));
        let found = Event::capture(b"anon_inode:[timerfd]", &info.unwrap()).unwrap().unwrap();
        found.rebuild(&|pid| Some(pid)).unwrap();
    }

    #[test]
    fn a_kernel_that_says_too_little_is_refused() {
        let info = "pos:\t0\nflags:\t02\neventfd-count:                1\n";
        let error = Event::capture(b"anon_inode:[eventfd]", info).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn an_epoll_line_is_understood() {
        let line = "tfd:        5 events:       19 data:         ffff0005  pos:0 ino:1 sdev:e";
        let (events, data) = (0x19, 0xffff_0005);
        let wanted = Watch { fd: 5, events, data, inode: 1, process: 0, through: 5 };
        assert_eq!(watch(line), Some(wanted));
        let with = |events| Watch { fd: 5, events, data, inode: 1, process: 0, through: 5 };
        assert!(!with(0x4000_0018).is_disarmed() && with(0x4000_0000).is_disarmed());
    }
}
