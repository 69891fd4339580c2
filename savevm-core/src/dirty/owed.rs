// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pages that were taken to be sent.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::num::NonZeroU64;

use super::ledger::RegionId;
use super::runs::Runs;

/// Dirty pages of one region that were taken from the [`Ledger`](super::Ledger) to be sent, and are owed until the target has them.
///
/// Give it to [`acknowledge`](super::Ledger::acknowledge) when the target says so, or to
/// [`give_back`](super::Ledger::give_back) if they were not sent. One that is dropped loses nothing: what is owed is written in the
/// ledger, not here. It only stays owed, so that nothing can be completed before
/// [`give_up`](super::Ledger::give_up) has made it dirty again.
#[derive(Debug, Eq, PartialEq)]
#[must_use = "its pages are owed until they are acknowledged or given back"]
pub struct Owed {
    pub(super) attempt: u64,
    /// In its ledger.
    pub(super) number: u64,
    pub(super) region: RegionId,
    /// The page of the lowest bit; a multiple of 64.
    pub(super) first: u64,
    pub(super) words: Arc<Vec<u64>>,
    pub(super) pages: u64,
}

impl Owed {
    /// Whose pages.
    #[must_use]
    pub const fn region(&self) -> RegionId {
        self.region
    }

    /// How many.
    #[must_use]
    pub const fn pages(&self) -> u64 {
        self.pages
    }

    /// The stretches of pages to send, ascending, none longer than `pages_max`.
    #[must_use]
    pub fn runs(&self, pages_max: NonZeroU64) -> Runs<'_> {
        Runs::new(&self.words, self.first, pages_max)
    }
}

/// How much of the dirty pages is taken at once.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub struct Portion {
    /// At most so many pages.
    pub pages_max: NonZeroU64,
    /// From a stretch of at most so many pages, dirty and clean: a bit of memory for each, until it is acknowledged. Rounded up to 64.
    pub span_pages_max: NonZeroU64,
}

impl Portion {
    /// At most `pages_max` pages from a stretch of `span_pages_max`.
    #[must_use]
    pub const fn new(pages_max: NonZeroU64, span_pages_max: NonZeroU64) -> Self {
        Self { pages_max, span_pages_max }
    }
}

/// What is known of the target's memory when an attempt ends.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "it is there or not")]
pub enum Target {
    /// It has the pages it acknowledged and will be the target of the next attempt.
    Kept,
    /// It is gone, or nobody knows. The next one has none of the pages.
    Lost,
}
