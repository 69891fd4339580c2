// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Going through a bitmap: by blocks of words, and by stretches of pages within them.
//!
//! A pass over a bitmap costs what its words cost; a stretch costs a few nanoseconds more, however long it is. So the pass
//! goes by [`Blocks`], as fast as memory can be read, and whoever copies the pages of a block takes its stretches one by one,
//! which is little beside a copy of 4 KiB. There is no second level above the blocks: at one dirty page in a hundred every
//! block has some, and where there are none the words are read at the speed of memory as it is.

use core::num::NonZeroU64;

/// Words in a block: 4096 pages, 16 MiB in pages of 4 KiB. Fewer make the pass slower, by what a block costs beside its words.
pub(super) const BLOCK_WORDS: usize = 64;
const BLOCK_PAGES: u64 = 4096;

/// A stretch of dirty pages.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[expect(clippy::exhaustive_structs, reason = "a stretch is its first page and its length")]
pub struct Run {
    /// The first page.
    pub first: u64,
    /// How many; not 0.
    pub count: u64,
}

/// Words with a dirty page.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Block<'a> {
    first: u64,
    words: &'a [u64],
}

impl<'a> Block<'a> {
    /// The page of the lowest bit.
    #[must_use]
    pub const fn first(self) -> u64 {
        self.first
    }

    /// The words; not all of them are 0.
    #[must_use]
    pub const fn words(self) -> &'a [u64] {
        self.words
    }

    /// The stretches of dirty pages in it, ascending, none longer than `pages_max`. They end with the block.
    #[must_use]
    pub fn runs(self, pages_max: NonZeroU64) -> Runs<'a> {
        Runs::new(self.words, self.first, pages_max)
    }
}

/// The blocks of a bitmap that have a dirty page.
#[derive(Clone, Debug)]
pub struct Blocks<'a> {
    chunks: core::slice::Chunks<'a, u64>,
    first: u64,
}

impl<'a> Blocks<'a> {
    pub(super) fn new(words: &'a [u64]) -> Self {
        Self { chunks: words.chunks(BLOCK_WORDS), first: 0 }
    }
}

impl<'a> Iterator for Blocks<'a> {
    type Item = Block<'a>;

    fn next(&mut self) -> Option<Block<'a>> {
        for words in self.chunks.by_ref() {
            let first = self.first;
            self.first = first.wrapping_add(BLOCK_PAGES);
            if words.iter().fold(0, |any, word| any | word) != 0 {
                return Some(Block { first, words });
            }
        }
        None
    }
}

/// Stretches of dirty pages.
#[derive(Clone, Debug)]
pub struct Runs<'a> {
    rest: core::slice::Iter<'a, u64>,
    /// The page of the lowest bit of `word`.
    base: u64,
    /// What is left of the present word.
    word: u64,
    /// What is left of a stretch that was too long.
    long: Option<Run>,
    pages_max: NonZeroU64,
}

impl<'a> Runs<'a> {
    /// Of `words`, whose lowest bit is page `first`.
    pub(super) fn new(words: &'a [u64], first: u64, pages_max: NonZeroU64) -> Self {
        let mut rest = words.iter();
        let word = rest.next().copied().unwrap_or_default();
        Self { rest, base: first, word, long: None, pages_max }
    }

    fn advance(&mut self) -> Option<()> {
        self.word = *self.rest.next()?;
        self.base = self.base.wrapping_add(64);
        Some(())
    }

    /// As much of a stretch as is allowed at once.
    fn cut(&mut self, run: Run) -> Run {
        let max = self.pages_max.get();
        self.long = match run.count.checked_sub(max) {
            None | Some(0) => return run,
            Some(count) => Some(Run { first: run.first.saturating_add(max), count }),
        };
        Run { count: max, ..run }
    }
}

impl Iterator for Runs<'_> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        if let Some(run) = self.long.take() {
            return Some(self.cut(run));
        }
        while self.word == 0 {
            self.advance()?;
        }
        let low = self.word.trailing_zeros();
        // Filled up below, the stretch is a number of ones from the bottom.
        let filled = self.word | self.word.wrapping_sub(1);
        let mut end = filled.trailing_ones();
        let first = self.base.wrapping_add(u64::from(low));
        let mut count = u64::from(end.saturating_sub(low));
        self.word &= filled.wrapping_add(1);
        while end == 64 && self.advance().is_some() {
            end = self.word.trailing_ones();
            count = count.saturating_add(u64::from(end));
            self.word &= self.word.wrapping_add(1);
        }
        Some(self.cut(Run { first, count }))
    }
}
