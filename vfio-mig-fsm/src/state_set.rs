// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A set of states: what the derivation counts with, and what a failed request may leave behind.

use core::fmt;

use crate::State;

/// A set of [`State`]s.
#[derive(Clone, Copy, Default, Eq, Hash, PartialEq)]
pub struct StateSet(u8);

impl StateSet {
    /// The set without a state.
    pub const EMPTY: Self = Self(0);

    /// Whether the set has no state.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The number of states in the set, 0 to 8.
    #[must_use]
    pub const fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// Whether `state` is in the set.
    #[must_use]
    pub const fn contains(self, state: State) -> bool {
        self.0 & Self::bit(state) != 0
    }

    /// The set and `state`.
    #[must_use]
    pub const fn with(self, state: State) -> Self {
        Self(self.0 | Self::bit(state))
    }

    /// The states that are in both sets.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The states of this set that are not in the other.
    #[must_use]
    pub const fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The states that are in either set.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The state with the lowest number, if the set has one.
    #[must_use]
    pub const fn first(self) -> Option<State> {
        State::from_raw(self.0.trailing_zeros())
    }

    /// The states of the set in the order of their numbers.
    #[must_use]
    pub const fn iter(self) -> States {
        States(self)
    }

    const fn bit(state: State) -> u8 {
        1_u8.wrapping_shl(state.raw())
    }
}

impl fmt::Debug for StateSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(*self).finish()
    }
}

impl FromIterator<State> for StateSet {
    fn from_iter<I: IntoIterator<Item = State>>(states: I) -> Self {
        states.into_iter().fold(Self::EMPTY, Self::with)
    }
}

impl IntoIterator for StateSet {
    type Item = State;
    type IntoIter = States;

    fn into_iter(self) -> States {
        self.iter()
    }
}

/// The states of a [`StateSet`], in the order of their numbers.
#[derive(Clone, Debug)]
pub struct States(StateSet);

impl Iterator for States {
    type Item = State;

    fn next(&mut self) -> Option<State> {
        let state = self.0.first()?;
        self.0 = self.0.difference(StateSet::EMPTY.with(state));
        Some(state)
    }
}

#[cfg(test)]
mod test {
    extern crate std;

    use std::{collections::BTreeSet, format, vec::Vec};

    use super::StateSet;
    use crate::State;

    fn members(bits: u32) -> Vec<State> {
        State::ALL.into_iter().filter(|state| bits & (1 << state.raw()) != 0).collect()
    }

    #[test]
    fn every_pair_of_sets_agrees_with_the_standard_set() {
        for (a, b) in (0..256).flat_map(|a| (0..256).map(move |b| (a, b))) {
            let (list_a, list_b) = (members(a), members(b));
            let set_a: StateSet = list_a.iter().copied().collect();
            let set_b: StateSet = list_b.iter().copied().collect();
            let model_a: BTreeSet<_> = list_a.iter().copied().collect();
            let model_b: BTreeSet<_> = list_b.iter().copied().collect();
            assert!(set_a.intersection(set_b).iter().eq(model_a.intersection(&model_b).copied()));
            assert!(set_a.difference(set_b).iter().eq(model_a.difference(&model_b).copied()));
            assert!(set_a.union(set_b).iter().eq(model_a.union(&model_b).copied()));
            assert_eq!(usize::try_from(set_a.len()).unwrap(), model_a.len());
            assert_eq!(set_a.is_empty(), model_a.is_empty());
            assert_eq!(set_a.first(), model_a.first().copied());
        }
    }

    #[test]
    fn a_set_prints_its_states() {
        let set = StateSet::EMPTY.with(State::PreCopy).with(State::Stop);
        assert_eq!(format!("{set:?}"), "{Stop, PreCopy}");
    }
}
