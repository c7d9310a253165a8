//! Memory that was dense is made of huge pages before it is filled: one fault, and one place to write to,
//! where there would be 512.
//!
//! ```text
//! choose ─▶ workers decode ─────(is it huge?)────▶ written, or brought
//!             the tracer has one stretch after the other made ─┘
//! ```
//!
//! The job gets no more memory than it had: only 2 MiB all of whose pages are in the image become one page.
//! `MADV_COLLAPSE` (madvise(2), Linux 6.1) leaves the areas' own flags as they are. Where huge pages cannot be
//! had, or come slowly as memory is in pieces, the rest gets small ones.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::body::Body;
use super::faults::{Faults, Filled, indexed, may_wait};
use super::spans::{Span, overlapping};
use crate::error::Result;
use crate::kinds::memory::Area;
use crate::os::thp::{self, HUGE, Policy};
use crate::snapshot::Snapshot;
use crate::snapshot::pages::Located;

/// What is asked for at once, in huge pages: little, as nobody knows how long one takes that the kernel, or
/// a virtual machine's host, must make room for first.
const AT_ONCE: u64 = 2;
/// 512 small pages take no longer.
const SLOW: Duration = Duration::from_millis(1);

/// Stretches of memory that may become huge pages.
#[derive(Debug, Default)]
pub(crate) struct Dense {
    /// By address.
    stretches: Vec<Span>,
    /// For each its turn: they are made in the order in which they are needed.
    turns: Vec<usize>,
    progress: Mutex<Progress>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Progress {
    /// So many turns have been taken.
    made: usize,
    /// No more will be; what becomes of the others.
    left: Option<Filled>,
}

impl Dense {
    /// Chooses what was dense, and may be huge.
    pub(crate) fn choose(snapshot: &Snapshot, bodies: &[Body<'_>], located: &[Located]) -> Self {
        let policy = thp::policy();
        let mut areas: Vec<Span> = Vec::new();
        for (process, body) in indexed(snapshot, bodies) {
            let may_be = |area: &&Area| {
                may_wait(area) && policy != Policy::Never && !body.live.attributes.thp_disabled
            };
            let its = body.live.space.areas.iter().filter(may_be);
            let its = its.filter(|area| !area.advice.contains(&libc::MADV_NOHUGEPAGE));
            areas.extend(
                its.filter_map(|it| aligned(Span { process, start: it.start, end: it.end })),
            );
        }
        areas.sort_unstable();
        Self::of(&areas, located)
    }

    /// Of areas that begin and end where huge pages do.
    fn of(areas: &[Span], located: &[Located]) -> Self {
        // How much of each huge page there is, and the first block with some of it.
        let mut pages: HashMap<(u32, u64), (u64, usize)> = HashMap::new();
        for (block, Located { runs, .. }) in located.iter().enumerate() {
            for span in runs.iter().filter_map(Span::of).flat_map(|it| overlapping(areas, it)) {
                for (start, part) in parts(span) {
                    pages.entry((span.process, start)).or_insert((0, block)).0 += part;
                }
            }
        }
        pages.retain(|_, (bytes, _)| *bytes >= HUGE);
        let mut pages: Vec<_> = pages.into_iter().collect();
        pages.sort_unstable();
        // None reaches over an area's end.
        let begins = |process: u32, start: u64| {
            areas.binary_search_by_key(&(process, start), |it| (it.process, it.start)).is_ok()
        };
        let mut stretches: Vec<(Span, usize)> = Vec::new();
        for ((process, start), (_, block)) in pages {
            let end = start + HUGE;
            match stretches.last_mut() {
                Some((last, first))
                    if (last.process, last.end) == (process, start)
                        && last.length() < AT_ONCE * HUGE
                        && !begins(process, start) =>
                {
                    (last.end, *first) = (end, block.min(*first));
                }
                _ => stretches.push((Span { process, start, end }, block)),
            }
        }
        let mut order: Vec<usize> = (0..stretches.len()).collect();
        order.sort_by_key(|&index| stretches[index].1);
        let mut turns = vec![0; order.len()];
        order.iter().enumerate().for_each(|(turn, &index)| turns[index] = turn);
        let stretches = stretches.into_iter().map(|(span, _)| span).collect();
        Self { stretches, turns, ..Self::default() }
    }

    /// All of them, sorted.
    pub(crate) fn stretches(&self) -> &[Span] {
        &self.stretches
    }

    /// Has them made, as long as that goes well; the rest is left to `faults`. Only the thread that traces
    /// the processes may do this.
    ///
    /// # Errors
    ///
    /// A process is gone.
    pub(crate) fn make(&self, bodies: &[Option<&Body<'_>>], faults: &Faults) -> Result<()> {
        let _ending = Ending(self);
        let mut order = self.stretches.clone();
        self.turns.iter().zip(&self.stretches).for_each(|(&turn, stretch)| order[turn] = *stretch);
        for stretch in &order {
            let Some(body) = bodies.get(stretch.process as usize).copied().flatten() else { break };
            let begun = Instant::now();
            if !body.make_huge(stretch.start, stretch.end)? {
                break;
            }
            self.lock().made += 1;
            self.more.notify_all();
            if begun.elapsed() > SLOW * AT_ONCE as u32 {
                break;
            }
        }
        let rest = order.split_off(self.lock().made);
        tracing::debug!(made = order.len(), left = rest.len(), "stretches of huge pages");
        self.lock().left = Some(faults.take_over(&rest));
        Ok(())
    }

    /// How the stretch of this index is filled; waits until that is known.
    pub(crate) fn filled(&self, index: usize) -> Filled {
        let turn = self.turns[index];
        let mut progress = self.lock();
        loop {
            match progress.left {
                _ if turn < progress.made => return Filled::Written,
                Some(filled) => return filled,
                None => progress = self.more.wait(progress).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whatever happens, nobody waits for ever.
struct Ending<'a>(&'a Dense);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.lock().left.get_or_insert(Filled::Written);
        self.0.more.notify_all();
    }
}

/// What of a range is whole huge pages.
fn aligned(span: Span) -> Option<Span> {
    let (start, end) = (span.start.checked_next_multiple_of(HUGE)?, span.end & !(HUGE - 1));
    (start < end).then_some(Span { start, end, ..span })
}

/// The huge pages that a range is in, and how much of it is in each.
fn parts(span: Span) -> impl Iterator<Item = (u64, u64)> {
    let first = span.start & !(HUGE - 1);
    (first..span.end)
        .step_by(HUGE as usize)
        .map(move |page| (page, span.end.min(page + HUGE) - span.start.max(page)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::BlockId;
    use crate::snapshot::pages::{Object, PageRun, Part};

    fn span(process: u32, start: u64, end: u64) -> Span {
        Span { process, start: start * HUGE, end: end * HUGE }
    }

    fn block(number: u32, runs: &[(u64, u64)]) -> Located {
        let run = |&(address, length): &(u64, u64)| PageRun {
            object: Object::Memory(0),
            address,
            length: length as u32,
        };
        let runs = runs.iter().map(|it| Part { at: 0, run: run(it) }).collect();
        Located { image: 0, block: BlockId(number), runs }
    }

    #[test]
    fn what_is_dense_is_chosen_and_comes_when_it_is_needed() {
        let areas = [span(0, 1, 8), span(0, 8, 9)];
        let half = HUGE / 2;
        let located = [
            // The fifth, all of it in two blocks, and a half of the fourth.
            block(0, &[(4 * HUGE + half, half), (5 * HUGE, half)]),
            block(1, &[(5 * HUGE + half, half)]),
            // Three neighbours, and one in the next area.
            block(2, &[(HUGE, 3 * HUGE)]),
            block(3, &[(7 * HUGE, 2 * HUGE)]),
            // In none.
            block(4, &[(0, HUGE), (9 * HUGE, HUGE)]),
        ];
        let dense = Dense::of(&areas, &located);
        let wanted = [span(0, 1, 3), span(0, 3, 4), span(0, 5, 6), span(0, 7, 8), span(0, 8, 9)];
        assert_eq!(dense.stretches(), wanted);
        assert_eq!(dense.turns, [1, 2, 0, 3, 4]);
    }

    #[test]
    fn nobody_waits_for_ever() {
        let located = [block(0, &[(HUGE, 4 * HUGE)])];
        let dense = Dense::of(&[span(0, 1, 5)], &located);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| dense.filled(1));
            // No body, so that none is made.
            dense.make(&[None], &Faults::default()).unwrap();
            assert_eq!(waits.join().unwrap(), Filled::Written);
        });
    }

    #[test]
    fn areas_are_cut_to_huge_pages() {
        let of = |start, end| aligned(Span { process: 0, start, end });
        assert_eq!(of(1, 2 * HUGE + 1), Some(span(0, 1, 2)));
        assert_eq!(of(1, 2 * HUGE - 1), None);
        let parts: Vec<_> =
            parts(Span { process: 0, start: HUGE - 1, end: 2 * HUGE + 5 }).collect();
        assert_eq!(parts, [(0, 1), (HUGE, HUGE), (2 * HUGE, 5)]);
    }
}
