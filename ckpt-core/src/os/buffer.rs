//! Buffers that begin where a page does: the kernel copies into others, and out of them, in up to half as
//! long again.

use std::io;

use memmap2::MmapMut;

/// A worker's buffer, used again and again.
#[derive(Debug, Default)]
pub(crate) struct Buffer(Option<MmapMut>);

impl Buffer {
    /// Its first `length` bytes, whatever they are. It only ever grows, so that each page is touched for the
    /// first time once, and is empty after that.
    ///
    /// # Errors
    ///
    /// There is no memory (mmap(2)).
    pub(crate) fn room(&mut self, length: usize) -> io::Result<&mut [u8]> {
        let map = match self.0.take() {
            Some(map) if map.len() >= length => map,
            _ => MmapMut::map_anon(length.max(1))?,
        };
        Ok(&mut self.0.insert(map)[..length])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::PAGE;

    #[test]
    fn it_keeps_what_it_holds_until_it_grows() {
        let mut buffer = Buffer::default();
        let page = PAGE as usize;
        assert!((buffer.room(page).unwrap().as_ptr() as usize).is_multiple_of(page));
        buffer.room(page).unwrap()[9] = 1;
        assert_eq!(buffer.room(10).unwrap()[9], 1);
        assert_eq!(buffer.room(2 * page).unwrap(), vec![0; 2 * page]);
        assert_eq!(buffer.room(0).unwrap(), []);
    }
}
