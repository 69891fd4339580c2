// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A reader of fields that cannot run past its end.
//!
//! Every read names the field it wants, so that an error says what was missing, how much of it, and where in the
//! stream. There is no indexing and no way to read past the slice.
//!
//! ```
//! use stream_codec::cursor::{Cursor, CursorError};
//!
//! // Three bytes that stand at offset 100 of some stream.
//! let mut cursor = Cursor::at(&[0x34, 0x12, 0xff], 100);
//! assert_eq!(cursor.u16_le("version")?, 0x1234);
//! let error = cursor.u32_le("record size").unwrap_err();
//! assert_eq!(error, CursorError::Missing { what: "record size", wanted: 4, left: 1, offset: 102 });
//! # Ok::<(), CursorError>(())
//! ```

use thiserror::Error;

/// Why a [`Cursor`] refused: the bytes it was given do not hold the field that the format puts there.
///
/// The sender is at fault, or the slice was cut short before it reached the cursor.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum CursorError {
    /// The slice ends inside a field.
    #[error("{what} at stream offset {offset} needs {wanted} bytes, {left} are left")]
    Missing {
        /// Name of the field.
        what: &'static str,
        /// Bytes the field needs.
        wanted: usize,
        /// Bytes the slice still had.
        left: usize,
        /// Stream offset at which the field starts.
        offset: u64,
    },
    /// The slice goes on after its last field.
    #[error("{left} bytes follow the end of {what} at stream offset {offset}")]
    Leftover {
        /// Name of what should have ended.
        what: &'static str,
        /// Bytes too many.
        left: usize,
        /// Stream offset of the first of them.
        offset: u64,
    },
    /// A byte that the format keeps for later is not zero.
    #[error("{what} at stream offset {offset} must be zero, found {value:#04x}")]
    NotZero {
        /// Name of the reserved field.
        what: &'static str,
        /// The first byte that is not zero.
        value: u8,
        /// Stream offset of that byte.
        offset: u64,
    },
}

/// A position in a slice that stands at a known offset of a stream.
#[derive(Clone, Debug)]
pub struct Cursor<'a> {
    rest: &'a [u8],
    consumed: usize,
    offset: u64,
}

impl<'a> Cursor<'a> {
    /// A cursor over a slice that is the whole stream.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self::at(bytes, 0)
    }

    /// A cursor over a slice whose first byte stands at `offset` of the stream.
    #[must_use]
    pub const fn at(bytes: &'a [u8], offset: u64) -> Self {
        Self { rest: bytes, consumed: 0, offset }
    }

    /// The stream offset of the next byte. Saturates at `u64::MAX`.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// How many bytes have been read.
    #[must_use]
    pub const fn position(&self) -> usize {
        self.consumed
    }

    /// How many bytes are left.
    #[must_use]
    pub const fn left(&self) -> usize {
        self.rest.len()
    }

    /// Whether no byte is left.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The bytes that are left, without reading them.
    #[must_use]
    pub const fn peek(&self) -> &'a [u8] {
        self.rest
    }

    /// Reads everything that is left.
    #[must_use]
    pub fn rest(&mut self) -> &'a [u8] {
        let (taken, rest) = (self.rest, <&[u8]>::default());
        self.advance(taken.len(), rest);
        taken
    }

    /// Reads `n` bytes.
    ///
    /// # Errors
    /// [`CursorError::Missing`] if fewer are left. Nothing is read then.
    pub fn take(&mut self, n: usize, what: &'static str) -> Result<&'a [u8], CursorError> {
        let (taken, rest) = self.rest.split_at_checked(n).ok_or_else(|| self.missing(n, what))?;
        self.advance(n, rest);
        Ok(taken)
    }

    /// Reads an array of `N` bytes.
    ///
    /// # Errors
    /// [`CursorError::Missing`] if fewer are left. Nothing is read then.
    pub fn take_array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], CursorError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or_else(|| self.missing(N, what))?;
        self.advance(N, rest);
        Ok(*taken)
    }

    /// Reads `n` bytes and returns a cursor over them that knows their stream offset.
    ///
    /// # Errors
    /// [`CursorError::Missing`] if fewer are left. Nothing is read then.
    pub fn sub(&mut self, n: usize, what: &'static str) -> Result<Self, CursorError> {
        let offset = self.offset;
        self.take(n, what).map(|bytes| Self::at(bytes, offset))
    }

    /// Reads `n` bytes that the format reserves: all must be zero.
    ///
    /// # Errors
    /// [`CursorError::Missing`] if fewer are left, [`CursorError::NotZero`] naming the first byte that is set.
    pub fn zeros(&mut self, n: usize, what: &'static str) -> Result<(), CursorError> {
        let mut reserved = self.sub(n, what)?;
        while !reserved.is_empty() {
            let offset = reserved.offset();
            match reserved.u8(what)? {
                0 => {}
                value => {
                    return Err(CursorError::NotZero { what, value, offset });
                }
            }
        }
        Ok(())
    }

    /// Ends the reading of `what`.
    ///
    /// # Errors
    /// [`CursorError::Leftover`] if bytes are left.
    pub const fn finish(self, what: &'static str) -> Result<(), CursorError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(CursorError::Leftover { what, left: self.rest.len(), offset: self.offset })
        }
    }

    fn missing(&self, wanted: usize, what: &'static str) -> CursorError {
        CursorError::Missing { what, wanted, left: self.rest.len(), offset: self.offset }
    }

    fn advance(&mut self, n: usize, rest: &'a [u8]) {
        self.rest = rest;
        self.consumed = self.consumed.saturating_add(n);
        self.offset = self.offset.saturating_add(u64::try_from(n).unwrap_or(u64::MAX));
    }
}

/// One reader per integer type and byte order.
macro_rules! integers {
    ($($name:ident: $type:ty, $from:ident, $text:literal;)*) => {
        impl Cursor<'_> {
            $(
                #[doc = concat!("Reads ", $text, ".")]
                ///
                /// # Errors
                /// [`CursorError::Missing`] if too few bytes are left. Nothing is read then.
                pub fn $name(&mut self, what: &'static str) -> Result<$type, CursorError> {
                    self.take_array(what).map(<$type>::$from)
                }
            )*
        }
    };
}

integers! {
    u8: u8, from_le_bytes, "one byte";
    u16_le: u16, from_le_bytes, "a little-endian `u16`";
    u16_be: u16, from_be_bytes, "a big-endian `u16`";
    u32_le: u32, from_le_bytes, "a little-endian `u32`";
    u32_be: u32, from_be_bytes, "a big-endian `u32`";
    u64_le: u64, from_le_bytes, "a little-endian `u64`";
    u64_be: u64, from_be_bytes, "a big-endian `u64`";
    i32_le: i32, from_le_bytes, "a little-endian `i32`";
    i32_be: i32, from_be_bytes, "a big-endian `i32`";
    i64_le: i64, from_le_bytes, "a little-endian `i64`";
    i64_be: i64, from_be_bytes, "a big-endian `i64`";
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn integers_follow_their_byte_order() {
        let bytes = [1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(Cursor::new(&bytes).u8("a"), Ok(1));
        assert_eq!(Cursor::new(&bytes).u16_le("a"), Ok(0x0201));
        assert_eq!(Cursor::new(&bytes).u16_be("a"), Ok(0x0102));
        assert_eq!(Cursor::new(&bytes).u32_le("a"), Ok(0x0403_0201));
        assert_eq!(Cursor::new(&bytes).u32_be("a"), Ok(0x0102_0304));
        assert_eq!(Cursor::new(&bytes).u64_le("a"), Ok(0x0807_0605_0403_0201));
        assert_eq!(Cursor::new(&bytes).u64_be("a"), Ok(0x0102_0304_0506_0708));
        assert_eq!(Cursor::new(&[0xfe, 0xff, 0xff, 0xff]).i32_le("a"), Ok(-2));
        assert_eq!(Cursor::new(&[0xff, 0xff, 0xff, 0xfe]).i32_be("a"), Ok(-2));
        assert_eq!(Cursor::new(&[0xfe, 255, 255, 255, 255, 255, 255, 255]).i64_le("a"), Ok(-2));
        assert_eq!(Cursor::new(&[255, 255, 255, 255, 255, 255, 255, 0xfe]).i64_be("a"), Ok(-2));
    }

    #[test]
    fn a_failed_read_consumes_nothing() {
        let mut cursor = Cursor::at(&[7, 8, 9], 40);
        let missing = CursorError::Missing { what: "size", wanted: 4, left: 3, offset: 40 };
        assert_eq!(cursor.u32_le("size"), Err(missing));
        assert_eq!((cursor.position(), cursor.offset(), cursor.left()), (0, 40, 3));
        assert_eq!(cursor.take(3, "body"), Ok(&[7, 8, 9][..]));
        assert_eq!((cursor.position(), cursor.offset(), cursor.left()), (3, 43, 0));
    }

    #[test]
    fn sub_keeps_the_stream_offset_and_its_own_end() {
        let mut cursor = Cursor::at(&[1, 2, 3, 4], 10);
        let mut inner = cursor.sub(2, "record").unwrap();
        assert_eq!(inner.u8("first"), Ok(1));
        assert_eq!(
            inner.u16_le("second"),
            Err(CursorError::Missing { what: "second", wanted: 2, left: 1, offset: 11 })
        );
        assert_eq!(cursor.rest(), [3, 4]);
        assert!(cursor.is_empty());
    }

    #[test]
    fn finish_rejects_leftovers() {
        let mut cursor = Cursor::at(&[1, 2, 3], 5);
        cursor.u8("a").unwrap();
        assert_eq!(cursor.finish("record"), Err(CursorError::Leftover { what: "record", left: 2, offset: 6 }));
        assert_eq!(Cursor::new(&[]).finish("record"), Ok(()));
    }

    #[test]
    fn zeros_names_the_first_byte_that_is_set() {
        assert_eq!(Cursor::new(&[0, 0, 0]).zeros(3, "reserved"), Ok(()));
        assert_eq!(
            Cursor::at(&[0, 0, 9, 1], 7).zeros(4, "reserved"),
            Err(CursorError::NotZero { what: "reserved", value: 9, offset: 9 })
        );
    }

    #[test]
    fn offsets_near_the_end_of_the_number_range_do_not_wrap() {
        let mut cursor = Cursor::at(&[0; 4], u64::MAX - 1);
        cursor.u32_le("field").unwrap();
        assert_eq!(cursor.offset(), u64::MAX);
        assert!(cursor.take(usize::MAX, "more").is_err());
    }
}
