// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One bit per page of a region, in words.

use alloc::vec::Vec;
use core::num::NonZeroU64;

use super::runs::{Blocks, Runs};

/// One bit per page: bit `k % 64` of word `k / 64` is page `k`. Bits after the last page are 0.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Bitmap {
    pages: u64,
    words: Vec<u64>,
}

/// A bitmap that cannot be had.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BitmapError {
    /// It would be larger than the caller allows.
    #[error("a bitmap of {pages} pages needs {bytes} bytes; the limit is {bytes_max}")]
    TooLarge {
        /// One bit each.
        pages: u64,
        /// What they need.
        bytes: u64,
        /// The caller's limit.
        bytes_max: u64,
    },
    /// There is no memory for it.
    #[error("no memory for a bitmap of {bytes} bytes")]
    NoMemory {
        /// What it needs.
        bytes: u64,
    },
}

impl Bitmap {
    /// A bitmap of clean pages.
    ///
    /// # Errors
    /// When it would have more than `bytes_max` bytes, or there is no memory.
    pub fn new(pages: u64, bytes_max: u64) -> Result<Self, BitmapError> {
        let bytes = bytes_for(pages);
        if bytes > bytes_max {
            return Err(BitmapError::TooLarge { pages, bytes, bytes_max });
        }
        let count = usize::try_from(pages.div_ceil(64)).map_err(|_| BitmapError::NoMemory { bytes })?;
        let mut words = Vec::new();
        words.try_reserve_exact(count).map_err(|_| BitmapError::NoMemory { bytes })?;
        words.resize(count, 0);
        Ok(Self { pages, words })
    }

    /// How many pages, dirty and clean.
    #[must_use]
    pub const fn pages(&self) -> u64 {
        self.pages
    }

    /// The words.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// How many pages are dirty. A pass over all words.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Whether no page is dirty.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Whether this page is dirty. Pages that do not exist are clean.
    #[must_use]
    pub fn is_dirty(&self, page: u64) -> bool {
        self.words.get(word_of(page)).is_some_and(|word| word & bit(page) != 0)
    }

    /// Marks `count` pages from `first` on; those that do not exist are passed over.
    pub fn mark(&mut self, first: u64, count: u64) {
        self.masked(first, count, |word, mask| *word |= mask);
    }

    /// Takes the marks of `count` pages from `first` on away.
    pub fn clear(&mut self, first: u64, count: u64) {
        self.masked(first, count, |word, mask| *word &= !mask);
    }

    /// Marks every page.
    pub fn mark_all(&mut self) {
        self.mark(0, self.pages);
    }

    /// Marks `count` pages from `first` on as `words` has them from its bit `from` on. Word by word, whatever the offset.
    pub fn mark_words(&mut self, first: u64, words: &[u64], from: u64, count: u64) {
        let count = count.min(self.pages.saturating_sub(first));
        let mut done = 0;
        while done < count {
            let page = first.saturating_add(done);
            let low = page % 64;
            let length = 64_u64.saturating_sub(low).min(count.saturating_sub(done));
            let bits = fetch(words, from.saturating_add(done)) & ones(length);
            if let Some(word) = self.words.get_mut(word_of(page)) {
                *word |= bits.wrapping_shl(shift(low));
            }
            done = done.saturating_add(length);
        }
    }

    /// The stretches of dirty pages, ascending, none longer than `pages_max`.
    #[must_use]
    pub fn runs(&self, pages_max: NonZeroU64) -> Runs<'_> {
        Runs::new(&self.words, 0, pages_max)
    }

    /// The blocks that have a dirty page, ascending: what a pass over a large bitmap should go by.
    #[must_use]
    pub fn blocks(&self) -> Blocks<'_> {
        Blocks::new(&self.words)
    }

    pub(super) fn words_mut(&mut self) -> &mut [u64] {
        &mut self.words
    }

    fn masked(&mut self, first: u64, count: u64, change: impl Fn(&mut u64, u64)) {
        let end = first.saturating_add(count).min(self.pages);
        let Some(last) = end.checked_sub(1).filter(|last| *last >= first) else { return };
        let (head, tail) = (u64::MAX.wrapping_shl(shift(first)), ones((last % 64).saturating_add(1)));
        let Some(words) = self.words.get_mut(word_of(first)..=word_of(last)) else { return };
        match words {
            [only] => change(only, head & tail),
            [low, middle @ .., high] => {
                change(low, head);
                middle.iter_mut().for_each(|word| change(word, u64::MAX));
                change(high, tail);
            }
            [] => {}
        }
    }
}

/// What a bitmap of so many pages needs, in bytes.
pub(super) const fn bytes_for(pages: u64) -> u64 {
    pages.div_ceil(64).saturating_mul(8)
}

pub(super) fn word_of(page: u64) -> usize {
    usize::try_from(page / 64).unwrap_or(usize::MAX)
}

/// The place of a page's bit in its word.
pub(super) fn shift(page: u64) -> u32 {
    u32::try_from(page % 64).unwrap_or_default()
}

fn bit(page: u64) -> u64 {
    1_u64.wrapping_shl(shift(page))
}

/// The lowest `count` bits.
fn ones(count: u64) -> u64 {
    if count >= 64 { u64::MAX } else { bit(count).wrapping_sub(1) }
}

/// 64 bits of `words` from bit `at` on; 0 beyond the end.
fn fetch(words: &[u64], at: u64) -> u64 {
    let index = word_of(at);
    let word = |index: usize| words.get(index).copied().unwrap_or_default();
    let low = word(index).wrapping_shr(shift(at));
    match 64_u32.saturating_sub(shift(at)) {
        64 => low,
        rest => low | word(index.saturating_add(1)).wrapping_shl(rest),
    }
}
