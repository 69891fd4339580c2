// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Putting small things together that a stream may deliver in pieces.

use alloc::vec::Vec;

use thiserror::Error;

/// Collects exactly `N` bytes: a fixed header, whatever the segmentation.
///
/// ```
/// use stream_codec::decode::Accumulator;
///
/// let mut header = Accumulator::<4>::new();
/// assert_eq!(header.fill(&[1, 2, 3]), 3);
/// assert_eq!(header.take(), None);
/// assert_eq!(header.fill(&[4, 5]), 1);
/// assert_eq!(header.take(), Some([1, 2, 3, 4]));
/// assert_eq!(header.filled(), 0);
/// ```
#[derive(Clone, Debug)]
pub struct Accumulator<const N: usize> {
    bytes: [u8; N],
    filled: usize,
}

impl<const N: usize> Accumulator<N> {
    /// An empty accumulator.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: [0; N], filled: 0 }
    }

    /// Copies what is missing from the front of `input` and returns how many bytes that was.
    pub fn fill(&mut self, input: &[u8]) -> usize {
        let room = self.bytes.get_mut(self.filled..).unwrap_or_default();
        let taken = room.len().min(input.len());
        if let (Some(room), Some(input)) = (room.get_mut(..taken), input.get(..taken)) {
            room.copy_from_slice(input);
        }
        self.filled = self.filled.saturating_add(taken);
        taken
    }

    /// The bytes once all are there, and starts anew.
    pub fn take(&mut self) -> Option<[u8; N]> {
        if self.filled < N {
            return None;
        }
        self.filled = 0;
        Some(self.bytes)
    }

    /// How many bytes are there.
    #[must_use]
    pub const fn filled(&self) -> usize {
        self.filled
    }

    /// The bytes that are there.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.filled).unwrap_or_default()
    }
}

impl<const N: usize> Default for Accumulator<N> {
    fn default() -> Self {
        Self::new()
    }
}

/// Why a [`Gather`] refused to start.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum GatherError {
    /// More than the limit was asked for. Nothing was allocated.
    #[error("{wanted} bytes are more than the limit of {limit}")]
    TooLong {
        /// Bytes asked for.
        wanted: usize,
        /// The limit given at creation.
        limit: usize,
    },
    /// The allocator refused.
    #[error("no memory for {wanted} bytes")]
    NoMemory {
        /// Bytes asked for.
        wanted: usize,
    },
}

/// Collects a record of known length in memory that never exceeds a limit, and is used again for the next record.
#[derive(Clone, Debug)]
pub struct Gather {
    bytes: Vec<u8>,
    wanted: usize,
    limit: usize,
}

impl Gather {
    /// An empty buffer that will never hold more than `limit` bytes. Allocates nothing yet.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self { bytes: Vec::new(), wanted: 0, limit }
    }

    /// Starts a record of `wanted` bytes and forgets the one before.
    ///
    /// # Errors
    /// [`GatherError`] if that is above the limit, which is checked before anything is allocated, or if there is no
    /// memory.
    pub fn start(&mut self, wanted: usize) -> Result<(), GatherError> {
        if wanted > self.limit {
            return Err(GatherError::TooLong { wanted, limit: self.limit });
        }
        self.bytes.clear();
        self.bytes.try_reserve_exact(wanted).map_err(|_| GatherError::NoMemory { wanted })?;
        self.wanted = wanted;
        Ok(())
    }

    /// Copies what is missing from the front of `input` and returns how many bytes that was.
    pub fn fill(&mut self, input: &[u8]) -> usize {
        let taken = self.missing().min(input.len());
        self.bytes.extend_from_slice(input.get(..taken).unwrap_or_default());
        taken
    }

    /// How many bytes of the record are missing.
    #[must_use]
    pub fn missing(&self) -> usize {
        self.wanted.saturating_sub(self.bytes.len())
    }

    /// How many bytes of the record are there.
    #[must_use]
    pub fn filled(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes of the record that are there.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many bytes of memory are held, used or not.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_record_above_the_limit_allocates_nothing() {
        let mut gather = Gather::new(8);
        assert_eq!(gather.start(9), Err(GatherError::TooLong { wanted: 9, limit: 8 }));
        assert_eq!(gather.start(usize::MAX), Err(GatherError::TooLong { wanted: usize::MAX, limit: 8 }));
        assert_eq!(gather.capacity(), 0);
    }

    #[test]
    fn a_record_takes_only_what_belongs_to_it() {
        let mut gather = Gather::new(8);
        gather.start(3).unwrap();
        assert_eq!(gather.fill(&[1]), 1);
        assert_eq!(gather.missing(), 2);
        assert_eq!(gather.fill(&[2, 3, 4, 5]), 2);
        assert_eq!((gather.bytes(), gather.missing()), (&[1, 2, 3][..], 0));
        gather.start(1).unwrap();
        assert_eq!((gather.filled(), gather.missing()), (0, 1));
    }

    #[test]
    fn an_accumulator_shows_what_it_has_and_starts_anew() {
        let mut header = Accumulator::<3>::default();
        assert_eq!(header.fill(&[9]), 1);
        assert_eq!((header.bytes(), header.filled()), (&[9][..], 1));
        assert_eq!(header.fill(&[8, 7, 6]), 2);
        assert_eq!(header.fill(&[5]), 0, "a full accumulator takes no more");
        assert_eq!(header.take(), Some([9, 8, 7]));
        assert_eq!(header.bytes(), [0u8; 0]);
    }
}
