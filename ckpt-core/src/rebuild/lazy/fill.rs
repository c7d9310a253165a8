//! The pages that come later, block by block: to whoever touches one, to whoever asks for a range, and
//! all the rest behind. Each block is read once.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, PollFd, PollFlags};

use super::choose::Lazy;
use crate::error::{Error, ErrorKind, Result};
use crate::image::Unpacker;
use crate::os::PAGE;
use crate::os::cpu::workers;
use crate::rebuild::faults::Faults;
use crate::rebuild::pages::Pages;
use crate::rebuild::spans::{Span, cut, overlapping};

/// How far a block has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Missing,
    /// Somebody is at it.
    Begun,
    There,
}

/// What the threads share.
#[derive(Debug)]
pub(super) struct Store {
    pages: Arc<Pages>,
    faults: Faults,
    /// The blocks that come later, by index in `pages.located`.
    blocks: Vec<usize>,
    /// What they hold, sorted, and which of `blocks` holds each.
    spans: Vec<Span>,
    holders: Vec<usize>,
    progress: Mutex<Progress>,
    changed: Condvar,
    next: AtomicUsize,
    /// Readable once there is nothing left to do, or it has failed.
    over: OwnedFd,
    /// Readable once the threads are to end.
    quit: OwnedFd,
}

#[derive(Debug)]
struct Progress {
    states: Vec<State>,
    left: usize,
    quitting: bool,
    failure: Option<Error>,
}

/// The threads at work. Dropping it ends them; what is missing then stays so until the process dies.
#[derive(Debug)]
pub(crate) struct Filling {
    store: Arc<Store>,
    threads: Vec<JoinHandle<()>>,
    /// Threads that fill what nobody has touched: none yet, and how many there are to be.
    wanted: Option<usize>,
    bytes: u64,
}

impl Filling {
    /// Begins: faults are served from here on.
    ///
    /// # Errors
    ///
    /// There can be no thread for that.
    pub(crate) fn begin(
        pages: Arc<Pages>,
        lazy: &Lazy,
        faults: Faults,
        wanted: usize,
    ) -> Result<Self> {
        let store = Arc::new(Store::new(pages, lazy, faults)?);
        let mut this = Self { store, threads: Vec::new(), wanted: Some(wanted), bytes: lazy.bytes };
        this.spawn("ckpt-faults", |store, unpacker| store.serve(unpacker))?;
        Ok(this)
    }

    /// Begins to fill what nobody has touched, if that has not begun. Where there can be no thread for that
    /// it is done at once.
    ///
    /// # Errors
    ///
    /// As of [`Self::is_over`].
    pub(super) fn want_all(&mut self, unpacker: &mut Unpacker) -> Result<()> {
        let Some(wanted) = self.wanted.take() else { return Ok(()) };
        let begun = (0..workers(wanted))
            .map_while(|_| self.spawn("ckpt-behind", |store, unpacker| store.work(unpacker)).ok());
        match begun.count() {
            0 => self.store.work(unpacker),
            _ => Ok(()),
        }
    }

    /// Bytes that come later.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn spawn(
        &mut self,
        name: &str,
        work: impl Fn(&Store, &mut Unpacker) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let (store, mut unpacker) = (Arc::clone(&self.store), Unpacker::new()?);
        let run = move || {
            if let Err(error) = work(&store, &mut unpacker) {
                store.fail(error);
            }
        };
        let thread = std::thread::Builder::new().name(name.into()).spawn(run);
        let thread = thread.map_err(|e| Error::os("cannot start a thread", e))?;
        self.threads.push(thread);
        Ok(())
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// Readable once [`Self::is_over`] has something to tell.
    pub(super) fn poll_fd(&self) -> BorrowedFd<'_> {
        self.store.over.as_fd()
    }

    /// Whether all is there.
    ///
    /// # Errors
    ///
    /// What has failed; the processes that miss pages will never have them.
    pub(super) fn is_over(&self) -> Result<bool> {
        let mut progress = self.store.progress();
        match progress.failure.take() {
            Some(error) => Err(error),
            None => Ok(progress.left == 0),
        }
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        self.store.progress().quitting = true;
        self.store.changed.notify_all();
        let _ = rustix::io::write(&self.store.quit, &1u64.to_ne_bytes());
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

impl Store {
    fn new(pages: Arc<Pages>, lazy: &Lazy, faults: Faults) -> Result<Self> {
        let blocks: Vec<usize> = (0..pages.located.len()).filter(|&i| lazy.has(i)).collect();
        let mut held: Vec<(Span, usize)> = Vec::new();
        for (number, &index) in blocks.iter().enumerate() {
            let spans = pages.located[index].runs.iter().filter_map(Span::of);
            held.extend(spans.map(|span| (span, number)));
        }
        held.sort_unstable();
        let (spans, holders) = held.into_iter().unzip();
        let event = || {
            rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
                .map_err(|e| Error::os("cannot make an eventfd", e))
        };
        let left = blocks.len();
        let states = vec![State::Missing; left];
        let progress = Progress { states, left, quitting: false, failure: None };
        Ok(Self {
            pages,
            faults,
            blocks,
            spans,
            holders,
            progress: Mutex::new(progress),
            changed: Condvar::new(),
            next: AtomicUsize::new(0),
            over: event()?,
            quit: event()?,
        })
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, error: Error) {
        let mut progress = self.progress();
        progress.quitting = true;
        progress.failure.get_or_insert(error);
        self.changed.notify_all();
        self.tell();
    }

    fn tell(&self) {
        let _ = rustix::io::write(&self.over, &1u64.to_ne_bytes());
    }

    /// Block after block.
    fn work(&self, unpacker: &mut Unpacker) -> Result<()> {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.blocks.len() || self.progress().quitting {
                return Ok(());
            }
            if self.claim(number) {
                self.bring(number, unpacker)?;
            }
        }
    }

    /// Whoever touches a missing page.
    fn serve(&self, unpacker: &mut Unpacker) -> Result<()> {
        let failed = |e: io::Error| Error::os("cannot serve page faults", e);
        loop {
            let mut fds = vec![PollFd::new(&self.quit, PollFlags::IN)];
            fds.extend(self.faults.iter().map(|(_, uffd)| PollFd::new(uffd, PollFlags::IN)));
            match rustix::event::poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(failed(error.into())),
            }
            if self.progress().quitting {
                return Ok(());
            }
            for (process, uffd) in self.faults.iter() {
                while let Some(address) = uffd.fault().map_err(failed)? {
                    let start = address & !(PAGE - 1);
                    let page = Span { process, start, end: start + PAGE };
                    self.ensure(page, unpacker)?;
                    done(uffd.wake(start, PAGE))?;
                }
            }
        }
    }

    /// Sees to it that a range is there, as far as it is one of those that come later.
    pub(super) fn ensure(&self, range: Span, unpacker: &mut Unpacker) -> Result<()> {
        for area in overlapping(self.faults.areas(), range) {
            let mut at = area.start & !(PAGE - 1);
            let end = area.end.next_multiple_of(PAGE);
            let first = self.spans.partition_point(|it| (it.process, it.end) <= (area.process, at));
            for (span, &number) in self.spans[first..].iter().zip(&self.holders[first..]) {
                if (span.process, span.start) >= (area.process, end) {
                    break;
                }
                self.ensure_zeros(area.process, at, span.start)?;
                self.ensure_block(number, unpacker)?;
                at = span.end;
            }
            self.ensure_zeros(area.process, at, end)?;
        }
        Ok(())
    }

    /// Bytes of a range that may come later.
    pub(super) fn extent(&self, range: Span) -> u64 {
        overlapping(self.faults.areas(), range).map(Span::length).sum()
    }

    /// Pages that are in no block have never been touched, or hold zeros.
    fn ensure_zeros(&self, process: u32, start: u64, end: u64) -> Result<()> {
        let Some(uffd) = self.faults.of_process(process) else { return Ok(()) };
        for page in (start..end).step_by(PAGE as usize) {
            match uffd.zero(page, PAGE) {
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
                result => done(result)?,
            }
        }
        Ok(())
    }

    fn ensure_block(&self, number: usize, unpacker: &mut Unpacker) -> Result<()> {
        if self.claim(number) {
            return self.bring(number, unpacker);
        }
        let mut progress = self.progress();
        while progress.states[number] != State::There && !progress.quitting {
            progress = self.changed.wait(progress).unwrap_or_else(PoisonError::into_inner);
        }
        if progress.states[number] == State::There { Ok(()) } else { Err(given_up()) }
    }

    /// Takes a block upon oneself; false if somebody else has.
    fn claim(&self, number: usize) -> bool {
        let mut progress = self.progress();
        let is_missing = progress.states[number] == State::Missing;
        if is_missing {
            progress.states[number] = State::Begun;
        }
        is_missing
    }

    /// Brings a block that is ours to bring.
    fn bring(&self, number: usize, unpacker: &mut Unpacker) -> Result<()> {
        let block = &self.pages.located[self.blocks[number]];
        let bytes = self.pages.read(block, unpacker)?;
        for part in &block.runs {
            let Some(span) = Span::of(part) else { continue };
            let bytes = part.of(bytes)?;
            for (at, bytes, _) in cut(self.faults.areas(), span.process, span.start, bytes) {
                done(self.faults.bring(span.process, at, bytes))?;
            }
        }
        let mut progress = self.progress();
        progress.states[number] = State::There;
        progress.left -= 1;
        if progress.left == 0 {
            self.tell();
        }
        self.changed.notify_all();
        Ok(())
    }
}

/// A process that has ended needs nothing any more.
fn done(result: io::Result<()>) -> Result<()> {
    match result {
        Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
            let what = "cannot bring memory that comes later";
            Err(Error::os(what, error).kind_is(ErrorKind::Internal))
        }
        _ => Ok(()),
    }
}

fn given_up() -> Error {
    Error::new(ErrorKind::Internal, "the memory that comes later does not come any more")
}
