//! One room for each kind of kernel object: its plain data, how it is captured, how it is rebuilt.
//!
//! The plain data is public (an image's reader may look at it); the two functions beside it work
//! on a stopped task through a `Hand`.

pub(crate) mod asks;
pub mod call;
pub mod contents;
pub mod credentials;
pub mod event;
pub mod file;
pub mod lock;
pub mod memory;
pub mod pipe;
pub mod process;
pub(crate) mod procfs;
pub mod signals;
pub mod stdio;
pub mod task;
pub mod timers;

use crate::error::Result;
use crate::os::mem::Memory;
use crate::os::remote::Remote;
use crate::os::scratch::Scratch;

/// A borrowed task with a page of scratch memory: what a kind needs to ask, or to build.
pub(crate) struct Hand<'a> {
    pub(crate) remote: &'a Remote<'a>,
    pub(crate) memory: &'a Memory,
    pub(crate) scratch: Scratch,
}

impl Hand<'_> {
    /// Makes a system call that fills `N` words of scratch memory; the scratch's address is the
    /// argument at position `out`.
    pub(crate) fn ask<const N: usize>(
        &self,
        what: &str,
        number: i64,
        arguments: &[u64],
        out: usize,
    ) -> Result<[u64; N]> {
        let mut arguments = arguments.to_vec();
        arguments[out] = self.scratch.address;
        self.memory.write_all(self.scratch.address, &vec![0; N * 8])?;
        self.remote.try_call(what, number, &arguments)?;
        self.memory.words(self.scratch.address)
    }

    /// Puts bytes (at most a page) into scratch memory and returns their address.
    pub(crate) fn put(&self, bytes: &[u8]) -> Result<u64> {
        self.memory.write_all(self.scratch.address, bytes)?;
        Ok(self.scratch.address)
    }

    /// A path or name as a C string in scratch memory.
    pub(crate) fn put_string(&self, string: &[u8]) -> Result<u64> {
        let mut bytes = string.to_vec();
        bytes.push(0);
        self.put(&bytes)
    }
}

/// Words as the bytes of an array of them.
pub(crate) fn bytes_of(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
