// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whose turn it is: deficit round robin.
//!
//! A round gives every section with something to read an allowance by its weight; a section keeps the turn while it has any
//! left, and may overdraw it by one chunk, which it owes the next round. The turn and the debts are remembered from one
//! pick to the next: starting at the first section each time is how QEMU starves all but it.
//!
//! A section that has something to read but is in the middle of a read shares in a round like the others and is served
//! when it comes back, so its share does not depend on when it is asked.

use alloc::vec;
use alloc::vec::Vec;

/// The turn and what each section may still read.
#[derive(Clone, Debug)]
pub(super) struct Turns {
    turn: usize,
    allowances: Vec<i64>,
}

/// What a pick needs to know of a section.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Claim {
    /// 0: nothing to read.
    pub(super) weight: u64,
    /// It can read now.
    pub(super) free: bool,
}

/// What a section that cannot read for a while may save up, in chunks.
const SAVED_CHUNKS_MAX: i64 = 4;

impl Turns {
    pub(super) fn new(sections: usize) -> Self {
        Self { turn: 0, allowances: vec![0; sections] }
    }

    /// The section to read next, if any is free.
    pub(super) fn pick(&mut self, claims: &[Claim], chunk_bytes: u64) -> Option<usize> {
        if !claims.iter().any(|claim| claim.free && claim.weight > 0) {
            return None;
        }
        if self.next_allowed(claims).is_none() {
            self.new_rounds(claims, chunk_bytes);
        }
        let picked = self.next_allowed(claims)?;
        self.turn = picked;
        Some(picked)
    }

    /// The first free section from the turn on that has something left.
    fn next_allowed(&self, claims: &[Claim]) -> Option<usize> {
        let is_allowed = |&(index, allowance): &(usize, &i64)| {
            *allowance > 0 && claims.get(index).is_some_and(|claim| claim.free && claim.weight > 0)
        };
        let from_turn = self.allowances.iter().enumerate().skip(self.turn).find(is_allowed);
        from_turn.or_else(|| self.allowances.iter().enumerate().find(is_allowed)).map(|(index, _)| index)
    }

    /// As many rounds as it takes until a free section has something left.
    fn new_rounds(&mut self, claims: &[Claim], chunk_bytes: u64) {
        let chunk = i64::try_from(chunk_bytes).unwrap_or(i64::MAX).max(1);
        let heaviest = claims.iter().map(|claim| claim.weight).max().unwrap_or(0);
        let quantum = |claim: &Claim| {
            let share = super::units::scale(chunk_bytes, claim.weight, heaviest);
            i64::try_from(share).unwrap_or(i64::MAX).max(1)
        };
        let rounds_for = |(claim, allowance): (&Claim, &i64)| {
            let missing = 1_i64.saturating_sub(*allowance).max(1);
            missing.saturating_add(quantum(claim)).saturating_sub(1).checked_div(quantum(claim)).unwrap_or(1)
        };
        let free = claims.iter().zip(&self.allowances).filter(|(claim, _)| claim.free && claim.weight > 0);
        let rounds = free.map(rounds_for).min().unwrap_or(1);
        let most = chunk.saturating_mul(SAVED_CHUNKS_MAX);
        for (claim, allowance) in claims.iter().zip(&mut self.allowances) {
            if claim.weight > 0 {
                let more = quantum(claim).saturating_mul(rounds);
                *allowance = allowance.saturating_add(more).min(most.max(*allowance));
            } else {
                // Nothing to read: nothing is saved up for later, debts stay.
                *allowance = (*allowance).min(0);
            }
        }
        // The section that had the turn has used it up.
        self.turn = self.turn.saturating_add(1).checked_rem(claims.len()).unwrap_or(0);
    }

    pub(super) fn charge(&mut self, index: usize, bytes: u64) {
        if let Some(allowance) = self.allowances.get_mut(index) {
            *allowance = allowance.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }

    /// Bytes that were granted and not read.
    pub(super) fn refund(&mut self, index: usize, bytes: u64) {
        if let Some(allowance) = self.allowances.get_mut(index) {
            *allowance = allowance.saturating_add(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }
}

/// Raises the weights of the sections in `is_initial` until they have at least `share_per_mille` together.
pub(super) fn guarantee(weights: &mut [Claim], is_initial: &[bool], share_per_mille: u32) {
    const FINE: u64 = 1000;
    let sum = |wanted: bool| {
        let of_class = weights.iter().zip(is_initial).filter(|(_, initial)| **initial == wanted);
        of_class.fold(0_u64, |sum, (claim, _)| sum.saturating_add(claim.weight))
    };
    let (initial, others) = (sum(true), sum(false));
    let share = u64::from(share_per_mille.min(999));
    // initial ÷ (initial + others) ≥ share, without division.
    let is_enough = initial.saturating_mul(1000) >= share.saturating_mul(initial.saturating_add(others));
    if initial == 0 || others == 0 || is_enough {
        return;
    }
    let wanted = super::units::scale(others.saturating_mul(FINE), share, 1000_u64.saturating_sub(share));
    for (claim, is_initial) in weights.iter_mut().zip(is_initial) {
        claim.weight = match is_initial {
            true => super::units::scale(claim.weight, wanted, initial).max(u64::from(claim.weight > 0)),
            false => claim.weight.saturating_mul(FINE),
        };
    }
}
