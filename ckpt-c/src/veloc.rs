//! What VeloC calls the same things (`include/veloc.h`): a program that uses it is built against ckpt unchanged, as
//! far as it protects memory. Files of its own (`VELOC_Route_file`), named groups of regions and observers are not
//! offered, and not declared.
//!
//! There is one client a process, as there. Its arrays are saved as regions named by their numbers, in stores
//! named as the checkpoints are. What is saved is copied when it is, so that it may change before
//! `VELOC_Checkpoint_end`, which makes it durable, or leaves nothing of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{c_char, c_int, c_void};
use std::sync::{Mutex, PoisonError};

use ckpt_core::regions::{Keep, Kind, Options, Pending, Region, Store};
use ckpt_core::{Error, ErrorKind, Result};

use crate::arguments::{array, room, text};
use crate::status::{ckpt_status, told, usage};

const SUCCESS: c_int = 0;
const FAILURE: c_int = -1;

/// An array of the program's.
#[derive(Clone, Copy)]
struct Protected {
    data: *mut c_void,
    count: usize,
    size: u32,
}

// SAFETY: the pointer is only followed in calls of the program, which vouches for it then.
unsafe impl Send for Protected {}

impl Protected {
    fn region(&self, id: c_int) -> Region {
        let (name, shape) = (id.to_string(), vec![self.count as u64]);
        Region { name, kind: Kind::Bytes, size: self.size, shape }
    }

    fn bytes(&self) -> usize {
        self.count.saturating_mul(self.size as usize)
    }
}

/// A checkpoint that has begun.
struct Begun {
    name: String,
    version: u64,
    copies: Vec<(Region, Vec<u8>)>,
}

struct Client {
    dir: String,
    options: Options,
    is_async: bool,
    protected: BTreeMap<c_int, Protected>,
    stores: HashMap<String, Store>,
    begun: Option<Begun>,
    pending: Option<Pending>,
    /// What is being restored.
    restored: Option<(String, u64)>,
}

static CLIENT: Mutex<Option<Client>> = Mutex::new(None);

fn answer(result: Result<()>) -> c_int {
    if told(result) == ckpt_status::CKPT_OK { SUCCESS } else { FAILURE }
}

fn with<T>(work: impl FnOnce(&mut Client) -> Result<T>) -> Result<T> {
    let mut client = CLIENT.lock().unwrap_or_else(PoisonError::into_inner);
    client.as_mut().map_or_else(|| Err(usage("VELOC_Init has not been called")), work)
}

fn number(version: c_int) -> Result<u64> {
    u64::try_from(version).map_err(|_| usage(format!("{version} is no version")))
}

/// `NAME = VALUE` lines of a configuration; what follows a # or ; is a remark.
fn settings(text: &str) -> HashMap<&str, &str> {
    let lines = text.lines().map(|line| line.split(['#', ';']).next().unwrap_or_default());
    lines
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.trim(), value.trim()))
        .collect()
}

impl Client {
    fn new(rank: u32, ranks: u32, path: &str) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Error::os(format!("cannot read {path}"), e))?;
        let settings = settings(&text);
        // What lives as long as the reservation is no use afterwards.
        let dir = settings.get("persistent").or_else(|| settings.get("scratch"));
        let dir = dir.ok_or_else(|| usage(format!("{path} names no persistent folder")))?;
        let is_async = settings.get("mode").is_some_and(|mode| *mode == "async");
        let versions: usize = match settings.get("max_versions") {
            Some(word) => {
                word.parse().map_err(|e| usage(format!("max_versions in {path}")).source(e))?
            }
            None => 0,
        };
        // 0 keeps all.
        let newest = if versions == 0 { usize::MAX } else { versions };
        let options =
            Options { rank, ranks, keep: Keep { newest, every: None }, ..Options::default() };
        if rank >= ranks {
            return Err(usage(format!("there is no rank {rank} of {ranks}")));
        }
        Ok(Self {
            dir: (*dir).to_owned(),
            options,
            is_async,
            protected: BTreeMap::new(),
            stores: HashMap::new(),
            begun: None,
            pending: None,
            restored: None,
        })
    }

    fn store(&mut self, name: &str) -> Result<&mut Store> {
        if !self.stores.contains_key(name) {
            let store = Store::open(&self.dir, name, self.options)?;
            self.stores.insert(name.to_owned(), store);
        }
        self.stores.get_mut(name).ok_or_else(|| usage(format!("there is no store {name}")))
    }

    fn wait(&mut self) -> Result<()> {
        self.pending.take().map_or(Ok(()), |pending| pending.wait().map(drop))
    }

    fn wanted(&self, mode: c_int, ids: &BTreeSet<c_int>) -> Result<Vec<c_int>> {
        let known = self.protected.keys().copied();
        match mode {
            0 => Ok(known.collect()),
            1 => match ids.iter().find(|id| !self.protected.contains_key(id)) {
                Some(id) => Err(usage(format!("{id} is not protected"))),
                None => Ok(ids.iter().copied().collect()),
            },
            2 => Ok(known.filter(|id| !ids.contains(id)).collect()),
            _ => Err(usage(format!("{mode} is no mode"))),
        }
    }

    /// # Safety
    ///
    /// The arrays are where they were said to be, and nobody writes to them meanwhile.
    unsafe fn copy(&mut self, mode: c_int, ids: &BTreeSet<c_int>) -> Result<()> {
        let wanted = self.wanted(mode, ids)?;
        let begun = self.begun.as_mut().ok_or_else(|| usage("no checkpoint has begun"))?;
        for id in wanted {
            let its = self.protected[&id];
            // SAFETY: the caller's word.
            let bytes = unsafe { array(its.data.cast::<u8>(), its.bytes(), "memory") }?;
            begun.copies.push((its.region(id), bytes.to_vec()));
        }
        Ok(())
    }

    fn end(&mut self, success: bool) -> Result<()> {
        let begun = self.begun.take().ok_or_else(|| usage("no checkpoint has begun"))?;
        if !success {
            return Ok(());
        }
        // One that failed meanwhile is told here, if nobody has asked; this one is given up with it.
        self.wait()?;
        let is_async = self.is_async;
        let mut next = self.store(&begun.name)?.begin(begun.version)?;
        for (region, bytes) in begun.copies {
            next.add_owned_bytes(region, bytes)?;
        }
        self.pending =
            if is_async { Some(next.commit_async()?) } else { next.commit().map(|_| None)? };
        Ok(())
    }

    fn restoring(&mut self) -> Result<ckpt_core::regions::Version> {
        let (name, version) = self.restored.clone().ok_or_else(|| usage("no restart has begun"))?;
        self.store(&name)?.version(version)
    }

    /// # Safety
    ///
    /// As of [`Self::copy`].
    unsafe fn recover(&mut self, mode: c_int, ids: &BTreeSet<c_int>) -> Result<()> {
        let (version, wanted) = (self.restoring()?, self.wanted(mode, ids)?);
        for id in wanted {
            let its = self.protected[&id];
            let saved = version.region(&id.to_string())?;
            if saved.bytes() != Some(its.bytes() as u64) {
                return Err(usage(format!(
                    "{saved} is what was saved, and {} bytes are protected",
                    its.bytes()
                )));
            }
            // SAFETY: the caller's word.
            let into = unsafe { room(its.data, its.bytes(), "memory") }?;
            version.read_bytes(&id.to_string(), 0, into)?;
        }
        // Later versions of the program follow this one.
        let (name, number) = self.restored.clone().unwrap_or_default();
        self.store(&name)?.restore_up_to(number, |_| Ok(())).map(drop)
    }
}

/// As VELOC_Init, by numbers: which rank we are, of how many.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn VELOC_Init_ranks(
    rank: c_int,
    ranks: c_int,
    cfg_file: *const c_char,
) -> c_int {
    // SAFETY: C's word: a string.
    answer(unsafe { text(cfg_file, "cfg_file") }.and_then(|path| {
        let number =
            |value: c_int| u32::try_from(value).map_err(|_| usage(format!("{value} is no rank")));
        let client = Client::new(number(rank)?, number(ranks)?, path)?;
        *CLIENT.lock().unwrap_or_else(PoisonError::into_inner) = Some(client);
        Ok(())
    }))
}

/// A process by itself; checkpoints of other numbers are others'.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn VELOC_Init_single(id: u32, cfg_file: *const c_char) -> c_int {
    // SAFETY: C's word: a string.
    answer(unsafe { text(cfg_file, "cfg_file") }.and_then(|path| {
        let mut client = Client::new(0, 1, path)?;
        if id > 0 {
            client.dir = format!("{}/{id}", client.dir);
        }
        *CLIENT.lock().unwrap_or_else(PoisonError::into_inner) = Some(client);
        Ok(())
    }))
}

/// Waits for what is being written; images stay.
#[unsafe(no_mangle)]
pub extern "C" fn VELOC_Finalize(_cleanup: c_int) -> c_int {
    let waited = with(Client::wait);
    *CLIENT.lock().unwrap_or_else(PoisonError::into_inner) = None;
    answer(waited)
}

#[unsafe(no_mangle)]
#[allow(missing_docs)]
pub extern "C" fn VELOC_Mem_protect(
    id: c_int,
    data: *mut c_void,
    count: usize,
    base_size: usize,
) -> c_int {
    answer(with(|client| {
        let size = u32::try_from(base_size)
            .map_err(|_| usage(format!("elements of {base_size} bytes")))?;
        let protected = Protected { data, count, size };
        if isize::try_from(count.saturating_mul(base_size)).is_err()
            || (data.is_null() && protected.bytes() > 0)
        {
            return Err(usage(format!("{id}: that is no memory")));
        }
        client.protected.insert(id, protected);
        Ok(())
    }))
}

#[unsafe(no_mangle)]
#[allow(missing_docs)]
pub extern "C" fn VELOC_Mem_unprotect(id: c_int) -> c_int {
    answer(with(|client| {
        client
            .protected
            .remove(&id)
            .map(drop)
            .ok_or_else(|| usage(format!("{id} is not protected")))
    }))
}

#[unsafe(no_mangle)]
#[allow(missing_docs)]
pub extern "C" fn VELOC_Mem_clear() -> c_int {
    answer(with(|client| {
        client.protected.clear();
        Ok(())
    }))
}

#[unsafe(no_mangle)]
#[allow(missing_docs)]
pub unsafe extern "C" fn VELOC_Checkpoint_begin(name: *const c_char, version: c_int) -> c_int {
    // SAFETY: C's word: a string.
    answer(unsafe { text(name, "name") }.and_then(|name| {
        let (name, version) = (name.to_owned(), number(version)?);
        with(|client| {
            client.begun = Some(Begun { name, version, copies: Vec::new() });
            Ok(())
        })
    }))
}

/// The numbers of a list.
///
/// # Safety
///
/// There are so many.
unsafe fn listed(ids: *const c_int, count: c_int) -> Result<BTreeSet<c_int>> {
    let count = usize::try_from(count).map_err(|_| usage(format!("{count} is no length")))?;
    // SAFETY: the caller's word.
    Ok(unsafe { array(ids, count, "ids") }?.iter().copied().collect())
}

#[unsafe(no_mangle)]
#[allow(missing_docs)]
pub unsafe extern "C" fn VELOC_Checkpoint_selective(
    mode: c_int,
    ids: *const c_int,
    count: c_int,
) -> c_int {
    // SAFETY: C's word: a list, and arrays as they were protected.
    answer(unsafe { listed(ids, count).and_then(|ids| with(|client| client.copy(mode, &ids))) })
}

#[unsafe(no_mangle)]
#[allow(missing_docs)]
pub unsafe extern "C" fn VELOC_Checkpoint_mem() -> c_int {
    // SAFETY: C's word: arrays as they were protected.
    answer(with(|client| unsafe { client.copy(0, &BTreeSet::new()) }))
}

#[unsafe(no_mangle)]
#[allow(missing_docs)]
pub extern "C" fn VELOC_Checkpoint_end(success: c_int) -> c_int {
    answer(with(|client| client.end(success != 0)))
}

#[unsafe(no_mangle)]
#[allow(missing_docs)]
pub extern "C" fn VELOC_Checkpoint_wait() -> c_int {
    answer(with(Client::wait))
}

/// 1 if nothing is being written, else 0.
#[unsafe(no_mangle)]
pub extern "C" fn VELOC_Checkpoint_finished() -> c_int {
    let over = with(|client| Ok(client.pending.as_ref().is_none_or(Pending::is_over)));
    match over {
        Ok(over) => c_int::from(over),
        Err(error) => answer(Err(error)),
    }
}

#[unsafe(no_mangle)]
#[allow(missing_docs)]
pub unsafe extern "C" fn VELOC_Checkpoint(name: *const c_char, version: c_int) -> c_int {
    if VELOC_Checkpoint_wait() != SUCCESS {
        return FAILURE;
    }
    // SAFETY: C's word: a string.
    if unsafe { VELOC_Checkpoint_begin(name, version) } != SUCCESS {
        return FAILURE;
    }
    // SAFETY: C's word: arrays as they were protected.
    let copied = unsafe { VELOC_Checkpoint_mem() };
    let ended = VELOC_Checkpoint_end(c_int::from(copied == SUCCESS));
    if copied == SUCCESS { ended } else { FAILURE }
}

/// The newest version below this one, or of all for 0; VELOC_FAILURE if there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn VELOC_Restart_test(name: *const c_char, needed_version: c_int) -> c_int {
    // SAFETY: C's word: a string.
    let found = unsafe { text(name, "name") }.and_then(|name| {
        let limit = if needed_version == 0 { u64::MAX } else { number(needed_version)? };
        with(|client| {
            let newest =
                client.store(name)?.versions()?.into_iter().find(|version| *version < limit);
            let newest = newest.and_then(|version| c_int::try_from(version).ok());
            newest.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("{name} has no version")))
        })
    });
    found.unwrap_or_else(|error| answer(Err(error)))
}

#[unsafe(no_mangle)]
#[allow(missing_docs)]
pub unsafe extern "C" fn VELOC_Restart_begin(name: *const c_char, version: c_int) -> c_int {
    // SAFETY: C's word: a string.
    answer(unsafe { text(name, "name") }.and_then(|name| {
        let version = number(version)?;
        with(|client| {
            client.store(name)?.version(version)?;
            client.restored = Some((name.to_owned(), version));
            Ok(())
        })
    }))
}

/// Bytes that were saved of this number; -1 if there are none.
#[unsafe(no_mangle)]
pub extern "C" fn VELOC_Recover_size(id: c_int) -> c_int {
    let size = with(|client| {
        let bytes = client.restoring()?.region(&id.to_string())?.bytes();
        let bytes = bytes.and_then(|bytes| c_int::try_from(bytes).ok());
        bytes.ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, format!("{id} is larger than an int tells"))
        })
    });
    size.unwrap_or_else(|error| answer(Err(error)))
}

#[unsafe(no_mangle)]
#[allow(missing_docs)]
pub unsafe extern "C" fn VELOC_Recover_selective(
    mode: c_int,
    ids: *const c_int,
    count: c_int,
) -> c_int {
    // SAFETY: C's word: a list, and arrays as they were protected.
    answer(unsafe { listed(ids, count).and_then(|ids| with(|client| client.recover(mode, &ids))) })
}

#[unsafe(no_mangle)]
#[allow(missing_docs)]
pub unsafe extern "C" fn VELOC_Recover_mem() -> c_int {
    // SAFETY: C's word: arrays as they were protected.
    answer(with(|client| unsafe { client.recover(0, &BTreeSet::new()) }))
}

#[unsafe(no_mangle)]
#[allow(missing_docs)]
pub extern "C" fn VELOC_Restart_end(_success: c_int) -> c_int {
    answer(with(|client| {
        client.restored.take().map(drop).ok_or_else(|| usage("no restart has begun"))
    }))
}

#[unsafe(no_mangle)]
#[allow(missing_docs)]
pub unsafe extern "C" fn VELOC_Restart(name: *const c_char, version: c_int) -> c_int {
    // SAFETY: C's word: a string, and arrays as they were protected.
    let begun = unsafe { VELOC_Restart_begin(name, version) };
    if begun != SUCCESS {
        return FAILURE;
    }
    // SAFETY: as above.
    let recovered = unsafe { VELOC_Recover_mem() };
    if VELOC_Restart_end(c_int::from(recovered == SUCCESS)) == SUCCESS {
        recovered
    } else {
        FAILURE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_configuration() {
        let settings =
            settings("# VeloC\nscratch = /tmp/s ; fast\n\n[x]\npersistent=/p\nmax_versions = 3\n");
        assert_eq!(settings["scratch"], "/tmp/s");
        assert_eq!((settings["persistent"], settings["max_versions"]), ("/p", "3"));
        assert_eq!(settings.len(), 3);
    }
}
