// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Values held against what is allowed, where nothing could run beside them: the bound is the baseline, and a ratio of 1 uses it up.

use super::measure::measured;
use super::{Goal, Outcome, Unit};

/// What a value may be, in the unit of its outcome.
#[derive(Clone, Copy, Debug)]
pub(super) enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

/// Something measured.
pub(super) struct Value {
    pub(super) name: &'static str,
    /// Held against the bound, or there to be looked at.
    pub(super) is_judged: bool,
    /// One or several.
    pub(super) values: Vec<f64>,
}

impl Value {
    pub(super) const fn judged(name: &'static str, values: Vec<f64>) -> Self {
        Self { name, is_judged: true, values }
    }

    pub(super) const fn shown(name: &'static str, values: Vec<f64>) -> Self {
        Self { name, is_judged: false, values }
    }
}

/// An outcome with the bound as its baseline.
pub(super) fn against(name: String, unit: Unit, bound: Bound, values: Vec<Value>) -> Result<Outcome, String> {
    let (label, allowed, goal) = match bound {
        Bound::AtMost(most) => ("at most", most, Goal::AtMost(1.0)),
        Bound::AtLeast(least) => ("at least", least, Goal::AtLeast(1.0)),
    };
    let rounds = values.iter().map(|value| value.values.len()).max().unwrap_or(0);
    let baseline = vec![allowed; rounds];
    let bound = measured(label, None, baseline.clone(), &baseline);
    let values = values.into_iter().map(|value| {
        let Value { name, is_judged, values } = value;
        measured(name, is_judged.then_some(goal), values, &baseline)
    });
    let contenders: Option<Vec<_>> = core::iter::once(bound).chain(values).collect();
    let contenders = contenders.ok_or_else(|| format!("{name}: nothing was measured"))?;
    Ok(Outcome { name, unit, rounds, contenders })
}

/// The least of the values that `percent` of 100 of them do not exceed.
pub(super) fn quantile(values: &[f64], percent: usize) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = sorted.len().saturating_mul(percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_bound_is_reached_by_what_is_within_it() {
        let judge = |bound, value| {
            let values = vec![Value::judged("ours", vec![value]), Value::shown("theirs", vec![90.0])];
            let outcome = against("test".into(), Unit::Percent, bound, values).unwrap();
            let [allowed, ours, theirs] = &outcome.contenders[..] else { panic!("{outcome:?}") };
            assert_eq!((allowed.reached, theirs.reached, theirs.value.median), (None, None, 90.0));
            ours.reached
        };
        for (bound, value, reached) in [
            (Bound::AtMost(2.0), 2.0, true),
            (Bound::AtMost(2.0), 2.1, false),
            (Bound::AtLeast(93.0), 93.0, true),
            (Bound::AtLeast(93.0), 92.9, false),
        ] {
            assert_eq!(judge(bound, value), Some(reached), "{bound:?}, {value}");
        }
        let nothing = vec![Value::judged("ours", Vec::new())];
        assert!(against("test".into(), Unit::Percent, Bound::AtMost(1.0), nothing).is_err());
    }

    #[test]
    fn a_quantile_is_a_value_that_occurred() {
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        for (percent, expected) in [(50, 50.0), (95, 95.0), (99, 99.0), (100, 100.0), (0, 1.0)] {
            assert_eq!(quantile(&hundred, percent), Some(expected), "{percent}");
        }
        let few = [3.0, 1.0, 2.0];
        assert_eq!((quantile(&few, 50), quantile(&few, 95), quantile(&[], 50)), (Some(2.0), Some(3.0), None));
    }
}
