// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Texts that cross the wire end up in logs, on terminals and in paths: they are checked before anyone sees them.

use alloc::borrow::Cow;
use alloc::string::String;
use core::fmt;

use super::error::Reason;

/// What is wrong with a text.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum TextFault {
    /// It has no bytes.
    Empty,
    /// It is longer than the limit.
    TooLong {
        /// Length in bytes.
        length: usize,
        /// The limit in bytes.
        limit: u16,
    },
    /// It is not UTF-8.
    NotUtf8 {
        /// How many bytes are valid before the first that is not.
        valid_bytes: usize,
    },
    /// It holds a control character, NUL and line breaks included.
    Control {
        /// The character.
        character: char,
    },
    /// It cannot be one component of a path: it holds `/`, or is `.` or `..`.
    Path,
}

impl fmt::Display for TextFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => formatter.write_str("is empty"),
            Self::TooLong { length, limit } => {
                write!(formatter, "has {length} bytes, the limit is {limit}")
            }
            Self::NotUtf8 { valid_bytes } => {
                write!(formatter, "is not UTF-8 after {valid_bytes} bytes")
            }
            Self::Control { character } => {
                write!(formatter, "holds the control character {character:?}")
            }
            Self::Path => formatter.write_str("cannot be a component of a path"),
        }
    }
}

/// Replaces every control character by a space and cuts the text to `bytes_max`, so that any text can be the reason
/// of an [`Abort`](super::Abort).
///
/// ```
/// # use stream_codec::frame::printable;
/// assert_eq!(printable("read failed:\n\tEIO", 64), "read failed:  EIO");
/// assert_eq!(printable("né", 2), "n");
/// ```
#[must_use]
pub fn printable(text: &str, bytes_max: u16) -> Cow<'_, str> {
    let end = (0..=usize::from(bytes_max).min(text.len())).rev().find(|&end| text.is_char_boundary(end));
    let cut = text.get(..end.unwrap_or(0)).unwrap_or_default();
    if cut.contains(char::is_control) {
        Cow::Owned(cut.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>())
    } else {
        Cow::Borrowed(cut)
    }
}

/// A device's name: one to `limit` bytes that can stand in a log line and be one component of a path.
pub(super) fn name(bytes: &[u8], limit: u16) -> Result<&str, Reason> {
    let what = "device name";
    if bytes.is_empty() {
        return Err(Reason::Text { what, fault: TextFault::Empty });
    }
    let name = line(what, bytes, limit.min(super::NAME_BYTES_MAX))?;
    if name.contains('/') || name == "." || name == ".." {
        return Err(Reason::Text { what, fault: TextFault::Path });
    }
    Ok(name)
}

/// A text of at most `limit` bytes that can stand in a log line.
pub(super) fn line<'a>(what: &'static str, bytes: &'a [u8], limit: u16) -> Result<&'a str, Reason> {
    check_line(bytes, limit).map_err(|fault| Reason::Text { what, fault })
}

fn check_line(bytes: &[u8], limit: u16) -> Result<&str, TextFault> {
    if bytes.len() > usize::from(limit) {
        return Err(TextFault::TooLong { length: bytes.len(), limit });
    }
    let text = core::str::from_utf8(bytes).map_err(|error| TextFault::NotUtf8 { valid_bytes: error.valid_up_to() })?;
    match text.chars().find(|c| c.is_control()) {
        Some(character) => Err(TextFault::Control { character }),
        None => Ok(text),
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn refused(bytes: &[u8]) -> TextFault {
        match name(bytes, 255) {
            Err(Reason::Text { what: "device name", fault }) => fault,
            other => panic!("{bytes:02x?}: {other:?}"),
        }
    }

    #[test]
    fn names_are_one_harmless_path_component() {
        assert_eq!(refused(b""), TextFault::Empty);
        assert_eq!(refused(b"a\0b"), TextFault::Control { character: '\0' });
        assert_eq!(refused("a\u{85}b".as_bytes()), TextFault::Control { character: '\u{85}' });
        assert_eq!(refused(b"a\x7f"), TextFault::Control { character: '\x7f' });
        assert_eq!(refused(&[b'a', b'b', 0xff]), TextFault::NotUtf8 { valid_bytes: 2 });
        for path in [&b"../x"[..], b"/", b".", b".."] {
            assert_eq!(refused(path), TextFault::Path);
        }
        assert_eq!(refused(&[b'n'; 256]), TextFault::TooLong { length: 256, limit: 255 });
        assert_eq!(name(&[b'n'; 255], 255).map(str::len), Ok(255));
        assert_eq!(name("0000:01:10.2 größe".as_bytes(), 255), Ok("0000:01:10.2 größe"));
        assert_eq!(name(b"...", 255), Ok("..."));
    }

    #[test]
    fn printable_keeps_whole_characters() {
        for bytes_max in 0..=8 {
            let text = printable("a\u{20ac}\nb", bytes_max);
            assert!(text.len() <= usize::from(bytes_max), "{text:?} at {bytes_max}");
            assert!(check_line(text.as_bytes(), bytes_max).is_ok());
        }
        assert_eq!(printable("a\u{20ac}\nb", 3), "a");
        assert_eq!(printable("a\u{20ac}\nb", 4), "a\u{20ac}");
    }
}
