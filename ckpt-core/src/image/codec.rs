//! How a section's value becomes bytes and back. The one place that knows `bincode`: the encoding
//! (little-endian, variable-length integers) is part of the format and must not change by itself.
//!
//! Both ways back, decompression and decoding, are held to a limit that follows from the bytes
//! which are really there; nobody gets a large allocation for a few bytes of input.

use std::io::{self, Read};

use bincode::config::{self, Config};
use bincode::error::{DecodeError, EncodeError};
use bincode::{Decode, Encode};

/// Below this compression saves nothing worth a reader's trouble.
const MIN_SQUEEZE: usize = 256;
/// 8 MiB: the largest window of zstd's levels up to [`MAX_LEVEL`].
const WINDOW_LOG: u32 = 23;
const MAX_LEVEL: i32 = 19;

pub(super) fn encode(value: &impl Encode) -> Result<Vec<u8>, EncodeError> {
    bincode::encode_to_vec(value, config::standard())
}

/// Decodes a value that takes all of `bytes`.
///
/// bincode's limit is a constant and counts bytes in memory, so there are three: each leaves many
/// times the room of the encoded bytes (256 times for small sections, 16 for the largest).
pub(super) fn decode<T: Decode<()>>(bytes: &[u8]) -> Result<T, DecodeError> {
    let standard = config::standard();
    match bytes.len() {
        0..0x1_0000 => decode_with(bytes, standard.with_limit::<{ 1 << 24 }>()),
        0x1_0000..0x20_0000 => decode_with(bytes, standard.with_limit::<{ 1 << 29 }>()),
        _ => decode_with(bytes, standard.with_limit::<{ 1 << 34 }>()),
    }
}

fn decode_with<T: Decode<()>>(bytes: &[u8], limited: impl Config) -> Result<T, DecodeError> {
    let (value, used) = bincode::decode_from_slice(bytes, limited)?;
    if used == bytes.len() {
        Ok(value)
    } else {
        Err(DecodeError::OtherString(format!("{} bytes too many", bytes.len() - used)))
    }
}

/// Compresses `plain` at zstd `level` (0: never). The flag tells whether it was worth it.
pub(super) fn squeeze(plain: Vec<u8>, level: i32) -> (Vec<u8>, bool) {
    if level == 0 || plain.len() < MIN_SQUEEZE {
        return (plain, false);
    }
    match zstd::bulk::compress(&plain, level.min(MAX_LEVEL)) {
        Ok(packed) if packed.len() < plain.len() => (packed, true),
        _ => (plain, false),
    }
}

/// Undoes [`squeeze`]; memory grows with what comes out and never beyond `plain_len`.
pub(super) fn expand(packed: &[u8], plain_len: u64) -> io::Result<Vec<u8>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(packed)?;
    decoder.window_log_max(WINDOW_LOG)?;
    let mut plain = Vec::new();
    decoder.take(plain_len.saturating_add(1)).read_to_end(&mut plain)?;
    if plain.len() as u64 == plain_len {
        Ok(plain)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "its length is not what was said"))
    }
}
