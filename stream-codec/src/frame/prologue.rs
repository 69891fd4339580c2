// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The sixteen bytes by which a stream is recognised.

use super::error::{Error, Reason};
use super::header::HEADER_BYTES;
use crate::decode::Located;

/// The first eight bytes of a stream. The first has its top bit set and the last is a line feed, so that a transfer
/// that mangles text is noticed at once.
pub const MAGIC: [u8; 8] = *b"\x89SAVEVM\n";

/// Size of the prologue in bytes.
pub const PROLOGUE_BYTES: usize = 16;

/// The framing version: how headers look, not what frames mean. The latter is negotiated in the Hello.
pub const FRAMING_VERSION: u16 = 1;

const HEADER_BYTES_FIELD: u16 = 32;
const _: () = assert!(HEADER_BYTES == 32, "the prologue states the header's size");

/// The prologue of a stream in framing version 1.
#[must_use]
pub fn encode_prologue() -> [u8; PROLOGUE_BYTES] {
    let fields = MAGIC.into_iter().chain(FRAMING_VERSION.to_le_bytes()).chain(HEADER_BYTES_FIELD.to_le_bytes());
    let mut bytes = [0; PROLOGUE_BYTES];
    bytes.iter_mut().zip(fields).for_each(|(slot, byte)| *slot = byte);
    if let Some((checked, crc)) = bytes.split_last_chunk_mut::<4>() {
        *crc = crc32fast::hash(checked).to_le_bytes();
    }
    bytes
}

/// Checks a prologue.
///
/// # Errors
/// [`Reason::Magic`], [`Reason::PrologueChecksum`] or [`Reason::Framing`], at offset 0.
pub fn decode_prologue(bytes: &[u8; PROLOGUE_BYTES]) -> Result<(), Error> {
    let [m0, m1, m2, m3, m4, m5, m6, m7, v0, v1, h0, h1, c0, c1, c2, c3] = *bytes;
    let found = [m0, m1, m2, m3, m4, m5, m6, m7];
    let (version, header_bytes) = (u16::from_le_bytes([v0, v1]), u16::from_le_bytes([h0, h1]));
    let stated = u32::from_le_bytes([c0, c1, c2, c3]);
    let computed = bytes.split_last_chunk::<4>().map_or(0, |(checked, _)| crc32fast::hash(checked));
    let reason = if found != MAGIC {
        Reason::Magic { found }
    } else if stated != computed {
        Reason::PrologueChecksum { stated, computed }
    } else if (version, header_bytes) != (FRAMING_VERSION, HEADER_BYTES_FIELD) {
        Reason::Framing { version, header_bytes }
    } else {
        return Ok(());
    };
    Err(Located::new(0, reason))
}
