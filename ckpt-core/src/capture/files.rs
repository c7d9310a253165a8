//! Gathers the job's open files: descriptors of all processes become entries of one list of open
//! file descriptions, with pipes and nameless files listed once each.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::FileType;

use super::freeze::Frozen;
use super::sheet::Seen;
use crate::error::{Error, ErrorKind, Result};
use crate::kinds::contents::{Content, Nameless};
use crate::kinds::event::Event;
use crate::kinds::file::{self, Descriptor, Named, OpenFile, What};
use crate::kinds::lock::{Kind as LockKind, Lock};
use crate::kinds::memory::Backing;
use crate::kinds::pipe::Pipe;
use crate::kinds::procfs;
use crate::kinds::stdio::Stdio;
use crate::os::maps::Map;
use crate::os::{fds, proc};
use crate::snapshot::Mapped;

/// A file's identity: device and inode.
type Inode = (u64, u64);

/// Where the bytes of a nameless file can be read.
#[derive(Debug)]
pub(crate) enum Bytes {
    /// Through a descriptor of ours.
    File(OwnedFd),
    /// Only where it is mapped.
    Mapped(Vec<Place>),
}

/// A mapping of a nameless file.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// Whose.
    pub(crate) pid: i32,
    pub(crate) start: u64,
    pub(crate) length: u64,
    /// Offset in the file.
    pub(crate) offset: u64,
    pub(crate) shared: bool,
    /// Stretches (start, end) that are in memory at all, if that is known. To read others would
    /// make the kernel find memory for them.
    pub(crate) resident: Option<Vec<(u64, u64)>>,
}

/// The lists as they grow.
#[derive(Debug, Default)]
pub(crate) struct Collector {
    pub(crate) files: Vec<OpenFile>,
    pub(crate) pipes: Vec<Pipe>,
    pub(crate) contents: Vec<Content>,
    pub(crate) sources: Vec<Bytes>,
    pub(crate) mapped: Vec<Mapped>,
    pub(crate) warnings: Vec<String>,
    stdio: Stdio,
    /// Who holds each of `files`, for comparison.
    holders: Vec<(i32, i32)>,
    /// The descriptors of each process.
    tables: Vec<(i32, Vec<Descriptor>)>,
    similar: HashMap<(Inode, Vec<u8>, i32, u64), Vec<u32>>,
    pipe_of: HashMap<Inode, u32>,
    content_of: HashMap<(u64, u64), u32>,
    mapped_of: HashMap<(Vec<u8>, bool), u32>,
    /// Mappings whose files have been looked at: path, inode, and whether they may be written.
    looked_at: HashMap<(Vec<u8>, Inode, bool), u32>,
    inherited: HashMap<Inode, i32>,
    /// The job's processes as seen from here.
    job: Vec<i32>,
}

/// What a process has open, and the record locks that it holds.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) descriptors: Vec<Descriptor>,
    pub(crate) locks: Vec<(i32, Lock)>,
}

impl Collector {
    pub(crate) fn new() -> Self {
        Self { stdio: Stdio::ours(), inherited: inherited(), ..Self::default() }
    }

    /// Learns which processes are the job's.
    pub(crate) fn learn(&mut self, frozen: &Frozen) {
        let processes = frozen.processes.iter().map(|process| process.pid);
        self.job = processes.chain(frozen.zombies.iter().copied()).collect();
    }

    /// Our own standard descriptors came from the job itself: pipes of which it has the other end, too, are its
    /// own, and lead nowhere else.
    pub(crate) fn own_pipes(&mut self, frozen: &Frozen) {
        let own = std::process::id().cast_signed();
        let mut inside = HashSet::new();
        let wanted: HashMap<Inode, i32> =
            (0..=2).filter_map(|fd| pipe_end(own, fd)).map(|end| (end.0, end.1)).collect();
        for process in frozen.processes.iter().filter(|_| !wanted.is_empty()) {
            for fd in proc::descriptors(process.pid).unwrap_or_default() {
                let Some((inode, mode)) = pipe_end(process.pid, fd) else { continue };
                if wanted.get(&inode).is_some_and(|ours| *ours != mode || mode == libc::O_RDWR) {
                    inside.insert(inode);
                }
            }
        }
        self.stdio.forget(&inside);
        self.inherited.retain(|inode, _| !inside.contains(inode));
    }

    /// The descriptor table of a frozen process.
    pub(super) fn descriptors(&mut self, pid: i32, all: &[Seen]) -> Result<Table> {
        let mut table = Table::default();
        let mut locked = HashSet::new();
        for seen in all {
            let fd = seen.fd;
            let file = self.file(seen)?;
            let close_on_exec = seen.flags & libc::O_CLOEXEC != 0;
            table.descriptors.push(Descriptor { fd, file, close_on_exec });
            // A record lock shows up at every descriptor for its file.
            let mut records = Lock::all(&seen.info);
            records.retain(|lock| lock.kind == LockKind::Record);
            if !records.is_empty() && locked.insert((seen.meta.dev(), seen.meta.ino())) {
                table.locks.extend(records.into_iter().map(|lock| (fd, lock)));
            }
        }
        self.tables.push((pid, table.descriptors.clone()));
        Ok(table)
    }

    /// Finds out, when all descriptors are known, through which of them the entries of epoll sets
    /// can be added again: the numbers by which they were added may lead elsewhere by now.
    pub(crate) fn find_watched(&mut self) -> Result<()> {
        for (index, file) in self.files.iter_mut().enumerate() {
            let What::Event(Event::Poll(watches)) = &mut file.what else { continue };
            let of_set = |(pid, table): &'_ (i32, Vec<Descriptor>)| {
                table.iter().find(|d| d.file == index as u32).map(|set| (*pid, set.fd))
            };
            let mut seen: HashMap<i32, u32> = HashMap::new();
            for watch in watches {
                let nth = seen.entry(watch.fd).or_default();
                let found = self.tables.iter().find_map(|holder| {
                    let (pid, set) = of_set(holder)?;
                    let (own, others): (Vec<_>, Vec<_>) =
                        holder.1.iter().map(|d| d.fd).partition(|&fd| fd == watch.fd);
                    let slot = (set, watch.fd, *nth);
                    let mut candidates = own.into_iter().chain(others);
                    let fd = candidates.find(|&fd| fds::is_watched(pid, fd, slot, watch.inode))?;
                    Some((pid, fd))
                });
                *nth += 1;
                let Some((pid, through)) = found else {
                    let (pid, fd) = self.holders[index];
                    let what = format!(
                        "file descriptor {fd} (an epoll set) watches a file that was added as {}, \
                         and that no process with the set has open any more",
                        watch.fd
                    );
                    let error = Error::new(ErrorKind::Unsupported, what);
                    let error = error.help("take it out of the set before it is closed");
                    return Err(error.of_process(pid, &proc::comm(pid)));
                };
                (watch.process, watch.through) = (proc::inner_pid(pid)?, through);
            }
        }
        Ok(())
    }

    /// Index of the open file description that a descriptor leads to.
    fn file(&mut self, seen: &Seen) -> Result<u32> {
        let flags = seen.flags & !libc::O_CLOEXEC;
        let inode = (seen.meta.dev(), seen.meta.ino());
        let key = (inode, seen.link.clone(), flags, seen.position);
        for &index in self.similar.get(&key).into_iter().flatten() {
            if fds::same_file(self.holders[index as usize], (seen.pid, seen.fd))? {
                return Ok(index);
            }
        }
        let what = self.what(seen)?;
        let index = self.files.len() as u32;
        let mut locks = Lock::all(&seen.info);
        locks.retain(|lock| lock.kind != LockKind::Record);
        self.files.push(OpenFile { flags, position: seen.position, what, locks });
        self.holders.push((seen.pid, seen.fd));
        self.similar.entry(key).or_default().push(index);
        Ok(index)
    }

    fn what(&mut self, seen: &Seen) -> Result<What> {
        if let Some(event) = Event::capture(&seen.link, &seen.info)? {
            return Ok(What::Event(event));
        }
        let path_only = seen.flags & libc::O_PATH != 0;
        let (device, inode) = (seen.meta.dev(), seen.meta.ino());
        if !path_only && let Some(number) = self.stdio.which(seen.pid, seen.fd, device, inode) {
            return Ok(What::Stdio(number));
        }
        if let Some(&ours) = self.inherited.get(&(device, inode)).filter(|_| !path_only) {
            self.warnings.push(format!(
                "descriptor {} of process {} leads out of the job (it is the launcher's {ours}): \
                 after a restart its other end will be closed",
                seen.fd, seen.pid
            ));
            return Ok(What::Outside(ours));
        }
        match FileType::from_raw_mode(seen.meta.mode()) {
            FileType::Fifo if !path_only => self.pipe(seen),
            FileType::RegularFile if self.is_nameless(seen) => {
                self.content_of_descriptor(seen).map(What::Content)
            }
            FileType::RegularFile
            | FileType::Directory
            | FileType::Fifo
            | FileType::Symlink
            | FileType::BlockDevice => self.named(seen),
            FileType::CharacterDevice if is_stateless(seen.meta.rdev()) => self.named(seen),
            FileType::CharacterDevice => Err(unsupported(
                seen,
                "is a device with a state of its own",
                "the program has to let go of it before a checkpoint",
            )),
            FileType::Socket => Err(unsupported(
                seen,
                "is a socket, which cannot be saved yet",
                "close it before the checkpoint, or use --backend dmtcp",
            )),
            FileType::Unknown => {
                Err(unsupported(seen, "cannot be saved", "close it before the checkpoint"))
            }
        }
    }

    fn pipe(&mut self, seen: &Seen) -> Result<What> {
        let inode = (seen.meta.dev(), seen.meta.ino());
        let index = match self.pipe_of.get(&inode) {
            Some(&index) => index,
            None => {
                let path = (!seen.link.starts_with(b"pipe:")).then(|| seen.link.clone());
                self.pipes.push(Pipe::capture(&seen.at, path)?);
                let index = self.pipes.len() as u32 - 1;
                self.pipe_of.insert(inode, index);
                index
            }
        };
        if seen.flags & libc::O_DIRECT != 0 {
            self.pipes[index as usize].note_packet_mode();
        }
        Ok(What::Pipe(index))
    }

    /// A file that its path leads to; refused if the path leads elsewhere or nowhere.
    fn named(&self, seen: &Seen) -> Result<What> {
        let help = "close it before the checkpoint";
        let of_process = procfs::captured(&seen.link, seen.meta.dev(), (seen.pid, &self.job));
        if let Some(path) = of_process.map_err(|why| unsupported(seen, why, help))? {
            return Ok(What::Named(Named::of(&path, &seen.meta)));
        }
        let path = Path::new(std::ffi::OsStr::from_bytes(&seen.link));
        let there = if seen.flags & libc::O_PATH != 0 {
            fs::symlink_metadata(path)
        } else {
            fs::metadata(path)
        };
        let in_proc = seen.link.starts_with(b"/proc/");
        match there {
            Ok(meta) if meta.ino() == seen.meta.ino() || in_proc => {
                Ok(What::Named(Named::of(&seen.link, &seen.meta)))
            }
            _ => Err(unsupported(seen, "cannot be opened again by this name", help)),
        }
    }

    /// A regular file that cannot be found by its name any more.
    fn is_nameless(&mut self, seen: &Seen) -> bool {
        if seen.meta.nlink() == 0 {
            return true;
        }
        let lost = seen.link.ends_with(b" (deleted)");
        if lost {
            let path = String::from_utf8_lossy(&seen.link);
            self.warnings.push(format!("{path} has another name: it is saved as a copy"));
        }
        lost
    }

    fn content_of_descriptor(&mut self, seen: &Seen) -> Result<u32> {
        let key = (seen.meta.dev(), seen.meta.ino());
        if let Some(&index) = self.content_of.get(&key) {
            return Ok(index);
        }
        let fd = file::open_with(Path::new(&seen.at), libc::O_RDONLY)
            .map_err(|e| Error::os(format!("cannot read {}", shown(&seen.link)), e))?;
        let path = seen.link.strip_suffix(b" (deleted)").unwrap_or(&seen.link);
        let mut kind = Content::kind_of(path, seen.meta.mode());
        if let Nameless::Memory { seals, .. } = &mut kind {
            *seals = rustix::fs::fcntl_get_seals(&fd).map_or(0, |seals| seals.bits());
        }
        let content = Content { kind, size: seen.meta.len() };
        Ok(self.add_content(key, content, Bytes::File(fd)))
    }

    fn add_content(&mut self, key: (u64, u64), content: Content, source: Bytes) -> u32 {
        self.contents.push(content);
        self.sources.push(source);
        let index = self.contents.len() as u32 - 1;
        self.content_of.insert(key, index);
        index
    }

    /// What a mapping of process `pid` maps.
    pub(crate) fn backing(&mut self, pid: i32, map: &Map, flags: &[[u8; 2]]) -> Result<Backing> {
        if map.inode == 0 {
            return Ok(Backing::Anonymous);
        }
        let device = rustix::fs::makedev(map.device.0, map.device.1);
        let key = (device, map.inode);
        if let Some(&index) = self.content_of.get(&key) {
            self.extend(index, pid, map);
            return Ok(Backing::Content(index));
        }
        if map.path.starts_with(b"/SYSV") {
            return Err(refused_map(map, "is System V shared memory, which cannot be saved yet"));
        }
        if map.path.starts_with(b"/anon_hugepage") {
            return Err(refused_map(map, "is made of huge pages, which cannot be saved yet"));
        }
        const KERNELS: [&[u8]; 5] = [b"/[aio]", b"/secretmem", b"/dmabuf", b"/i915", b"/drm"];
        if KERNELS.iter().any(|prefix| map.path.starts_with(prefix))
            || !(map.path.starts_with(b"/") || map.path.starts_with(b"[anon_shmem:"))
        {
            return Err(refused_map(map, "belongs to the kernel, and cannot be saved"));
        }
        // What may be made writable again counts, and had been written to, perhaps.
        let writable = map.shared && flags.contains(b"mw");
        let whole = (map.path.clone(), (device, map.inode), writable);
        if let Some(&index) = self.looked_at.get(&whole).filter(|_| !map.deleted) {
            return Ok(Backing::File(index));
        }
        let nameless = map.deleted
            || map.path.starts_with(b"[anon_shmem:")
            || map.path.starts_with(b"/memfd:");
        let path = Path::new(std::ffi::OsStr::from_bytes(&map.path));
        let meta = fs::metadata(path).ok().filter(|_| !nameless);
        let Some(meta) = meta else {
            let kind = Content::kind_of(&map.path, 0o600);
            let content = Content { kind, size: 0 };
            let index = self.add_content(key, content, Bytes::Mapped(Vec::new()));
            self.extend(index, pid, map);
            return Ok(Backing::Content(index));
        };
        if FileType::from_raw_mode(meta.mode()) != FileType::RegularFile {
            if map.path != b"/dev/zero" {
                return Err(refused_map(map, "is the memory of a device, which cannot be saved"));
            }
            return Ok(Backing::Anonymous);
        }
        let key = (map.path.clone(), writable);
        let next = self.mapped.len() as u32;
        let index = *self.mapped_of.entry(key).or_insert(next);
        if index == next {
            let file = Named::of(&map.path, &meta);
            self.mapped.push(Mapped { file, build_id: None, writable });
        }
        self.looked_at.insert(whole, index);
        Ok(Backing::File(index))
    }

    /// Notes one more mapping of a nameless file that nobody has open.
    fn extend(&mut self, index: u32, pid: i32, map: &Map) {
        let index = index as usize;
        if let Bytes::Mapped(places) = &mut self.sources[index] {
            let (start, offset, shared) = (map.start, map.offset, map.shared);
            let length = map.end - start;
            let size = &mut self.contents[index].size;
            *size = (*size).max(offset + length);
            places.push(Place { pid, start, length, offset, shared, resident: None });
        }
    }

    /// The places in process `pid` of which it is not known yet what is in memory.
    pub(crate) fn places_of(&mut self, pid: i32) -> impl Iterator<Item = &mut Place> {
        let mapped = self.sources.iter_mut().filter_map(|source| match source {
            Bytes::Mapped(places) => Some(places),
            Bytes::File(_) => None,
        });
        mapped.flatten().filter(move |place| place.pid == pid && place.shared)
    }
}

/// The pipe that a descriptor leads to, and which end of it.
fn pipe_end(pid: i32, fd: i32) -> Option<(Inode, i32)> {
    let meta = fs::metadata(format!("/proc/{pid}/fd/{fd}")).ok()?;
    if FileType::from_raw_mode(meta.mode()) != FileType::Fifo {
        return None;
    }
    let info = proc::read(pid, &format!("fdinfo/{fd}")).ok()?;
    let (_, flags) = file::position_and_flags(&String::from_utf8_lossy(&info))?;
    Some(((meta.dev(), meta.ino()), flags & libc::O_ACCMODE))
}

/// Pipes and sockets that the launcher has open, and has not made itself: they lead out of the job.
fn inherited() -> HashMap<Inode, i32> {
    let mut found = HashMap::new();
    let own = std::process::id() as i32;
    // What came through our own execve(2) is not closed by it; all that we opened ourselves is.
    let came = |fd: &i32| {
        let info = proc::read(own, &format!("fdinfo/{fd}")).unwrap_or_default();
        file::position_and_flags(&String::from_utf8_lossy(&info))
            .is_some_and(|(_, flags)| flags & libc::O_CLOEXEC == 0)
    };
    for fd in proc::descriptors(own).unwrap_or_default().into_iter().filter(came) {
        if let Ok(meta) = fs::metadata(format!("/proc/self/fd/{fd}"))
            && matches!(FileType::from_raw_mode(meta.mode()), FileType::Fifo | FileType::Socket)
        {
            found.insert((meta.dev(), meta.ino()), fd);
        }
    }
    found
}

/// Devices that are the same whenever they are opened: null, zero, full, random, urandom, and the
/// name of the controlling terminal.
fn is_stateless(device: u64) -> bool {
    let number = (rustix::fs::major(device), rustix::fs::minor(device));
    matches!(number, (1, 3 | 5 | 7 | 8 | 9) | (5, 0))
}

fn unsupported(seen: &Seen, why: &str, help: &str) -> Error {
    let what = format!("file descriptor {} ({}) {why}", seen.fd, shown(&seen.link));
    Error::new(ErrorKind::Unsupported, what).help(help.to_owned())
}

fn refused_map(map: &Map, why: &str) -> Error {
    let what = format!("the memory at {:#x} ({}) {why}", map.start, shown(&map.path));
    Error::new(ErrorKind::Unsupported, what)
}

fn shown(path: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(path)
}
