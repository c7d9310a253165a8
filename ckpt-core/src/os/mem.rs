//! The memory of another process through `/proc/PID/mem` (proc_pid_mem(5)): a tracer's reads and
//! writes there pass over the protection of pages.
//!
//! Many bytes are written by process_vm_writev(2) as far as that gets: it takes hold of many pages at once,
//! which is nearly twice as quick, but heeds the protection, and a filter of system calls may forbid it.
//! None are read by its counterpart: the kernel gives a process pages of its own for that where it shares
//! them with a fork (`FAULT_FLAG_UNSHARE`), which takes time and the job's memory.

use std::fs::{File, OpenOptions};
use std::io::IoSlice;
use std::os::unix::fs::FileExt;

use nix::sys::uio::{RemoteIoVec, process_vm_writev};
use nix::unistd::Pid;

use crate::error::{Error, Result};

/// From so many bytes on there are many pages.
const MUCH: usize = 32 << 10;

/// An open `/proc/PID/mem`.
#[derive(Debug)]
pub(crate) struct Memory {
    pid: i32,
    file: File,
}

impl Memory {
    /// Opens the memory of process `pid`, which we trace: its number is nobody else's, and it executes
    /// nothing while this is in use. The handle stays with the address space that the process has now: open
    /// it again after an execve(2).
    pub(crate) fn open(pid: i32) -> Result<Self> {
        match OpenOptions::new().read(true).write(true).open(format!("/proc/{pid}/mem")) {
            Ok(file) => Ok(Self { pid, file }),
            Err(e) => Err(Error::os(format!("cannot open /proc/{pid}/mem"), e)),
        }
    }

    pub(crate) fn read_exact(&self, address: u64, into: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(into, address).map_err(|e| {
            let (pid, length) = (self.pid, into.len());
            Error::os(format!("cannot read {length} bytes at {address:#x} of process {pid}"), e)
        })
    }

    pub(crate) fn write_all(&self, address: u64, bytes: &[u8]) -> Result<()> {
        let mut done = 0;
        if bytes.len() >= MUCH {
            let there = RemoteIoVec { base: address as usize, len: bytes.len() };
            let here = &[IoSlice::new(bytes)];
            let written = process_vm_writev(Pid::from_raw(self.pid), here, &[there]);
            done = written.unwrap_or_default();
        }
        self.file.write_all_at(&bytes[done..], address + done as u64).map_err(|e| {
            let (pid, length) = (self.pid, bytes.len());
            Error::os(format!("cannot write {length} bytes at {address:#x} of process {pid}"), e)
        })
    }

    /// `N` little-endian words.
    pub(crate) fn words<const N: usize>(&self, address: u64) -> Result<[u64; N]> {
        let mut bytes = vec![0u8; N * 8];
        self.read_exact(address, &mut bytes)?;
        let mut words = [0u64; N];
        for (word, eight) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = eight.iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte));
        }
        Ok(words)
    }
}
