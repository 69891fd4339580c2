// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Names on the wire: one length byte and that many bytes, no NUL.

use alloc::vec::Vec;
use core::ops::Range;

use super::engine::Stop;
use super::error::Reason;
use crate::cursor::Cursor;
use crate::frame::TextFault;

/// Longest name with one byte of length.
const NAME_BYTES_MAX: u16 = 255;

/// Checks that a name can stand in a log line. QEMU writes nothing else; it accepts any bytes.
pub(super) fn line<'a>(bytes: &'a [u8], what: &'static str) -> Result<&'a str, Reason> {
    let refused = |fault| Reason::Text { what, fault };
    let text = core::str::from_utf8(bytes)
        .map_err(|error| refused(TextFault::NotUtf8 { valid_bytes: error.valid_up_to() }))?;
    match text.chars().find(|c| c.is_control()) {
        Some(character) => Err(refused(TextFault::Control { character })),
        None => Ok(text),
    }
}

/// Reads a name and returns it with its place in the item that the cursor reads.
pub(super) fn counted<'a>(cursor: &mut Cursor<'a>, what: &'static str) -> Result<(&'a str, Range<usize>), Stop> {
    let length = cursor.u8(what)?;
    let start = cursor.position();
    let name = line(cursor.take(length.into(), what)?, what)?;
    Ok((name, start..cursor.position()))
}

/// Like [`counted`], for a name that must not be empty.
pub(super) fn named<'a>(cursor: &mut Cursor<'a>, what: &'static str) -> Result<(&'a str, Range<usize>), Stop> {
    let (name, range) = counted(cursor, what)?;
    if name.is_empty() {
        return Err(Reason::Text { what, fault: TextFault::Empty }.into());
    }
    Ok((name, range))
}

/// The name at `range` of an item that was read with [`counted`] before.
pub(super) fn at(raw: &[u8], range: Range<usize>) -> &str {
    core::str::from_utf8(raw.get(range).unwrap_or_default()).unwrap_or_default()
}

/// Writes a name.
pub(super) fn put(out: &mut Vec<u8>, name: &str, what: &'static str) -> Result<(), Reason> {
    let too_long = TextFault::TooLong { length: name.len(), limit: NAME_BYTES_MAX };
    let length = u8::try_from(name.len()).map_err(|_| Reason::Text { what, fault: too_long })?;
    out.push(length);
    out.extend_from_slice(name.as_bytes());
    Ok(())
}

/// Length of a name in a multifd packet, its NUL and padding included.
const PADDED_BYTES: usize = 256;

/// Reads a name in a field of 256 bytes and returns its place. A NUL ends it; QEMU writes zeros after that.
pub(super) fn padded(cursor: &mut Cursor<'_>, what: &'static str) -> Result<Range<usize>, Stop> {
    let start = cursor.position();
    let field = cursor.take(PADDED_BYTES, what)?;
    let end = field.iter().position(|byte| *byte == 0);
    let end = end.ok_or(Reason::Value { what, value: wide(field.len()), expected: "ended by a NUL" })?;
    let (name, padding) = field.split_at_checked(end).unwrap_or_default();
    line(name, what)?;
    if let Some(byte) = padding.iter().find(|byte| **byte != 0) {
        return Err(Reason::Value { what, value: (*byte).into(), expected: "zero after its NUL" }.into());
    }
    Ok(start..start.saturating_add(end))
}

/// Writes a name in a field of 256 bytes.
pub(super) fn put_padded(out: &mut Vec<u8>, name: &str, what: &'static str) -> Result<(), Reason> {
    if name.len() >= PADDED_BYTES {
        let fault = TextFault::TooLong { length: name.len(), limit: NAME_BYTES_MAX };
        return Err(Reason::Text { what, fault });
    }
    let end = out.len().saturating_add(PADDED_BYTES);
    out.extend_from_slice(name.as_bytes());
    out.resize(end, 0);
    Ok(())
}

/// A length in bytes as errors carry it.
pub(super) fn wide(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
