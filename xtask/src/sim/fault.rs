// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What goes wrong, and when.
//!
//! A fault strikes either at a time, or at a step: every step that calls something is counted over both sides, and the step of that
//! number fails in the way its kind can. So a sweep over the numbers fails a migration at every step.

use savevm_core::sched::SectionId;
use vfio_mig_fsm::State;

use super::Ns;
use super::rng::Rng;

/// Something that goes wrong at a time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fault {
    /// The connection is gone, in both directions.
    LinkLost,
    /// One of several channels is gone; what the others carry goes on.
    ChannelLost,
    /// Somebody at the source cancels.
    SourceCancels,
    /// Somebody at the target cancels.
    TargetCancels,
    /// Answers come that nothing asked for.
    StrayEvents,
}

pub(super) const TIMED: [Fault; 5] =
    [Fault::LinkLost, Fault::ChannelLost, Fault::SourceCancels, Fault::TargetCancels, Fault::StrayEvents];

/// Everything that goes wrong in one run.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    timed: Option<(Ns, Fault)>,
    /// The steps that fail.
    at_step: [Option<u64>; 2],
    steps: u64,
    corrupt: Option<SectionId>,
    /// Where a failed transition leaves a section: 0 where it was, 1 in between, 2 unknown, 3 in ERROR.
    found: u64,
}

impl Faults {
    /// None in half of the runs; else one, sometimes two, so that undoing fails too.
    pub(super) fn random(rng: &mut Rng, sections: usize) -> Self {
        let mut faults = Self { found: rng.within(0, 3), ..Self::default() };
        match rng.within(0, 9) {
            0..=4 => {}
            5..=7 => {
                let step = rng.spread(1.0, 200.0) as u64;
                faults.at_step[0] = Some(step);
                if rng.chance(0.3) {
                    faults.at_step[1] = Some(step + rng.within(1, 12));
                }
            }
            8 => faults.timed = Some((rng.spread(1e5, 1e9) as Ns, rng.pick(&TIMED))),
            _ => faults.corrupt = Some(SectionId::new(rng.within(0, sections as u64 - 1) as usize)),
        }
        faults
    }

    pub(super) fn timed(&self) -> Option<(Ns, Fault)> {
        self.timed
    }

    pub(super) fn is_none(&self) -> bool {
        self.timed.is_none() && self.at_step == [None; 2] && self.corrupt.is_none()
    }

    /// Counts a step, and says whether it fails.
    pub(super) fn strikes(&mut self) -> bool {
        self.steps += 1;
        self.at_step.contains(&Some(self.steps))
    }

    pub(super) fn corrupts(&self, section: SectionId) -> bool {
        self.corrupt == Some(section)
    }

    /// Where a failed request for `to` leaves a section that was in `from`, and whether it can be asked.
    pub(super) fn found(&self, path: &[State], from: State) -> (State, Option<State>) {
        let between = path.len().checked_sub(2).and_then(|last| path.get(last)).copied().unwrap_or(from);
        match self.found {
            0 => (from, Some(from)),
            1 => (between, Some(between)),
            2 => (from, None),
            _ => (State::Error, Some(State::Error)),
        }
    }
}
