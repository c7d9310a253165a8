//! As much of JSON as the supervisor's lines need: their members, one after the other.
//!
//! Members of objects within the line are met like its own; the lines have no names in common with
//! what is in them, other than `generation`, of which the first one counts.

use crate::text::Put;

/// Gives bytes until there are no more.
pub(crate) trait Source {
    fn next(&mut self) -> Option<u8>;
}

/// One line.
pub(crate) struct Line<'a, S> {
    source: &'a mut S,
    over: bool,
}

impl<'a, S: Source> Line<'a, S> {
    pub(crate) fn new(source: &'a mut S) -> Self {
        Self { source, over: false }
    }

    /// Finds the next member, and puts down its name and its value: a string's characters, a
    /// number or word as it is, nothing of an object or a list. False at the line's end.
    pub(crate) fn member(&mut self, key: &mut impl Put, value: &mut impl Put) -> bool {
        while let Some(byte) = self.next() {
            if byte != b'"' {
                continue;
            }
            key.clear();
            self.string(key);
            // A string that no colon follows is an element of a list.
            if self.next() != Some(b':') {
                continue;
            }
            value.clear();
            match self.next() {
                Some(b'"') => self.string(value),
                Some(b'{' | b'[') | None => {}
                Some(first) => {
                    value.push(first);
                    self.word(value);
                }
            }
            return true;
        }
        false
    }

    fn next(&mut self) -> Option<u8> {
        if self.over {
            return None;
        }
        let byte = self.source.next().filter(|&byte| byte != b'\n');
        self.over = byte.is_none();
        byte
    }

    /// A string after its first quote.
    fn string(&mut self, to: &mut impl Put) {
        while let Some(byte) = self.next() {
            match byte {
                b'"' => return,
                b'\\' => self.escaped(to),
                byte => to.push(byte),
            }
        }
    }

    fn escaped(&mut self, to: &mut impl Put) {
        match self.next() {
            Some(b'n') => to.push(b'\n'),
            Some(b't') => to.push(b'\t'),
            Some(b'r') => to.push(b'\r'),
            Some(b'b') => to.push(8),
            Some(b'f') => to.push(12),
            // Only control characters are written this way.
            Some(b'u') => {
                let mut code = 0u32;
                for _ in 0..4 {
                    let digit = self.next().and_then(|byte| char::from(byte).to_digit(16));
                    code = code << 4 | digit.unwrap_or(0);
                }
                to.push(code as u8);
            }
            Some(byte) => to.push(byte),
            None => {}
        }
    }

    /// What is left of a number or word, and the mark behind it.
    fn word(&mut self, to: &mut impl Put) {
        while let Some(byte) = self.next() {
            if matches!(byte, b',' | b'}' | b']') {
                return;
            }
            to.push(byte);
        }
    }
}
