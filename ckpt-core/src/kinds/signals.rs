//! Signal dispositions, and the signals queued for a whole process (signal(7)).

use super::asks::{Answers, Asks};
use super::task::signal_of;
use super::{Hand, bytes_of};
use crate::error::Result;

/// Bytes of the kernel's `sigset_t`.
const SET_SIZE: u64 = 8;
const SIG_IGN: u64 = 1;

/// What happens on one signal: the kernel's `struct sigaction`.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Disposition {
    /// Signal number.
    pub signal: i32,
    /// Handler address, or 0 (default) or 1 (ignore).
    pub handler: u64,
    /// `SA_*` flags.
    pub flags: u64,
    /// Address of the code that returns from a handler.
    pub restorer: u64,
    /// Signals blocked meanwhile.
    pub mask: u64,
}

/// What the delivery of a signal comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It is ignored.
    Nothing,
    /// Its handler runs.
    Handler,
    /// The process stops.
    Stop,
    /// The process ends.
    End,
    /// The process ends, and its memory may be dumped.
    Core,
}

/// That of a signal; `caught` and `ignored` are `SigCgt` and `SigIgn` of `/proc/PID/status`.
pub(crate) fn effect(signal: i32, caught: u64, ignored: u64) -> Effect {
    let is_in = |set: u64| (1..=64).contains(&signal) && set >> (signal - 1) & 1 == 1;
    match signal {
        _ if is_in(caught) => Effect::Handler,
        _ if is_in(ignored) => Effect::Nothing,
        libc::SIGCHLD | libc::SIGURG | libc::SIGWINCH | libc::SIGCONT => Effect::Nothing,
        libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU => Effect::Stop,
        libc::SIGQUIT
        | libc::SIGILL
        | libc::SIGABRT
        | libc::SIGFPE
        | libc::SIGSEGV
        | libc::SIGBUS
        | libc::SIGSYS
        | libc::SIGTRAP
        | libc::SIGXCPU
        | libc::SIGXFSZ => Effect::Core,
        _ => Effect::End,
    }
}

/// Asks for the dispositions that differ from the default. `caught` and `ignored` are `SigCgt` and
/// `SigIgn` of `/proc/PID/status`.
pub(crate) fn ask(
    asks: &mut Asks,
    (caught, ignored): (u64, u64),
) -> impl FnOnce(&Answers) -> Result<Vec<Disposition>> + use<> {
    // A default SIGCHLD may still carry flags (SA_NOCLDWAIT).
    let asked = (1..=64)
        .filter(|&signal| (caught | ignored) >> (signal - 1) & 1 == 1 || signal == libc::SIGCHLD);
    let asked = asked.map(|signal| {
        let what = "read a signal disposition";
        let arguments = [signal as u64, 0, 0, SET_SIZE];
        (signal, asks.words(what, libc::SYS_rt_sigaction, &arguments, (2, 4)))
    });
    let asked: Vec<_> = asked.collect();
    move |answers| {
        let mut found = Vec::new();
        for (signal, ticket) in asked {
            let [handler, flags, restorer, mask] = answers.words(ticket)?;
            if handler != 0 || flags != 0 {
                found.push(Disposition { signal, handler, flags, restorer, mask });
            }
        }
        Ok(found)
    }
}

/// Sets the dispositions of a process whose signals are all at their default; what rebuilding has
/// left pending (its children's `SIGCHLD`) is dropped.
pub(crate) fn rebuild(hand: &Hand<'_>, dispositions: &[Disposition]) -> Result<()> {
    let mut asks = Asks::default();
    let mut set = |signal: i32, words: [u64; 4]| {
        let (what, arguments) = ("set a signal disposition", [signal as u64, 0, 0, SET_SIZE]);
        asks.given(what, libc::SYS_rt_sigaction, &arguments, (1, bytes_of(&words)));
    };
    // Ignoring a signal empties its queue.
    set(libc::SIGCHLD, [SIG_IGN, 0, 0, 0]);
    set(libc::SIGCHLD, [0; 4]);
    for d in dispositions {
        set(d.signal, [d.handler, d.flags, d.restorer, d.mask]);
    }
    hand.do_all(asks)
}

/// Queues again the signals that waited for any task of the process.
pub(crate) fn requeue(hand: &Hand<'_>, process: i32, pending: &[Vec<u8>]) -> Result<()> {
    for info in pending {
        let at = hand.put(info)?;
        let arguments = [process as u64, signal_of(info), at];
        hand.remote.try_call("queue a pending signal", libc::SYS_rt_sigqueueinfo, &arguments)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_signals_do() {
        let bit = |signal: i32| 1 << (signal - 1);
        assert_eq!(effect(libc::SIGTERM, 0, 0), Effect::End);
        assert_eq!(effect(libc::SIGTERM, bit(libc::SIGTERM), 0), Effect::Handler);
        assert_eq!(effect(libc::SIGTERM, 0, bit(libc::SIGTERM)), Effect::Nothing);
        assert_eq!(effect(libc::SIGCHLD, 0, 0), Effect::Nothing);
        assert_eq!(effect(libc::SIGTSTP, 0, 0), Effect::Stop);
        assert_eq!(effect(libc::SIGSEGV, 0, 0), Effect::Core);
        assert_eq!(effect(64, bit(64), 0), Effect::Handler);
    }
}
