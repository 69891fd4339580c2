// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The bitmap of a report.

use core::hint::black_box;

use super::{DirtyRanges, DmaRange, check_page_size};
use crate::Refusal;

/// The smallest page size a report takes, in bytes.
const PAGE_SIZE_MIN: u64 = 4096;

/// One bit per page of a range: bit 0 is the first page of the range, in native 64-bit words.
///
/// It owns its memory, because the kernel loses bits without a word when the memory is not there or not writable.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DirtyBitmap {
    range: DmaRange,
    page_size: u64,
    pages: u64,
    words: Vec<u64>,
}

impl DirtyBitmap {
    /// The largest bitmap, in bytes: enough for 8 TiB in pages of 4 KiB.
    pub const MAX_BYTES: u64 = 256 << 20;

    /// A clean bitmap for `range` in pages of `page_size` bytes.
    ///
    /// # Errors
    ///
    /// A page size that is no power of two of at least 4096; a range that is empty, unaligned or reaches 2^64; a bitmap
    /// larger than [`MAX_BYTES`](Self::MAX_BYTES) or than the memory there is.
    pub fn new(range: DmaRange, page_size: u64) -> Result<Self, Refusal> {
        check_page_size(page_size, PAGE_SIZE_MIN)?;
        range.check(page_size)?;
        let pages = range.length.checked_div(page_size).unwrap_or_default();
        let bytes = pages.div_ceil(64).saturating_mul(8);
        let too_large = Refusal::BitmapSize { bytes };
        if bytes > Self::MAX_BYTES {
            return Err(too_large);
        }
        let Ok(count) = usize::try_from(pages.div_ceil(64)) else {
            return Err(too_large);
        };
        let mut words = Vec::new();
        if words.try_reserve_exact(count).is_err() {
            return Err(too_large);
        }
        words.resize(count, 0);
        Ok(Self { range, page_size, pages, words })
    }

    /// The range.
    #[must_use]
    pub const fn range(&self) -> DmaRange {
        self.range
    }

    /// The page size, in bytes.
    #[must_use]
    pub const fn page_size(&self) -> u64 {
        self.page_size
    }

    /// The words. Bits after the last page are 0.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// The number of dirty pages.
    #[must_use]
    pub fn dirty_pages(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).fold(0, u64::saturating_add)
    }

    /// The address of every dirty page, ascending.
    #[must_use]
    pub fn iter(&self) -> DirtyPages<'_> {
        DirtyPages { bitmap: self, next_word: 0, word: 0 }
    }

    /// The stretches of dirty pages, ascending.
    #[must_use]
    pub const fn dirty_ranges(&self) -> DirtyRanges<'_> {
        DirtyRanges::new(self)
    }

    /// Whether no page is dirty.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Adds the dirty pages of another reading of the same pages.
    ///
    /// # Errors
    ///
    /// [`Refusal::OtherPages`] if the other bitmap has another range or page size; nothing is added then.
    pub fn union(&mut self, other: &Self) -> Result<(), Refusal> {
        if (self.range, self.page_size) != (other.range, other.page_size) {
            return Err(Refusal::OtherPages { range: other.range, page_size: other.page_size });
        }
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            *word |= more;
        }
        Ok(())
    }

    /// Marks every page dirty.
    pub fn mark_all(&mut self) {
        self.words.fill(u64::MAX);
        self.clear_tail();
    }

    /// The number of pages, dirty and clean.
    #[must_use]
    pub const fn pages(&self) -> u64 {
        self.pages
    }

    /// All words, zeroed and resident: the kernel only ever sets bits, and skips memory that is not there.
    pub(crate) fn zeroed_words(&mut self) -> &mut [u64] {
        // Not to be optimised away as a repetition: writing is what brings the pages in.
        black_box(&mut self.words).fill(0);
        &mut self.words
    }

    /// Clears the bits after the last page, so that a driver that rounds up does not invent pages.
    pub(crate) fn clear_tail(&mut self) {
        let used = self.pages.checked_rem(64).unwrap_or_default();
        if let (1.., Some(last)) = (used, self.words.last_mut()) {
            *last &= !u64::MAX.checked_shl(u32::try_from(used).unwrap_or_default()).unwrap_or_default();
        }
    }

    /// The address of the page of `bit` in word `index`.
    fn iova(&self, index: usize, bit: u32) -> Option<u64> {
        let page = u64::try_from(index).ok()?.checked_mul(64)?.checked_add(u64::from(bit))?;
        page.checked_mul(self.page_size)?.checked_add(self.range.iova)
    }
}

impl<'a> IntoIterator for &'a DirtyBitmap {
    type IntoIter = DirtyPages<'a>;
    type Item = u64;

    fn into_iter(self) -> DirtyPages<'a> {
        self.iter()
    }
}

/// The addresses of the dirty pages of a [`DirtyBitmap`].
#[derive(Clone, Debug)]
pub struct DirtyPages<'a> {
    bitmap: &'a DirtyBitmap,
    /// The index after that of `word`.
    next_word: usize,
    /// The bits of the current word that are still to come.
    word: u64,
}

impl Iterator for DirtyPages<'_> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        while self.word == 0 {
            self.word = *self.bitmap.words.get(self.next_word)?;
            self.next_word = self.next_word.checked_add(1)?;
        }
        let bit = self.word.trailing_zeros();
        self.word &= self.word.wrapping_sub(1);
        self.bitmap.iova(self.next_word.checked_sub(1)?, bit)
    }
}
