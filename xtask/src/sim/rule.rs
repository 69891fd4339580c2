// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Who decides when to switch over: the scheduler, or a rule to compare it with.
//!
//! QEMU's rule, from its description in `spec/qemu/scheduler.md`: every 100 ms, switch over if what is pending is at most what went over the
//! wire in the window just ended, scaled to the downtime limit; the bandwidth may be given instead. Only the decision differs: reading,
//! the barrier, the drain and the load are the same for every rule.

use savevm_core::sched::{Event, Phase};

use super::Ns;
use super::world::{Source, What, World};

pub(super) const WINDOW_NS: Ns = 100_000_000;

/// A rule.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rule {
    /// The scheduler decides.
    Own,
    /// QEMU's, with the bandwidth measured over the window or given.
    Qemu { limit_ns: Ns, bytes_per_s: Option<f64>, sent_before: u64 },
    /// Nobody decides; somebody else tells when.
    Told,
}

impl Rule {
    pub(super) const fn decides(&self) -> bool {
        matches!(self, Self::Qemu { .. })
    }
}

impl World {
    pub(super) fn phase(&self) -> Phase {
        match &self.source {
            Source::Saving(scheduler) => scheduler.phase(),
            Source::Committed(_) => Phase::Committed,
        }
    }

    pub(super) fn apply_rule(&mut self) {
        if self.phase() > Phase::Precopy {
            return;
        }
        self.push(self.now + WINDOW_NS, What::Window);
        let sent = self.sent_bytes;
        let Rule::Qemu { limit_ns, bytes_per_s, sent_before } = &mut self.rule else { return };
        let in_window = (sent - *sent_before) as f64 / (WINDOW_NS as f64 / 1e9);
        *sent_before = sent;
        let threshold = bytes_per_s.unwrap_or(in_window) * *limit_ns as f64 / 1e9;
        for index in 0..self.truths.len() {
            self.sync(savevm_core::sched::SectionId::new(index));
        }
        let announced = |truth: &super::truth::Truth| truth.pending_bytes() as f64 * truth.shape.size_factor;
        let pending: f64 = self.truths.iter().map(announced).sum();
        if self.phase() == Phase::Precopy && pending <= threshold && self.is_acknowledged() {
            self.tell_source(Event::Quiesce);
        }
    }
}
