//! The memory of another process through `/proc/PID/mem` (proc_pid_mem(5)): a tracer's reads and
//! writes there pass over the protection of pages.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

use crate::error::{Error, Result};

/// An open `/proc/PID/mem`.
#[derive(Debug)]
pub(crate) struct Memory {
    pid: i32,
    file: File,
}

impl Memory {
    /// Opens the memory of process `pid`. The handle stays with the address space that the
    /// process has now: open it again after an execve(2).
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
        self.file.write_all_at(bytes, address).map_err(|e| {
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
