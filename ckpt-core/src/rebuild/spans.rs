//! Ranges of memory of a job's processes.

use crate::os::PAGE;
use crate::snapshot::pages::{Object, PageRun, Part};

/// A range of one process' addresses; the process by its index in the snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span {
    pub(crate) process: u32,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

impl Span {
    /// Where a part of a block belongs; `None` if it is not whole pages of a process' memory.
    pub(crate) fn of(part: &Part) -> Option<Self> {
        let PageRun { object, address, length } = part.run;
        let Object::Memory(process) = object else { return None };
        let end = address.checked_add(length.into())?;
        let whole = address.is_multiple_of(PAGE) && end.is_multiple_of(PAGE);
        whole.then_some(Self { process, start: address, end })
    }

    /// The pages that it is in.
    pub(crate) fn in_pages(self) -> Option<Self> {
        let (start, end) = (self.start & !(PAGE - 1), self.end.checked_next_multiple_of(PAGE)?);
        (start < end).then_some(Self { start, end, ..self })
    }

    /// Bytes.
    pub(crate) fn length(self) -> u64 {
        self.end - self.start
    }
}

/// Those of the sorted, separate `spans` that overlap one.
pub(crate) fn overlapping(spans: &[Span], one: Span) -> impl Iterator<Item = Span> {
    let first = spans.partition_point(|it| (it.process, it.end) <= (one.process, one.start));
    spans[first..]
        .iter()
        .take_while(move |it| (it.process, it.start) < (one.process, one.end))
        .map(move |it| Span { start: it.start.max(one.start), end: it.end.min(one.end), ..one })
}

/// Whether one of the sorted `spans` overlaps this one; they may overlap each other.
pub(crate) fn overlaps(spans: &[Span], one: Span) -> bool {
    let end = spans.partition_point(|it| (it.process, it.start) < (one.process, one.end));
    spans[..end].iter().any(|it| it.process == one.process && it.end > one.start)
}

/// Whether all of one lies in the sorted, separate `spans`.
pub(crate) fn within(spans: &[Span], one: Span) -> bool {
    overlapping(spans, one).map(Span::length).sum::<u64>() == one.length()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(process: u32, start: u64, end: u64) -> Span {
        Span { process, start, end }
    }

    #[test]
    fn ranges_meet() {
        let all = [span(0, 10, 20), span(0, 30, 40), span(0, 40, 45), span(1, 0, 100)];
        let found: Vec<Span> = overlapping(&all, span(0, 15, 35)).collect();
        assert_eq!(found, [span(0, 15, 20), span(0, 30, 35)]);
        assert!(within(&all, span(0, 10, 20)) && within(&all, span(1, 5, 6)));
        assert!(within(&all, span(0, 32, 45)), "neighbours");
        assert!(!within(&all, span(0, 10, 21)) && !within(&all, span(0, 25, 26)));
        assert!(!overlaps(&all, span(0, 20, 30)) && !overlaps(&all, span(2, 0, 9)));
        assert!(overlaps(&all, span(0, 0, 11)) && overlaps(&all, span(1, 99, 200)));
    }

    #[test]
    fn a_range_is_in_whole_pages() {
        assert_eq!(span(0, 5000, 5001).in_pages(), Some(span(0, 4096, 8192)));
        assert_eq!(span(0, 8192, 8192).in_pages(), None);
        assert_eq!(span(0, u64::MAX - 3, u64::MAX).in_pages(), None);
    }
}
