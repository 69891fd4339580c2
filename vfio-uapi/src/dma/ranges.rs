// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Dirty pages as stretches: whole words of a bitmap at a time.

use super::{DirtyBitmap, DmaRange};

/// The stretches of dirty pages of a [`DirtyBitmap`], ascending, each as long as it can be.
#[derive(Clone, Debug)]
pub struct DirtyRanges<'a> {
    bitmap: &'a DirtyBitmap,
    /// The page to go on with.
    page: u64,
}

impl<'a> DirtyRanges<'a> {
    pub(super) const fn new(bitmap: &'a DirtyBitmap) -> Self {
        Self { bitmap, page: 0 }
    }
}

impl Iterator for DirtyRanges<'_> {
    type Item = DmaRange;

    fn next(&mut self) -> Option<DmaRange> {
        let words = self.bitmap.words();
        let first = next_set(words, self.page, |word| word)?;
        // Bits after the last page are 0, so a stretch ends there at the latest, or with the words.
        let end = next_set(words, first, |word| !word).unwrap_or(self.bitmap.pages());
        self.page = end;
        let page_size = self.bitmap.page_size();
        let iova = first.checked_mul(page_size)?.checked_add(self.bitmap.range().iova)?;
        Some(DmaRange { iova, length: end.checked_sub(first)?.checked_mul(page_size)? })
    }
}

/// The number of the first set bit, of the words as `view` shows them, from bit `from` on.
fn next_set(words: &[u64], from: u64, view: impl Fn(u64) -> u64) -> Option<u64> {
    let first = from.checked_div(64)?;
    let below = u32::try_from(from.checked_rem(64)?).ok()?;
    let mut mask = u64::MAX.checked_shl(below)?;
    for (word, index) in words.get(usize::try_from(first).ok()?..)?.iter().zip(first..) {
        let bits = view(*word) & mask;
        if bits != 0 {
            return index.checked_mul(64)?.checked_add(u64::from(bits.trailing_zeros()));
        }
        mask = u64::MAX;
    }
    None
}
