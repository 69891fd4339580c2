// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! IOVA mappings, as far as their errors go.

use std::collections::BTreeMap;

/// Ranges that do not overlap: first address to length in bytes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mappings {
    ranges: BTreeMap<u64, u64>,
}

/// The last address of a range that is known not to wrap.
fn last(start: u64, len: u64) -> u64 {
    start.saturating_add(len.saturating_sub(1))
}

impl Mappings {
    pub(crate) fn len(&self) -> usize {
        self.ranges.len()
    }

    pub(crate) fn overlaps(&self, start: u64, len: u64) -> bool {
        let below = self.ranges.range(..=last(start, len)).next_back();
        below.is_some_and(|(other, other_len)| last(*other, *other_len) >= start)
    }

    pub(crate) fn insert(&mut self, start: u64, len: u64) {
        self.ranges.insert(start, len);
    }

    /// Whether an end of the range lies inside a mapping.
    pub(crate) fn cuts(&self, start: u64, len: u64) -> bool {
        let inside = |address: u64| {
            // Between two addresses of one mapping: the one before `address` and `address` itself.
            let before = address.checked_sub(1)?;
            let (other, other_len) = self.ranges.range(..=before).next_back()?;
            (last(*other, *other_len) >= address).then_some(())
        };
        let end = start.checked_add(len);
        inside(start).is_some() || end.and_then(inside).is_some()
    }

    /// The mappings inside a range that cuts none.
    pub(crate) fn within(&self, start: u64, len: u64) -> Vec<(u64, u64)> {
        self.ranges.range(start..=last(start, len)).map(|(start, len)| (*start, *len)).collect()
    }

    /// Removes the mappings inside a range that cuts none; returns their bytes.
    pub(crate) fn remove(&mut self, start: u64, len: u64) -> u64 {
        let found = self.within(start, len);
        for (start, _) in &found {
            self.ranges.remove(start);
        }
        found.iter().fold(0, |sum, (_, len)| sum.saturating_add(*len))
    }

    pub(crate) fn clear(&mut self) -> u64 {
        let sum = self.ranges.values().fold(0_u64, |sum, len| sum.saturating_add(*len));
        self.ranges.clear();
        sum
    }

    /// A range of `len` bytes without mappings, aligned to `align`.
    pub(crate) fn free(&self, len: u64, align: u64) -> Option<u64> {
        let mut start = 0_u64;
        for (other, other_len) in &self.ranges {
            if other.checked_sub(start).is_some_and(|gap| gap >= len) {
                return Some(start);
            }
            start = other.checked_add(*other_len)?.checked_next_multiple_of(align.max(1))?;
        }
        start.checked_add(len.checked_sub(1)?).map(|_| start)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn overlap_and_cut() {
        let mut mappings = Mappings::default();
        mappings.insert(0x1000, 0x2000);
        mappings.insert(u64::MAX - 0xfff, 0x1000);
        for (start, len, overlaps, cuts) in [
            (0, 0x1000, false, false),
            (0, 0x2000, true, true),
            (0x2000, 0x1000, true, true),
            (0x3000, 0x1000, false, false),
            (0x1000, 0x2000, true, false),
            (0, 0x8000, true, false),
            (u64::MAX - 0xfff, 0x1000, true, false),
            (u64::MAX - 0x1fff, 0x1000, false, false),
        ] {
            assert_eq!(mappings.overlaps(start, len), overlaps, "overlap {start:#x} {len:#x}");
            assert_eq!(mappings.cuts(start, len), cuts, "cut {start:#x} {len:#x}");
        }
        assert_eq!(mappings.free(0x1000, 0x1000), Some(0));
        assert_eq!(mappings.free(0x1800, 0x1000), Some(0x3000));
        assert_eq!(mappings.remove(0, 0x8000), 0x2000);
        assert_eq!(mappings.clear(), 0x1000);
    }
}
