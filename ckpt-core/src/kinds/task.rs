//! A task (thread): registers, signal mask and everything else that the kernel keeps for it alone.

use super::asks::{Answers, Asks};
use super::call::Interrupted;
use super::{Hand, bytes_of};
use crate::error::{Error, Result};
use crate::os::mem::Memory;
use crate::os::ptrace;
use crate::os::remote::{Remote, Site};
use crate::os::sched::Scheduling;
use crate::os::tracee::Stopped;

/// A task, as plain data.
#[derive(Debug, Clone, bincode::Encode, bincode::Decode)]
pub struct Task {
    /// Its number, in the PID namespace that it saw.
    pub tid: i32,
    /// Command name (`PR_SET_NAME`), bytes.
    pub name: Vec<u8>,
    /// `user_regs_struct` of sys/user.h, word by word.
    pub registers: [u64; 27],
    /// The XSAVE area (`NT_X86_XSTATE`): floating point and vector registers.
    pub xstate: Vec<u8>,
    /// Blocked signals.
    pub mask: u64,
    /// Signals queued for this task alone: `siginfo_t`, 128 bytes each.
    pub pending: Vec<Vec<u8>>,
    /// Alternate signal stack: address, flags, size (sigaltstack(2)).
    pub altstack: [u64; 3],
    /// Head and length of the robust futex list (get_robust_list(2)).
    pub robust_list: (u64, u64),
    /// Address that is cleared and woken when the task ends (set_tid_address(2)).
    pub clear_tid: u64,
    /// rseq(2): address, size, signature.
    pub rseq: Option<(u64, u32, u32)>,
    /// The `rseq_cs` pointer, if the task stood in a critical section.
    pub rseq_section: u64,
    /// Policy, priority, nice value, CPUs.
    pub scheduling: Scheduling,
    /// Signal at the parent's death (`PR_SET_PDEATHSIG`); 0 for none.
    pub death_signal: i32,
    /// Timer slack in nanoseconds (`PR_SET_TIMERSLACK`).
    pub timer_slack: u64,
    /// The call with a time limit in which it stands, if it does.
    pub interrupted: Option<Interrupted>,
}

impl Task {
    /// Reads what can be read of a stopped task from outside, before anything disturbs it.
    pub(crate) fn capture(
        stopped: &Stopped,
        tid: i32,
        name: Vec<u8>,
        interrupted: Option<Interrupted>,
    ) -> Result<Self> {
        let outer = stopped.tid();
        let failed = |what: &'static str| move |e| stopped.failed(what, e);
        let pending = ptrace::pending(outer, false).map_err(failed("read the pending signals"))?;
        let mask = ptrace::signal_mask(outer).map_err(failed("read the signal mask"))?;
        let rseq = ptrace::rseq(outer).ok().filter(|rseq| rseq.pointer != 0);
        let registers = stopped.registers()?;
        Ok(Self {
            tid,
            name,
            interrupted,
            registers: ptrace::to_words(&registers),
            xstate: ptrace::xstate(outer).map_err(failed("read the vector registers"))?,
            mask,
            pending,
            altstack: [0; 3],
            robust_list: ptrace::robust_list(outer).map_err(failed("read the robust list"))?,
            clear_tid: 0,
            rseq: rseq.map(|rseq| (rseq.pointer, rseq.size, rseq.signature)),
            rseq_section: 0,
            scheduling: Scheduling::of(outer).map_err(failed("read the scheduling"))?,
            death_signal: 0,
            timer_slack: 0,
        })
    }

    /// Notes what only the task itself can tell, and gives what adds it.
    pub(crate) fn ask(asks: &mut Asks) -> impl FnOnce(&mut Self, &Answers) -> Result<()> + use<> {
        let stack = asks.words("read the signal stack", libc::SYS_sigaltstack, &[0, 0], (1, 3));
        let mut prctl = |what, option: i32, words| {
            let arguments = [option as u64, 0, 0, 0, 0];
            match words {
                0 => asks.value(what, libc::SYS_prctl, &arguments),
                words => asks.words(what, libc::SYS_prctl, &arguments, (1, words)),
            }
        };
        let address = prctl("read the tid address", libc::PR_GET_TID_ADDRESS, 1);
        let signal = prctl("read the parent-death signal", libc::PR_GET_PDEATHSIG, 1);
        let slack = prctl("read the timer slack", libc::PR_GET_TIMERSLACK, 0);
        move |task, answers| {
            task.altstack = answers.words(stack)?;
            task.altstack[1] &= 0xffff_ffff;
            [task.clear_tid] = answers.words(address)?;
            let [signal] = answers.words(signal)?;
            task.death_signal = signal as i32;
            task.timer_slack = answers.value(slack)?;
            Ok(())
        }
    }

    /// Borrows the new task `stopped`; when that is given back it goes on where this one stood.
    pub(crate) fn borrow<'a>(
        &self,
        stopped: &'a Stopped,
        memory: &'a Memory,
        site: Site,
    ) -> Result<Remote<'a>> {
        let section = self.rseq.filter(|_| self.rseq_section != 0);
        let section = section.map(|(address, ..)| (address + 8, self.rseq_section));
        let registers = ptrace::from_words(self.registers);
        Remote::become_(stopped, memory, site, registers, self.mask, section)
    }

    /// The same before its process has memory, in which a critical section would be noted.
    pub(crate) fn borrow_early<'a>(
        &self,
        stopped: &'a Stopped,
        memory: &'a Memory,
        site: Site,
    ) -> Result<Remote<'a>> {
        let registers = ptrace::from_words(self.registers);
        Remote::become_(stopped, memory, site, registers, self.mask, None)
    }

    /// Sets up everything of the task but its registers and what is pending.
    pub(crate) fn rebuild(&self, stopped: &Stopped, hand: &Hand<'_>) -> Result<()> {
        let mut asks = Asks::default();
        let name = [self.name.as_slice(), &[0]].concat();
        asks.given("set the name", libc::SYS_prctl, &[libc::PR_SET_NAME as u64, 0], (1, name));
        let mut call = |what: &'static str, number: i64, arguments: &[u64]| {
            asks.value(what, number, arguments);
        };
        call("set the tid address", libc::SYS_set_tid_address, &[self.clear_tid]);
        let (head, length) = self.robust_list;
        if head != 0 {
            call("set the robust list", libc::SYS_set_robust_list, &[head, length]);
        }
        // SS_ONSTACK tells where the task stands; it is not a wish.
        let [address, flags, size] = self.altstack;
        if let Some((address, size, signature)) = self.rseq {
            let arguments = [address, size.into(), 0, signature.into()];
            call("register rseq", libc::SYS_rseq, &arguments);
        }
        if self.death_signal != 0 {
            let arguments = [libc::PR_SET_PDEATHSIG as u64, self.death_signal as u64];
            call("set the parent-death signal", libc::SYS_prctl, &arguments);
        }
        let slack = [libc::PR_SET_TIMERSLACK as u64, self.timer_slack];
        call("set the timer slack", libc::SYS_prctl, &slack);
        let stack = bytes_of(&[address, flags & !1, size]);
        asks.given("set the signal stack", libc::SYS_sigaltstack, &[0, 0], (0, stack));
        hand.do_all(asks)?;
        self.scheduling
            .apply(stopped.tid())
            .map_err(|e| stopped.failed("set the scheduling", e))?;
        ptrace::set_xstate(stopped.tid(), &self.xstate).map_err(|e| {
            let error = stopped.failed("set the vector registers", e);
            error.help("the processor here may lack features of the one the image comes from")
        })
    }

    /// Queues the task's own pending signals again; it keeps them blocked until it goes on.
    pub(crate) fn requeue(&self, hand: &Hand<'_>, process: i32) -> Result<()> {
        for info in &self.pending {
            let at = hand.put(info)?;
            let arguments = [process as u64, self.tid as u64, signal_of(info), at];
            let what = "queue a pending signal";
            hand.remote.try_call(what, libc::SYS_rt_tgsigqueueinfo, &arguments)?;
        }
        Ok(())
    }
}

/// The signal number of a `siginfo_t`.
pub(super) fn signal_of(info: &[u8]) -> u64 {
    info.first().copied().unwrap_or_default().into()
}

impl Error {
    /// Adds the task's process to an error.
    pub(crate) fn whose(self, process: &crate::snapshot::Process) -> Self {
        self.of_process(process.pid, &String::from_utf8_lossy(&process.name))
    }
}
