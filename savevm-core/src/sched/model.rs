// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How long a switchover takes, as a distribution.
//!
//! Sections stop, move and load beside each other, so the switchover ends with the last of them, or with the channel, if
//! that is what all wait for:
//!
//! ```text
//! downtime = overhead + max( max over sections of (stop + bytes ÷ min(read, write) + load),
//!                            channel: bytes ÷ bandwidth, of each once it has stopped, each then loaded )
//! ```
//!
//! Where a section is read and sent in turn, `read` is how fast both are done.
//!
//! Each term is taken as normally distributed and independent of the others, so the probability that all are within
//! `t` is the product of their distribution functions, and a quantile of the maximum is found by bisection. Adding up
//! quantiles instead would promise far less than can be kept, and taking the largest expected term would forget
//! that of sixteen equals one is always late.

use core::time::Duration;

use super::config::Timing;
use super::decision::Interval;
use super::units;

/// One of the things that must all be done: microseconds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Term {
    pub(super) expected_us: u64,
    pub(super) deviation_us: u64,
}

impl Term {
    pub(super) fn new(expected: Duration, spread_per_mille: u32) -> Self {
        let expected_us = micros(expected);
        Self { expected_us, deviation_us: units::per_mille(expected_us, spread_per_mille) }
    }

    /// One after the other.
    pub(super) fn then(self, next: Self) -> Self {
        Self {
            expected_us: self.expected_us.saturating_add(next.expected_us),
            deviation_us: units::hypotenuse(self.deviation_us, next.deviation_us),
        }
    }
}

impl From<Timing> for Term {
    fn from(timing: Timing) -> Self {
        Self::new(timing.expected, timing.spread_per_mille)
    }
}

impl Timing {
    /// One after the other.
    pub(crate) fn then(self, next: Self) -> Self {
        let both = Term::from(self).then(Term::from(next));
        let spread = units::scale(1000, both.deviation_us, both.expected_us.max(1));
        Self::new(Duration::from_micros(both.expected_us), u32::try_from(spread).unwrap_or(u32::MAX))
    }
}

pub(super) fn micros(time: Duration) -> u64 {
    units::nanos(time).checked_div(1000).unwrap_or(0)
}

const MILLION: u64 = 1_000_000;
/// The quantiles of an [`Interval`], in millionths.
const LOW: u64 = 50_000;
const EVEN: u64 = 500_000;
const P95: u64 = 950_000;
const ONE_DEVIATION: u64 = 841_345;

/// The normal distribution function at 0, ¼, ½ … 4 deviations, in millionths.
const NORMAL: [u64; 17] = [
    500_000, 598_706, 691_462, 773_373, 841_345, 894_350, 933_193, 959_941, 977_250, 987_776, 993_790, 997_020,
    998_650, 999_423, 999_767, 999_912, 999_968,
];
const STEPS_PER_DEVIATION: u64 = 4;
const DEVIATIONS_MAX: u64 = 4;

/// The probability that a term is done by `at_us`.
fn done_by(term: &Term, at_us: u64) -> u64 {
    let is_late = at_us >= term.expected_us;
    let distance = at_us.abs_diff(term.expected_us);
    let Some(thousandths) =
        distance.saturating_mul(1000).saturating_mul(STEPS_PER_DEVIATION).checked_div(term.deviation_us)
    else {
        return if is_late { MILLION } else { 0 };
    };
    let (step, rest) = (thousandths.checked_div(1000).unwrap_or(0), thousandths.checked_rem(1000).unwrap_or(0));
    let at = |step: u64| usize::try_from(step).ok().and_then(|step| NORMAL.get(step)).copied().unwrap_or(MILLION);
    let (below, above) = (at(step), at(step.saturating_add(1)));
    let upper = below.saturating_add(units::scale(above.saturating_sub(below), rest, 1000));
    if is_late { upper } else { MILLION.saturating_sub(upper) }
}

/// The time by which all terms are done with probability `millionths`.
fn quantile_of_last(terms: &[Term], millionths: u64) -> u64 {
    let far = |term: &Term| term.deviation_us.saturating_mul(DEVIATIONS_MAX);
    let mut low = terms.iter().map(|term| term.expected_us.saturating_sub(far(term))).max().unwrap_or(0);
    let mut high = terms.iter().map(|term| term.expected_us.saturating_add(far(term))).max().unwrap_or(0);
    while high.saturating_sub(low) > (high / 2000).saturating_add(1) {
        let middle = low.midpoint(high);
        let all_done = terms.iter().fold(MILLION, |all, term| units::scale(all, done_by(term, middle), MILLION));
        if all_done < millionths {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

/// The last of terms as one: its even quantile, and how far it is from there to that of one deviation.
pub(super) fn latest(terms: &[Term]) -> Term {
    let expected_us = quantile_of_last(terms, EVEN);
    Term { expected_us, deviation_us: quantile_of_last(terms, ONE_DEVIATION).saturating_sub(expected_us) }
}

/// The distribution of `first`, followed by the last of `terms`.
pub(super) fn interval(first: Term, terms: &[Term], confidence_per_mille: u32) -> Interval {
    let confidence = u64::from(confidence_per_mille.clamp(500, 999)).saturating_mul(1000);
    let middle = quantile_of_last(terms, EVEN);
    let first_even = first.expected_us;
    let alone = [first];
    let total = |millionths: u64| {
        // Deviations of the two parts are independent: they add by their squares.
        let deviation = units::hypotenuse(
            quantile_of_last(terms, millionths).abs_diff(middle),
            quantile_of_last(&alone, millionths).abs_diff(first_even),
        );
        let centre = first_even.saturating_add(middle);
        let micros =
            if millionths < EVEN { centre.saturating_sub(deviation) } else { centre.saturating_add(deviation) };
        Duration::from_micros(micros)
    };
    Interval {
        low: total(LOW),
        expected: Duration::from_micros(first_even.saturating_add(middle)),
        high: total(confidence),
        p95: total(P95),
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn term(expected_us: u64, deviation_us: u64) -> Term {
        Term { expected_us, deviation_us }
    }

    #[test]
    fn the_latest_of_equals_is_later_than_each_of_them() {
        assert_eq!(latest(&[]), Term::default());
        assert!(latest(&[term(100_000, 10_000)]).expected_us.abs_diff(100_000) <= 100);
        // Of two independent ones half are below the quantile of √½ each, which is 0.545 deviations; of sixteen 1.72.
        for (count, expected_us) in [(2, 105_450), (16, 117_200)] {
            let found = latest(&alloc::vec![term(100_000, 10_000); count]);
            assert!(found.expected_us.abs_diff(expected_us) <= 300, "{count}: {found:?}");
            assert!((3_000..10_000).contains(&found.deviation_us), "{count}: {found:?}");
        }
    }

    #[test]
    fn one_term_has_the_quantiles_of_the_normal_distribution() {
        let one = [term(100_000, 10_000)];
        for (millionths, expected) in [(500_000, 100_000), (841_345, 110_000), (977_250, 120_000), (158_655, 90_000)] {
            let found = quantile_of_last(&one, millionths);
            assert!(found.abs_diff(expected) <= 300, "{millionths}: {found}, not {expected}");
        }
    }

    #[test]
    fn of_many_equals_one_is_late() {
        // The median of the largest of 16 normal values is 1.72 deviations above their mean (0.5^(1/16) = 0.9576).
        let found = quantile_of_last(&[term(100_000, 10_000); 16], 500_000);
        assert!(found.abs_diff(117_200) <= 500, "{found}");
    }

    #[test]
    fn certainty_stays_certain() {
        let interval = interval(term(1000, 0), &[term(2000, 0), term(500, 0)], 990);
        assert_eq!((interval.low, interval.high), (Duration::from_millis(3), Duration::from_millis(3)));
    }
}
