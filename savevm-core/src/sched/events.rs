// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What an event changes.

use core::time::Duration;

use vfio_mig_fsm::State;

use super::ack::Received;
use super::decision::{Cause, Decision, External, Phase, Why};
use super::section::Busy;
use super::source::SaveScheduler;
use super::step::{Event, SectionId, Sizes, Sum};

impl SaveScheduler {
    pub(super) fn take_event(&mut self, now: Duration, event: Event) {
        if self.phase == Phase::Ended {
            return;
        }
        match event {
            Event::Transitioned { section } => self.transitioned(now, section),
            Event::TransitionFailed { section, found } => self.transition_failed(now, section, found),
            Event::Read { section, bytes } => self.was_read(now, section, bytes),
            Event::Skipped { section, bytes } => self.has_skipped(now, section, bytes),
            Event::Held { section, time } => self.was_held(now, section, time),
            Event::Drained { section } => self.was_drained(now, section),
            Event::Ended { section, sum } => self.was_ended(now, section, sum),
            Event::Sent { section, bytes } => self.was_sent(now, section, bytes),
            Event::Credited { section, bytes, busy } => self.credited(now, section, bytes, busy),
            Event::Queried { section, sizes } => self.queried(now, section, sizes),
            Event::Failed { section } => self.failed(now, section),
            Event::Acknowledged { section, generation } => self.acknowledged(now, section, generation),
            Event::Loaded { section, sum, took } => self.was_loaded(now, section, sum, took),
            Event::Quiesce => self.asked_to_quiesce(now),
            Event::Resume => self.asked_to_resume(now),
            Event::GuestPaused if self.phase == Phase::Quiet => self.begin_stopping(now),
            // It was being paused when something failed.
            Event::GuestPaused if self.phase == Phase::Undoing && self.pause_asked => self.guest_paused = true,
            Event::GuestPaused => self.unexpected(now, None),
            Event::GuestFailed => {
                self.pause_asked = false;
                self.fail(now, Cause::Guest);
            }
            Event::Reset { section } => self.was_reset(now, section, true),
            Event::ResetFailed { section } => self.was_reset(now, section, false),
            Event::LinkFailed => self.fail(now, Cause::Link),
            Event::PeerFailed { section } => self.fail(now, Cause::Peer { section }),
            Event::Cancel => self.fail(now, Cause::Cancelled),
            Event::Confirmed => self.unexpected(now, None),
        }
    }

    pub(super) fn unexpected(&mut self, now: Duration, section: Option<SectionId>) {
        // What was under way when a migration failed comes back when it likes.
        if self.phase != Phase::Undoing {
            self.decide(now, Decision::Unexpected { section });
        }
    }

    /// Ends the device call of a section, if it is the one that `wanted` recognises.
    fn take_busy<T>(&mut self, section: SectionId, wanted: impl Fn(Busy) -> Option<T>) -> Option<T> {
        let progress = self.progress.get_mut(section.index())?;
        let found = wanted(progress.busy)?;
        progress.busy = Busy::Idle;
        Some(found)
    }

    fn transitioned(&mut self, now: Duration, section: SectionId) {
        let transition = |busy| match busy {
            Busy::Transition { to, since } => Some((to, since)),
            _ => None,
        };
        let Some((to, since)) = self.take_busy(section, transition) else {
            return self.unexpected(now, Some(section));
        };
        if let Some(progress) = self.progress.get_mut(section.index()) {
            progress.state = Some(to);
            progress.learn_transition(to, now.saturating_sub(since));
        }
    }

    fn transition_failed(&mut self, now: Duration, section: SectionId, found: Option<State>) {
        let transition = |busy| match busy {
            Busy::Transition { to, .. } => Some(to),
            _ => None,
        };
        let Some(to) = self.take_busy(section, transition) else {
            return self.unexpected(now, Some(section));
        };
        if let Some(progress) = self.progress.get_mut(section.index()) {
            progress.state = found;
            progress.way_back_failed |= self.phase == Phase::Undoing;
        }
        self.fail(now, Cause::Transition { section, to });
    }

    fn granted(&mut self, section: SectionId) -> Option<(u64, Duration)> {
        self.take_busy(section, |busy| match busy {
            Busy::Read { bytes_max, since } => Some((bytes_max, since)),
            _ => None,
        })
    }

    fn was_read(&mut self, now: Duration, section: SectionId, bytes: u64) {
        let Some((bytes_max, since)) = self.granted(section) else {
            return self.unexpected(now, Some(section));
        };
        if bytes == 0 || bytes > bytes_max {
            self.ungrant(section.index(), bytes_max);
            return self.fail(now, Cause::Contract { section });
        }
        self.ungrant(section.index(), bytes_max.saturating_sub(bytes));
        self.meter.offered(now, bytes);
        if let Some(progress) = self.progress.get_mut(section.index()) {
            progress.read(now, bytes, bytes_max, since);
            progress.expect_written(since, bytes);
        }
    }

    fn has_skipped(&mut self, now: Duration, section: SectionId, bytes: u64) {
        let reading =
            self.progress.get_mut(section.index()).filter(|progress| matches!(progress.busy, Busy::Read { .. }));
        match reading {
            Some(progress) => progress.skipped_bytes = progress.skipped_bytes.saturating_add(bytes),
            None => self.unexpected(now, Some(section)),
        }
    }

    fn was_held(&mut self, now: Duration, section: SectionId, time: Duration) {
        let reading =
            self.progress.get_mut(section.index()).filter(|progress| matches!(progress.busy, Busy::Read { .. }));
        match reading {
            Some(progress) => progress.held = progress.held.saturating_add(time),
            None => self.unexpected(now, Some(section)),
        }
    }

    fn was_drained(&mut self, now: Duration, section: SectionId) {
        let Some((bytes_max, _)) = self.granted(section) else {
            return self.unexpected(now, Some(section));
        };
        self.ungrant(section.index(), bytes_max);
        let Some(progress) = self.progress.get_mut(section.index()) else { return };
        progress.drained = true;
        // uapi.md 3.1: ENOMSG must not appear in STOP_COPY.
        if progress.state == Some(State::StopCopy) {
            self.fail(now, Cause::Contract { section });
        }
    }

    fn was_ended(&mut self, now: Duration, section: SectionId, sum: Sum) {
        let Some((bytes_max, _)) = self.granted(section) else {
            return self.unexpected(now, Some(section));
        };
        self.ungrant(section.index(), bytes_max);
        let Some(progress) = self.progress.get_mut(section.index()) else { return };
        if progress.state != Some(State::StopCopy) || sum.bytes != progress.read_bytes {
            return self.fail(now, Cause::Contract { section });
        }
        progress.ended = Some(sum);
        progress.learn_end();
    }

    fn was_sent(&mut self, now: Duration, section: SectionId, bytes: u64) {
        let Some(progress) = self.progress.get_mut(section.index()).filter(|known| known.unsent_bytes >= bytes) else {
            return self.unexpected(now, Some(section));
        };
        progress.sent(now, bytes);
        self.inflight_bytes = self.inflight_bytes.saturating_sub(bytes);
        self.meter.sent(now, bytes);
    }

    fn credited(&mut self, now: Duration, section: SectionId, bytes: u64, busy: Option<Duration>) {
        let Some(progress) = self.progress.get_mut(section.index()) else {
            return self.unexpected(now, Some(section));
        };
        if let Some(credit) = &mut progress.credit_bytes {
            *credit = credit.saturating_add(bytes);
        }
        progress.was_written(now, bytes, busy);
    }

    fn queried(&mut self, now: Duration, section: SectionId, sizes: Sizes) {
        if self.take_busy(section, |busy| (busy == Busy::Query).then_some(())).is_none() {
            return self.unexpected(now, Some(section));
        }
        let Some(progress) = self.progress.get_mut(section.index()) else { return };
        progress.queried(now, sizes);
        self.reconsider = true;
        if sizes.reinit {
            let generation = progress.ack.reopen();
            progress.reopened = true;
            progress.drained = false;
            self.history.clear();
            self.decide(now, Decision::Reopened { section, generation });
        }
    }

    fn failed(&mut self, now: Duration, section: SectionId) {
        let bytes_max = self.take_busy(section, |busy| match busy {
            Busy::Read { bytes_max, .. } => Some(bytes_max),
            Busy::Query => Some(0),
            _ => None,
        });
        match bytes_max {
            Some(bytes_max) => {
                self.ungrant(section.index(), bytes_max);
                self.fail(now, Cause::Section { section });
            }
            None => self.unexpected(now, Some(section)),
        }
    }

    fn acknowledged(&mut self, now: Duration, section: SectionId, generation: u32) {
        let received = self.progress.get_mut(section.index()).map(|progress| progress.ack.receive(generation));
        match received {
            Some(Received::Accepted) => self.reconsider = true,
            Some(Received::Stale) => self.decide(now, Decision::StaleAcknowledgement { section, generation }),
            Some(Received::Unexpected) | None => self.unexpected(now, Some(section)),
        }
    }

    fn was_loaded(&mut self, now: Duration, section: SectionId, received: Sum, took: Option<Duration>) {
        let is_stopped = self.phase == Phase::Stopped;
        let asked = self.progress.get_mut(section.index()).filter(|progress| is_stopped && !progress.loaded);
        let Some((progress, at)) = asked.and_then(|progress| progress.finished_at.map(|at| (progress, at))) else {
            return self.unexpected(now, Some(section));
        };
        let sent = progress.ended.unwrap_or_default();
        if sent != received {
            return self.fail(now, Cause::Mismatch { section, sent, received });
        }
        progress.loaded = true;
        let written_at = progress.written_at.filter(|_| took.is_none()).unwrap_or_default();
        progress.learn_load(took.unwrap_or(now.saturating_sub(at.max(written_at))));
    }

    fn asked_to_quiesce(&mut self, now: Duration) {
        if self.phase != Phase::Precopy {
            return self.unexpected(now, None);
        }
        let estimate = self.forecast(now, &External::default(), self.quiesce_delay());
        self.begin_quiescing(now, Why::Asked, estimate);
    }

    fn asked_to_resume(&mut self, now: Duration) {
        if matches!(self.phase, Phase::Quiescing | Phase::Quiet) && !self.pause_asked {
            self.go_back(now);
        } else {
            self.unexpected(now, None);
        }
    }

    /// The migration does not happen. The first cause counts.
    pub(super) fn fail(&mut self, now: Duration, cause: Cause) {
        if matches!(self.phase, Phase::Undoing | Phase::Ended) {
            return;
        }
        self.phase = Phase::Undoing;
        self.cause = Some(cause);
        self.tell_abort = !matches!(cause, Cause::Link | Cause::Peer { .. });
        self.decide(now, Decision::GiveUp(cause));
    }
}
