//! Linux's facts and our hands: the only place in this crate that is `unsafe`.
//!
//! Everything above speaks to the kernel through these rooms: tracees and remote system calls
//! (`ptrace`, `tracee`, `remote`, `scratch`), what procfs tells (`proc`, `maps`, `pagemap`, `mem`), file
//! descriptors of other processes (`fds`), page faults (`uffd`, `changes`, `thp`, `buffer`), the vDSO (`vdso`), the way
//! to the disk (`writeback`) and new processes (`spawn`, `detached`, `numbers`, `board`).

pub(crate) mod batch;
pub(crate) mod board;
pub(crate) mod buffer;
pub(crate) mod caught;
pub(crate) mod changes;
pub(crate) mod clock;
pub(crate) mod cpu;
pub(crate) mod detached;
pub(crate) mod elf;
pub(crate) mod fds;
pub(crate) mod headroom;
pub(crate) mod maps;
pub(crate) mod mem;
pub(crate) mod numbers;
pub(crate) mod pagemap;
pub(crate) mod proc;
pub(crate) mod ptrace;
pub(crate) mod remote;
pub(crate) mod sched;
pub(crate) mod scratch;
pub(crate) mod spawn;
pub(crate) mod status;
mod stub;
pub(crate) mod thp;
pub(crate) mod tracee;
pub(crate) mod uffd;
pub(crate) mod vdso;
pub(crate) mod writeback;

/// Bytes of a page on x86_64.
pub(crate) const PAGE: u64 = 4096;

/// First address above user space (47 bits; no 5-level mappings are made here).
pub(crate) const TASK_SIZE: u64 = 0x7fff_ffff_f000;
