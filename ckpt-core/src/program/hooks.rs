//! What a program wants to do before and after its checkpoints.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

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

/// A hook that is in force. Dropped, it runs no more; if it runs in another thread at that moment, the drop waits
/// for its end.
#[derive(Debug)]
#[must_use = "a hook that is dropped runs no more"]
pub struct Hook(u64);

/// Has `work` run at every checkpoint that [`checkpoint_self`](crate::checkpoint_self) takes, in the thread that
/// calls it. Those before run in the order in which they were made, those after it in the opposite one. A hook
/// may make hooks, which count from the next moment on, and drop them, at once.
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
        let me = std::thread::current().id();
        let mut pass = pass();
        pass.gone.push(self.0);
        // One that runs in another thread comes to its end first: what it uses may be freed then.
        let runs = |pass: &mut Pass| pass.current.is_some_and(|(id, it)| id == self.0 && it != me);
        drop(ENDED.wait_while(pass, runs).unwrap_or_else(PoisonError::into_inner));
        // What it owns may drop hooks, too: not under a lock.
        drop(entries(take_gone));
    }
}

/// What runs, and what must not run any more.
#[derive(Debug)]
struct Pass {
    current: Option<(u64, ThreadId)>,
    gone: Vec<u64>,
}

static PASS: Mutex<Pass> = Mutex::new(Pass { current: None, gone: Vec::new() });
static ENDED: Condvar = Condvar::new();

fn pass() -> MutexGuard<'static, Pass> {
    PASS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn take_gone(all: &mut Vec<Entry>) -> Vec<Entry> {
    let mut pass = pass();
    let taken: Vec<Entry> = all.extract_if(.., |entry| pass.gone.contains(&entry.id)).collect();
    pass.gone.retain(|id| taken.iter().all(|entry| entry.id != *id));
    taken
}

fn entries<T>(work: impl FnOnce(&mut Vec<Entry>) -> T) -> T {
    work(&mut ENTRIES.lock().unwrap_or_else(PoisonError::into_inner))
}

/// All of them, out of their place while they run: they may make and drop hooks.
struct Taken(Vec<Entry>);

impl Drop for Taken {
    fn drop(&mut self) {
        let mut all = std::mem::take(&mut self.0);
        let gone = entries(|new| {
            all.append(new);
            *new = all;
            take_gone(new)
        });
        drop(gone);
    }
}

/// Marks one as running, until it is dropped.
struct Runs;

impl Runs {
    /// Nothing if it has been dropped.
    fn begin(id: u64) -> Option<Self> {
        let mut pass = pass();
        if pass.gone.contains(&id) {
            return None;
        }
        pass.current = Some((id, std::thread::current().id()));
        Some(Self)
    }
}

impl Drop for Runs {
    fn drop(&mut self) {
        pass().current = None;
        ENDED.notify_all();
    }
}

/// Runs those of a moment.
pub(super) fn run(moment: Moment) {
    let mut all = Taken(entries(std::mem::take));
    let work = |entry: &mut Entry| {
        if let Some(runs) = Runs::begin(entry.id) {
            (entry.work)();
            drop(runs);
        }
    };
    let its = all.0.iter_mut().filter(|entry| entry.moment == moment);
    match moment {
        Moment::Before => its.for_each(work),
        Moment::Resumed | Moment::Restarted => its.rev().for_each(work),
    }
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
        // One that drops the next, at once.
        let last = Arc::new(Mutex::new(Some(say(Moment::Before, "too late"))));
        let before = Arc::clone(&last);
        let drops = hook(Moment::Resumed, move || drop(before.lock().unwrap().take()));
        run(Moment::Resumed);
        said.lock().unwrap().clear();
        assert_eq!(told(Moment::Before), ["second"]);
        drop(drops);
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
