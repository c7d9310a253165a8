//! Which pages of a mapping have contents of their own, and which of them were written to:
//! `PAGEMAP_SCAN` (Linux 6.7) or, for the former, `/proc/PID/pagemap`.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use super::{PAGE, TASK_SIZE};
use crate::error::{Error, Result};

const IS_WRITTEN: u64 = 1 << 1;
const IS_FILE: u64 = 1 << 2;
const IS_PRESENT: u64 = 1 << 3;
const IS_SWAPPED: u64 = 1 << 4;
const IS_ZERO: u64 = 1 << 5;
const IS_HUGE: u64 = 1 << 6;
const IS_GUARD: u64 = 1 << 8;
/// Write-protects what is found again, where that is done without a handler.
const WP_MATCHING: u64 = 1 << 0;
const CHECK_WPASYNC: u64 = 1 << 1;
/// `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: libc::c_ulong = 0xc060_6610;

/// What a run of pages holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Contents of its own (or shared memory's).
    Data,
    /// A page of the page cache: the file's own contents, or shared memory.
    File,
    /// The kernel's zero page.
    Zero,
    /// A guard that `MADV_GUARD_INSTALL` put there.
    Guard,
}

/// Pages of one class, `start..end` in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) class: Class,
}

/// `struct pm_scan_arg` of linux/fs.h.
#[repr(C)]
struct ScanArgument {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `struct page_region` of linux/fs.h.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

/// Pages of a watched range, `start..end` in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Present {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// Written to since they were protected, if they ever were.
    pub(crate) written: bool,
    /// Guards that `MADV_GUARD_INSTALL` put there.
    pub(crate) guard: bool,
}

/// Which pages `PAGEMAP_SCAN` is asked for.
#[derive(Debug, Clone, Copy, Default)]
struct Wanted {
    flags: u64,
    /// Those in none of these categories,
    never: u64,
    /// in all of these,
    all: u64,
    /// and in any of these.
    any: u64,
    /// Of which categories is told.
    told: u64,
    /// How many are looked for, in a single request; 0 for all.
    most: u64,
}

impl Wanted {
    /// Those that are there, and `guard`s.
    fn populated(guard: u64) -> Self {
        Self {
            any: IS_PRESENT | IS_SWAPPED | guard,
            told: IS_FILE | IS_ZERO | IS_PRESENT | IS_SWAPPED | guard,
            ..Self::default()
        }
    }
}

/// An open `/proc/PID/pagemap`.
#[derive(Debug)]
pub(crate) struct Pagemap {
    pid: i32,
    file: File,
    /// What was seen beyond what was asked for, of a process that stands still.
    ahead: Option<RefCell<Ahead>>,
}

/// So many populated pages are looked at beyond what is asked for.
const AHEAD: u64 = 4096;

/// The runs of a stretch of addresses.
#[derive(Debug, Default)]
struct Ahead {
    start: u64,
    end: u64,
    runs: Vec<Run>,
}

impl Ahead {
    /// The runs of `start..end`, if that lies within.
    fn cut(&self, start: u64, end: u64) -> Option<Vec<Run>> {
        let first = self.runs.partition_point(|run| run.end <= start);
        let runs = self.runs[first..].iter().take_while(|run| run.start < end);
        let cut = |run: &Run| Run { start: run.start.max(start), end: run.end.min(end), ..*run };
        (self.start <= start && end <= self.end).then(|| runs.map(cut).collect())
    }
}

impl Pagemap {
    pub(crate) fn open(pid: i32) -> Result<Self> {
        match File::open(format!("/proc/{pid}/pagemap")) {
            Ok(file) => Ok(Self { pid, file, ahead: None }),
            Err(e) => Err(Error::os(format!("cannot open /proc/{pid}/pagemap"), e)),
        }
    }

    /// That of a process that stands still: of many small areas in a row, several are looked at at once.
    pub(crate) fn of_frozen(pid: i32) -> Result<Self> {
        Ok(Self { ahead: Some(RefCell::default()), ..Self::open(pid)? })
    }

    /// Whether this kernel has `PAGEMAP_SCAN`.
    pub(crate) fn scans(&self) -> bool {
        self.scan(0, PAGE, 0).is_ok()
    }

    /// The runs of populated pages in `start..end`, by address.
    pub(crate) fn runs(&self, start: u64, end: u64) -> Result<Vec<Run>> {
        if let Some(ahead) = &self.ahead {
            let mut ahead = ahead.borrow_mut();
            if end > ahead.end || start < ahead.start {
                // What fails is told by the ordinary way.
                *ahead = self.look_ahead(start).unwrap_or_default();
            }
            if let Some(runs) = ahead.cut(start, end) {
                return Ok(runs);
            }
        }
        let found = match self.scan(start, end, IS_GUARD) {
            // Kernels before 6.15 know no guards, before 6.7 no such request.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => self.scan(start, end, 0),
            other => other,
        };
        let found = match found {
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOTTY | libc::EINVAL)) => {
                self.entries(start, end)
            }
            other => other,
        };
        found.map_err(|e| Error::os(format!("cannot read the pagemap of process {}", self.pid), e))
    }

    fn scan(&self, start: u64, end: u64, guard: u64) -> io::Result<Vec<Run>> {
        let mut runs = Vec::new();
        self.walk(start, end, Wanted::populated(guard), &mut |found| {
            push(&mut runs, found.start, found.end, class(found.categories));
        })?;
        Ok(runs)
    }

    /// Looks at the pages from `start` on, as far as one request goes.
    fn look_ahead(&self, start: u64) -> io::Result<Ahead> {
        let mut runs = Vec::new();
        let wanted = Wanted { most: AHEAD, ..Wanted::populated(IS_GUARD) };
        let end = self.walk(start, TASK_SIZE, wanted, &mut |found| {
            push(&mut runs, found.start, found.end, class(found.categories));
        })?;
        Ok(Ahead { start, end, runs })
    }

    /// What was written to since the last such call, and is write-protected again; but nothing of huge
    /// pages, which a write would break up.
    ///
    /// # Errors
    ///
    /// `EPERM` if not all of the range is watched ([`Watch`](super::changes::Watch)).
    pub(crate) fn take_written(&self, start: u64, end: u64) -> io::Result<Vec<(u64, u64)>> {
        let mut written = Vec::new();
        let mut walk = |never: u64| {
            let wanted = Wanted {
                flags: WP_MATCHING | CHECK_WPASYNC,
                never,
                all: IS_WRITTEN,
                any: IS_PRESENT | IS_SWAPPED,
                told: IS_WRITTEN,
                most: 0,
            };
            self.walk(start, end, wanted, &mut |found| written.push((found.start, found.end)))
        };
        match walk(IS_HUGE | IS_GUARD) {
            // Kernels before 6.15 know no guards.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => walk(IS_HUGE),
            other => other,
        }?;
        Ok(written)
    }

    /// Whether the area that begins here is watched ([`Watch`](super::changes::Watch)).
    pub(crate) fn is_watched(&self, start: u64) -> io::Result<bool> {
        let wanted =
            Wanted { flags: CHECK_WPASYNC, any: IS_PRESENT, told: IS_PRESENT, ..Wanted::default() };
        match self.walk(start, start + PAGE, wanted, &mut |_| ()) {
            Ok(_) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::EPERM) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// The populated pages of a watched range of anonymous memory.
    pub(crate) fn present(&self, start: u64, end: u64) -> io::Result<Vec<Present>> {
        let mut present = Vec::new();
        let mut walk = |guard: u64| {
            let wanted = Wanted {
                any: IS_PRESENT | IS_SWAPPED | guard,
                told: IS_WRITTEN | guard,
                ..Wanted::default()
            };
            self.walk(start, end, wanted, &mut |found| {
                let is = |category| found.categories & category != 0;
                let (written, guard) = (is(IS_WRITTEN), is(IS_GUARD));
                present.push(Present { start: found.start, end: found.end, written, guard });
            })
        };
        match walk(IS_GUARD) {
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => walk(0),
            other => other,
        }?;
        Ok(present)
    }

    /// `PAGEMAP_SCAN` over a range; gives how far it came.
    fn walk(
        &self,
        start: u64,
        end: u64,
        wanted: Wanted,
        found: &mut dyn FnMut(Region),
    ) -> io::Result<u64> {
        let mut room = vec![Region::default(); 1024];
        let mut at = start;
        while at < end {
            let mut argument = ScanArgument {
                size: size_of::<ScanArgument>() as u64,
                flags: wanted.flags,
                start: at,
                end,
                walk_end: 0,
                vec: room.as_mut_ptr() as u64,
                vec_len: room.len() as u64,
                max_pages: wanted.most,
                category_inverted: wanted.never,
                category_mask: wanted.all | wanted.never,
                category_anyof_mask: wanted.any,
                return_mask: wanted.told,
            };
            let fd = self.file.as_raw_fd();
            // SAFETY: the argument is the kernel's structure with its true size, and `vec` points
            // to `vec_len` live regions, of which the kernel fills as many as it returns.
            let got = unsafe { libc::ioctl(fd, PAGEMAP_SCAN, &raw mut argument) };
            if got < 0 {
                return Err(io::Error::last_os_error());
            }
            let regions = &room[..got as usize];
            regions.iter().copied().for_each(&mut *found);
            // The kernel goes over a range in steps, and does not tell of the last one that it came to its end
            // (Linux 6.18 and before): what it told of is behind us all the same.
            let told = regions.last().map_or(0, |region| region.end);
            let next = argument.walk_end.max(told);
            if next <= at {
                break;
            }
            at = next;
            if wanted.most != 0 {
                break;
            }
        }
        Ok(at)
    }

    fn entries(&self, start: u64, end: u64) -> io::Result<Vec<Run>> {
        let mut runs = Vec::new();
        let mut room = vec![0u8; 64 * 1024];
        let mut at = start;
        while at < end {
            let want = ((end - at) / PAGE * 8).min(room.len() as u64) as usize;
            let got = self.file.read_at(&mut room[..want], at / PAGE * 8)?;
            if got < 8 {
                break;
            }
            for entry in room[..got].chunks_exact(8) {
                let entry = entry.iter().rev().fold(0u64, |sum, &b| sum << 8 | u64::from(b));
                let categories = (if entry & 1 << 58 == 0 { 0 } else { IS_GUARD })
                    | (if entry & 1 << 61 == 0 { 0 } else { IS_FILE });
                if entry & 0b11 << 62 != 0 || categories & IS_GUARD != 0 {
                    push(&mut runs, at, at + PAGE, class(categories));
                }
                at += PAGE;
            }
        }
        Ok(runs)
    }
}

fn class(categories: u64) -> Class {
    match categories {
        c if c & IS_GUARD != 0 => Class::Guard,
        c if c & IS_ZERO != 0 => Class::Zero,
        c if c & IS_FILE != 0 => Class::File,
        _ => Class::Data,
    }
}

fn push(runs: &mut Vec<Run>, start: u64, end: u64, class: Class) {
    match runs.last_mut() {
        Some(last) if last.end == start && last.class == class => last.end = end,
        _ => runs.push(Run { start, end, class }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_agree() {
        let pages = 64;
        let size = pages * PAGE as usize;
        let mut map = memmap2::MmapMut::map_anon(size).unwrap();
        for page in [0, 1, 5, 63] {
            map[page * PAGE as usize] = 1;
        }
        let pagemap = Pagemap::open(std::process::id() as i32).unwrap();
        let start = map.as_ptr() as u64;
        let found = pagemap.entries(start, start + size as u64).unwrap();
        assert_eq!(found, pagemap.runs(start, start + size as u64).unwrap());
        let frozen = Pagemap::of_frozen(std::process::id() as i32).unwrap();
        for (from, to) in [(0, 64), (5, 6), (1, 63), (6, 20), (0, 1)] {
            let (from, to) = (start + from * PAGE, start + to * PAGE);
            assert_eq!(frozen.runs(from, to).unwrap(), pagemap.runs(from, to).unwrap());
        }
        let data: Vec<_> = found.iter().map(|r| ((r.start - start) / PAGE, r.class)).collect();
        assert_eq!(data, [(0, Class::Data), (5, Class::Data), (63, Class::Data)]);
    }

    #[test]
    fn each_page_is_told_once() {
        const PAGES: u64 = 6144;
        let mut map = memmap2::MmapMut::map_anon((PAGES * PAGE) as usize).unwrap();
        // Not in every kernel; then there are no others.
        let _ = map.advise(memmap2::Advice::NoHugePage);
        let start = map.as_ptr() as u64;
        (0..PAGES).step_by(2).for_each(|page| map[(page * PAGE) as usize] = 1);
        let wanted: Vec<(u64, u64)> = (0..PAGES)
            .step_by(2)
            .map(|page| start + page * PAGE)
            .map(|at| (at, at + PAGE))
            .collect();
        let pid = std::process::id() as i32;
        let end = start + PAGES * PAGE;
        for pagemap in [Pagemap::open(pid).unwrap(), Pagemap::of_frozen(pid).unwrap()] {
            let found = pagemap.runs(start, end).unwrap();
            let found: Vec<(u64, u64)> = found.iter().map(|run| (run.start, run.end)).collect();
            assert_eq!(found, wanted);
            for part in (start..end).step_by(1 << 20) {
                let found = pagemap.runs(part, part + (1 << 20)).unwrap();
                let found: Vec<u64> = found.iter().map(|run| run.start).collect();
                let wanted: Vec<u64> =
                    (part..part + (1 << 20)).step_by(2 * PAGE as usize).collect();
                assert_eq!(found, wanted);
            }
        }
    }
}
