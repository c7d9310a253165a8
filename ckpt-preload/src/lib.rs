//! What a program of a job may want from within: to be traced, and to speak to its supervisor.
//!
//! Loaded by `LD_PRELOAD`, this object does two things:
//!
//! - Its constructor asks the kernel to let the launcher trace us, by `prctl(PR_SET_PTRACER)`,
//!   where Yama (`kernel.yama.ptrace_scope` 1) would not. The launcher is an ancestor of its job and
//!   may trace it anyway; but not a process that left the tree.
//! - It exports the functions of DMTCP's `dmtcp.h` ([`api`]), so that programs that were written
//!   for DMTCP run unchanged. Until one of them is called nothing happens.
//!
//! It is loaded into programs of any C library, before all others and without asking them: so it
//! needs no library at all, makes system calls itself, keeps no thread-local state, leaves `errno`
//! alone and starts no process (a child would show up in the program's `wait`). Where anything is
//! amiss it does nothing.

#![no_std]
// Otherwise the compiler makes calls to memcpy and the like out of loops.
#![no_builtins]

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod api;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod ask;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod constructor;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod environment;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod hold;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod json;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod lock;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod place;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod socket;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod sys;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod text;

/// Nothing here panics; the language wants a handler all the same.
#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
