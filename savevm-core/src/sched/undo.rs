// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Putting everything back after a migration that does not happen.
//!
//! The order follows `spec/kernel/fsm.md` section 6: never request a state from ERROR, prefer the way back over a reset,
//! because on the source a reset destroys what the guest's driver has set up in the device. Sections that stopped pass their
//! P2P state together before any of them runs: the barrier, walked backwards.

use core::time::Duration;

use vfio_mig_fsm::{Recovery, Role, State};

use super::config::Section;
use super::decision::{Cause, Decision, Outcome, Phase, Restored};
use super::section::{Busy, Progress};
use super::source::SaveScheduler;
use super::step::{SectionId, Step};

/// The next thing to do for one section.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Way {
    /// To its P2P state, where it waits for the others.
    Aside,
    Home,
    Reset,
    Arrived(Restored),
    /// A call is under way that must return first.
    Wait,
}

fn way(section: &Section, progress: &Progress) -> Way {
    if !progress.touched && matches!(progress.busy, Busy::Idle | Busy::Read { .. } | Busy::Query) {
        return Way::Arrived(Restored::Untouched);
    }
    match progress.busy {
        // A reader may be blocked until its session is ended, which only a transition does.
        Busy::Idle | Busy::Read { .. } => {}
        Busy::Transition { .. } | Busy::Query | Busy::Reset => return Way::Wait,
    }
    let Some(found) = progress.state.filter(|_| !progress.way_back_failed) else { return Way::Reset };
    if found == section.home {
        return Way::Arrived(Restored::Returned);
    }
    match vfio_mig_fsm::recovery(Role::Source, found) {
        Recovery::Reset => Way::Reset,
        Recovery::Set(_) if section.home != State::Running => Way::Home,
        Recovery::Set(_) => match found {
            State::Stop | State::StopCopy if section.capabilities.has_p2p() => Way::Aside,
            _ => Way::Home,
        },
    }
}

impl SaveScheduler {
    pub(super) fn poll_undoing(&mut self, now: Duration) -> Step {
        if core::mem::take(&mut self.tell_abort) {
            return Step::TellAbort;
        }
        let undecided = |progress: &Progress| progress.restored.is_none();
        // Whoever has arrived is done.
        for (section, progress) in self.config.sections.iter().zip(&mut self.progress) {
            if let (true, Way::Arrived(restored)) = (undecided(progress), way(section, progress)) {
                progress.restored = Some(restored);
            }
        }
        let with = |wanted: Way| {
            move |section: &Section, progress: &Progress| undecided(progress) && way(section, progress) == wanted
        };
        if let Some(index) = self.find(with(Way::Aside)) {
            return self.transition(now, index, State::RunningP2p);
        }
        if let Some(index) = self.find(with(Way::Reset)) {
            return self.reset(index);
        }
        // Nobody runs while another that stopped is still on its way to its P2P state.
        let is_stepping_aside =
            |progress: &Progress| matches!(progress.busy, Busy::Transition { to: State::RunningP2p, .. });
        if !self.progress.iter().any(is_stepping_aside) {
            if let Some(index) = self.find(with(Way::Home)) {
                let home = self.config.sections.get(index).map_or(State::Running, |section| section.home);
                return self.transition(now, index, home);
            }
        }
        // vCPUs that were asked to stop and have not answered are waited for, or they would stand for ever.
        if self.progress.iter().any(undecided) || (self.pause_asked && !self.guest_paused) {
            return Step::Wait { until: None };
        }
        if self.guest_paused && !self.resume_told {
            self.resume_told = true;
            return Step::ResumeGuest;
        }
        self.end(now, Outcome::Aborted(self.cause.unwrap_or(Cause::Cancelled)));
        Step::Ended
    }

    pub(super) fn end(&mut self, now: Duration, outcome: Outcome) {
        self.phase = Phase::Ended;
        self.outcome = Some(outcome);
        self.decide(now, Decision::Finished(outcome));
    }

    fn reset(&mut self, index: usize) -> Step {
        if let Some(progress) = self.progress.get_mut(index) {
            progress.busy = Busy::Reset;
        }
        Step::Reset { section: SectionId::new(index) }
    }

    pub(super) fn was_reset(&mut self, now: Duration, section: SectionId, worked: bool) {
        let asked = self.progress.get_mut(section.index()).filter(|progress| progress.busy == Busy::Reset);
        let Some(progress) = asked else { return self.unexpected(now, Some(section)) };
        progress.busy = Busy::Idle;
        progress.state = worked.then_some(State::Running);
        progress.restored = Some(if worked { Restored::Reset } else { Restored::Lost });
    }
}
