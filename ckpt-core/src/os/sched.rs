//! Scheduling and resource limits of other tasks and processes (sched(7), prlimit(2)).

use std::io;

use libc::pid_t;

/// Number of `RLIMIT_*` resources.
pub(crate) const RESOURCES: u32 = 16;
const IOPRIO_WHO_PROCESS: i32 = 1;
/// `IOPRIO_CLASS_IDLE` of linux/ioprio.h, in its place.
const IOPRIO_IDLE: i32 = 3 << 13;

/// Lets the calling thread run only when nobody else needs the core or the disk (nice(2),
/// ioprio_set(2)); best effort.
pub(crate) fn yield_to_others() {
    be_nice(19);
    // SAFETY: takes numbers, and changes this thread only.
    unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_IDLE) };
}

/// Gives the calling thread this nice value, if that is a higher one than it has; best effort.
pub(crate) fn be_nice(value: i32) {
    if nice(0).is_ok_and(|now| now < value) {
        // SAFETY: takes numbers; "process" 0 is the calling thread.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, value) };
    }
}

/// How a task is scheduled.
#[derive(Debug, Clone, Default, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Scheduling {
    /// `SCHED_*` policy, with `SCHED_RESET_ON_FORK`.
    pub policy: i32,
    /// Real-time priority.
    pub priority: i32,
    /// Nice value.
    pub nice: i32,
    /// `ioprio_get(2)` value.
    pub io_priority: i32,
    /// CPUs it may run on, as a bit set.
    pub affinity: Vec<u8>,
}

fn checked(result: i64) -> io::Result<i64> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

impl Scheduling {
    /// Reads that of task `tid`.
    pub(crate) fn of(tid: pid_t) -> io::Result<Self> {
        let mut parameter = libc::sched_param { sched_priority: 0 };
        let mut affinity = vec![0u8; 1024];
        // SAFETY: numbers, and two live buffers that the kernel writes within their given sizes
        // (`sched_param` has one size only).
        let (policy, got, length, io_priority) = unsafe {
            (
                libc::sched_getscheduler(tid),
                libc::sched_getparam(tid, &raw mut parameter),
                libc::syscall(
                    libc::SYS_sched_getaffinity,
                    tid,
                    affinity.len(),
                    affinity.as_mut_ptr(),
                ),
                libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, tid),
            )
        };
        checked(i64::from(policy))?;
        checked(i64::from(got))?;
        affinity.truncate(checked(length)? as usize);
        while affinity.last() == Some(&0) {
            affinity.pop();
        }
        Ok(Self {
            policy,
            priority: parameter.sched_priority,
            nice: nice(tid)?,
            io_priority: checked(io_priority)? as i32,
            affinity,
        })
    }

    /// Gives it to task `tid`, only where it differs from what that has now.
    pub(crate) fn apply(&self, tid: pid_t) -> io::Result<()> {
        let now = Self::of(tid)?;
        if (now.policy, now.priority) != (self.policy, self.priority) {
            let parameter = libc::sched_param { sched_priority: self.priority };
            // SAFETY: numbers and one live structure that is only read.
            checked(i64::from(unsafe {
                libc::sched_setscheduler(tid, self.policy, &raw const parameter)
            }))?;
        }
        if now.nice != self.nice {
            // SAFETY: numbers only.
            let set = unsafe { libc::setpriority(libc::PRIO_PROCESS, tid as u32, self.nice) };
            checked(i64::from(set))?;
        }
        if now.io_priority != self.io_priority {
            // SAFETY: numbers only.
            checked(unsafe {
                libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, tid, self.io_priority)
            })?;
        }
        Ok(())
    }

    /// Binds task `tid` to the CPUs that it was bound to.
    pub(crate) fn bind(&self, tid: pid_t) -> io::Result<()> {
        let (length, at) = (self.affinity.len(), self.affinity.as_ptr());
        // SAFETY: the mask is live and of the given length, and only read.
        checked(unsafe { libc::syscall(libc::SYS_sched_setaffinity, tid, length, at) }).map(drop)
    }
}

/// Does some work while the calling thread is bound to one CPU.
pub(crate) fn on_cpu<T>(cpu: usize, work: impl FnOnce() -> T) -> io::Result<T> {
    let before = Scheduling::of(0)?;
    let mut affinity = vec![0u8; (cpu / 64 + 1) * 8];
    affinity[cpu / 8] = 1 << (cpu % 8);
    Scheduling { affinity, ..before.clone() }.bind(0)?;
    let done = work();
    before.bind(0)?;
    Ok(done)
}

fn nice(tid: pid_t) -> io::Result<i32> {
    // SAFETY: numbers only. The raw call returns 20 - nice, so that -1 is always an error.
    let raw = unsafe { libc::syscall(libc::SYS_getpriority, libc::PRIO_PROCESS, tid) };
    Ok(20 - checked(raw)? as i32)
}

/// Soft and hard limit of each resource, in the order of their numbers.
pub(crate) fn limits(pid: pid_t) -> io::Result<Vec<(u64, u64)>> {
    (0..RESOURCES)
        .map(|resource| {
            let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: no new limit, and a live structure for the old one.
            let got =
                unsafe { libc::prlimit64(pid, resource as _, std::ptr::null(), &raw mut limit) };
            checked(i64::from(got))?;
            Ok((limit.rlim_cur, limit.rlim_max))
        })
        .collect()
}

/// Sets one limit of a process.
pub(crate) fn set_limit(pid: pid_t, resource: u32, (soft, hard): (u64, u64)) -> io::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: a live structure with the new limit, and the old one is not asked for.
    let set =
        unsafe { libc::prlimit64(pid, resource as _, &raw const limit, std::ptr::null_mut()) };
    checked(i64::from(set)).map(drop)
}
