//! Images that others need. A generation may refer to blocks of earlier ones instead of storing them
//! again: they are named in its section `NEED`, by the random id that each image has, so that no other
//! image is ever taken for one of them, whatever its name is. They lie in the same directory.

use std::collections::HashMap;
use std::path::Path;

use bincode::{Decode, Encode};

use super::contents::is_uncut;
use super::directory::Entry;
use super::reader::Reader;
use super::{Directory, ImageId, Whose};
use crate::error::{Error, ErrorKind, Result};

/// An image that another one needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Needed {
    /// Which one.
    pub id: ImageId,
    /// Its generation, for people.
    pub generation: u64,
}

/// The images that one needs, opened.
#[derive(Debug, Default)]
pub struct Ancestors(Vec<Reader>);

impl Ancestors {
    /// Opens all that `image` needs, in the order of its section `NEED`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if one is not in its directory, [`ErrorKind::Permission`] if it is a
    /// stranger's where only ours count, otherwise as [`Reader::open`].
    pub fn of(image: &Reader, whose: Whose) -> Result<Self> {
        let needed = image.needed()?;
        if needed.is_empty() {
            return Ok(Self::default());
        }
        let dir = image.path().parent().filter(|dir| !dir.as_os_str().is_empty());
        let dir = Directory::open(dir.unwrap_or(Path::new(".")))?;
        let entries = dir.images()?;
        let there = ids(&entries);
        let open = |needed: &Needed| {
            // Of several copies, one that is whole.
            let copies = there.get(&needed.id).ok_or_else(|| missing(image, needed))?;
            let opened: Vec<Result<Reader>> = copies.iter().map(Reader::open).collect();
            let last = opened.into_iter().reduce(|one, other| one.or(other));
            let reader = last.unwrap_or_else(|| Err(missing(image, needed)))?;
            if whose == Whose::Trusted {
                reader.check_owner()?;
            }
            // The name may lead to another by now.
            if reader.header().id == needed.id { Ok(reader) } else { Err(missing(image, needed)) }
        };
        needed.iter().map(open).collect::<Result<_>>().map(Self)
    }

    /// The `n`-th, counted from 1; 0 is `image` itself.
    pub fn get<'a>(&'a self, n: u32, image: &'a Reader) -> Option<&'a Reader> {
        match n.checked_sub(1) {
            None => Some(image),
            Some(index) => self.0.get(index as usize),
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Reader> {
        self.0.iter()
    }
}

/// Which files have which id, as far as headers can be read.
fn ids(entries: &[Entry]) -> HashMap<ImageId, Vec<&Path>> {
    let mut ids: HashMap<ImageId, Vec<&Path>> = HashMap::new();
    for entry in entries {
        if let Ok(header) = &entry.header {
            ids.entry(header.id).or_default().push(&entry.path);
        }
    }
    ids
}

/// Whether all that `image` needs is among these, and none of it was cut.
pub(super) fn complete(image: &Reader, entries: &[Entry]) -> Result<()> {
    let needed = image.needed()?;
    if needed.is_empty() {
        return Ok(());
    }
    let there = ids(entries);
    let is_there = |needed: &&Needed| {
        there.get(&needed.id).is_some_and(|copies| copies.iter().any(|path| is_uncut(path)))
    };
    match needed.iter().find(|needed| !is_there(needed)) {
        Some(needed) => Err(missing(image, needed)),
        None => Ok(()),
    }
}

fn missing(image: &Reader, needed: &Needed) -> Error {
    let (path, Needed { id, generation }) = (image.path(), needed);
    let dir = path.parent().unwrap_or(path).display();
    let what = format!(
        "{} needs generation {generation} (image {id}), which is not whole in {dir}",
        path.display()
    );
    Error::new(ErrorKind::NotFound, what)
        .help("copy that image there, too; `ckpt checkpoint --full` makes one that needs no other")
}
