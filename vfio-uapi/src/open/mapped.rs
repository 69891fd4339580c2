// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What is mapped in an address space, as far as this process knows.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// The mapped addresses: first and last of each stretch. Shared by an address space and its page tables.
#[derive(Debug, Default)]
pub(super) struct Mapped(Mutex<BTreeMap<u64, u64>>);

impl Mapped {
    /// `length` bytes from `iova` on are mapped now.
    pub(super) fn insert(&self, iova: u64, length: u64) {
        self.remove(iova, length);
        if let Some(last) = last(iova, length) {
            self.with(|map| map.insert(iova, last));
        }
    }

    /// Nothing within `length` bytes from `iova` on is mapped any more.
    pub(super) fn remove(&self, iova: u64, length: u64) {
        let Some(end) = last(iova, length) else { return };
        self.with(|map| {
            let touched: Vec<(u64, u64)> =
                map.range(..=end).rev().take_while(|(_, last)| **last >= iova).map(|(s, l)| (*s, *l)).collect();
            for (start, last) in touched {
                map.remove(&start);
                // What a cut leaves on either side.
                if let Some(before) = iova.checked_sub(1).filter(|before| *before >= start) {
                    map.insert(start, before);
                }
                if let Some(after) = end.checked_add(1).filter(|after| *after <= last) {
                    map.insert(after, last);
                }
            }
        });
    }

    /// The first address of `length` bytes from `iova` on that is not mapped.
    pub(super) fn first_hole(&self, iova: u64, length: u64) -> Option<u64> {
        let end = last(iova, length)?;
        self.with(|map| {
            let mut at = iova;
            loop {
                match map.range(..=at).next_back() {
                    Some((_, last)) if *last >= end => return None,
                    Some((_, last)) if *last >= at => at = last.checked_add(1)?,
                    _ => return Some(at),
                }
            }
        })
    }

    fn with<T>(&self, work: impl FnOnce(&mut BTreeMap<u64, u64>) -> T) -> T {
        // Nothing below can panic half-way through a change.
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The last address of a range; `None` if it is empty. What reaches beyond 2^64 ends there.
fn last(iova: u64, length: u64) -> Option<u64> {
    length.checked_sub(1).map(|further| iova.saturating_add(further))
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn holes_are_found_where_they_begin() {
        let mapped = Mapped::default();
        assert_eq!(mapped.first_hole(0, 1), Some(0));
        mapped.insert(0x1000, 0x2000);
        mapped.insert(0x3000, 0x1000);
        assert_eq!(mapped.first_hole(0x1000, 0x3000), None, "stretches that touch");
        assert_eq!(mapped.first_hole(0x1000, 0x3001), Some(0x4000));
        assert_eq!(mapped.first_hole(0x800, 0x1000), Some(0x800));
        mapped.insert(0x6000, 0x1000);
        assert_eq!(mapped.first_hole(0x1000, 0x6000), Some(0x4000), "a hole between");
    }

    #[test]
    fn what_is_unmapped_is_a_hole() {
        let mapped = Mapped::default();
        mapped.insert(0x1000, 0x9000);
        mapped.remove(0x3000, 0x1000);
        assert_eq!(mapped.first_hole(0x1000, 0x2000), None);
        assert_eq!(mapped.first_hole(0x1000, 0x9000), Some(0x3000));
        assert_eq!(mapped.first_hole(0x4000, 0x6000), None);
        mapped.remove(0, u64::MAX);
        assert_eq!(mapped.first_hole(0x1000, 1), Some(0x1000));
    }

    #[test]
    fn the_last_address_counts() {
        let mapped = Mapped::default();
        mapped.insert(u64::MAX - 0xfff, 0x1000);
        assert_eq!(mapped.first_hole(u64::MAX - 0xfff, 0x1000), None);
        mapped.remove(u64::MAX - 0xfff, 0x1000);
        assert_eq!(mapped.first_hole(u64::MAX, 1), Some(u64::MAX));
        mapped.insert(7, 0);
        assert_eq!(mapped.first_hole(7, 1), Some(7), "an empty mapping maps nothing");
    }
}
