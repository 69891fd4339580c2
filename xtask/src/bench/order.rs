// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Who runs when.
//!
//! Whoever runs first finds the machine in another state than whoever runs last, and each finds what the one before it left: memory that
//! the host has given already, or that it has still to give. In a balanced order (E. J. Williams, 1949) each is at every place as often
//! as the others, and behind each of the others equally often.

/// The order of a round.
pub(super) fn order(round: usize, count: usize) -> impl Iterator<Item = usize> {
    // An even number of them needs no more than to be shifted.
    let is_reversed = count % 2 == 1 && round % 2 == 1;
    (0..count).map(move |place| {
        let place = if is_reversed { count.wrapping_sub(place).wrapping_sub(1) } else { place };
        // 0, 1, the last, 2, the last but one …
        let zigzag = if place % 2 == 1 { place.div_ceil(2) } else { count.wrapping_sub(place / 2) };
        zigzag.wrapping_add(round).checked_rem(count).unwrap_or(0)
    })
}

/// At least so many rounds, and as many more as it takes to balance them.
pub(super) fn rounds(least: usize, count: usize) -> usize {
    least.next_multiple_of(if count % 2 == 1 { count.saturating_mul(2) } else { count.max(1) })
}

#[cfg(test)]
mod test {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn so_many_rounds_are_balanced() {
        assert_eq!([1, 2, 3, 4, 5, 6, 7].map(|count| rounds(7, count)), [8, 8, 12, 8, 10, 12, 14]);
        for count in 1..=9 {
            let mut times = BTreeMap::new();
            for round in 1..=rounds(7, count) {
                let order: Vec<usize> = order(round, count).collect();
                order.windows(2).for_each(|pair| *times.entry((pair[0], pair[1])).or_insert(0) += 1);
            }
            let (fewest, most) = (times.values().min(), times.values().max());
            assert!(times.len() == count * (count - 1) && fewest == most, "{count}: {times:?}");
        }
    }

    #[test]
    fn each_is_at_every_place_and_behind_each_other_equally_often() {
        for count in 1..=9 {
            let (mut places, mut pairs) = (BTreeMap::new(), BTreeMap::new());
            for round in 7..7 + 2 * count {
                let order: Vec<usize> = order(round, count).collect();
                order.iter().enumerate().for_each(|(at, who)| *places.entry((at, *who)).or_insert(0) += 1);
                order.windows(2).for_each(|pair| *pairs.entry((pair[0], pair[1])).or_insert(0) += 1);
            }
            let next = |round| order(round + 1, count).next();
            assert!(
                count < 3 || (0..9).all(|round| order(round, count).last() != next(round)),
                "nobody twice in a row"
            );
            assert_eq!((places.len(), places.values().all(|times| *times == 2)), (count * count, true), "{places:?}");
            assert_eq!(
                (pairs.len(), pairs.values().all(|times| *times == 2)),
                (count * (count - 1), true),
                "{pairs:?}"
            );
        }
    }
}
