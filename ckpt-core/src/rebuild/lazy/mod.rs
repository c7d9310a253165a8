//! A restart that does not wait for the memory: the job runs as soon as it has all but the pages of its
//! long anonymous areas, and those come when they are touched, or behind, whichever is first.
//!
//! ```text
//! choose ─▶ (all else is filled) ─▶ register ─▶ the job runs ─┬─ a page is touched ─▶ its block ┐
//!                                                             ├─ a system call ─▶ what it needs ├─▶ all is there,
//!                                                             └─ workers ─▶ block after block ──┘   let go
//! ```
//!
//! A plain user's userfaultfd serves the accesses of a program's own code, and not those of the kernel:
//! a system call that meets a missing page fails, and one that copies, moves or drops memory (fork(2),
//! mremap(2), madvise(2)) would do so with pages that are not there yet. So every task is traced
//! until all is there, and stops before each system call. If what the call touches is known ([`calls`]), that is
//! filled first; otherwise the task is held until everything is. It is held as well before a signal's
//! handler runs, as the kernel writes to the stack then.
//!
//! Whatever goes wrong, no task ever sees a page that is not its own: pages of registered areas
//! come from here or not at all. With the restorer's death the kernel ends all of the job
//! (`PTRACE_O_EXITKILL`); it closes files before that, so the stand-in keeps the userfaultfds
//! ([`super::faults::Keeper`]).
//!
//! Not covered: what only a program can do that has no need to. Old static programs that call time(2) through
//! the vsyscall page with a pointer to missing memory, rseq(2) descriptors in such memory, robust mutexes
//! there whose owner is killed meanwhile, `/proc/self/mem` opened by a name that does not say so. All but the
//! third end in an error or a signal, not in wrong bytes.

mod behind;
mod calls;
mod choose;
mod fill;

pub use behind::Behind;
pub(super) use choose::Lazy;
pub(super) use fill::Filling;
