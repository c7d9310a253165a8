//! Who we are: the same in all lives, and another one in a forked child.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::job::{History, JobId};

/// The job that we are, as images and launchers know it.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) id: JobId,
    pub(super) history: History,
    /// Where its images are.
    pub(super) dir: PathBuf,
    pid: u32,
}

static OWN: Mutex<Option<Identity>> = Mutex::new(None);

impl Identity {
    /// Ours, drawn if there is none yet. Memory keeps it over restarts, and PIDs are the same then.
    pub(super) fn own(dir: &Path) -> Self {
        let mut own = OWN.lock().unwrap_or_else(PoisonError::into_inner);
        let pid = std::process::id();
        let known = own.take().filter(|it| it.pid == pid);
        let (id, history) = match known {
            Some(known) => (known.id, known.history),
            None => (JobId::random(), History::default()),
        };
        own.insert(Self { id, history, dir: dir.to_owned(), pid }).clone()
    }

    /// Ours, if it was drawn already.
    pub(super) fn known() -> Option<Self> {
        let own = OWN.lock().unwrap_or_else(PoisonError::into_inner);
        own.clone().filter(|it| it.pid == std::process::id())
    }
}

fn change(what: impl FnOnce(&mut History)) {
    let mut own = OWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(own) = &mut *own {
        what(&mut own.history);
    }
}

/// There is one more image.
pub(super) fn checkpointed() {
    change(|history| history.checkpoints = history.checkpoints.saturating_add(1));
}

/// We come out of the newest one.
pub(super) fn restarted() {
    change(|history| {
        history.checkpoints = history.checkpoints.saturating_add(1);
        history.restarts = history.restarts.saturating_add(1);
    });
}
