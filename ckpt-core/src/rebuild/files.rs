//! Opens everything that the job had open, once, in the restorer; processes get copies.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::error::{Error, ErrorKind, Result};
use crate::kinds::contents::reopen;
use crate::kinds::event::{Event, Watch};
use crate::kinds::file::{Named, OpenFile, What, dead_end, open_with};
use crate::kinds::memory::Backing;
use crate::kinds::pipe::Keeper;
use crate::kinds::stdio::Stream;
use crate::snapshot::{Mapped, Snapshot};

/// The open files of a job in the making.
pub(crate) struct OpenFiles<'a> {
    snapshot: &'a Snapshot,
    mapped: Vec<OwnedFd>,
    contents: Vec<OwnedFd>,
    /// Those that will be sealed against writing, opened read-only.
    sealed: Vec<Option<OwnedFd>>,
    pipes: Vec<Keeper>,
    files: Vec<OwnedFd>,
}

impl<'a> OpenFiles<'a> {
    /// Opens what is mapped and makes the nameless files; their contents come with the pages.
    pub(crate) fn for_memory(snapshot: &'a Snapshot) -> Result<Self> {
        let mapped = snapshot.mapped.iter().map(|mapped| {
            let flags = if mapped.writable { libc::O_RDWR } else { libc::O_RDONLY };
            let path = Path::new(OsStr::from_bytes(&mapped.file.path));
            let opened = open_with(path, flags).map_err(|e| {
                Error::os(format!("cannot open {}, which the job maps", mapped.file.shown()), e)
            })?;
            if mapped.writable {
                long_enough(&opened, &mapped.file)?;
            }
            Ok(opened)
        });
        let mapped = mapped.collect::<Result<_>>()?;
        let contents: Vec<OwnedFd> =
            snapshot.contents.iter().map(|c| c.rebuild()).collect::<Result<_>>()?;
        let sealed = snapshot.contents.iter().zip(&contents).map(|(content, fd)| {
            content.is_write_sealed().then(|| content.open(fd, libc::O_RDONLY)).transpose()
        });
        Ok(Self {
            snapshot,
            mapped,
            sealed: sealed.collect::<Result<_>>()?,
            contents,
            pipes: snapshot.pipes.iter().map(|p| p.rebuild()).collect::<Result<_>>()?,
            files: Vec::new(),
        })
    }

    /// Makes pipes ready where disarmed entries of epoll sets must fire once.
    pub(crate) fn rouse_pipes(&mut self) -> Result<()> {
        let disarmed = self.snapshot.files.iter().any(|file| match &file.what {
            What::Event(Event::Poll(watches)) => watches.iter().any(Watch::is_disarmed),
            _ => false,
        });
        if disarmed {
            let pipes = self.snapshot.pipes.iter().zip(&mut self.pipes);
            for (_, keeper) in pipes.filter(|(pipe, _)| pipe.path.is_none()) {
                keeper.rouse()?;
            }
        }
        Ok(())
    }

    /// Puts back what was in the pipes.
    pub(crate) fn fill_pipes(&mut self) -> Result<()> {
        let mut pipes = self.snapshot.pipes.iter().zip(&mut self.pipes);
        pipes.try_for_each(|(pipe, keeper)| keeper.fill(pipe))
    }

    /// Opens the open file descriptions. `outer` translates a process number of the job.
    pub(crate) fn open(&mut self, outer: &dyn Fn(i32) -> Option<i32>) -> Result<()> {
        for file in &self.snapshot.files {
            let opened = self.opened(file, outer)?;
            file.locks.iter().try_for_each(|lock| lock.take(&opened))?;
            self.files.push(opened);
        }
        Ok(())
    }

    /// Cuts what was only appended to back to its length at the checkpoint.
    pub(crate) fn cut_appended(&self) -> Result<()> {
        self.snapshot.files.iter().zip(&self.files).try_for_each(|(file, fd)| match &file.what {
            What::Named(named) => named.cut_appended(fd, file.flags),
            _ => Ok(()),
        })
    }

    fn opened(&self, file: &OpenFile, outer: &dyn Fn(i32) -> Option<i32>) -> Result<OwnedFd> {
        match &file.what {
            What::Stdio(stream) => stdio(stream, file),
            What::Outside(_) => dead_end(file.flags)
                .map_err(|e| Error::os("cannot make a pipe with one end closed", e)),
            What::Named(named) => named.rebuild(file.flags, file.position, outer),
            What::Content(index) => {
                let index = *index as usize;
                let content = self.snapshot.contents.get(index);
                let content = content.ok_or_else(|| missing("nameless file"))?;
                let fd = content.open(&self.contents[index], file.flags)?;
                rustix::fs::seek(&fd, rustix::fs::SeekFrom::Start(file.position))
                    .map_err(|e| Error::os(format!("cannot set the position in {content}"), e))?;
                Ok(fd)
            }
            What::Pipe(index) => self
                .pipes
                .get(*index as usize)
                .ok_or_else(|| missing("pipe"))?
                .open(file.flags)
                .map_err(|e| Error::os("cannot open a pipe of the job", e)),
            What::Event(event) => {
                let fd = event.rebuild(outer)?;
                let flags = rustix::fs::OFlags::from_bits_retain(file.flags as u32);
                rustix::fs::fcntl_setfl(&fd, flags)
                    .map_err(|e| Error::os(format!("cannot set the flags of {event:?}"), e))?;
                Ok(fd)
            }
        }
    }

    /// The descriptor to map an area from.
    pub(crate) fn for_mapping(&self, backing: Backing) -> Result<BorrowedFd<'_>> {
        let found = match backing {
            Backing::File(index) => self.mapped.get(index as usize),
            Backing::Content(index) => {
                let sealed = self.sealed.get(index as usize).and_then(Option::as_ref);
                sealed.or(self.contents.get(index as usize))
            }
            Backing::Anonymous => None,
        };
        found.map(AsFd::as_fd).ok_or_else(|| missing("mapped file"))
    }

    /// The open file description of this index.
    pub(crate) fn descriptor(&self, index: u32) -> Result<BorrowedFd<'_>> {
        self.files.get(index as usize).map(AsFd::as_fd).ok_or_else(|| missing("open file"))
    }

    /// The nameless files, to be filled.
    pub(crate) fn contents(&self) -> Result<Vec<File>> {
        self.contents.iter().map(copy).collect()
    }

    /// The named files that are mapped, open if they may be written to.
    pub(crate) fn mapped(&self) -> Result<Vec<(&'a Mapped, Option<File>)>> {
        let files = self.snapshot.mapped.iter().zip(&self.mapped);
        let open = |(mapped, fd): (&'a Mapped, _)| {
            Ok((mapped, mapped.writable.then(|| copy(fd)).transpose()?))
        };
        files.map(open).collect()
    }

    /// Seals the memfds that were sealed.
    pub(crate) fn seal(&self) -> Result<()> {
        self.snapshot.contents.iter().zip(&self.contents).try_for_each(|(c, fd)| c.seal(fd))
    }
}

/// The pages of a file that is mapped for writing go where they were.
fn long_enough(fd: &OwnedFd, file: &Named) -> Result<()> {
    let name = file.shown();
    let now = rustix::fs::fstat(fd).map_err(|e| Error::os(format!("cannot look at {name}"), e))?;
    if now.st_size as u64 >= file.size {
        return Ok(());
    }
    let (now, then) = (now.st_size, file.size);
    let what = format!("{name}, which the job maps, has {now} bytes, and had {then}");
    Err(Error::new(ErrorKind::Unsupported, what).help("put the file back as it was"))
}

fn copy(fd: &OwnedFd) -> Result<File> {
    fd.try_clone().map(File::from).map_err(|e| Error::os("cannot copy a descriptor", e))
}

fn missing(what: &str) -> Error {
    Error::new(ErrorKind::Damaged, format!("the image refers to a {what} that it does not list"))
}

/// The restorer's own descriptor in place of the launcher's: the very same open file description,
/// as it was with the launcher's. A file that the job had read a part of goes on where it was.
fn stdio(stream: &Stream, file: &OpenFile) -> Result<OwnedFd> {
    let own = match stream.number {
        0 => std::io::stdin().as_fd().try_clone_to_owned(),
        1 => std::io::stdout().as_fd().try_clone_to_owned(),
        _ => std::io::stderr().as_fd().try_clone_to_owned(),
    };
    let own = own
        .or_else(|_| reopen(File::open("/dev/null")?.as_raw_fd(), libc::O_RDWR))
        .map_err(|e| Error::os(format!("cannot hand on descriptor {}", stream.number), e))?;
    let reads = file.flags & libc::O_ACCMODE != libc::O_WRONLY;
    if reads && stream.origin.as_ref().is_some_and(|origin| origin.is(&own)) {
        rustix::fs::seek(&own, rustix::fs::SeekFrom::Start(file.position))
            .map_err(|e| Error::os("cannot set the position in stdin", e))?;
    }
    Ok(own)
}
