//! What a program wants to do before and after its checkpoints.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Moment {
    /// Before the checkpoint: close connections, flush devices.
    Before,
    /// After it, in the same life, whether there is an image or not.
    Resumed,
    /// In a life that was restored from it.
    Restarted,
}

struct Entry {
    id: u64,
    moment: Moment,
    work: Box<dyn FnMut() + Send>,
}

static ENTRIES: Mutex<Vec<Entry>> = Mutex::new(Vec::new());
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A hook that is in force. Dropped, it runs no more.
#[derive(Debug)]
#[must_use = "a hook that is dropped runs no more"]
pub struct Hook(u64);

/// Has `work` run at every checkpoint that [`checkpoint_self`](crate::checkpoint_self) takes, in the thread that
/// calls it. Those before run in the order in which they were made, those after it in the opposite one. A hook
/// may make and drop hooks; these count from the next moment on.
///
/// ```
/// use ckpt_core::program::{Moment, hook};
///
/// let hook = hook(Moment::Restarted, || eprintln!("where are we?"));
/// # drop(hook);
/// ```
pub fn hook(moment: Moment, work: impl FnMut() + Send + 'static) -> Hook {
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    entries(|all| all.push(Entry { id, moment, work: Box::new(work) }));
    Hook(id)
}

impl Drop for Hook {
    fn drop(&mut self) {
        GONE.lock().unwrap_or_else(PoisonError::into_inner).push(self.0);
        let gone = entries(take_gone);
        // What they own may drop hooks, too: not under a lock.
        drop(gone);
    }
}

/// Hooks that were dropped while they, or others, were running.
static GONE: Mutex<Vec<u64>> = Mutex::new(Vec::new());

fn take_gone(all: &mut Vec<Entry>) -> Vec<Entry> {
    let mut gone = GONE.lock().unwrap_or_else(PoisonError::into_inner);
    let is_gone = |entry: &mut Entry| gone.contains(&entry.id);
    let taken: Vec<Entry> = all.extract_if(.., is_gone).collect();
    gone.retain(|id| taken.iter().all(|entry| entry.id != *id));
    taken
}

fn entries<T>(work: impl FnOnce(&mut Vec<Entry>) -> T) -> T {
    work(&mut ENTRIES.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Runs those of a moment.
pub(super) fn run(moment: Moment) {
    // They may make and drop hooks: they are taken out meanwhile.
    let mut all = entries(std::mem::take);
    let its = all.iter_mut().filter(|entry| entry.moment == moment);
    match moment {
        Moment::Before => its.for_each(|entry| (entry.work)()),
        Moment::Resumed | Moment::Restarted => its.rev().for_each(|entry| (entry.work)()),
    }
    let gone = entries(|new| {
        all.append(new);
        *new = all;
        take_gone(new)
    });
    drop(gone);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn in_order_and_back() {
        let said = Arc::new(Mutex::new(Vec::new()));
        let say = |moment, word: &'static str| {
            let said = Arc::clone(&said);
            hook(moment, move || said.lock().unwrap().push(word))
        };
        let first = say(Moment::Before, "first");
        let _second = say(Moment::Before, "second");
        let _undone = [say(Moment::Resumed, "first undone"), say(Moment::Resumed, "second undone")];
        let _restarted = say(Moment::Restarted, "restarted");
        let told = |moment| {
            run(moment);
            std::mem::take(&mut *said.lock().unwrap())
        };
        assert_eq!(told(Moment::Before), ["first", "second"]);
        assert_eq!(told(Moment::Resumed), ["second undone", "first undone"]);
        assert_eq!(told(Moment::Restarted), ["restarted"]);
        drop(first);
        assert_eq!(told(Moment::Before), ["second"]);
        // One that drops itself.
        let cell = Arc::new(Mutex::new(None));
        let own = Arc::clone(&cell);
        let once = say(Moment::Before, "unused");
        drop(once);
        let once = hook(Moment::Before, move || drop(own.lock().unwrap().take()));
        *cell.lock().unwrap() = Some(once);
        assert_eq!(told(Moment::Before), ["second"]);
        assert!(cell.lock().unwrap().is_none());
        assert_eq!(told(Moment::Before), ["second"]);
    }
}
