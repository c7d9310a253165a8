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
    numbered(spans, one).map(|(_, it)| it)
}

/// The same with their indices.
fn numbered(spans: &[Span], one: Span) -> impl Iterator<Item = (usize, Span)> {
    let first = spans.partition_point(|it| (it.process, it.end) <= (one.process, one.start));
    let its = move |(index, it): (usize, &Span)| {
        (first + index, Span { start: it.start.max(one.start), end: it.end.min(one.end), ..one })
    };
    let overlaps = move |it: &&Span| (it.process, it.start) < (one.process, one.end);
    spans[first..].iter().take_while(overlaps).enumerate().map(its)
}

/// What is left of one without the sorted, separate `spans`.
pub(crate) fn without(one: Span, spans: &[Span]) -> Vec<Span> {
    let mut left = Vec::new();
    let mut start = one.start;
    for it in overlapping(spans, one) {
        left.push(Span { start, end: it.start, ..one });
        start = it.end;
    }
    left.push(Span { start, ..one });
    left.retain(|it| it.start < it.end);
    left
}

/// Cuts bytes where the sorted, separate `spans` begin and end; tells in which they lie.
pub(crate) fn cut<'a>(
    spans: &[Span],
    process: u32,
    start: u64,
    bytes: &'a [u8],
) -> Vec<(u64, &'a [u8], Option<usize>)> {
    let one = Span { process, start, end: start.saturating_add(bytes.len() as u64) };
    let (mut at, mut rest, mut parts) = (start, bytes, Vec::new());
    for (index, span) in numbered(spans, one) {
        let (before, from) = rest.split_at((span.start - at) as usize);
        let (its, behind) = from.split_at(span.length() as usize);
        parts.extend([(at, before, None), (span.start, its, Some(index))]);
        (at, rest) = (span.end, behind);
    }
    parts.push((at, rest, None));
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
        assert_eq!(without(span(0, 5, 25), &all), [span(0, 5, 10), span(0, 22, 25)]);
        assert_eq!(without(span(0, 12, 21), &all), []);
        assert_eq!(without(span(2, 12, 21), &all), [span(2, 12, 21)]);
        let parts = cut(&all, 0, 9, b"abcdefghijklmno");
        let wanted: [(u64, &[u8], Option<usize>); 4] = [
            (9, b"a", None),
            (10, b"bcdefghijk", Some(0)),
            (20, b"lm", Some(1)),
            (22, b"no", None),
        ];
        assert_eq!(parts, wanted);
        assert_eq!(cut(&all, 1, 98, b"abc"), [(98, &b"ab"[..], Some(2)), (100, &b"c"[..], None)]);
    }

    #[test]
    fn a_range_is_in_whole_pages() {
        assert_eq!(span(0, 5000, 5001).in_pages(), Some(span(0, 4096, 8192)));
        assert_eq!(span(0, 8192, 8192).in_pages(), None);
        assert_eq!(span(0, u64::MAX - 3, u64::MAX).in_pages(), None);
    }
}
