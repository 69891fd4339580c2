// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! While the guest runs: begin, read in turns, ask, decide, go quiet.

use core::time::Duration;

use vfio_mig_fsm::State;

use super::bandwidth::TELLING_TIME;
use super::config::{Section, Switchover, Verdict};
use super::decision::{Cause, Decision, Estimate, External, Hold, Phase, Trend, Why};
use super::grant::Grant;
use super::section::Progress;
use super::source::SaveScheduler;
use super::step::{SectionId, Step};
use super::units;

/// How often a promise is withdrawn behind the barrier before it is taken at its word: each time costs the devices their quiet.
const RETREATS_MAX: u32 = 16;

/// The state in which a section waits behind the barrier, if it has one and is not there.
fn quiet_state(section: &Section, progress: &Progress) -> Option<State> {
    match progress.state {
        Some(State::Running) if section.capabilities.has_p2p() => Some(State::RunningP2p),
        Some(State::PreCopy) if section.capabilities.has_p2p() => Some(State::PreCopyP2p),
        _ => None,
    }
}

/// A section that may have begun anew while it went quiet, and was not asked yet.
fn wants_recheck(section: &Section, progress: &Progress) -> bool {
    section.reinitialises && progress.state == Some(State::PreCopyP2p) && !progress.rechecked
}

impl SaveScheduler {
    pub(super) fn poll_setup(&mut self, now: Duration) -> Step {
        let unstarted =
            |section: &Section, progress: &Progress| section.precopies() && progress.state != Some(State::PreCopy);
        if let Some(index) = self.find(|section, progress| progress.is_idle() && unstarted(section, progress)) {
            return self.transition(now, index, State::PreCopy);
        }
        let unasked = |section: &Section, progress: &Progress| {
            progress.is_idle() && progress.sizes.is_none() && !unstarted(section, progress)
        };
        if let Some(index) = self.find(unasked) {
            return self.query(now, index);
        }
        if self.progress.iter().any(|progress| progress.sizes.is_none()) {
            return Step::Wait { until: None };
        }
        self.phase = Phase::Precopy;
        self.reconsider = true;
        let estimate = self.forecast(now, &External::default(), self.quiesce_delay());
        if estimate.fixed.high > self.config.downtime_max {
            self.decide(now, Decision::Infeasible(estimate));
            if self.config.policy.infeasible == Verdict::Abort && self.config.switchover == Switchover::Automatic {
                self.fail(now, Cause::Infeasible);
                return self.poll_undoing(now);
            }
        } else {
            self.decide(now, Decision::Feasible(estimate));
        }
        self.poll_precopy(now)
    }

    pub(super) fn poll_precopy(&mut self, now: Duration) -> Step {
        self.close_windows(now);
        if core::mem::take(&mut self.reconsider) {
            if let Some((why, estimate)) = self.consider(now) {
                self.begin_quiescing(now, why, estimate);
            }
            if self.phase != Phase::Precopy {
                return self.poll(now);
            }
        }
        // Back from the barrier.
        let back = |progress: &Progress| match progress.state {
            Some(State::PreCopyP2p) => Some(State::PreCopy),
            Some(State::RunningP2p) => Some(State::Running),
            _ => None,
        };
        if let Some(index) = self.find(|_, progress| progress.is_idle() && back(progress).is_some()) {
            let to = self.progress.get(index).and_then(back).unwrap_or(State::Running);
            return self.transition(now, index, to);
        }
        if let Some(index) = self.due_for_query(now) {
            return self.query(now, index);
        }
        if let Some(step) = self.announce() {
            return step;
        }
        let wake = self.next_query_at().min(self.window_end);
        match self.grant(now, |_| false) {
            Grant::Step(step) => step,
            Grant::Until(until) => Step::Wait { until: Some(until.min(wake)) },
            Grant::Nothing => Step::Wait { until: Some(wake) },
        }
    }

    /// Ends the windows that are over.
    fn close_windows(&mut self, now: Duration) {
        if now < self.window_end {
            return;
        }
        self.window_end = now.saturating_add(self.config.window);
        self.reconsider = true;
        let left =
            |(_, section, progress): (usize, &Section, &Progress)| progress.pending_bytes(section, now, Duration::ZERO);
        let pending_bytes = self.sections().map(left).fold(0_u64, u64::saturating_add);
        let read_bytes = self.progress.iter().map(|progress| progress.read_bytes).fold(0_u64, u64::saturating_add);
        self.history.push(pending_bytes, read_bytes);
    }

    fn due_for_query(&self, now: Duration) -> Option<usize> {
        let window = self.config.window;
        self.find(|_, progress| progress.is_precopying() && progress.is_idle() && progress.budget.due_at(window) <= now)
    }

    fn next_query_at(&self) -> Duration {
        let idle = self.progress.iter().filter(|progress| progress.is_precopying() && progress.is_idle());
        idle.map(|progress| progress.budget.due_at(self.config.window)).min().unwrap_or(Duration::MAX)
    }

    pub(super) fn announce(&mut self) -> Option<Step> {
        let ready = self.find(|_, progress| progress.ack.to_announce().is_some() && progress.initial_is_out())?;
        let progress = self.progress.get_mut(ready)?;
        let generation = progress.ack.to_announce()?;
        progress.ack.announce();
        Some(Step::Announce { section: SectionId::new(ready), generation })
    }

    /// Whether to switch over, and why. Says why not when the reason changes, and gives up where the policy says so.
    fn consider(&mut self, now: Duration) -> Option<(Why, Estimate)> {
        let estimate = self.forecast(now, &External::default(), self.quiesce_delay());
        let trend = self.history.trend();
        let hold = match self.obstacle(now, &estimate, trend) {
            None => return Some((Why::Fits, estimate)),
            Some(hold) => hold,
        };
        if self.hold != Some(hold) {
            self.hold = Some(hold);
            self.decide(now, Decision::Iterate(hold, estimate));
        }
        if self.config.switchover == Switchover::Manual {
            return None;
        }
        let (verdict, why, cause) = self.verdict(now, hold)?;
        match verdict {
            Verdict::Switch => Some((why, estimate)),
            Verdict::Abort => {
                self.fail(now, cause);
                None
            }
            Verdict::Wait => None,
        }
    }

    /// The first reason not to switch over.
    fn obstacle(&mut self, now: Duration, estimate: &Estimate, trend: Trend) -> Option<Hold> {
        if self.config.switchover == Switchover::Manual {
            return Some(Hold::Manual);
        }
        let open = self.sections().find_map(|(index, _, progress)| Some((index, progress.ack.missing()?)));
        if let Some((index, generation)) = open {
            return Some(Hold::Unacknowledged { section: SectionId::new(index), generation });
        }
        if estimate.downtime.high > self.config.downtime_max {
            return Some(Hold::Downtime { trend });
        }
        // What is still to be read shows what the channels carry, at no cost to the guest.
        let unread = self.progress.iter().map(Progress::unread_bytes).fold(0_u64, u64::saturating_add);
        if !estimate.bandwidth_is_known && unread >= units::bytes_in(TELLING_TIME, estimate.bandwidth_bytes_per_s) {
            return Some(Hold::Bandwidth);
        }
        // Sizes may be old because nothing moved; before a switchover they are asked for once more.
        let fresh = self.config.window.saturating_mul(2);
        let is_old = |progress: &Progress| {
            progress.is_precopying() && (now.saturating_sub(progress.asked_at) > fresh || progress.is_blurred())
        };
        let stale = self.find(|_, progress| is_old(progress))?;
        self.progress.iter_mut().filter(|progress| is_old(progress)).for_each(|progress| progress.budget.hurry());
        Some(Hold::Sizes { section: SectionId::new(stale) })
    }

    fn verdict(&self, now: Duration, hold: Hold) -> Option<(Verdict, Why, Cause)> {
        let policy = &self.config.policy;
        let elapsed = now.saturating_sub(self.started_at.unwrap_or(now));
        if elapsed >= policy.precopy_max {
            return Some((policy.late, Why::Late, Cause::Late));
        }
        let Hold::Downtime { trend } = hold else { return None };
        if !self.progress.iter().any(Progress::is_precopying) {
            return Some((policy.infeasible, Why::NothingToPrecopy, Cause::Infeasible));
        }
        let verdict = match trend {
            Trend::Level => policy.level,
            Trend::Rising => policy.rising,
            Trend::Falling | Trend::Unknown => return None,
        };
        Some((verdict, Why::Trend(trend), Cause::Trend(trend)))
    }

    pub(super) fn begin_quiescing(&mut self, now: Duration, why: Why, estimate: Estimate) {
        self.decide(now, Decision::Switch(why, estimate));
        self.predicted = estimate.downtime;
        self.promised = why == Why::Fits;
        self.phase = Phase::Quiescing;
        for progress in &mut self.progress {
            (progress.rechecked, progress.reopened) = (false, false);
            // The question behind the barrier does not wait out a pause.
            progress.budget.hurry();
        }
    }

    /// The barrier, with the vCPUs running: nobody stops before all that can are quiet.
    pub(super) fn poll_quiescing(&mut self, now: Duration) -> Step {
        let wanted = |section: &Section, progress: &Progress| quiet_state(section, progress).is_some();
        if let Some(index) = self.find(|section, progress| progress.is_idle() && wanted(section, progress)) {
            let to = self.section(index).and_then(|(section, progress)| quiet_state(section, progress));
            return self.transition(now, index, to.unwrap_or(State::RunningP2p));
        }
        let window = self.config.window;
        let due = |section: &Section, progress: &Progress| {
            progress.is_idle() && wants_recheck(section, progress) && progress.budget.due_at(window) <= now
        };
        if let Some(index) = self.find(due) {
            if let Some(progress) = self.progress.get_mut(index) {
                progress.rechecked = true;
            }
            return self.query(now, index);
        }
        let is_waiting = |section: &Section, progress: &Progress| {
            wanted(section, progress) || wants_recheck(section, progress) || progress.is_querying()
        };
        if self.find(is_waiting).is_none() && self.progress.iter().all(Progress::is_idle_or_reading) {
            return self.leave_barrier(now);
        }
        // What needs no quiet state is kept up to date until the pause: memory above all.
        let lags = |section: &Section, progress: &Progress| {
            progress.is_precopying()
                && progress.is_idle()
                && !section.capabilities.has_p2p()
                && progress.budget.due_at(window) <= now
        };
        if let Some(index) = self.find(lags) {
            return self.query(now, index);
        }
        let recheck_at = self.sections().filter(|(_, section, progress)| wants_recheck(section, progress));
        let recheck_at = recheck_at.map(|(_, _, progress)| progress.budget.due_at(window)).filter(|at| *at > now).min();
        // Quiet sections, and those without a quiet state, read on while the others get there.
        let sections = &self.config.sections;
        let barred: alloc::vec::Vec<bool> =
            sections.iter().zip(&self.progress).map(|(section, progress)| is_waiting(section, progress)).collect();
        match self.grant(now, |index| barred.get(index).copied().unwrap_or(true)) {
            Grant::Step(step) => step,
            Grant::Until(until) => Step::Wait { until: Some(recheck_at.map_or(until, |at| at.min(until))) },
            Grant::Nothing => Step::Wait { until: recheck_at },
        }
    }

    /// Everybody is quiet: on to the pause, or back because somebody began anew.
    fn leave_barrier(&mut self, now: Duration) -> Step {
        let is_open = self.progress.iter().any(|progress| progress.reopened);
        if is_open && !self.persists {
            self.reinits = self.reinits.saturating_add(1);
            if self.reinits <= self.config.policy.reinit_max {
                self.go_back(now);
                return self.poll_precopy(now);
            }
            self.persists = true;
            self.decide(now, Decision::Persist);
        }
        // The guest ran on while the sections went quiet. This is the last moment at which a promise that can no longer be kept costs
        // nothing.
        let estimate = self.forecast(now, &External::default(), Duration::ZERO);
        let is_broken = self.promised && !self.persists && estimate.downtime.high > self.config.downtime_max;
        if is_broken && self.retreats < RETREATS_MAX {
            self.retreats = self.retreats.saturating_add(1);
            self.go_back(now);
            return self.poll_precopy(now);
        }
        self.predicted = estimate.downtime;
        self.decide(now, Decision::Pause(estimate));
        self.phase = Phase::Quiet;
        self.poll_quiet(now)
    }

    /// From the barrier to pre-copy.
    pub(super) fn go_back(&mut self, now: Duration) {
        self.decide(now, Decision::GoBack);
        self.phase = Phase::Precopy;
        self.hold = None;
        self.reconsider = true;
        self.history.clear();
    }
}
