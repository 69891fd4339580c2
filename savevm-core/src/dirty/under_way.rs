// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The pages of a region that were taken and not settled.
//!
//! A batch has its pages in words of its own, and while there are few of them that is all there is: nothing is written to a bitmap
//! when one is taken, and nothing taken away there when it is settled. When there are more, the oldest go into a bitmap. So a batch that
//! is dropped, or never settled, costs no memory that grows, and its pages are owed all the same.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use super::bitmap::Bitmap;
use super::owed::Owed;
use super::runs::BLOCK_WORDS;
use super::take::any;

/// So many batches of a region are kept as such: more than are on their way at once.
const BATCHES_MAX: usize = 16;

/// What is owed of one region.
#[derive(Debug)]
pub(super) struct UnderWay {
    /// By their numbers, which rise.
    batches: BTreeMap<u64, Batch>,
    /// The pages of older batches.
    older: Bitmap,
    /// How many there are in `older`.
    older_pages: u64,
}

#[derive(Debug)]
struct Batch {
    /// Its first word.
    first: usize,
    words: Arc<Vec<u64>>,
    pages: u64,
}

impl UnderWay {
    /// Nothing, of as many pages as the bitmap has, which is clean.
    pub(super) const fn new(older: Bitmap) -> Self {
        Self { batches: BTreeMap::new(), older, older_pages: 0 }
    }

    /// Takes note of a batch.
    pub(super) fn add(&mut self, owed: &Owed) {
        let first = super::bitmap::word_of(owed.first);
        self.batches.insert(owed.number, Batch { first, words: Arc::clone(&owed.words), pages: owed.pages });
        while self.batches.len() > BATCHES_MAX {
            let Some((_, batch)) = self.batches.pop_first() else { break };
            self.older_pages = self.older_pages.saturating_add(batch.pages);
            enter(part_mut(&mut self.older, batch.first, batch.words.len()), &batch.words);
        }
    }

    /// Forgets this batch.
    pub(super) fn remove(&mut self, owed: &Owed) {
        if self.batches.remove(&owed.number).is_none() {
            self.older_pages = self.older_pages.saturating_sub(owed.pages);
            let older = part_mut(&mut self.older, super::bitmap::word_of(owed.first), owed.words.len());
            older.iter_mut().zip(owed.words.iter()).for_each(|(older, pages)| *older &= !pages);
        }
    }

    /// Forgets this batch, whose pages go into `into`.
    pub(super) fn give_back(&mut self, owed: &Owed, into: &mut Bitmap) {
        self.remove(owed);
        enter(part_mut(into, super::bitmap::word_of(owed.first), owed.words.len()), &owed.words);
    }

    /// Forgets all batches, whose pages go into `into`.
    pub(super) fn give_up(&mut self, into: &mut Bitmap) {
        for (_, batch) in core::mem::take(&mut self.batches) {
            enter(part_mut(into, batch.first, batch.words.len()), &batch.words);
        }
        if core::mem::take(&mut self.older_pages) > 0 {
            enter(into.words_mut(), self.older.words());
            self.older.clear(0, self.older.pages());
        }
    }

    /// How many pages.
    pub(super) fn pages(&self) -> u64 {
        self.batches.values().map(|batch| batch.pages).fold(self.older_pages, u64::saturating_add)
    }

    /// What of it lies between two words.
    pub(super) fn overlaps(&self, words: Range<usize>) -> Overlaps<'_> {
        let older = (self.older_pages > 0).then(|| (0, self.older.words()));
        let batches = self.batches.values().map(|batch| (batch.first, batch.words.as_slice()));
        let touches =
            |(first, pages): &(usize, &[u64])| *first < words.end && words.start < first.saturating_add(pages.len());
        Overlaps(older.into_iter().chain(batches).filter(touches).collect())
    }
}

/// Stretches of words with owed pages.
#[derive(Debug)]
pub(super) struct Overlaps<'a>(Vec<(usize, &'a [u64])>);

impl Overlaps<'_> {
    /// Whether nothing is owed there.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes what is owed off words that begin at `at`.
    pub(super) fn clear(&self, at: usize, words: &mut [u64]) {
        for (first, owed) in &self.0 {
            let skipped = first.saturating_sub(at);
            let owed = owed.get(at.saturating_sub(*first)..).unwrap_or_default();
            words.iter_mut().skip(skipped).zip(owed).for_each(|(word, owed)| *word &= !owed);
        }
    }
}

/// Enters pages in a bitmap, or in a part of one.
fn enter(into: &mut [u64], pages: &[u64]) {
    for (into, pages) in into.chunks_mut(BLOCK_WORDS).zip(pages.chunks(BLOCK_WORDS)) {
        // Where there is nothing to enter the bitmap's memory is not touched.
        if any(pages) {
            into.iter_mut().zip(pages).for_each(|(into, pages)| *into |= pages);
        }
    }
}

/// Some words of a bitmap.
fn part_mut(bitmap: &mut Bitmap, first: usize, count: usize) -> &mut [u64] {
    bitmap.words_mut().get_mut(first..first.saturating_add(count)).unwrap_or_default()
}
