// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which pages the target lacks, which are on their way, which it has.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::bitmap::{Bitmap, BitmapError, bytes_for};
use super::owed::{Owed, Portion, Target};
use super::region::{Region, RegionError, RegionTable};
use super::take::take;
use super::under_way::UnderWay;

/// A region, by the order in which it was added. Numbers are not used again.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RegionId(u32);

impl RegionId {
    /// The number: 0 for the first.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }
}

/// The account of all pages of all regions.
///
/// Trackers read and clear: once read, a dirty bit exists only here. So a page is
///
/// - **dirty** from the moment it is reported until it is taken to be sent ([`take`](Self::take)),
/// - **owed** from then until the target acknowledges it; it may become dirty again meanwhile, but is not taken a second time before
///   the first copy has arrived, so that no old copy can overtake a new one on another channel,
/// - and otherwise **held**: the target has acknowledged it as it is.
///
/// An attempt that fails gives back what is owed, and everything if the target is lost, for it had whatever was not dirty or owed
/// ([`give_up`](Self::give_up)). An [`Owed`] that is dropped or forgotten takes nothing with it.
///
/// It takes two bits per page, the memory of the last 16 batches of each region, and nothing else that grows.
#[derive(Debug)]
pub struct Ledger {
    regions: BTreeMap<RegionId, Account>,
    next_id: u32,
    bitmap_bytes_max: u64,
    bitmap_bytes: u64,
    attempt: u64,
    next_batch: u64,
    /// Where the next [`take`](Self::take) goes on.
    cursor: (RegionId, usize),
    /// The memory of batches that are settled.
    spare: Vec<Vec<u64>>,
}

/// So many batches are on their way at once, or a few more, whose memory is not kept.
const SPARES_MAX: usize = 16;

/// One region and its bitmaps.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) region: Region,
    pub(super) dirty: Bitmap,
    pub(super) under_way: UnderWay,
}

/// A region that cannot be taken in.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// It makes no sense.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// Its bitmaps are too large.
    #[error("region {name}: {error}")]
    Bitmap {
        /// Whose.
        name: String,
        /// Why.
        #[source]
        error: BitmapError,
    },
    /// There were 2³² regions.
    #[error("region {name}: no number is left for it")]
    NoNumber {
        /// Whose.
        name: String,
    },
}

/// A batch that is not owed (any more): of an attempt that was given up, or of another ledger.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("{} pages of region {} belong to an attempt that is over; they are dirty again and will be sent again", .owed.pages, .owed.region.0)]
#[non_exhaustive]
pub struct Stale {
    /// The batch.
    pub owed: Owed,
}

/// What is still missing for the target to have all of the memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the target does not have all of the memory: {dirty_pages} pages are dirty, {owed_pages} not acknowledged")]
#[non_exhaustive]
pub struct Unfinished {
    /// Not sent.
    pub dirty_pages: u64,
    /// Sent and not acknowledged, or dropped on the way.
    pub owed_pages: u64,
}

impl Ledger {
    /// An account of no region, whose bitmaps may take `bitmap_bytes_max` bytes together.
    #[must_use]
    pub fn new(bitmap_bytes_max: u64) -> Self {
        Self {
            regions: BTreeMap::new(),
            next_id: 0,
            bitmap_bytes_max,
            bitmap_bytes: 0,
            attempt: attempts::next(),
            next_batch: 0,
            cursor: (RegionId(0), 0),
            spare: Vec::new(),
        }
    }

    /// The account of all regions of a table, numbered in its order.
    ///
    /// # Errors
    /// When the bitmaps would be larger than `bitmap_bytes_max`.
    pub fn of(table: &RegionTable, bitmap_bytes_max: u64) -> Result<Self, LedgerError> {
        let mut ledger = Self::new(bitmap_bytes_max);
        table.regions().iter().try_for_each(|region| ledger.add(region.clone()).map(|_| ()))?;
        Ok(ledger)
    }

    /// Takes a region in. All of it is dirty: the target has nothing of it.
    ///
    /// # Errors
    /// When it makes no sense, has the name of another, or its bitmaps would exceed the limit.
    pub fn add(&mut self, region: Region) -> Result<RegionId, LedgerError> {
        region.check()?;
        if self.regions.values().any(|other| other.region.name == region.name) {
            return Err(RegionError::Name { name: region.name }.into());
        }
        let id = RegionId(self.next_id);
        let name = || region.name.clone();
        let next_id = self.next_id.checked_add(1).ok_or_else(|| LedgerError::NoNumber { name: name() })?;
        let pages = region.pages();
        let left = self.bitmap_bytes_max.saturating_sub(self.bitmap_bytes);
        let bitmap = || Bitmap::new(pages, left / 2).map_err(|error| LedgerError::Bitmap { name: name(), error });
        let under_way = UnderWay::new(bitmap()?);
        let mut account = Account { dirty: bitmap()?, under_way, region };
        account.dirty.mark_all();
        self.bitmap_bytes = self.bitmap_bytes.saturating_add(bytes_for(pages).saturating_mul(2));
        self.next_id = next_id;
        self.regions.insert(id, account);
        Ok(id)
    }

    /// Takes a region out, with whatever of it was dirty or owed. Batches of it become stale. Returns whether there was one.
    pub fn remove(&mut self, region: RegionId) -> bool {
        let removed = self.regions.remove(&region);
        let bytes = removed.as_ref().map_or(0, |account| bytes_for(account.dirty.pages()).saturating_mul(2));
        self.bitmap_bytes = self.bitmap_bytes.saturating_sub(bytes);
        removed.is_some()
    }

    /// A region.
    #[must_use]
    pub fn region(&self, id: RegionId) -> Option<&Region> {
        self.regions.get(&id).map(|account| &account.region)
    }

    /// The regions, in the order they were added.
    pub fn regions(&self) -> impl Iterator<Item = (RegionId, &Region)> {
        self.regions.iter().map(|(id, account)| (*id, &account.region))
    }

    /// The dirty pages of a region.
    #[must_use]
    pub fn dirty(&self, id: RegionId) -> Option<&Bitmap> {
        self.regions.get(&id).map(|account| &account.dirty)
    }

    /// Marks `count` pages of a region from `first` on dirty. Those that do not exist are passed over.
    pub fn mark(&mut self, region: RegionId, first: u64, count: u64) {
        if let Some(account) = self.regions.get_mut(&region) {
            account.dirty.mark(first, count);
        }
    }

    /// Marks every page of every region dirty.
    pub fn mark_all(&mut self) {
        self.regions.values_mut().for_each(|account| account.dirty.mark_all());
    }

    /// Takes the next dirty pages to be sent, from where the last call stopped and around. `None` if there are none that
    /// are not on their way already.
    ///
    /// # Errors
    /// When there is no memory for the batch; nothing is taken then.
    pub fn take(&mut self, portion: Portion) -> Result<Option<Owed>, BitmapError> {
        let (start, word) = self.cursor;
        // The region of the cursor comes twice: from the cursor on, and at last from its beginning.
        let behind = self.regions.range(start..).map(|(id, _)| *id);
        let before = self.regions.range(..=start).map(|(id, _)| *id);
        let order: Vec<RegionId> = behind.chain(before).collect();
        let mut word = if self.regions.contains_key(&start) { word } else { 0 };
        let mut words = self.spare.pop().unwrap_or_default();
        for region in order {
            let Some(account) = self.regions.get_mut(&region) else { continue };
            let from = core::mem::take(&mut word);
            if let Some((taken, next)) = take(account, from, portion, &mut words)? {
                self.cursor = (region, next);
                let (attempt, number, first, pages) = (self.attempt, self.next_batch, taken.first, taken.pages);
                let owed = Owed { attempt, number, region, first, words: Arc::new(taken.words), pages };
                account.under_way.add(&owed);
                self.next_batch = number.saturating_add(1);
                return Ok(Some(owed));
            }
        }
        self.spare.push(words);
        Ok(None)
    }

    /// The target has these pages.
    ///
    /// # Errors
    /// When the batch is of an attempt that was given up, of a region that was removed, or of another ledger: it changes
    /// nothing then, and its pages have been given back already.
    pub fn acknowledge(&mut self, owed: Owed) -> Result<(), Stale> {
        self.settle(owed, |account, owed| account.under_way.remove(owed))
    }

    /// These pages were not sent, or nobody knows: they are dirty again.
    ///
    /// # Errors
    /// As [`acknowledge`](Self::acknowledge).
    pub fn give_back(&mut self, owed: Owed) -> Result<(), Stale> {
        self.settle(owed, |account, owed| account.under_way.give_back(owed, &mut account.dirty))
    }

    /// Ends an attempt that failed or was cancelled: what is owed is dirty again, and with the target all that it held.
    /// Batches of it are stale from now on.
    pub fn give_up(&mut self, target: Target) {
        self.attempt = attempts::next();
        for account in self.regions.values_mut() {
            account.under_way.give_up(&mut account.dirty);
            if target == Target::Lost {
                account.dirty.mark_all();
            }
        }
    }

    /// Whether the target has every page as it was last reported. True for good only when nothing can write to the memory any more.
    ///
    /// # Errors
    /// How many pages it lacks.
    pub fn check_finished(&self) -> Result<(), Unfinished> {
        match (self.dirty_pages(), self.owed_pages()) {
            (0, 0) => Ok(()),
            (dirty_pages, owed_pages) => Err(Unfinished { dirty_pages, owed_pages }),
        }
    }

    /// How many pages are dirty, over all regions. A pass over all words.
    #[must_use]
    pub fn dirty_pages(&self) -> u64 {
        self.regions.values().map(|account| account.dirty.count()).fold(0, u64::saturating_add)
    }

    /// How many bytes the dirty pages have.
    #[must_use]
    pub fn dirty_bytes(&self) -> u64 {
        let bytes = |account: &Account| account.dirty.count().saturating_mul(account.region.page_bytes);
        self.regions.values().map(bytes).fold(0, u64::saturating_add)
    }

    /// How many pages are on their way.
    #[must_use]
    pub fn owed_pages(&self) -> u64 {
        self.regions.values().map(|account| account.under_way.pages()).fold(0, u64::saturating_add)
    }

    pub(super) fn page_bytes(&self, region: RegionId) -> Option<u64> {
        self.region(region).map(|region| region.page_bytes)
    }

    pub(super) fn mark_words(&mut self, region: RegionId, first: u64, words: &[u64], from: u64, count: u64) {
        if let Some(account) = self.regions.get_mut(&region) {
            account.dirty.mark_words(first, words, from, count);
        }
    }

    /// Ends a batch, unless that has been done.
    fn settle(&mut self, owed: Owed, end: impl Fn(&mut Account, &Owed)) -> Result<(), Stale> {
        let account = self.regions.get_mut(&owed.region);
        let Some(account) = account.filter(|_| owed.attempt == self.attempt) else { return Err(Stale { owed }) };
        end(account, &owed);
        // The account has let go of it.
        if let Some(words) = Arc::into_inner(owed.words).filter(|_| self.spare.len() < SPARES_MAX) {
            self.spare.push(words);
        }
        Ok(())
    }
}

/// Attempts have numbers of their own in all of the process: a batch fits the ledger and the attempt it is of, no other.
mod attempts {
    use core::sync::atomic::{AtomicUsize, Ordering};

    static NEXT: AtomicUsize = AtomicUsize::new(0);

    pub(super) fn next() -> u64 {
        u64::try_from(NEXT.fetch_add(1, Ordering::Relaxed)).unwrap_or(u64::MAX)
    }
}
