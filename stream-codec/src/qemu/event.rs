// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What every decoder of this module yields.

/// An item and the bytes it was read from.
///
/// The events of a stream cover it without gap or overlap: put one after the other, their `raw` bytes are the stream.
/// None is empty.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Event<'a, I> {
    /// Where in the stream the bytes start.
    pub offset: u64,
    /// The bytes; at least one.
    pub raw: &'a [u8],
    /// What they say.
    pub item: I,
}

/// Some bytes of a payload of known length, in place. A payload comes in as many pieces as the stream does, or more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Piece<'a> {
    /// Where in the payload the bytes start.
    pub position: u64,
    /// How many bytes the payload has in all.
    pub length: u64,
    /// The bytes; at least one.
    pub bytes: &'a [u8],
}

impl Piece<'_> {
    /// Whether these are the payload's last bytes.
    #[must_use]
    pub fn is_last(&self) -> bool {
        let count = u64::try_from(self.bytes.len()).unwrap_or(u64::MAX);
        self.position.saturating_add(count) >= self.length
    }
}

/// How far a payload of known length has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Progress {
    pub(super) position: u64,
    pub(super) length: u64,
}

impl Progress {
    pub(super) const fn new(length: u64) -> Self {
        Self { position: 0, length }
    }

    pub(super) const fn left(self) -> u64 {
        self.length.saturating_sub(self.position)
    }

    /// Counts a piece, and returns the progress before it.
    pub(super) fn advance(&mut self, count: usize) -> Self {
        let before = *self;
        self.position = self.position.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        before
    }

    pub(super) const fn piece(self, bytes: &[u8]) -> Piece<'_> {
        Piece { position: self.position, length: self.length, bytes }
    }
}
