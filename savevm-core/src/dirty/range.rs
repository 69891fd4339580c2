// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Addresses: a stretch that is not empty and ends before 2⁶⁴.

use core::fmt;

/// A stretch of addresses as devices use them. Never empty; it ends below 2⁶⁴, because no interface of the kernel can
/// log the last page of the address space (`vfio.h`: `iova + length` must not overflow).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Range {
    start: u64,
    length: u64,
}

/// Why two numbers are no [`Range`], or a range does not fit.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RangeError {
    /// It has no length.
    #[error("the range at {start:#x} is empty")]
    Empty {
        /// Where it would begin.
        start: u64,
    },
    /// It reaches 2⁶⁴ or wraps around.
    #[error("the range {start:#x} + {length:#x} reaches 2^64; end it a page earlier")]
    Wraps {
        /// Where it begins.
        start: u64,
        /// In bytes.
        length: u64,
    },
    /// Start or length is no multiple of the page size.
    #[error("the range {start:#x} + {length:#x} is not aligned to pages of {page_bytes:#x} bytes")]
    Unaligned {
        /// Where it begins.
        start: u64,
        /// In bytes.
        length: u64,
        /// In bytes.
        page_bytes: u64,
    },
}

impl Range {
    /// `length` bytes from `start` on.
    ///
    /// # Errors
    /// When it is empty or reaches 2⁶⁴.
    pub const fn new(start: u64, length: u64) -> Result<Self, RangeError> {
        if length == 0 {
            return Err(RangeError::Empty { start });
        }
        match start.checked_add(length) {
            Some(_) => Ok(Self { start, length }),
            None => Err(RangeError::Wraps { start, length }),
        }
    }

    /// The first address.
    #[must_use]
    pub const fn start(self) -> u64 {
        self.start
    }

    /// In bytes; not 0.
    #[must_use]
    pub const fn length(self) -> u64 {
        self.length
    }

    /// The address after the last. Does not overflow: [`new`](Self::new) saw to it.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.start.saturating_add(self.length)
    }

    /// The addresses in both.
    #[must_use]
    pub fn overlap(self, other: Self) -> Option<Self> {
        let start = self.start.max(other.start);
        let length = self.end().min(other.end()).checked_sub(start)?;
        Self::new(start, length).ok()
    }

    /// Checks start and length against a page size.
    ///
    /// # Errors
    /// When one is no multiple of it.
    pub const fn aligned_to(self, page_bytes: u64) -> Result<Self, RangeError> {
        let Self { start, length } = self;
        match (start.checked_rem(page_bytes), length.checked_rem(page_bytes)) {
            (Some(0), Some(0)) => Ok(self),
            _ => Err(RangeError::Unaligned { start, length, page_bytes }),
        }
    }

    /// Ranges of ascending starts without the seams between those that touch or overlap.
    pub(super) fn merged(ascending: impl IntoIterator<Item = Self>) -> alloc::vec::Vec<Self> {
        let mut merged: alloc::vec::Vec<Self> = alloc::vec::Vec::new();
        for range in ascending {
            match merged.last_mut() {
                Some(last) if last.end() >= range.start => {
                    last.length = last.end().max(range.end()).saturating_sub(last.start);
                }
                _ => merged.push(range),
            }
        }
        merged
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.start, self.end())
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_range_is_not_empty_and_does_not_wrap() {
        assert_eq!(Range::new(7, 0), Err(RangeError::Empty { start: 7 }));
        let last = u64::MAX - 0xfff;
        assert_eq!(Range::new(last, 0x1000), Err(RangeError::Wraps { start: last, length: 0x1000 }));
        assert_eq!(Range::new(last, 0xfff).unwrap().end(), u64::MAX);
        assert!(Range::new(0x1000, 0x800).unwrap().aligned_to(0x1000).is_err());
        assert!(Range::new(0x800, 0x1000).unwrap().aligned_to(0x1000).is_err());
        assert!(Range::new(0x1000, 0x1000).unwrap().aligned_to(0).is_err());
    }

    #[test]
    fn overlaps_and_seams() {
        let of = |start, length| Range::new(start, length).unwrap();
        assert_eq!(of(0, 10).overlap(of(4, 10)), Some(of(4, 6)));
        assert_eq!(of(0, 10).overlap(of(10, 1)), None);
        assert_eq!(Range::merged([of(0, 4), of(4, 4), of(6, 1), of(9, 1)]), [of(0, 8), of(9, 1)]);
    }
}
