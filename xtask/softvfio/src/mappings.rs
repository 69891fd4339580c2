// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! IOVA mappings: which memory of the program a device reaches at which addresses.

use std::collections::BTreeMap;

/// One mapping, or a piece of one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Mapping {
    /// In bytes.
    pub(crate) len: u64,
    /// Where it begins in the program's memory.
    pub(crate) user: u64,
    /// Whether devices may write to it.
    pub(crate) writable: bool,
}

/// Mappings that do not overlap, by their first address.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mappings {
    ranges: BTreeMap<u64, Mapping>,
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
        below.is_some_and(|(other, mapping)| last(*other, mapping.len) >= start)
    }

    pub(crate) fn insert(&mut self, start: u64, mapping: Mapping) {
        self.ranges.insert(start, mapping);
    }

    /// What of the range is mapped, in pieces from the address they begin at; no piece goes over the border of a mapping.
    pub(crate) fn pieces(&self, start: u64, len: u64) -> Vec<(u64, Mapping)> {
        let end = last(start, len);
        let first = self.ranges.range(..=start).next_back().map_or(start, |(first, _)| *first);
        let overlapping = self.ranges.range(first..=end).filter(|(at, mapping)| last(**at, mapping.len) >= start);
        let cut = overlapping.map(|(at, mapping)| {
            let from = (*at).max(start);
            let skipped = from.saturating_sub(*at);
            let to = last(*at, mapping.len).min(end);
            let len = to.saturating_sub(from).saturating_add(1);
            (from, Mapping { len, user: mapping.user.saturating_add(skipped), writable: mapping.writable })
        });
        if len == 0 { Vec::new() } else { cut.collect() }
    }

    /// Whether an end of the range lies inside a mapping.
    pub(crate) fn cuts(&self, start: u64, len: u64) -> bool {
        let inside = |address: u64| {
            // Between two addresses of one mapping: the one before `address` and `address` itself.
            let before = address.checked_sub(1)?;
            let (other, mapping) = self.ranges.range(..=before).next_back()?;
            (last(*other, mapping.len) >= address).then_some(())
        };
        let end = start.checked_add(len);
        inside(start).is_some() || end.and_then(inside).is_some()
    }

    /// The mappings inside a range that cuts none.
    pub(crate) fn within(&self, start: u64, len: u64) -> Vec<(u64, u64)> {
        self.ranges.range(start..=last(start, len)).map(|(start, mapping)| (*start, mapping.len)).collect()
    }

    /// The last address, `end` at most, up to which everything from `start` on is mapped; `None` if `start` is not.
    pub(crate) fn mapped_up_to(&self, start: u64, end: u64) -> Option<u64> {
        let (first, mapping) = self.ranges.range(..=start).next_back()?;
        let mut reached = Some(last(*first, mapping.len)).filter(|last| *last >= start)?;
        while reached < end {
            let Some((next, mapping)) = reached.checked_add(1).and_then(|next| self.ranges.get_key_value(&next)) else {
                break;
            };
            reached = last(*next, mapping.len);
        }
        Some(reached.min(end))
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
        let sum = self.ranges.values().fold(0_u64, |sum, mapping| sum.saturating_add(mapping.len));
        self.ranges.clear();
        sum
    }

    /// A range of `len` bytes without mappings, aligned to `align`.
    pub(crate) fn free(&self, len: u64, align: u64) -> Option<u64> {
        let mut start = 0_u64;
        for (other, mapping) in &self.ranges {
            if other.checked_sub(start).is_some_and(|gap| gap >= len) {
                return Some(start);
            }
            start = other.checked_add(mapping.len)?.checked_next_multiple_of(align.max(1))?;
        }
        start.checked_add(len.checked_sub(1)?).map(|_| start)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn mapping(len: u64) -> Mapping {
        Mapping { len, user: 0x7000_0000, writable: true }
    }

    #[test]
    fn overlap_and_cut() {
        let mut mappings = Mappings::default();
        mappings.insert(0x1000, mapping(0x2000));
        mappings.insert(u64::MAX - 0xfff, mapping(0x1000));
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
        assert_eq!(mappings.mapped_up_to(0, u64::MAX), None);
        assert_eq!(mappings.mapped_up_to(0x1800, 0x1fff), Some(0x1fff));
        assert_eq!(mappings.mapped_up_to(0x1000, u64::MAX), Some(0x2fff), "up to the hole");
        mappings.insert(0x3000, mapping(0x1000));
        assert_eq!(mappings.mapped_up_to(0x1000, u64::MAX), Some(0x3fff), "over the border of two mappings");
        assert_eq!(mappings.mapped_up_to(u64::MAX - 0xfff, u64::MAX), Some(u64::MAX));
        assert_eq!(mappings.remove(0x3000, 0x1000), 0x1000);
        assert_eq!(mappings.free(0x1000, 0x1000), Some(0));
        assert_eq!(mappings.free(0x1800, 0x1000), Some(0x3000));
        assert_eq!(mappings.remove(0, 0x8000), 0x2000);
        assert_eq!(mappings.clear(), 0x1000);
    }

    #[test]
    fn a_range_falls_into_pieces() {
        let mut mappings = Mappings::default();
        mappings.insert(0x1000, Mapping { len: 0x1000, user: 0xa000, writable: true });
        mappings.insert(0x2000, Mapping { len: 0x1000, user: 0x5000, writable: false });
        mappings.insert(0x4000, Mapping { len: 0x1000, user: 0x9000, writable: true });
        let piece = |len, user, writable| Mapping { len, user, writable };
        assert_eq!(
            mappings.pieces(0x1ff0, 0x18),
            [(0x1ff0, piece(0x10, 0xaff0, true)), (0x2000, piece(8, 0x5000, false))]
        );
        assert_eq!(
            mappings.pieces(0x2ff8, 0x1010),
            [(0x2ff8, piece(8, 0x5ff8, false)), (0x4000, piece(8, 0x9000, true))]
        );
        assert_eq!(mappings.pieces(0x3000, 0x1000), [], "a hole");
        assert_eq!(mappings.pieces(0x1800, 0), []);
        assert_eq!(mappings.pieces(0, u64::MAX).len(), 3);
    }
}
