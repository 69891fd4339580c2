// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From addresses to pages of regions: where a tracker's report goes.

use core::num::NonZeroU64;

use super::ledger::Ledger;
use super::range::Range;
use super::runs::Runs;
use super::slots::{Slot, Slots};

/// Takes reports of dirty addresses in, whatever their page size, and marks the pages of the regions behind them. Addresses with no
/// memory behind them are passed over: a device may report more than it was asked to track.
#[derive(Debug)]
pub struct Marks<'a> {
    slots: &'a Slots,
    ledger: &'a mut Ledger,
}

/// A report that says nothing about pages.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a report in pages of {page_bytes} bytes, which is no power of two")]
#[non_exhaustive]
pub struct BadReport {
    /// In bytes.
    pub page_bytes: u64,
}

impl<'a> Marks<'a> {
    pub(super) const fn new(slots: &'a Slots, ledger: &'a mut Ledger) -> Self {
        Self { slots, ledger }
    }

    /// Marks every page that has an address of `range`.
    pub fn range(&mut self, range: Range) {
        for slot in self.slots.within(range) {
            if let Some(part) = slot.range.overlap(range) {
                mark(self.ledger, &slot, part);
            }
        }
    }

    /// Marks what a bitmap says: bit `k % 64` of word `k / 64` stands for `page_bytes` bytes from `start + k · page_bytes`
    /// on. Larger pages than the region's mark all of its pages they cover, smaller ones the page they are part of.
    ///
    /// # Errors
    /// When the page size is no power of two: then nothing is marked, and the report has to count as failed.
    pub fn words(&mut self, start: u64, page_bytes: u64, words: &[u64]) -> Result<(), BadReport> {
        if !page_bytes.is_power_of_two() {
            return Err(BadReport { page_bytes });
        }
        let pages = u64::try_from(words.len()).unwrap_or(u64::MAX).saturating_mul(64);
        let length = pages.saturating_mul(page_bytes).min(u64::MAX.saturating_sub(start));
        let Ok(range) = Range::new(start, length) else { return Ok(()) };
        for slot in self.slots.within(range) {
            let Some(part) = slot.range.overlap(range) else { continue };
            let into_report = part.start().saturating_sub(start);
            let offset = slot.offset_of(part.start());
            // Where a page of the report begins with one of the region, so do all that follow.
            let begins_page = |bytes: u64| bytes.checked_rem(page_bytes) == Some(0);
            let same_pages = self.ledger.page_bytes(slot.region) == Some(page_bytes);
            if same_pages && begins_page(into_report) && begins_page(offset) {
                let page = |bytes: u64| bytes.checked_div(page_bytes).unwrap_or_default();
                let (first, from) = (page(offset), page(into_report));
                self.ledger.mark_words(slot.region, first, words, from, part.length().div_ceil(page_bytes));
            } else {
                self.spread(&slot, start, page_bytes, words);
            }
        }
        Ok(())
    }

    /// Marks what the runs of the report have in common with a slot.
    fn spread(&mut self, slot: &Slot, start: u64, page_bytes: u64, words: &[u64]) {
        for run in Runs::new(words, 0, NonZeroU64::MAX) {
            let address = run.first.saturating_mul(page_bytes).saturating_add(start);
            // The last page of the address space is in no slot.
            let length = run.count.saturating_mul(page_bytes).min(u64::MAX.saturating_sub(address));
            let part = Range::new(address, length).ok().and_then(|run| slot.range.overlap(run));
            if let Some(part) = part {
                mark(self.ledger, slot, part);
            }
        }
    }
}

/// Marks the pages of a slot's region that have a byte of `part`, which is within the slot.
fn mark(ledger: &mut Ledger, slot: &Slot, part: Range) {
    let Some(page_bytes) = ledger.page_bytes(slot.region) else { return };
    let begin = slot.offset_of(part.start());
    let first = begin.checked_div(page_bytes).unwrap_or_default();
    let end = begin.saturating_add(part.length()).div_ceil(page_bytes);
    ledger.mark(slot.region, first, end.saturating_sub(first));
}
