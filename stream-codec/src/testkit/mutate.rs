// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Streams made from streams, and segmentations, without outside randomness.

use alloc::vec::Vec;

/// A small generator of numbers that look random (SplitMix64). The same seed gives the same numbers.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator with this seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to `max`, both included.
    pub fn up_to(&mut self, max: usize) -> usize {
        let range = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
        let number = self.next_u64().checked_rem(range).unwrap_or(0);
        usize::try_from(number).unwrap_or(max)
    }

    /// `length` bytes.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| u8::try_from(self.next_u64() >> 56).unwrap_or(0)).collect()
    }

    /// Cuts `stream` into pieces: mostly small ones, some empty, some large.
    pub fn cut<'a>(&mut self, mut stream: &'a [u8]) -> Vec<&'a [u8]> {
        let mut pieces = Vec::new();
        while !stream.is_empty() {
            let size_max = match self.up_to(3) {
                0 => stream.len(),
                1 => 64,
                _ => 9,
            };
            let size = self.up_to(size_max).min(stream.len());
            let (piece, rest) = stream.split_at_checked(size).unwrap_or((stream, &[]));
            pieces.push(piece);
            stream = rest;
        }
        pieces
    }

    /// A copy of `stream` with a stretch removed, repeated, overwritten or inserted.
    pub fn damage(&mut self, stream: &[u8]) -> Vec<u8> {
        let start = self.up_to(stream.len());
        let end = self.up_to(64).saturating_add(start).min(stream.len());
        let (front, middle) = (stream.get(..start).unwrap_or_default(), stream.get(start..end).unwrap_or_default());
        let back = stream.get(end..).unwrap_or_default();
        let replacement = match self.up_to(3) {
            0 => Vec::new(),
            1 => [middle, middle].concat(),
            2 => self.bytes(middle.len()),
            _ => [middle, &self.bytes(16)].concat(),
        };
        [front, &replacement, back].concat()
    }
}

/// Every proper prefix of `stream`, the empty one first.
pub fn prefixes(stream: &[u8]) -> impl Iterator<Item = &[u8]> {
    (0..stream.len()).filter_map(|end| stream.get(..end))
}

/// `stream` with one bit changed, for every bit of it: the bit's number and the changed copy.
pub fn bit_flips(stream: &[u8]) -> impl Iterator<Item = (usize, Vec<u8>)> {
    let positions = (0..stream.len()).flat_map(|byte| (0..8u8).map(move |bit| (byte, bit)));
    positions.enumerate().map(|(number, (byte, bit))| {
        let mut flipped = stream.to_vec();
        if let Some(byte) = flipped.get_mut(byte) {
            *byte ^= 1u8.checked_shl(bit.into()).unwrap_or(0);
        }
        (number, flipped)
    })
}
