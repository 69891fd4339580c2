// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Behind the point of no return.

use core::time::Duration;

use vfio_mig_fsm::State;

use super::decision::{Cause, Decision, Outcome, Phase};
use super::section::{Busy, Progress};
use super::source::SaveScheduler;
use super::step::{Event, Step};

/// The guest is the target's. There is no way back from this type but one: the message provably never left.
///
/// It tells the target, waits for its confirmation, and only then ends the data sessions of the sections that were
/// given up, outside the downtime. None of them is ever asked to run.
#[derive(Clone, Debug)]
pub struct Committed {
    inner: SaveScheduler,
    told: bool,
    outcome: Option<Outcome>,
}

impl Committed {
    pub(super) const fn new(inner: SaveScheduler) -> Self {
        Self { inner, told: false, outcome: None }
    }

    /// Everything that is known, for reports.
    #[must_use]
    pub const fn scheduler(&self) -> &SaveScheduler {
        &self.inner
    }

    /// How it ended, once the target confirmed or can no longer do so.
    #[must_use]
    pub const fn outcome(&self) -> Option<Outcome> {
        self.outcome
    }

    /// The oldest decision not yet taken, and when it was made.
    #[must_use]
    pub fn take_decision(&mut self) -> Option<(Duration, Decision)> {
        self.inner.take_decision()
    }

    /// The commit provably never left this host, not one byte of it: the guest is still here, and everything is put back.
    #[must_use]
    pub fn never_sent(mut self, now: Duration) -> SaveScheduler {
        self.inner.phase = Phase::Ready;
        self.inner.handle(now, Event::LinkFailed);
        self.inner
    }

    /// What to do next.
    pub fn poll(&mut self, now: Duration) -> Step {
        if !core::mem::replace(&mut self.told, true) {
            return Step::TellCommit;
        }
        if self.outcome.is_none() {
            return Step::Wait { until: None };
        }
        // A section that does not stop is left where it is: a reset would run it.
        let open = |progress: &Progress| progress.is_idle() && progress.state == Some(State::StopCopy);
        if let Some(index) = self.inner.find(|_, progress| open(progress)) {
            return self.inner.transition(now, index, State::Stop);
        }
        let is_retiring = |progress: &Progress| matches!(progress.busy, Busy::Transition { .. });
        if self.inner.progress.iter().any(is_retiring) { Step::Wait { until: None } } else { Step::Ended }
    }

    /// Something happened.
    pub fn handle(&mut self, now: Duration, event: Event) {
        match event {
            Event::Confirmed if self.outcome.is_none() => {
                let since = self.inner.stopped_at.unwrap_or(now);
                let downtime = now.saturating_sub(since);
                self.conclude(now, Outcome::Done { predicted: self.inner.predicted, downtime });
            }
            Event::LinkFailed if self.outcome.is_none() => self.conclude(now, Outcome::InDoubt(Cause::Link)),
            Event::PeerFailed { section } if self.outcome.is_none() => {
                self.conclude(now, Outcome::InDoubt(Cause::Peer { section }));
            }
            Event::Transitioned { section } | Event::TransitionFailed { section, .. } => {
                if let Some(progress) = self.inner.progress.get_mut(section.index()) {
                    progress.busy = Busy::Idle;
                    progress.state = Some(State::Stop).filter(|_| matches!(event, Event::Transitioned { .. }));
                }
            }
            Event::Sent { .. } | Event::Credited { .. } | Event::Cancel => {}
            Event::Confirmed | Event::LinkFailed | Event::PeerFailed { .. } => {}
            _ => self.inner.unexpected(now, None),
        }
    }

    fn conclude(&mut self, now: Duration, outcome: Outcome) {
        self.outcome = Some(outcome);
        self.inner.decide(now, Decision::Finished(outcome));
    }
}
