// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where the regions are in the address space of the devices.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::ledger::RegionId;
use super::range::{Range, RangeError};

/// A stretch of addresses behind which a piece of a region is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "addresses, and what is there")]
pub struct Slot {
    /// The addresses.
    pub range: Range,
    /// The region behind them.
    pub region: RegionId,
    /// Where in the region the first address is, in bytes.
    pub offset: u64,
}

impl Slot {
    /// Where in the region `address` is.
    pub(super) fn offset_of(&self, address: u64) -> u64 {
        self.offset.saturating_add(address.saturating_sub(self.range.start()))
    }

    fn part(&self, range: Range) -> Self {
        Self { range, region: self.region, offset: self.offset_of(range.start()) }
    }
}

/// A slot that does not fit, or is not there.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SlotError {
    /// The addresses make no sense.
    #[error(transparent)]
    Range(#[from] RangeError),
    /// Some of the addresses have memory behind them.
    #[error("{range} overlaps the memory mapped at {mapped}; unmap that first")]
    Overlap {
        /// The addresses.
        range: Range,
        /// Those of the other slot.
        mapped: Range,
    },
    /// It reaches beyond the region's end, or begins within a page.
    #[error("{range} at offset {offset:#x} is not a number of whole pages within the {bytes:#x} bytes of its region")]
    Region {
        /// The addresses.
        range: Range,
        /// In the region, in bytes.
        offset: u64,
        /// Of the region.
        bytes: u64,
    },
    /// There is no such region.
    #[error("{range} names a region that does not exist (any more)")]
    NoRegion {
        /// The addresses.
        range: Range,
    },
    /// Not all of the addresses have memory behind them.
    #[error("there is no memory at {address:#x} to unmap")]
    Hole {
        /// The first address without.
        address: u64,
    },
    /// More slots than the caller allows.
    #[error("{range} would be one more than the limit of {slots_max} slots")]
    TooMany {
        /// The addresses.
        range: Range,
        /// The caller's limit.
        slots_max: usize,
    },
}

/// All slots, by their first address.
#[derive(Clone, Debug)]
pub(super) struct Slots {
    map: BTreeMap<u64, Slot>,
    slots_max: usize,
}

impl Slots {
    pub(super) const fn new(slots_max: usize) -> Self {
        Self { map: BTreeMap::new(), slots_max }
    }

    pub(super) fn insert(&mut self, slot: Slot) -> Result<(), SlotError> {
        let range = slot.range;
        if self.map.len() >= self.slots_max {
            return Err(SlotError::TooMany { range, slots_max: self.slots_max });
        }
        if let Some(other) = self.within(range).next() {
            return Err(SlotError::Overlap { range, mapped: other.range });
        }
        self.map.insert(range.start(), slot);
        Ok(())
    }

    /// Takes `range` out. What is left of the slots it cuts stays.
    pub(super) fn remove(&mut self, range: Range) -> Result<(), SlotError> {
        self.check_removable(range)?;
        let touched: Vec<Slot> = self.within(range).collect();
        let rest = |slot: &Slot| {
            let before = range.start().checked_sub(slot.range.start());
            let after = slot.range.end().checked_sub(range.end());
            let before = before.and_then(|length| Range::new(slot.range.start(), length).ok());
            let after = after.and_then(|length| Range::new(range.end(), length).ok());
            [before, after].into_iter().flatten().map(|part| slot.part(part)).collect::<Vec<_>>()
        };
        let rests: Vec<Slot> = touched.iter().flat_map(rest).collect();
        for slot in touched {
            self.map.remove(&slot.range.start());
        }
        self.map.extend(rests.into_iter().map(|slot| (slot.range.start(), slot)));
        Ok(())
    }

    pub(super) fn remove_region(&mut self, region: RegionId) {
        self.map.retain(|_, slot| slot.region != region);
    }

    /// The slots that have addresses of `range`, ascending.
    pub(super) fn within(&self, range: Range) -> impl Iterator<Item = Slot> + '_ {
        let first = self.map.range(..range.start()).next_back().filter(|(_, slot)| slot.range.end() > range.start());
        first.into_iter().chain(self.map.range(range.start()..range.end())).map(|(_, slot)| *slot)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Slot> + '_ {
        self.map.values().copied()
    }

    /// The addresses with memory behind them, without seams.
    pub(super) fn ranges(&self) -> Vec<Range> {
        Range::merged(self.iter().map(|slot| slot.range))
    }

    /// Checks that all of `range` has memory behind it, and that what is left without it is not too many slots.
    pub(super) fn check_removable(&self, range: Range) -> Result<(), SlotError> {
        let mut address = range.start();
        for slot in self.within(range) {
            if slot.range.start() > address {
                break;
            }
            address = slot.range.end();
            // Only a slot that has the range in its middle becomes two.
            let is_cut_in_two = slot.range.start() < range.start() && slot.range.end() > range.end();
            if is_cut_in_two && self.map.len() >= self.slots_max {
                return Err(SlotError::TooMany { range, slots_max: self.slots_max });
            }
        }
        if address < range.end() { Err(SlotError::Hole { address }) } else { Ok(()) }
    }
}
