//! A page in the process of a task that makes system calls for us: what these read and write there.

use super::PAGE;
use super::remote::Remote;
use crate::error::Result;

/// A page of scratch memory in the process of a borrowed task, unmapped by [`Scratch::free`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scratch {
    pub(crate) address: u64,
}

impl Scratch {
    pub(crate) fn map(remote: &Remote<'_>) -> Result<Self> {
        let protection = (libc::PROT_READ | libc::PROT_WRITE) as u64;
        let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
        let arguments = [0, PAGE, protection, flags, u64::MAX, 0];
        let address = remote.try_call("map a scratch page", libc::SYS_mmap, &arguments)?;
        Ok(Self { address })
    }

    pub(crate) fn free(self, remote: &Remote<'_>) -> Result<()> {
        remote.try_call("unmap the scratch page", libc::SYS_munmap, &[self.address, PAGE]).map(drop)
    }
}
