// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! While the guest stands: pause, stop, drain, and wait for the target's word.

use core::time::Duration;

use vfio_mig_fsm::State;

use super::channel::{self, Job};
use super::config::{Kind, Section, Switchover};
use super::decision::{Cause, Estimate, External, Phase};
use super::grant::Grant;
use super::model::{self, Term};
use super::passage::{Way, last_piece};
use super::section::Progress;
use super::source::SaveScheduler;
use super::step::{SectionId, Step};
use super::units;

impl SaveScheduler {
    pub(super) fn poll_quiet(&mut self, now: Duration) -> Step {
        // What is under way is finished first, and nothing else begun: the next thing a section is asked is to stop, and no byte
        // that was read while the guest ran comes behind the word that it stands.
        let is_idle = self.progress.iter().all(Progress::is_idle);
        if self.config.switchover == Switchover::Automatic && !self.pause_asked && is_idle {
            self.pause_asked = true;
            self.stopped_at = Some(now);
            return Step::PauseGuest;
        }
        Step::Wait { until: None }
    }

    /// The vCPUs stand.
    pub(super) fn begin_stopping(&mut self, now: Duration) {
        self.guest_paused = true;
        self.stopped_at = self.stopped_at.or(Some(now));
        self.phase = Phase::Stopped;
        self.bucket.set_rate(now, self.config.switchover_rate_bytes_per_s);
    }

    pub(super) fn poll_stopped(&mut self, now: Duration) -> Step {
        let limit = self.config.policy.switchover_max;
        let ends_at = limit.zip(self.stopped_at).map(|(limit, at)| at.saturating_add(limit));
        if ends_at.is_some_and(|at| now >= at) {
            self.fail(now, Cause::Switchover);
            return self.poll_undoing(now);
        }
        if self.phase == Phase::Ready {
            return Step::Ready;
        }
        // All of them, without waiting for any; but a device writes to memory until it has stopped, so the last reading of what is dirty
        // comes after that.
        let writes = self.sections().any(|(_, section, progress)| {
            matches!(section.kind, Kind::Device | Kind::Backend) && progress.state != Some(State::StopCopy)
        });
        let stops = |section: &Section, progress: &Progress| {
            let may_stop = !writes || section.kind != Kind::Memory;
            progress.is_idle() && progress.state != Some(State::StopCopy) && may_stop
        };
        if let Some(index) = self.find(stops) {
            self.expect_bytes(now, index);
            return self.transition(now, index, State::StopCopy);
        }
        if let Some(step) = self.finish(now) {
            return step;
        }
        if self.progress.iter().all(|progress| progress.loaded) {
            self.phase = Phase::Ready;
            return Step::Ready;
        }
        let earlier = |at: Duration| Some(ends_at.map_or(at, |ends_at| ends_at.min(at)));
        match self.grant_stopped(now) {
            Grant::Step(step) => step,
            Grant::Until(until) => Step::Wait { until: earlier(until) },
            Grant::Nothing => Step::Wait { until: ends_at },
        }
    }

    fn expect_bytes(&mut self, now: Duration, index: usize) {
        let pending =
            self.section(index).map(|(section, progress)| progress.pending_bytes(section, now, Duration::ZERO));
        if let Some(progress) = self.progress.get_mut(index) {
            progress.stopped_bytes = pending.unwrap_or(0);
            progress.read_at_stop = progress.read_bytes;
        }
    }

    /// Closes a section of which everything was sent.
    fn finish(&mut self, now: Duration) -> Option<Step> {
        let index = self.find(|_, progress| {
            progress.ended.is_some() && progress.finished_at.is_none() && progress.unsent_bytes == 0
        })?;
        let progress = self.progress.get_mut(index)?;
        progress.finished_at = Some(now);
        Some(Step::Finish { section: SectionId::new(index), sum: progress.ended? })
    }

    /// How long it takes until all are quiet.
    pub(super) fn quiesce_delay(&self) -> Duration {
        let quiesce = self.sections().filter(|(_, section, _)| section.capabilities.has_p2p());
        quiesce.map(|(_, section, _)| section.profile.quiesce.expected).max().unwrap_or_default()
    }

    /// What a switchover would cost whose vCPUs are paused in `delay`.
    pub(super) fn forecast(&self, now: Duration, external: &External, delay: Duration) -> Estimate {
        let bandwidth = self.meter.bandwidth();
        let capped = self.config.switchover_rate_bytes_per_s.unwrap_or(u64::MAX);
        let bytes_per_s = bandwidth.bytes_per_s.min(capped).max(1);
        let runs = self.sections().map(|(_, section, _)| section.profile.run).max_by_key(|run| run.expected);
        let first = Term::from(self.config.overhead)
            .then(Term::new(external.fixed, 0))
            .then(Term::from(runs.unwrap_or_default()));

        let is_device = |section: &Section| matches!(section.kind, Kind::Device | Kind::Backend);
        let stops = self.sections().filter(|(_, section, _)| is_device(section));
        let stops: alloc::vec::Vec<_> = stops.map(|(_, section, _)| Term::from(section.profile.stop)).collect();
        let devices_stop = model::latest(&stops);
        let before = |section: &Section| if section.kind == Kind::Memory { devices_stop } else { Term::default() };
        let mut terms = alloc::vec::Vec::with_capacity(self.progress.len().saturating_add(1));
        let mut fixed = alloc::vec::Vec::with_capacity(self.progress.len());
        let mut jobs = alloc::vec::Vec::with_capacity(self.progress.len());
        let piece_bytes = self.config.piece_bytes_max();
        let sent_bytes_per_s = self.meter.sent_bytes_per_s();
        let way = Way { chunk_bytes: piece_bytes, bytes_per_s, sent_bytes_per_s };
        // What needs no quiet state is read on meanwhile.
        let read_rate = bandwidth.bytes_per_s.min(self.config.rate_bytes_per_s.unwrap_or(u64::MAX));
        let mut read_on = units::bytes_in(delay, read_rate);
        // What is under way has to leave first, and so has what the caller sends.
        let mut pending_bytes = external.bytes.saturating_add(self.inflight_bytes);
        for (_, section, progress) in self.sections() {
            let mut bytes = progress.pending_bytes(section, now, delay);
            if !section.capabilities.has_p2p() {
                let part = read_on.min(progress.unread_bytes());
                read_on = read_on.saturating_sub(part);
                bytes = bytes.saturating_sub(part);
            }
            pending_bytes = pending_bytes.saturating_add(bytes);
            let load = Term::from(section.profile.load);
            let own = progress.own_term(section, bytes, &way);
            terms.push(before(section).then(own).then(load));
            let stops = before(section).then(Term::from(section.profile.stop));
            fixed.push(stops.then(load));
            let write = progress.write_time(last_piece(bytes, piece_bytes));
            jobs.push(Job {
                before: stops,
                moving: Term::new(units::time_for(bytes, bytes_per_s), section.profile.size_spread_per_mille),
                after: Term::new(write, 0).then(load),
            });
        }
        let free_at = units::time_for(external.bytes.saturating_add(self.inflight_bytes), bytes_per_s);
        terms.push(channel::last(&mut jobs, model::micros(free_at), bandwidth.spread_per_mille));
        let confidence = self.config.confidence_per_mille;
        Estimate {
            downtime: model::interval(first, &terms, confidence),
            fixed: model::interval(first, &fixed, confidence),
            pending_bytes,
            bandwidth_bytes_per_s: bytes_per_s,
            bandwidth_is_known: bandwidth.is_known,
        }
    }
}
