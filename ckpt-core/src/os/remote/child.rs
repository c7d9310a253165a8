//! A child that a task on loan makes for us by clone(2). It never runs by itself: it stands where it began, and
//! ends with us.

use std::time::{Duration, Instant};

use super::{Remote, Zero};
use crate::error::{Error, ErrorKind, Result};
use crate::os::ptrace;
use crate::os::tracee::{Halt, Running, Step, Stopped};

/// How long a new child may take to its first stop.
pub(super) const CHILD: Duration = Duration::from_secs(10);

impl Remote<'_> {
    /// Has the task make a child by clone(2) with these flags, which stands before its first
    /// instruction; gives its number as the task sees it, too. Should we die on the way or later, the child
    /// ends and the task goes on. With `options` the task itself is traced meanwhile.
    pub(crate) fn clone_child(&self, flags: u64, options: i32) -> Result<(u64, Stopped)> {
        self.begin_child(flags, options)?;
        self.make_child()?;
        self.finish_child(options)
    }

    /// Brings the task to where it makes a child by [`Self::make_child`]: so can several, all at once.
    pub(crate) fn begin_child(&self, flags: u64, options: i32) -> Result<()> {
        self.stub_for(Zero::Child)?;
        self.trace_with(libc::PTRACE_O_TRACECLONE | options)?;
        self.task.set_registers(&self.loaded(libc::SYS_clone, &[flags, 0, 0, 0, 0]))?;
        self.to_syscall_stop()
    }

    /// Lets it make the child; [`Self::finish_child`] must follow.
    pub(crate) fn make_child(&self) -> Result<()> {
        self.task.go(Step::Syscall, 0)
    }

    /// Waits for the child.
    pub(crate) fn finish_child(&self, options: i32) -> Result<(u64, Stopped)> {
        let returned = self.syscall_stop().and_then(|()| self.task.registers());
        let made = returned.and_then(|it| self.checked("make a copy", it.rax as i64));
        let child = made.and_then(|number| Ok((number, self.new_child()?)));
        // Not before the child ends with us: left alone it would take this for its own result, and go on as
        // the task does.
        let done = self.trace_with(options).and_then(|()| self.stub_for(Zero::Result));
        match (child, done) {
            (Ok((_, child)), Err(error)) => {
                child.kill();
                Err(error)
            }
            (child, _) => child,
        }
    }

    /// The child that the task has just made, once it stands. It ends with us.
    fn new_child(&self) -> Result<Stopped> {
        let pid = self.event_message() as i32;
        let stopped = match Running::attached(pid).halt(Instant::now() + CHILD)? {
            Halt::Stopped(stopped) => stopped.hold(),
            late => {
                if let Halt::Late(child) = late {
                    child.kill();
                }
                let what = format!("a new child of task {} did not come to a stop", self.tid());
                return Err(Error::new(ErrorKind::Internal, what));
            }
        };
        let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
        match ptrace::set_options(pid, options) {
            Ok(()) => Ok(stopped),
            Err(error) => {
                let error = stopped.failed("have a child end with us", error);
                stopped.kill();
                Err(error)
            }
        }
    }
}
