//! Makes a generation that needs others complete by itself, without the job: what it refers to is copied
//! into a new image, which takes its place. Those that it needed can go then.
//!
//! Blocks of which all is needed are copied as they are stored; of others the parts that are still
//! needed are put together. Sections but those that say where pages are stay the same.

use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};
use crate::image::{
    Ancestors, BlockId, Directory, ImageId, Importance, Level, MAX_BLOCK, NewHeader, Packer,
    Reader, Tag, Unpacker, Whose, Writer,
};
use crate::os::sched;
use crate::snapshot::pages::{
    BlockPages, Hash, Hashes, Located, MOST_HASHES, PAGES, PageIndex, PageRun, Part, References,
    hashes_in, whereabouts,
};

/// What became of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    /// The image that needed others.
    pub from: ImageId,
    /// The one in its place.
    pub to: ImageId,
    /// Where that is.
    pub path: PathBuf,
    /// Bytes of the file.
    pub bytes: u64,
}

/// Lets the calling thread run only when nobody else needs the core or the disk (nice(2), ioprio_set(2)).
pub fn yield_to_others() {
    sched::yield_to_others();
}

/// Puts an image that needs no others in the place of the one at `path`. `level` is for what is not
/// copied as it is. `go_on` is asked now and then; false gives the work up. Gives nothing if there was
/// nothing to do.
///
/// # Errors
///
/// [`ErrorKind::Busy`] if the work was given up, or a checkpoint builds upon the image at this moment;
/// otherwise as [`Reader::open`] and [`Writer::create`]. The image is as it was.
pub fn merge(path: &Path, level: Level, go_on: &dyn Fn() -> bool) -> Result<Option<Merged>> {
    let image = Reader::open(path)?;
    image.check_owner()?;
    if image.needed()?.is_empty() {
        return Ok(None);
    }
    // Where this cannot be locked, all the work would be in vain.
    if !image.may_give_up() {
        return Err(in_use(path));
    }
    let ancestors = Ancestors::of(&image, Whose::Trusted)?;
    let (dir, name) = match (path.parent(), path.file_name().and_then(|name| name.to_str())) {
        (Some(dir), Some(name)) => (dir, name),
        _ => return Err(Error::new(ErrorKind::Usage, format!("{} is no file", path.display()))),
    };
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    let header = NewHeader { job: image.header().job, generation: image.header().generation };
    let mut writer = Writer::create(dir, name, &header, level)?;
    writer.made_at(image.header().created);
    let images = std::iter::once(&image).chain(ancestors.iter());
    let hashes = images.map(Hashes::of).collect::<Result<_>>()?;
    let mut gatherer = Gatherer::new(&writer, hashes)?;
    for located in whereabouts(&image)? {
        if !go_on() {
            return Err(given_up());
        }
        let from = ancestors.get(located.image, &image);
        let from = from.ok_or_else(|| Error::new(ErrorKind::Damaged, "an image is missing"))?;
        gatherer.take(from, located)?;
    }
    gatherer.flush()?;
    let Gatherer { index, hashes, again, .. } = gatherer;
    writer.copy_sections(&image, &[Tag::BLKS, Tag::PAGE, Tag::NEED, Tag::REFS, Tag::HASH])?;
    writer.section(PAGES, Importance::Critical, &index)?;
    if !again.is_empty() {
        writer.section(Tag::REFS, Importance::Critical, &References { blocks: again })?;
    }
    if let Some(hashes) = hashes.filter(|it| (1..=MOST_HASHES).contains(&it.len())) {
        writer.raw_section(Tag::HASH, Importance::Skippable, &hashes)?;
    }
    let (from, to) = (image.header().id, writer.header().id);
    if !go_on() {
        return Err(given_up());
    }
    let finished = writer.finish()?;
    // Who built upon it before has published by now, and nobody can begin to.
    if !image.give_up() || is_needed(dir, from)? {
        return Err(in_use(path));
    }
    let published = finished.publish()?;
    Ok(Some(Merged { from, to, path: published.path, bytes: published.bytes }))
}

fn given_up() -> Error {
    Error::new(ErrorKind::Busy, "the work was given up")
}

fn in_use(path: &Path) -> Error {
    let what = format!("{} is built upon, or cannot be locked", path.display());
    Error::new(ErrorKind::Busy, what)
}

/// Whether any image of this directory needs that one.
fn is_needed(dir: &Path, id: ImageId) -> Result<bool> {
    for entry in Directory::open(dir)?.images()? {
        // A damaged one needs nothing any more.
        let Ok(image) = Reader::open(&entry.path) else { continue };
        if image.needed()?.iter().any(|needed| needed.id == id) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Pages that go into the index, and their hashes as far as all have one.
#[derive(Default)]
struct Listed {
    runs: Vec<PageRun>,
    hashes: Option<Vec<Hash>>,
}

impl Listed {
    fn new() -> Self {
        Self { runs: Vec::new(), hashes: Some(Vec::new()) }
    }

    fn add(&mut self, part: &Part, block: BlockId, known: Option<&Hashes>) {
        self.runs.push(part.run);
        let Some(hashes) = &mut self.hashes else { return };
        let first = known.and_then(|known| known.index(block, part.at));
        let all = (0..hashes_in(part.run.length) as u32)
            .map(|number| known?.get(first? + number).copied())
            .collect::<Option<Vec<Hash>>>();
        match all {
            Some(all) => hashes.extend(all),
            None => self.hashes = None,
        }
    }
}

/// Collects what is needed into new blocks.
struct Gatherer<'a> {
    writer: &'a Writer,
    /// Of the image and those that it needs.
    known: Vec<Hashes>,
    packer: Packer,
    unpacker: Unpacker,
    /// What is not written yet, and what it is.
    buffer: Vec<u8>,
    waiting: Listed,
    /// What of the buffer is others' as well.
    shared: Vec<Part>,
    index: PageIndex,
    /// In the order of the index.
    hashes: Option<Vec<Hash>>,
    again: Vec<Located>,
}

impl<'a> Gatherer<'a> {
    fn new(writer: &'a Writer, known: Vec<Hashes>) -> Result<Self> {
        let (packer, unpacker) = (Packer::new()?, Unpacker::new()?);
        let (buffer, shared, again, waiting) = (Vec::new(), Vec::new(), Vec::new(), Listed::new());
        let (index, hashes) = (PageIndex::default(), Some(Vec::new()));
        Ok(Self { writer, known, packer, unpacker, buffer, waiting, shared, index, hashes, again })
    }

    /// Takes what is needed of one block.
    fn take(&mut self, from: &Reader, mut located: Located) -> Result<()> {
        let Located { image, block, runs } = &mut located;
        runs.sort_unstable_by_key(|part| part.at);
        let known = self.known.get(*image as usize);
        let length = from.plain_len(*block)?;
        if is_whole(runs, length) {
            let new = self.writer.copy_block(from, *block, &mut self.unpacker)?;
            let mut listed = Listed::new();
            runs.iter().for_each(|part| listed.add(part, *block, known));
            self.list(new, listed);
            return Ok(());
        }
        if self.buffer.len() + length > MAX_BLOCK {
            self.flush()?;
        }
        let known = self.known.get(*image as usize);
        let plain = from.read_block(*block, &mut self.unpacker)?;
        // The stretches of the block that were taken, and where in the buffer they are.
        let mut taken: Vec<(u32, u32, u32)> = Vec::new();
        for part in runs.iter() {
            let mut rest = *part;
            while rest.run.length > 0 {
                let there = taken.last().filter(|(_, end, _)| rest.at < *end);
                let there = there.and_then(|_| taken.iter().rfind(|it| it.0 <= rest.at)).copied();
                let length =
                    there.map_or(rest.run.length, |it| rest.run.length.min(it.1 - rest.at));
                let run = PageRun { length, ..rest.run };
                match there {
                    Some((at, _, place)) => {
                        self.shared.push(Part { at: place + rest.at - at, run });
                    }
                    None => {
                        let now = Part { at: rest.at, run };
                        let bytes = now.of(plain)?;
                        taken.push((now.at, now.at + length, self.buffer.len() as u32));
                        self.buffer.extend(bytes);
                        self.waiting.add(&now, *block, known);
                    }
                }
                rest.at += length;
                rest.run.address += u64::from(length);
                rest.run.length -= length;
            }
        }
        Ok(())
    }

    /// Writes what waits as a block.
    fn flush(&mut self) -> Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let block = self.writer.append(&self.buffer, &mut self.packer)?;
        self.buffer.clear();
        let waiting = std::mem::replace(&mut self.waiting, Listed::new());
        self.list(block, waiting);
        let runs = std::mem::take(&mut self.shared);
        if !runs.is_empty() {
            self.again.push(Located { image: 0, block, runs });
        }
        Ok(())
    }

    fn list(&mut self, block: BlockId, Listed { runs, hashes }: Listed) {
        self.index.blocks.push(BlockPages { block, runs });
        self.hashes = self.hashes.take().zip(hashes).map(|(mut all, more)| {
            all.extend(more);
            all
        });
    }
}

/// Whether these parts, by place, are all of a block, and each byte once.
fn is_whole(runs: &[Part], length: usize) -> bool {
    let mut end = 0;
    let follow = runs.iter().all(|part| {
        let follows = part.at as usize == end;
        end += part.run.length as usize;
        follows
    });
    follow && end == length
}
