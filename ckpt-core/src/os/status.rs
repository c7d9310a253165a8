//! `/proc/PID/status`, read once and asked for many things (proc_pid_status(5)).
//!
//! The kernel writes the whole of it for every reader, which takes longer than all else that procfs
//! tells of a small process; so who needs several of its fields keeps it.

use std::str::FromStr;

use super::proc;
use crate::error::{Error, ErrorKind, Result};

/// What the file said of a process or task.
#[derive(Debug)]
pub(crate) struct Status {
    pid: i32,
    text: Vec<u8>,
}

impl Status {
    /// Reads that of a process, or of any task.
    pub(crate) fn of(pid: i32) -> Result<Self> {
        Ok(Self { pid, text: proc::read(pid, "status")? })
    }

    /// A field's value. The command's name, which may hold anything but a line's end, is none.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let lines = self.text.split(|&byte| byte == b'\n');
        let mut values =
            lines.filter_map(|line| line.strip_prefix(name.as_bytes())?.strip_prefix(b":"));
        std::str::from_utf8(values.next()?).ok().map(str::trim)
    }

    fn needed(&self, name: &str) -> Result<&str> {
        self.field(name).ok_or_else(|| self.unclear(name))
    }

    fn unclear(&self, name: &str) -> Error {
        let what = format!("cannot understand {name} in /proc/{}/status", self.pid);
        Error::new(ErrorKind::Os, what)
    }

    /// A field that is one decimal number; `None` where this kernel has none.
    pub(crate) fn number<T: FromStr>(&self, name: &str) -> Option<T> {
        self.field(name)?.parse().ok()
    }

    /// A field that is a bit set.
    pub(crate) fn bits(&self, name: &str) -> Result<u64> {
        u64::from_str_radix(self.needed(name)?, 16).map_err(|_| self.unclear(name))
    }

    /// The numbers of a field that lists them.
    pub(crate) fn numbers<T: FromStr>(&self, name: &str) -> Result<Vec<T>> {
        let words = self.needed(name)?.split_ascii_whitespace();
        words.map(|word| word.parse().map_err(|_| self.unclear(name))).collect()
    }

    /// The four ids of `Uid` or `Gid`: real, effective, saved, file system.
    pub(crate) fn ids(&self, name: &str) -> Result<[u32; 4]> {
        self.numbers(name)?.try_into().map_err(|_| self.unclear(name))
    }

    /// A field in kilobytes, as bytes; 0 for a process without memory.
    pub(crate) fn bytes(&self, name: &str) -> u64 {
        let kilobytes =
            self.field(name).and_then(|value| value.split_ascii_whitespace().next()?.parse().ok());
        kilobytes.and_then(|kilobytes: u64| kilobytes.checked_mul(1024)).unwrap_or_default()
    }

    /// Signals that have a handler, and signals that are ignored.
    pub(crate) fn dispositions(&self) -> Result<(u64, u64)> {
        Ok((self.bits("SigCgt")?, self.bits("SigIgn")?))
    }

    /// The file mode creation mask; Linux 4.7 and later tell it.
    pub(crate) fn umask(&self) -> Option<u32> {
        u32::from_str_radix(self.field("Umask")?, 8).ok()
    }

    /// The parent, as seen from here.
    pub(crate) fn parent(&self) -> Result<i32> {
        self.number("PPid").ok_or_else(|| self.unclear("PPid"))
    }

    /// About how many bytes of private memory the process has.
    pub(crate) fn private_bytes(&self) -> u64 {
        self.bytes("RssAnon") + self.bytes("VmSwap")
    }

    /// A field that lists one number for each PID namespace (`NSpid`, `NSpgid`, `NSsid`): that of the
    /// innermost.
    pub(crate) fn innermost(&self, field: &str) -> Result<i32> {
        let numbers = self.field(field).unwrap_or_default();
        let last = numbers.split_ascii_whitespace().next_back().and_then(|word| word.parse().ok());
        last.ok_or_else(|| Error::new(ErrorKind::Gone, format!("process {} has ended", self.pid)))
    }

    /// Its number in the innermost PID namespace that it is in.
    pub(crate) fn inner_pid(&self) -> Result<i32> {
        self.innermost("NSpid")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_whatever_the_name_is() {
        let text = b"Name:\t\xffUmask: 1\nUmask:\t0027\nPPid:\t17\nNSpid:\t900\t12\n\
                     Groups:\t4 20 \nVmSwap:\t      12 kB\nSigCgt:\t0000000180000002\nSigIgn:\t00\n";
        let status = Status { pid: 900, text: text.to_vec() };
        assert_eq!((status.umask(), status.parent().unwrap()), (Some(0o27), 17));
        assert_eq!(status.inner_pid().unwrap(), 12);
        assert_eq!(status.numbers::<u32>("Groups").unwrap(), [4, 20]);
        assert_eq!(status.private_bytes(), 12 << 10);
        assert_eq!(status.dispositions().unwrap(), (0x1_8000_0002, 0));
        assert_eq!(status.number::<u32>("Seccomp_filters"), None);
    }

    #[test]
    fn our_own_is_understood() {
        let status = Status::of(std::process::id() as i32).unwrap();
        assert_eq!(status.inner_pid().unwrap(), std::process::id() as i32);
        assert!(status.bits("CapEff").is_ok() && status.numbers::<u32>("Uid").unwrap().len() == 4);
    }
}
