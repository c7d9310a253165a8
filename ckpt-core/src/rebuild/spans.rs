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
    let its =
        move |it: &Span| Span { start: it.start.max(one.start), end: it.end.min(one.end), ..one };
    let overlaps = move |it: &&Span| (it.process, it.start) < (one.process, one.end);
    spans[first..].iter().take_while(overlaps).map(its)
}

/// Cuts bytes where the sorted, separate `spans` begin and end; tells which lie in one.
pub(crate) fn cut<'a>(
    spans: &[Span],
    process: u32,
    start: u64,
    bytes: &'a [u8],
) -> Vec<(u64, &'a [u8], bool)> {
    let one = Span { process, start, end: start.saturating_add(bytes.len() as u64) };
    let (mut at, mut rest, mut parts) = (start, bytes, Vec::new());
    for span in overlapping(spans, one) {
        let (before, from) = rest.split_at((span.start - at) as usize);
        let (its, behind) = from.split_at(span.length() as usize);
        parts.extend([(at, before, false), (span.start, its, true)]);
        (at, rest) = (span.end, behind);
    }
    parts.push((at, rest, false));
    parts.retain(|(_, bytes, _)| !bytes.is_empty());
    parts
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
    fn ranges_are_cut() {
        let all = [span(0, 10, 20), span(0, 20, 22), span(1, 0, 100)];
        let parts = cut(&all, 0, 9, b"abcdefghijklmno");
        let wanted: [(u64, &[u8], bool); 4] =
            [(9, b"a", false), (10, b"bcdefghijk", true), (20, b"lm", true), (22, b"no", false)];
        assert_eq!(parts, wanted);
        assert_eq!(cut(&all, 1, 98, b"abc"), [(98, &b"ab"[..], true), (100, &b"c"[..], false)]);
    }

    #[test]
    fn a_range_is_in_whole_pages() {
        assert_eq!(span(0, 5000, 5001).in_pages(), Some(span(0, 4096, 8192)));
        assert_eq!(span(0, 8192, 8192).in_pages(), None);
        assert_eq!(span(0, u64::MAX - 3, u64::MAX).in_pages(), None);
    }
}
