//! Lets the launcher trace the job where Yama (`kernel.yama.ptrace_scope` 1) would not.
//!
//! The launcher is an ancestor of its job and may trace it anyway; but not a process that left the
//! tree. Loaded by `LD_PRELOAD`, this object asks the kernel, in its constructor, to let the
//! process named by `$CKPT_LAUNCHER_PID` trace us: one `prctl(PR_SET_PTRACER)`. It reads the
//! environment from `/proc/self/environ`, since constructors are given it by glibc only. It needs
//! no library, and where anything is amiss it does nothing.

#![no_std]

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod constructor;

/// Nothing here panics; the language wants a handler all the same.
#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
