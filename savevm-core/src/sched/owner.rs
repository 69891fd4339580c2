// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The target after the source gave the guest up.

use core::time::Duration;

use vfio_mig_fsm::State;

use super::decision::Cause;
use super::load_step::{LoadEvent, LoadStep};
use super::step::SectionId;
use super::target::{Busy, LoadScheduler};

/// The guest is here. Sections hold its only state: none of them is ever reset again.
#[derive(Clone, Debug)]
pub struct Owner {
    inner: LoadScheduler,
    cause: Option<Cause>,
    told: bool,
}

impl Owner {
    pub(super) const fn new(inner: LoadScheduler) -> Self {
        Self { inner, cause: None, told: false }
    }

    /// Why the guest cannot run, if it cannot: the first cause.
    #[must_use]
    pub const fn cause(&self) -> Option<Cause> {
        self.cause
    }

    /// What to do next: sections with a P2P state enter it together, then all run, then the source is told.
    pub fn poll(&mut self, now: Duration) -> LoadStep {
        let is_busy = |busy: Busy| matches!(busy, Busy::Transition { .. });
        if self.cause.is_some() {
            let told = core::mem::replace(&mut self.told, true);
            return if told { LoadStep::Ended } else { LoadStep::TellAbort };
        }
        for to in [State::RunningP2p, State::Running] {
            let both = self.inner.sections.iter().zip(&mut self.inner.filling);
            for (index, (section, filling)) in both.enumerate() {
                let wanted = match to {
                    State::RunningP2p => section.capabilities.has_p2p() && filling.state == Some(State::Stop),
                    _ => filling.state != Some(State::Running),
                };
                if wanted && !is_busy(filling.busy) {
                    filling.busy = Busy::Transition { to, since: now };
                    return LoadStep::Transition { section: SectionId::new(index), to };
                }
            }
            let is_on_its_way = |busy: Busy| matches!(busy, Busy::Transition { to: found, .. } if found == to);
            if self.inner.filling.iter().any(|filling| is_on_its_way(filling.busy)) {
                return LoadStep::Wait;
            }
        }
        if core::mem::replace(&mut self.told, true) { LoadStep::Ended } else { LoadStep::Confirm }
    }

    /// Something happened. What the source says no longer matters.
    pub fn handle(&mut self, _now: Duration, event: LoadEvent) {
        let (section, worked) = match event {
            LoadEvent::Transitioned { section } => (section, true),
            LoadEvent::TransitionFailed { section } => (section, false),
            _ => return,
        };
        let Some(filling) = self.inner.filling.get_mut(section.index()) else { return };
        let Busy::Transition { to, .. } = filling.busy else { return };
        filling.busy = Busy::Idle;
        filling.state = worked.then_some(to);
        if !worked && self.cause.is_none() {
            self.cause = Some(Cause::Transition { section, to });
        }
    }
}
