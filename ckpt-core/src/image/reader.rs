//! Reads an image and trusts nothing of it: opening checks all but the blocks, reading a block
//! checks that block, [`Reader::verify`] checks everything.

use std::fs::File;
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bincode::Decode;
use rustix::fs::Advice;

use super::ancestors::Needed;
use super::block::{BlockId, Packed, Row, Unpacker};
use super::contents::{Contents, Stored};
use super::format::{Flaw, Header, SectionHeader, Tag, io_error};
use super::owner;
use super::temp::open_regular;
use crate::error::{Error, Result};
use crate::progress::{Event, Observer};

/// An image whose header, trailer and sections were found to be whole. Any number of threads may
/// read blocks from it at once; a clone reads from the same open file.
#[derive(Debug, Clone)]
pub struct Reader {
    path: PathBuf,
    file: Arc<File>,
    contents: Arc<Contents>,
    owner: u32,
}

/// What [`Reader::verify`] found in an image that is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Sections, the block table included.
    pub sections: usize,
    /// Blocks.
    pub blocks: usize,
    /// Bytes of all blocks after decompression.
    pub plain: u64,
    /// Bytes of all blocks in the file.
    pub stored: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

impl Reader {
    /// Opens an image and checks its header, trailer, sections and block table, but not yet the
    /// blocks. A symbolic link is not followed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Damaged`](crate::ErrorKind::Damaged) naming the damaged part,
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) if a later version wrote
    /// something into it that must not be passed over, otherwise what open(2) and read(2) say.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let file = open_regular(None, &path).map_err(|source| cannot_open(&path, source))?;
        Self::with(file, path)
    }

    pub(super) fn open_at(dir: &OwnedFd, name: &str, path: PathBuf) -> Result<Self> {
        let file = open_regular(Some(dir), Path::new(name));
        let file = file.map_err(|source| cannot_open(&path, source))?;
        Self::with(file, path)
    }

    fn with(file: File, path: PathBuf) -> Result<Self> {
        // Of the open file: the name may lead to another by now.
        let owner = file.metadata().map_err(|source| cannot_open(&path, source))?.uid();
        match Contents::load(&file) {
            Ok(contents) => {
                Ok(Self { path, file: Arc::new(file), contents: Arc::new(contents), owner })
            }
            Err(flaw) => Err(flaw.of(&path)),
        }
    }

    /// Refuses an image that neither we nor root have written. It may be read, but to restore it
    /// is to run whatever its owner has put into it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Permission`](crate::ErrorKind::Permission), with what to do.
    pub fn check_owner(&self) -> Result<()> {
        owner::check(&self.path, self.owner)
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the image says about itself.
    pub fn header(&self) -> &Header {
        &self.contents.header
    }

    /// Bytes of the file.
    pub fn file_len(&self) -> u64 {
        self.contents.length
    }

    /// The value of a section; `None` if the image has no such section.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Damaged`](crate::ErrorKind::Damaged) if its bytes are not such a value.
    pub fn section<T: Decode<()>>(&self, tag: Tag) -> Result<Option<T>> {
        self.contents.section(&self.file, tag).map_err(|flaw| flaw.of(&self.path))
    }

    /// Whether it has such a section.
    pub fn has(&self, tag: Tag) -> bool {
        self.contents.headers().any(|header| header.tag == tag)
    }

    /// How many blocks there are; their ids are 0 up to this.
    pub fn blocks(&self) -> usize {
        self.contents.rows.len()
    }

    /// Bytes of a block after decompression.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Damaged`](crate::ErrorKind::Damaged) if there is no such block.
    pub fn plain_len(&self, id: BlockId) -> Result<usize> {
        Ok(self.row(id)?.plain as usize)
    }

    /// Reads a block (pread(2)), checks it and gives its plaintext, which stays in `unpacker`
    /// until that is used again.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Damaged`](crate::ErrorKind::Damaged) naming the block and its offset if it is
    /// not there or not whole, otherwise what pread(2) says.
    pub fn read_block<'a>(&self, id: BlockId, unpacker: &'a mut Unpacker) -> Result<&'a [u8]> {
        let row = self.row(id)?;
        unpacker.read(&self.file, id, row).map_err(|flaw| flaw.of(&self.path))
    }

    /// Has the kernel read a block ahead (posix_fadvise(2)), as far as it likes.
    pub fn expect_block(&self, id: BlockId) {
        let Ok(row) = self.row(id) else { return };
        let length = NonZero::new(u64::from(row.stored));
        let _ = rustix::fs::fadvise(&self.file, row.offset, length, Advice::WillNeed);
    }

    /// A block as it is stored, and the length of its plaintext.
    pub(super) fn stored_block<'a>(
        &self,
        id: BlockId,
        unpacker: &'a mut Unpacker,
    ) -> Result<(Packed<'a>, usize)> {
        let Row { plain, codec, crc, .. } = *self.row(id)?;
        let stored = unpacker.stored(&self.file, id, self.row(id)?);
        let stored = stored.map_err(|flaw| flaw.of(&self.path))?;
        Ok((Packed { stored, codec, crc }, plain as usize))
    }

    /// All sections that this version knows, but for some, as they are stored.
    pub(super) fn stored_sections(&self, but: &[Tag]) -> Result<Vec<Stored<'_>>> {
        let wanted = |header: &SectionHeader| header.known() && !but.contains(&header.tag);
        self.contents.sections(&self.file, wanted).map_err(|flaw| flaw.of(&self.path))
    }

    /// The other images without which this one cannot be restored.
    ///
    /// # Errors
    ///
    /// As [`Reader::section`].
    pub fn needed(&self) -> Result<Vec<Needed>> {
        Ok(self.section(Tag::NEED)?.unwrap_or_default())
    }

    /// Keeps others from putting a new image in this one's place (flock(2), shared) for as long as it
    /// is open; false if one has taken its place already, or it cannot be locked.
    pub fn hold(&self) -> bool {
        let locked = self.file.try_lock_shared().is_ok();
        locked && self.has_its_name()
    }

    /// Whether [`Reader::give_up`] would say yes at this moment.
    pub fn may_give_up(&self) -> bool {
        let may = self.give_up();
        may && self.file.unlock().is_ok()
    }

    /// Whether nobody holds it ([`Reader::hold`]), so that it may be replaced; nobody can from then on.
    pub fn give_up(&self) -> bool {
        let locked = self.file.try_lock().is_ok();
        locked && self.has_its_name()
    }

    fn has_its_name(&self) -> bool {
        let named = std::fs::symlink_metadata(&self.path);
        match (self.file.metadata(), named) {
            (Ok(own), Ok(named)) => (own.dev(), own.ino()) == (named.dev(), named.ino()),
            _ => false,
        }
    }

    fn row(&self, id: BlockId) -> Result<&Row> {
        self.contents.rows.get(id.0 as usize).ok_or_else(|| {
            let why = format!("the image has {}", self.blocks());
            Flaw::damaged(format!("block {}", id.0), why).of(&self.path)
        })
    }

    /// Reads and checks everything, with `workers` threads (0: one a core). `observer` hears of
    /// the progress in plaintext bytes.
    ///
    /// # Errors
    ///
    /// As [`Reader::open`] and [`Reader::read_block`], of the first part that is not whole.
    pub fn verify(&self, observer: &dyn Observer, workers: usize) -> Result<Summary> {
        // Once more: the file may have changed since it was opened.
        let contents = Contents::load_all(&self.file).map_err(|flaw| flaw.of(&self.path))?;
        let summary = contents.summary();
        let all = Verification::new(&self.file, &contents, observer, summary.plain);
        match all.run(workers)? {
            None => Ok(summary),
            Some(flaw) => Err(flaw.of(&self.path)),
        }
    }
}

fn cannot_open(path: &Path, source: std::io::Error) -> Error {
    io_error(format!("cannot open {}", path.display()), source)
}

/// All blocks being read by several threads, each taking the next that is to be had.
struct Verification<'a> {
    file: &'a File,
    contents: &'a Contents,
    observer: &'a dyn Observer,
    next: AtomicUsize,
    done: AtomicU64,
    total: u64,
    /// The first flawed block in file order. Blocks are handed out in that order, so all before
    /// it have been looked at when the threads have ended.
    first: Mutex<Option<(u32, Flaw)>>,
}

impl<'a> Verification<'a> {
    fn new(file: &'a File, contents: &'a Contents, observer: &'a dyn Observer, total: u64) -> Self {
        let (next, done, first) = Default::default();
        Self { file, contents, observer, next, done, total, first }
    }

    fn run(self, workers: usize) -> Result<Option<Flaw>> {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let workers = if workers == 0 { cores() } else { workers };
        let mut own = Unpacker::new()?;
        std::thread::scope(|scope| {
            for _ in 1..workers.min(self.contents.rows.len()) {
                // Fewer threads than asked for do as well.
                let work = || Unpacker::new().map(|mut unpacker| self.work(&mut unpacker));
                let _ = std::thread::Builder::new().spawn_scoped(scope, work);
            }
            self.work(&mut own);
        });
        let first = self.first.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(first.map(|(_, flaw)| flaw))
    }

    fn work(&self, unpacker: &mut Unpacker) {
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(row) = self.contents.rows.get(index) else { return };
            // The tiling check made sure that there are fewer than 2^32.
            let id = BlockId(index as u32);
            if let Err(flaw) = unpacker.read(self.file, id, row) {
                self.next.store(self.contents.rows.len(), Ordering::Relaxed);
                return self.report(id, flaw);
            }
            let plain = u64::from(row.plain);
            let done = self.done.fetch_add(plain, Ordering::Relaxed) + plain;
            self.observer.event(Event::Bytes { done, total: self.total });
        }
    }

    fn report(&self, id: BlockId, flaw: Flaw) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        if first.as_ref().is_none_or(|(known, _)| id.0 < *known) {
            *first = Some((id.0, flaw));
        }
    }
}
