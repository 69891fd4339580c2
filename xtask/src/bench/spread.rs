// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where values are, and how far apart.

use serde::Serialize;

/// Values, or ratios, that vary by more than this between their quartiles, as a part of their median, cannot be judged by.
const NOISE_MAX: f64 = 0.25;

/// Where the middle of some values is, and how wide they are spread.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) quartile_low: f64,
    pub(crate) quartile_high: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Whether they are too far apart for their median to mean something.
    pub(super) fn is_noisy(&self) -> bool {
        self.quartile_high - self.quartile_low > NOISE_MAX * self.median
    }
}

/// The middle of some values, if there are any.
pub(crate) fn median(values: Vec<f64>) -> Option<f64> {
    spread(values).map(|spread| spread.median)
}

/// The quartiles are values that occurred; the median is, too, of an odd number of them.
pub(super) fn spread(mut values: Vec<f64>) -> Option<Spread> {
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    let at = |quarters: usize| values.get(last.saturating_mul(quarters) / 4).copied();
    let upper = values.get(values.len() / 2).copied()?;
    Some(Spread {
        median: f64::midpoint(at(2)?, upper),
        quartile_low: at(1)?,
        quartile_high: at(3)?,
        min: at(0)?,
        max: at(4)?,
    })
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_spread_is_made_of_the_values() {
        let of = |values: &[f64]| spread(values.to_vec()).unwrap();
        let five = of(&[5.0, 1.0, 4.0, 2.0, 3.0]);
        assert_eq!(five, Spread { median: 3.0, quartile_low: 2.0, quartile_high: 4.0, min: 1.0, max: 5.0 });
        assert_eq!(of(&[1.0, 4.0]).median, 2.5);
        assert_eq!(of(&[7.0]).max, 7.0);
        assert_eq!(spread(Vec::new()), None);
    }

    #[test]
    fn outliers_are_no_noise() {
        let is_noisy = |values: &[f64]| spread(values.to_vec()).unwrap().is_noisy();
        assert!(!is_noisy(&[10.0, 10.0, 11.0, 10.0, 90.0]));
        assert!(is_noisy(&[10.0, 10.0, 13.0, 13.0, 10.0]));
    }
}
