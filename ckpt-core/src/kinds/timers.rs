//! Interval timers (setitimer(2)) and POSIX timers (timer_create(2)).

use super::asks::{Answers, Asks};
use super::{Hand, bytes_of};
use crate::error::{Error, ErrorKind, Result};
use crate::os::proc;

/// `PR_TIMER_CREATE_RESTORE_IDS` of linux/prctl.h (Linux 6.15).
const RESTORE_IDS: u64 = 77;
/// How many timers are made in search of a number, on kernels that count them up.
const SEARCH: i64 = 100_000;

/// A POSIX timer.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct PosixTimer {
    /// The kernel's number for it.
    pub id: i32,
    /// Its clock.
    pub clock: i32,
    /// `SIGEV_*`.
    pub notify: i32,
    /// Signal it sends.
    pub signal: i32,
    /// The signal's value.
    pub value: u64,
    /// Task it is sent to, with `SIGEV_THREAD_ID`.
    pub tid: i32,
    /// Interval and time left: seconds and nanoseconds each; all zero if it is not armed.
    pub setting: [u64; 4],
}

/// All timers of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Timers {
    /// `ITIMER_REAL`, `ITIMER_VIRTUAL`, `ITIMER_PROF`: interval and time left, seconds and
    /// microseconds each.
    pub interval: [[u64; 4]; 3],
    /// POSIX timers by their numbers.
    pub posix: Vec<PosixTimer>,
}

impl Timers {
    /// Asks the process for its timers; `pid` is its number as seen from here.
    pub(crate) fn ask(
        asks: &mut Asks,
        pid: i32,
    ) -> Result<impl FnOnce(&Answers) -> Result<Self> + use<>> {
        let interval = [0, 1, 2].map(|which| {
            asks.words("read an interval timer", libc::SYS_getitimer, &[which, 0], (1, 4))
        });
        let text = proc::read(pid, "timers").map_err(|error| match error.kind() {
            ErrorKind::NotFound => {
                let what = "this kernel does not list POSIX timers, of which there may be some";
                Error::new(ErrorKind::Unsupported, what)
                    .help("use a kernel with CONFIG_CHECKPOINT_RESTORE")
            }
            _ => error,
        })?;
        let mut posix = Vec::new();
        for mut timer in listed(pid, &String::from_utf8_lossy(&text))? {
            let (what, id) = ("read a POSIX timer", timer.id as u64);
            let setting = asks.words(what, libc::SYS_timer_gettime, &[id, 0], (1, 4));
            if timer.notify & libc::SIGEV_THREAD_ID != 0 {
                timer.tid = proc::inner_pid(timer.tid)?;
            }
            posix.push((timer, setting));
        }
        Ok(move |answers: &Answers| {
            let mut timers = Self::default();
            for (timer, ticket) in timers.interval.iter_mut().zip(interval) {
                *timer = answers.words(ticket)?;
            }
            for (timer, ticket) in posix {
                timers.posix.push(PosixTimer { setting: answers.words(ticket)?, ..timer });
            }
            Ok(timers)
        })
    }

    /// Makes the POSIX timers, not armed yet.
    pub(crate) fn create(&self, hand: &Hand<'_>) -> Result<()> {
        if self.posix.is_empty() {
            return Ok(());
        }
        let exact = hand.remote.call(libc::SYS_prctl, &[RESTORE_IDS, 1, 0, 0, 0])? == 0;
        for timer in &self.posix {
            timer.create(hand, exact)?;
        }
        hand.remote.call(libc::SYS_prctl, &[RESTORE_IDS, 0, 0, 0, 0]).map(drop)
    }

    /// Sets all timers going, for what is left of their time.
    pub(crate) fn arm(&self, hand: &Hand<'_>) -> Result<()> {
        for (which, timer) in self.interval.iter().enumerate() {
            let [seconds, micros, left, left_micros] = *timer;
            if *timer != [0; 4] {
                // An interval without time left: it has fired, and its signal is still queued.
                let fired = (left, left_micros) == (0, 0);
                let next = if fired { [seconds, micros] } else { [left, left_micros] };
                let at = hand.put(&bytes_of(&[seconds, micros, next[0], next[1]]))?;
                let arguments = [which as u64, at, 0];
                hand.remote.try_call("set an interval timer", libc::SYS_setitimer, &arguments)?;
            }
        }
        for timer in self.posix.iter().filter(|timer| timer.setting[2..] != [0; 2]) {
            let at = hand.put(&bytes_of(&timer.setting))?;
            let arguments = [timer.id as u64, 0, at, 0];
            hand.remote.try_call("set a POSIX timer", libc::SYS_timer_settime, &arguments)?;
        }
        Ok(())
    }
}

impl PosixTimer {
    fn create(&self, hand: &Hand<'_>, exact: bool) -> Result<()> {
        // struct sigevent: value, signal | notify << 32, tid; behind it the number.
        let event = [
            self.value,
            u64::from(self.signal as u32) | u64::from(self.notify as u32) << 32,
            u64::from(self.tid as u32),
        ];
        let at = hand.put(&bytes_of(&event))?;
        let number = at + 64;
        for _ in 0..SEARCH {
            hand.memory.write_all(number, &self.id.to_le_bytes())?;
            let arguments = [self.clock as u64, at, number];
            hand.remote.try_call("make a POSIX timer", libc::SYS_timer_create, &arguments)?;
            let [made] = hand.memory.words(number)?;
            if made as i32 == self.id {
                return Ok(());
            }
            let made = u64::from(made as u32);
            hand.remote.try_call("drop a POSIX timer", libc::SYS_timer_delete, &[made])?;
            if exact || made as i32 > self.id {
                break;
            }
        }
        let what = format!("cannot make a POSIX timer with the number {}", self.id);
        Err(Error::new(ErrorKind::Unsupported, what))
    }
}

/// Parses `/proc/PID/timers` (proc_pid_timers(5)).
fn listed(pid: i32, text: &str) -> Result<Vec<PosixTimer>> {
    let mut found: Vec<PosixTimer> = Vec::new();
    for line in text.lines() {
        let parsed = line.split_once(": ").and_then(|(name, value)| match name {
            "ID" => {
                found.push(PosixTimer {
                    id: value.trim().parse().ok()?,
                    clock: 0,
                    notify: 0,
                    signal: 0,
                    value: 0,
                    tid: 0,
                    setting: [0; 4],
                });
                Some(())
            }
            "signal" => {
                let (signal, value) = value.split_once('/')?;
                let timer = found.last_mut()?;
                timer.signal = signal.parse().ok()?;
                let value = value.trim_start_matches("0x");
                timer.value = u64::from_str_radix(value, 16).unwrap_or_default();
                Some(())
            }
            "notify" => {
                let (how, whom) = value.split_once('/')?;
                let timer = found.last_mut()?;
                timer.notify = match how {
                    "none" => libc::SIGEV_NONE,
                    "thread" => libc::SIGEV_THREAD,
                    _ => libc::SIGEV_SIGNAL,
                };
                if let Some(tid) = whom.strip_prefix("tid.") {
                    timer.notify |= libc::SIGEV_THREAD_ID;
                    timer.tid = tid.parse().ok()?;
                }
                Some(())
            }
            "ClockID" => {
                found.last_mut()?.clock = value.trim().parse().ok()?;
                Some(())
            }
            _ => Some(()),
        });
        if parsed.is_none() {
            let what = format!("cannot understand /proc/{pid}/timers: {line:?}");
            return Err(Error::new(ErrorKind::Os, what));
        }
    }
    found.sort_by_key(|timer| timer.id);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_list_is_understood() {
        let text = "ID: 1\nsignal: 60/00007fff86e452a8\nnotify: signal/tid.2634\nClockID: 1\n\
                    ID: 0\nsignal: 10/0000000000000000\nnotify: signal/pid.2634\nClockID: 0\n";
        let timers = listed(1, text).unwrap();
        assert_eq!((timers[0].id, timers[0].notify), (0, libc::SIGEV_SIGNAL));
        assert_eq!((timers[1].id, timers[1].notify), (1, libc::SIGEV_THREAD_ID));
        assert_eq!((timers[1].value, timers[1].tid), (0x7fff_86e4_52a8, 2634));
    }
}
