//! `/proc/PID/maps`, read as raw bytes: paths need not be UTF-8, and may hold anything.

use std::collections::HashMap;

use super::proc;
use crate::error::{Error, ErrorKind, Result};

/// What is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Anonymous memory (also `[heap]` and `[anon:…]`).
    Anonymous,
    /// The main task's stack, which grows downwards.
    Stack,
    /// A file, deleted or not, of any kind (regular, shared memory, device).
    File,
    /// The kernel's code for user space.
    Vdso,
    /// The vDSO's data, one or more mappings.
    Vvar,
    /// The fixed page above user space.
    Vsyscall,
    /// Something of the kernel's that is not known here.
    Special,
}

/// One line of `/proc/PID/maps`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Map {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// `PROT_*` bits.
    pub(crate) protection: u8,
    pub(crate) shared: bool,
    pub(crate) offset: u64,
    pub(crate) device: (u32, u32),
    pub(crate) inode: u64,
    /// As the kernel writes it, without ` (deleted)`.
    pub(crate) path: Vec<u8>,
    pub(crate) deleted: bool,
    pub(crate) kind: Kind,
}

/// All mappings of a process, by address.
pub(crate) fn read(pid: i32) -> Result<Vec<Map>> {
    parse(&proc::read(pid, "maps")?)
}

fn parse(text: &[u8]) -> Result<Vec<Map>> {
    text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).map(line).collect()
}

fn line(line: &[u8]) -> Result<Map> {
    parsed(line).ok_or_else(|| {
        let line = String::from_utf8_lossy(line);
        Error::new(ErrorKind::Internal, format!("cannot understand the maps line {line:?}"))
    })
}

fn parsed(line: &[u8]) -> Option<Map> {
    let mut words = line.splitn(6, |&byte| byte == b' ');
    let mut word = || std::str::from_utf8(words.next()?).ok();
    let (start, end) = word()?.split_once('-')?;
    let modes = word()?.as_bytes();
    let offset = u64::from_str_radix(word()?, 16).ok()?;
    let (major, minor) = word()?.split_once(':')?;
    let device = (u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?);
    let inode = word()?.parse().ok()?;
    let rest = words.next().unwrap_or_default();
    let path = rest.iter().position(|&byte| byte != b' ').map_or(&[][..], |at| &rest[at..]);
    let (path, deleted) = match path.strip_suffix(b" (deleted)") {
        Some(path) if inode != 0 => (path, true),
        _ => (path, false),
    };
    let protection = modes
        .iter()
        .take(3)
        .enumerate()
        .fold(0, |sum, (bit, &mode)| if mode == b'-' { sum } else { sum | 1 << bit });
    Some(Map {
        start: u64::from_str_radix(start, 16).ok()?,
        end: u64::from_str_radix(end, 16).ok()?,
        protection,
        shared: modes.get(3) == Some(&b's'),
        offset,
        device,
        inode,
        kind: kind(path, inode),
        path: unescaped(path),
        deleted,
    })
}

fn kind(path: &[u8], inode: u64) -> Kind {
    match path {
        _ if inode != 0 => Kind::File,
        b"" | b"[heap]" => Kind::Anonymous,
        b"[stack]" => Kind::Stack,
        b"[vdso]" => Kind::Vdso,
        b"[vvar]" | b"[vvar_vclock]" => Kind::Vvar,
        b"[vsyscall]" => Kind::Vsyscall,
        _ if path.starts_with(b"[anon:") || path.starts_with(b"[stack:") => Kind::Anonymous,
        _ => Kind::Special,
    }
}

/// The kernel writes only newlines of a path as `\012`.
fn unescaped(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&byte, tail)) = rest.split_first() {
        match rest.strip_prefix(b"\\012") {
            Some(after) => {
                out.push(b'\n');
                rest = after;
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    out
}

/// An area as smaps names it: start, end, protection, inode.
pub(crate) type AreaKey = (u64, u64, u8, u64);

/// The two-letter `VmFlags` of a process' areas.
pub(crate) type Flags = HashMap<AreaKey, Vec<[u8; 2]>>;

impl Map {
    /// By what this area is known in [`flags`].
    pub(crate) fn key(&self) -> AreaKey {
        (self.start, self.end, self.protection, self.inode)
    }
}

/// Reads the `VmFlags` of `/proc/PID/smaps`. That file costs a walk over every page: read it while
/// the job runs, and again while it is frozen only if its areas have changed in between.
pub(crate) fn flags(pid: i32) -> Result<Flags> {
    let text = proc::read(pid, "smaps")?;
    let mut found = HashMap::new();
    let mut key = None;
    for line in text.split(|&byte| byte == b'\n') {
        if let Some(words) = line.strip_prefix(b"VmFlags:") {
            let words = words.split(|&byte| byte == b' ');
            let flags = words.filter_map(|word| word.try_into().ok()).collect();
            found.extend(key.take().map(|key| (key, flags)));
        } else if line.first().is_some_and(|first| !first.is_ascii_uppercase()) {
            // A header line begins with an address, every other line with a capital letter.
            key = parsed(line).map(|map| map.key());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_paths_survive() {
        let text = b"00400000-00401000 r-xp 00001000 08:02 17 /tmp/a b\\012c \xff (deleted)\n\
            7ffff0000000-7ffff0001000 rw-s 00000000 00:01 5                          /memfd:x\n\
            ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n";
        let maps = parse(text).unwrap();
        assert_eq!(maps[0].path, b"/tmp/a b\nc \xff");
        assert!(maps[0].deleted && !maps[0].shared);
        assert_eq!(maps[0].protection, 5);
        assert_eq!((maps[0].offset, maps[0].device, maps[0].inode), (0x1000, (8, 2), 17));
        assert!(maps[1].shared && maps[1].kind == Kind::File);
        assert_eq!(maps[2].kind, Kind::Vsyscall);
    }

    #[test]
    fn own_maps_and_flags_agree() {
        let pid = std::process::id() as i32;
        let maps = read(pid).unwrap();
        let flags = flags(pid).unwrap();
        let stack = maps.iter().find(|map| map.kind == Kind::Stack).unwrap();
        let found = flags.values().filter(|flags| flags.contains(b"gd")).count();
        assert!(found == 1 && stack.kind == Kind::Stack);
    }
}
