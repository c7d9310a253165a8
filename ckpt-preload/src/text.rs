//! Bytes of bounded length: on the stack ([`Text`]), and for the life of the process ([`Kept`]).

use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed};

/// Something that takes bytes, one after the other.
pub(crate) trait Put {
    fn clear(&mut self);
    fn push(&mut self, byte: u8);

    fn add(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.push(byte));
    }

    fn add_number(&mut self, number: u32) {
        let mut unit = 1_000_000_000;
        while unit > 1 && number / unit == 0 {
            unit /= 10;
        }
        while unit > 0 {
            self.push(b'0' + (number / unit % 10) as u8);
            unit /= 10;
        }
    }
}

/// For what is of no interest.
impl Put for () {
    fn clear(&mut self) {}
    fn push(&mut self, _: u8) {}
}

/// Up to `N` bytes. It is not zeroed before: that would be a call to memset.
pub(crate) struct Text<const N: usize> {
    bytes: [MaybeUninit<u8>; N],
    len: usize,
    cut: bool,
}

impl<const N: usize> Text<N> {
    #[inline(always)]
    pub(crate) fn new() -> Self {
        Self { bytes: [const { MaybeUninit::uninit() }; N], len: 0, cut: false }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: `push` alone changes `len`, by one for each byte that it has written, and only
        // while there is room.
        unsafe { core::slice::from_raw_parts(self.bytes.as_ptr().cast(), self.len) }
    }

    /// Whether there was more than it takes.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut
    }

    pub(crate) fn is(&self, other: &[u8]) -> bool {
        !self.cut && same(self.bytes(), other)
    }

    /// The number that it is; 0 if it is none.
    pub(crate) fn number(&self) -> u32 {
        self.bytes().iter().fold(0u32, |sum, &digit| {
            let digit = if digit.is_ascii_digit() { u32::from(digit - b'0') } else { 0 };
            sum.wrapping_mul(10).wrapping_add(digit)
        })
    }
}

impl<const N: usize> Put for Text<N> {
    fn clear(&mut self) {
        (self.len, self.cut) = (0, false);
    }

    fn push(&mut self, byte: u8) {
        match self.bytes.get_mut(self.len) {
            Some(place) => {
                place.write(byte);
                self.len += 1;
            }
            None => self.cut = true,
        }
    }
}

/// Compared byte by byte: `==` would be a call to memcmp.
pub(crate) fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a == b)
}

/// A C string that others may have a pointer to: it always ends with a 0, whoever writes to it.
pub(crate) struct Kept<const N: usize> {
    bytes: [AtomicU8; N],
    len: AtomicUsize,
}

impl<const N: usize> Kept<N> {
    pub(crate) const fn new() -> Self {
        Self { bytes: [const { AtomicU8::new(0) }; N], len: AtomicUsize::new(0) }
    }

    pub(crate) fn clear(&self) {
        self.len.store(0, Relaxed);
        if let Some(first) = self.bytes.first() {
            first.store(0, Relaxed);
        }
    }

    /// Appends a byte; what doesn't fit is left out. One thread at a time.
    pub(crate) fn push(&self, byte: u8) {
        let len = self.len.load(Relaxed);
        if let Some([place, next]) = self.bytes.get(len..).and_then(|rest| rest.first_chunk()) {
            next.store(0, Relaxed);
            place.store(byte, Relaxed);
            self.len.store(len + 1, Relaxed);
        }
    }

    pub(crate) fn set(&self, bytes: &[u8]) {
        self.clear();
        bytes.iter().for_each(|&byte| self.push(byte));
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len() + 1 == N
    }

    pub(crate) fn len(&self) -> usize {
        self.len.load(Relaxed)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = u8> {
        self.bytes.iter().take(self.len()).map(|byte| byte.load(Relaxed))
    }

    /// Its address, good for ever if it is a static.
    pub(crate) fn as_ptr(&'static self) -> *const u8 {
        self.bytes.as_ptr().cast()
    }
}
