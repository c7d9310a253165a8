//! Which memory may come later, and which must be there before the first instruction: whatever the
//! kernel touches by itself.

use crate::error::{Error, Result};
use crate::kinds::task::Task;
use crate::os::{PAGE, ptrace};
use crate::rebuild::body::Body;
use crate::rebuild::faults::{Faults, indexed};
use crate::rebuild::spans::{Span, overlapping, overlaps, within};
use crate::snapshot::Snapshot;
use crate::snapshot::pages::Located;

/// Below and above a stack pointer: the red zone and what a function has at hand.
const STACK: (u64, u64) = (128, 4096);

/// The memory that comes later.
#[derive(Debug)]
pub(crate) struct Lazy {
    /// For each block of the image, whether it comes later.
    later: Vec<bool>,
    /// Pages of areas with such blocks that the kernel may touch at any time.
    touched: Vec<Span>,
    /// Bytes of what comes later.
    pub(super) bytes: u64,
}

impl Lazy {
    /// Chooses; `None` if there is nothing to choose.
    pub(crate) fn choose(
        snapshot: &Snapshot,
        bodies: &[Body<'_>],
        located: &[Located],
        faults: &Faults,
    ) -> Option<Self> {
        let mut touched = Vec::new();
        for (process, body) in indexed(snapshot, bodies) {
            let all = body.live.tasks.iter().flat_map(by_the_kernel);
            let pages = all.filter_map(|(start, end)| Span { process, start, end }.in_pages());
            touched.extend(pages.flat_map(|it| overlapping(faults.areas(), it)));
        }
        touched.sort_unstable();
        let is_later = |block: &Located| {
            let mut spans = block.runs.iter().map(Span::of);
            spans.all(|span| {
                span.is_some_and(|it| within(faults.areas(), it) && !overlaps(&touched, it))
            })
        };
        let later: Vec<bool> = located.iter().map(is_later).collect();
        let all = located.iter().zip(&later);
        let bytes = all.filter(|(_, later)| **later).map(|(block, _)| block.bytes()).sum();
        (bytes > 0).then_some(Self { later, touched, bytes })
    }

    /// Whether the image's block of this index comes later.
    pub(crate) fn has(&self, index: usize) -> bool {
        self.later.get(index).copied().unwrap_or_default()
    }

    /// Of what the kernel may touch, the image holds no zeros: those are brought here, once all else has
    /// been filled.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub(crate) fn prepare(&self, faults: &Faults) -> Result<()> {
        for span in &self.touched {
            let Some(uffd) = faults.of_process(span.process) else { continue };
            for page in (span.start..span.end).step_by(PAGE as usize) {
                match uffd.zero(page, PAGE) {
                    Err(e) if e.raw_os_error() != Some(libc::EEXIST) => {
                        return Err(Error::os("cannot fill memory with zeros", e));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// What the kernel touches by itself while the task runs on: what it shares with the task, and
/// what the call needs in which that stands. The rest of a stack is only written for signals.
fn by_the_kernel(task: &Task) -> Vec<(u64, u64)> {
    const CRITICAL_SECTION: u64 = 32;
    const ROBUST_HEAD: u64 = 24;
    const ARGUMENT: u64 = 64;
    let registers = ptrace::from_words(task.registers);
    let from = |at: u64, length: u64| (at, at.saturating_add(length));
    let stack = (registers.rsp.saturating_sub(STACK.0), registers.rsp.saturating_add(STACK.1));
    let mut all = vec![stack, from(task.clear_tid, 4), from(task.robust_list.0, ROBUST_HEAD)];
    if let Some((address, length, _)) = task.rseq {
        all.push(from(address, length.into()));
        all.push(from(task.rseq_section, CRITICAL_SECTION));
    }
    if let Some(call) = task.interrupted {
        let r = registers;
        all.extend([r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9].map(|at| from(at, ARGUMENT)));
        if call.number == libc::SYS_poll {
            all.push(from(r.rdi, u64::from(r.rsi as u32).saturating_mul(8)));
        }
    }
    all
}
