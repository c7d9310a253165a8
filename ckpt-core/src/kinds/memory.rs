//! The address space: areas (VMAs), the vDSO, and the fields that `PR_SET_MM` sets.

use super::asks::{Answers, Asks};
use super::{Hand, bytes_of};
use crate::error::{Error, ErrorKind, Result};
use crate::os::maps::{Kind, Map};
use crate::os::mem::Memory;
use crate::os::remote::{Remote, Site};
use crate::os::scratch::Scratch;
use crate::os::{PAGE, TASK_SIZE, proc, vdso};

/// `VmFlags` that madvise(2) sets, with its advice.
const ADVICE: [(&[u8; 2], i32); 8] = [
    (b"sr", libc::MADV_SEQUENTIAL),
    (b"rr", libc::MADV_RANDOM),
    (b"dc", libc::MADV_DONTFORK),
    (b"dd", libc::MADV_DONTDUMP),
    (b"wf", libc::MADV_WIPEONFORK),
    (b"hg", libc::MADV_HUGEPAGE),
    (b"nh", libc::MADV_NOHUGEPAGE),
    (b"mg", libc::MADV_MERGEABLE),
];

/// One area of an address space.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Area {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// `PROT_*` bits.
    pub protection: u8,
    /// `MAP_SHARED`.
    pub shared: bool,
    /// Offset in the file, bytes.
    pub offset: u64,
    /// What is mapped.
    pub backing: Backing,
    /// `MAP_GROWSDOWN`.
    pub grows_down: bool,
    /// `MAP_NORESERVE`.
    pub no_reserve: bool,
    /// mlock(2).
    pub locked: bool,
    /// `MADV_*` settings that stick.
    pub advice: Vec<i32>,
    /// Guard regions (`MADV_GUARD_INSTALL`): start and end.
    pub guards: Vec<(u64, u64)>,
}

/// What an area maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum Backing {
    /// Private anonymous memory.
    Anonymous,
    /// A file: index in the snapshot's mapped files.
    File(u32),
    /// A nameless file: index in the snapshot's contents.
    Content(u32),
}

/// A process' address space, without its pages.
#[derive(Debug, Clone, Default, bincode::Encode, bincode::Decode)]
pub struct AddressSpace {
    /// Path of the program (`/proc/PID/exe`).
    pub program: Vec<u8>,
    /// `prctl_mm_map` of linux/prctl.h: code, data, brk, stack, arguments, environment.
    pub fields: [u64; 11],
    /// The auxiliary vector, bytes.
    pub auxv: Vec<u8>,
    /// All areas by address.
    pub areas: Vec<Area>,
    /// The vDSO's address and bytes.
    pub vdso: (u64, Vec<u8>),
    /// The vDSO's data areas: start and end.
    pub vvar: Vec<(u64, u64)>,
}

/// Index in [`AddressSpace::fields`] of the program break.
const BRK: usize = 5;

impl AddressSpace {
    /// Asks for what only the process can tell.
    pub(crate) fn ask(asks: &mut Asks) -> impl FnOnce(&mut Self, &Answers) -> Result<()> + use<> {
        let brk = asks.value("read the break", libc::SYS_brk, &[0]);
        move |space, answers| {
            space.fields[BRK] = answers.value(brk)?;
            Ok(())
        }
    }

    /// The program break.
    pub(crate) fn brk(&self) -> u64 {
        self.fields[BRK]
    }

    /// What procfs tells of it: everything but the break, the vDSO and the areas, which [`Area::capture`] makes
    /// of the maps.
    pub(crate) fn told(pid: i32) -> Result<Self> {
        let stat = proc::stat(pid)?;
        let some = |field: Option<u64>| field.unwrap_or_default();
        let program = proc::link(pid, "exe")?;
        if program.ends_with(b" (deleted)") {
            let what = format!("the program {} was deleted", String::from_utf8_lossy(&program));
            return Err(Error::new(ErrorKind::Unsupported, what)
                .help("keep the program's file while the job runs"));
        }
        Ok(Self {
            program,
            fields: [
                stat.startcode,
                stat.endcode,
                some(stat.start_data),
                some(stat.end_data),
                some(stat.start_brk),
                0,
                stat.startstack,
                some(stat.arg_start),
                some(stat.arg_end),
                some(stat.env_start),
                some(stat.env_end),
            ],
            auxv: proc::read(pid, "auxv")?,
            ..Self::default()
        })
    }

    /// Reads the vDSO.
    pub(crate) fn capture(&mut self, memory: &Memory, maps: &[Map]) -> Result<()> {
        if let Some(map) = maps.iter().find(|map| map.kind == Kind::Vdso) {
            let mut image = vec![0; (map.end - map.start) as usize];
            memory.read_exact(map.start, &mut image)?;
            crate::os::remote::erase_stub(&mut image);
            self.vdso = (map.start, image);
        }
        let data = maps.iter().filter(|map| map.kind == Kind::Vvar);
        self.vvar = data.map(|map| (map.start, map.end)).collect();
        Ok(())
    }

    /// Empties a freshly executed process, puts the vDSO where it belongs and maps a scratch page
    /// that is in nobody's way.
    pub(crate) fn clear(
        &self,
        remote: &Remote<'_>,
        memory: &Memory,
        now: &[Map],
        patch_vdso: bool,
    ) -> Result<Scratch> {
        let kernels = |map: &&Map| matches!(map.kind, Kind::Vdso | Kind::Vvar);
        let mut at = 0;
        for map in now.iter().filter(kernels).chain([&end_of_space()]) {
            if map.start > at {
                let what = "unmap what the program's start had mapped";
                remote.try_call(what, libc::SYS_munmap, &[at, map.start - at])?;
            }
            at = map.end;
        }
        let kept: Vec<&Map> = now.iter().filter(kernels).collect();
        let taken = |start: u64, end: u64| {
            kept.iter().any(|map| start < map.end && map.start < end) || self.uses(start, end)
        };
        let length: u64 = kept.iter().map(|map| map.end - map.start).sum();
        // One free stretch: scratch page, then room to park the vDSO.
        let free = free_range(length + 2 * PAGE, taken)?;
        let protection = (libc::PROT_READ | libc::PROT_WRITE) as u64;
        let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED) as u64;
        let arguments = [free, PAGE, protection, flags, u64::MAX, 0];
        remote.try_call("map a scratch page", libc::SYS_mmap, &arguments)?;
        self.place_vdso(remote, memory, &kept, free + 2 * PAGE, patch_vdso)?;
        Ok(Scratch { address: free })
    }

    /// Moves vvar and vDSO to where they were; or, if this kernel's is another one (or `patch`),
    /// parks it and puts the old one's code with jumps in its place.
    fn place_vdso(
        &self,
        remote: &Remote<'_>,
        memory: &Memory,
        kept: &[&Map],
        parking: u64,
        patch: bool,
    ) -> Result<()> {
        let mut image = Vec::new();
        if let Some(map) = kept.iter().find(|map| map.kind == Kind::Vdso) {
            image.resize((map.end - map.start) as usize, 0);
            memory.read_exact(map.start, &mut image)?;
        }
        let same = image == self.vdso.1 && !patch;
        let mut at = parking;
        for map in kept {
            move_area(remote, map, map.start, at)?;
            at += map.end - map.start;
        }
        let mut targets = self.vvar.clone();
        targets.push((self.vdso.0, self.vdso.0 + self.vdso.1.len() as u64));
        targets.sort_unstable();
        let fits = targets.len() == kept.len()
            && targets.iter().zip(kept).all(|(t, map)| t.1 - t.0 == map.end - map.start);
        if same && fits {
            let mut at = parking;
            for (map, target) in kept.iter().zip(&targets) {
                move_area(remote, map, at, target.0)?;
                at += map.end - map.start;
            }
            return Ok(());
        }
        let offset = kept.iter().take_while(|m| m.kind != Kind::Vdso).map(|m| m.end - m.start);
        let parked = parking + offset.sum::<u64>();
        self.patch_vdso(remote, memory, &image, parked)
    }

    fn patch_vdso(
        &self,
        remote: &Remote<'_>,
        memory: &Memory,
        new: &[u8],
        parked: u64,
    ) -> Result<()> {
        let (start, old) = &self.vdso;
        if old.is_empty() {
            return Ok(());
        }
        let code = vdso::patched(old, new, parked)?;
        let protection = (libc::PROT_READ | libc::PROT_EXEC) as u64;
        let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED) as u64;
        let arguments = [*start, old.len() as u64, protection, flags, u64::MAX, 0];
        remote.try_call("map the image's vDSO", libc::SYS_mmap, &arguments)?;
        memory.write_all(*start, &code)
    }

    /// Whether a range of addresses is used by the process as it was.
    fn uses(&self, start: u64, end: u64) -> bool {
        let vdso = (self.vdso.0, self.vdso.0 + self.vdso.1.len() as u64);
        let areas = self.areas.iter().map(|area| (area.start, area.end));
        areas.chain(self.vvar.iter().copied()).chain([vdso]).any(|(s, e)| start < e && s < end)
    }

    /// Sets brk, stack, arguments, environment and the auxiliary vector.
    pub(crate) fn set_fields(&self, hand: &Hand<'_>) -> Result<()> {
        // The vector stands behind the structure (13 words) in scratch memory.
        let vector = hand.scratch.address + 128;
        let mut words = self.fields.to_vec();
        words.extend([vector, self.auxv.len() as u64 | u64::from(u32::MAX) << 32]);
        let mut bytes = bytes_of(&words);
        bytes.resize(128, 0);
        bytes.extend(&self.auxv);
        let at = hand.put(&bytes)?;
        let (set_mm, map) = (libc::PR_SET_MM as u64, libc::PR_SET_MM_MAP as u64);
        let arguments = [set_mm, map, at, 104, 0, 0];
        let what = "set the fields of the address space";
        hand.remote.try_call(what, libc::SYS_prctl, &arguments).map(drop)
    }

    /// Asks the process at hand for what [`Self::set_fields`] set, and compares.
    pub(crate) fn compare_break(&self, hand: &Hand<'_>) -> Result<()> {
        let now = hand.remote.try_call("read the break", libc::SYS_brk, &[0])?;
        if now != self.fields[BRK] {
            let what = format!("the break is {now:#x} instead of {:#x}", self.fields[BRK]);
            return Err(Error::new(ErrorKind::Internal, what));
        }
        Ok(())
    }
}

/// A map that stands for the end of the address space.
fn end_of_space() -> Map {
    Map {
        start: TASK_SIZE,
        end: TASK_SIZE,
        protection: 0,
        shared: false,
        offset: 0,
        device: (0, 0),
        inode: 0,
        path: Vec::new(),
        deleted: false,
        kind: Kind::Special,
    }
}

/// The lowest stretch of `length` bytes that is not taken, from 64 GiB up: far
/// from where programs, heaps and libraries lie.
fn free_range(length: u64, taken: impl Fn(u64, u64) -> bool) -> Result<u64> {
    const FIRST: u64 = 0x10_0000_0000;
    const STRIDE: u64 = 0x10_0000;
    (0..TASK_SIZE / STRIDE)
        .map(|step| FIRST + step * STRIDE)
        .take_while(|at| at + length < TASK_SIZE)
        .find(|&at| !taken(at, at + length))
        .ok_or_else(|| Error::new(ErrorKind::Unsupported, "the address space is full"))
}

fn move_area(remote: &Remote<'_>, map: &Map, from: u64, to: u64) -> Result<()> {
    let length = map.end - map.start;
    let flags = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
    let what = format!("move {}", String::from_utf8_lossy(&map.path));
    remote.try_call(&what, libc::SYS_mremap, &[from, length, length, flags, to])?;
    if map.kind == Kind::Vdso {
        // The very instruction that made the call has moved.
        remote.site_moved(from, to);
    }
    Ok(())
}

impl Area {
    /// Notes one mapping with its `VmFlags`.
    pub(crate) fn capture(
        map: &Map,
        backing: Backing,
        flags: &[[u8; 2]],
        guards: Vec<(u64, u64)>,
    ) -> Self {
        let has = |flag: &[u8; 2]| flags.contains(flag);
        Self {
            start: map.start,
            end: map.end,
            protection: map.protection,
            shared: map.shared,
            offset: map.offset,
            backing,
            grows_down: map.kind == Kind::Stack || (has(b"gd") && map.inode == 0),
            no_reserve: has(b"nr"),
            locked: has(b"lo"),
            advice: ADVICE
                .iter()
                .filter(|(flag, _)| has(flag))
                .map(|(_, advice)| *advice)
                .collect(),
            guards,
        }
    }

    /// Maps it, empty; `fd` is the mapped file's descriptor in the process at hand.
    pub(crate) fn map(&self, asks: &mut Asks, fd: Option<i32>) {
        let mut flags = libc::MAP_FIXED;
        flags |= if self.shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
        for (wanted, flag) in [
            (fd.is_none(), libc::MAP_ANONYMOUS),
            (self.grows_down, libc::MAP_GROWSDOWN),
            (self.no_reserve, libc::MAP_NORESERVE),
        ] {
            flags |= if wanted { flag } else { 0 };
        }
        let length = self.end - self.start;
        let file = fd.map_or(u64::MAX, |fd| fd as u64);
        let (protection, flags) = (u64::from(self.protection), flags as u64);
        let arguments = [self.start, length, protection, flags, file, self.offset];
        let what = format!("map {length} bytes at {:#x}", self.start);
        asks.value(what, libc::SYS_mmap, &arguments);
        if self.advice.contains(&libc::MADV_HUGEPAGE) {
            // Before the contents: they come in fewer faults, and as they were.
            let arguments = [self.start, length, libc::MADV_HUGEPAGE as u64];
            asks.value("advise huge pages", libc::SYS_madvise, &arguments);
        }
    }

    /// Sets what had to wait for the contents: advice, guards, locks.
    pub(crate) fn finish(&self, remote: &Remote<'_>) -> Result<()> {
        const MADV_GUARD_INSTALL: i32 = 102;
        let advise = |start: u64, end: u64, advice: i32| {
            let what = format!("advise {advice} at {start:#x}");
            let arguments = [start, end - start, advice as u64];
            remote.try_call(&what, libc::SYS_madvise, &arguments).map(drop)
        };
        for &advice in &self.advice {
            advise(self.start, self.end, advice)?;
        }
        for &(start, end) in &self.guards {
            advise(start, end, MADV_GUARD_INSTALL)?;
        }
        if self.locked {
            let arguments = [self.start, self.end - self.start];
            let what = format!("lock the memory at {:#x}", self.start);
            remote.try_call(&what, libc::SYS_mlock, &arguments)?;
        }
        Ok(())
    }
}

/// Where the stub or a bare `syscall` instruction is, in a process just executed.
pub(crate) fn first_site(maps: &[Map], memory: &Memory) -> Result<Site> {
    let vdso = maps.iter().find(|map| map.kind == Kind::Vdso).ok_or_else(|| {
        Error::new(ErrorKind::Unsupported, "this kernel maps no vDSO")
            .help("boot the kernel without vdso=0")
    })?;
    let mut code = vec![0; (vdso.end - vdso.start) as usize];
    memory.read_exact(vdso.start, &mut code)?;
    Site::bare(vdso.start, &code)
}
