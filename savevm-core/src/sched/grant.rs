// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Handing out work: transitions, queries and chunks.

use core::time::Duration;

use vfio_mig_fsm::State;

use super::drr;
use super::section::Busy;
use super::source::SaveScheduler;
use super::step::{SectionId, Step};
use super::units;

/// What all sections together may have been given to read, by the link's time, where that is more than a chunk for each; once the guest
/// stands, what each may.
const TURN_TIME: Duration = Duration::from_millis(20);

/// What became of looking for a chunk to read.
pub(super) enum Grant {
    Step(Step),
    /// The bucket is empty until then.
    Until(Duration),
    /// No section is free, or enough is under way.
    Nothing,
}

impl SaveScheduler {
    pub(super) fn transition(&mut self, now: Duration, index: usize, to: State) -> Step {
        if let Some(progress) = self.progress.get_mut(index) {
            progress.busy = Busy::Transition { to, since: now };
            progress.touched = true;
        }
        Step::Transition { section: SectionId::new(index), to }
    }

    pub(super) fn query(&mut self, now: Duration, index: usize) -> Step {
        if let Some(progress) = self.progress.get_mut(index) {
            progress.busy = Busy::Query;
            progress.budget.asked(now);
        }
        Step::Query { section: SectionId::new(index) }
    }

    /// The next chunk while the guest runs: round robin by weight. `barred`: sections that are about to change state.
    pub(super) fn grant(&mut self, now: Duration, barred: impl Fn(usize) -> bool) -> Grant {
        let chunk_bytes = match self.chunk_bytes(now, false) {
            Ok(bytes) => bytes,
            Err(grant) => return grant,
        };
        for (index, (section, progress)) in self.config.sections.iter().zip(&self.progress).enumerate() {
            let (Some(claim), Some(initial)) = (self.claims.get_mut(index), self.is_initial.get_mut(index)) else {
                continue;
            };
            let weight = if progress.has_bytes() && !barred(index) { u64::from(section.weight.max(1)) } else { 0 };
            *claim = drr::Claim { weight, free: progress.is_idle() };
            *initial = progress.ack.missing().is_some();
        }
        drr::guarantee(&mut self.claims, &self.is_initial, self.config.initial_share_per_mille);
        match self.turns.pick(&self.claims, chunk_bytes) {
            Some(index) => Grant::Step(self.read(now, index, chunk_bytes, false)),
            None => Grant::Nothing,
        }
    }

    /// The next chunk while the guest stands: the section with the longest way to go comes first. Nobody adds bytes any more, so
    /// nobody can starve, and the order decides only when the last one is loaded. Nobody waits either for a turn to end, to ask a section
    /// or to stop it: so turns are long.
    pub(super) fn grant_stopped(&mut self, now: Duration) -> Grant {
        let chunk_bytes = match self.chunk_bytes(now, true) {
            Ok(bytes) => bytes,
            Err(grant) => return grant,
        };
        let free = self.sections().filter(|(_, _, progress)| {
            progress.is_idle() && progress.state == Some(State::StopCopy) && progress.has_bytes()
        });
        let longest = free.max_by_key(|(index, section, progress)| {
            (progress.tail(section), progress.remaining_bytes(), core::cmp::Reverse(*index))
        });
        match longest.map(|(index, _, _)| index) {
            Some(index) => Grant::Step(self.read(now, index, chunk_bytes, true)),
            None => Grant::Nothing,
        }
    }

    /// How much one read may be, but for a cap: more than a chunk where the link is known to be fast, and few share it.
    fn turn_bytes(&self, stopped: bool) -> u64 {
        let chunk_bytes = self.config.chunk_bytes_max.max(1);
        let bandwidth = self.meter.bandwidth();
        let share =
            |bytes: u64, of: usize| bytes.checked_div(u64::try_from(of).unwrap_or(u64::MAX).max(1)).unwrap_or(0);
        let carried = units::bytes_in(TURN_TIME, bandwidth.bytes_per_s);
        let each = if stopped {
            // All of them read at the same time, also those that still come to stop.
            let left = self.progress.iter().filter(|progress| progress.ended.is_none()).count();
            carried.min(share(self.config.inflight_bytes_max, left))
        } else {
            share(carried, self.progress.iter().filter(|progress| progress.has_bytes()).count())
        };
        match bandwidth.is_known {
            true => each.min(self.config.turn_bytes_max).max(chunk_bytes),
            false => chunk_bytes,
        }
    }

    /// How much of that is a section's: a slow device must not be busy with its turn when it is to stop.
    fn own_turn_bytes(&self, index: usize) -> u64 {
        let own = self.config.sections.get(index).zip(self.progress.get(index)).map(|(section, progress)| {
            let speed = progress.bytes_per_s(section).or((progress.read_bytes == 0).then_some(0));
            speed.map_or(u64::MAX, |bytes_per_s| units::bytes_in(TURN_TIME, bytes_per_s))
        });
        own.unwrap_or(0).max(self.config.chunk_bytes_max.max(1))
    }

    fn chunk_bytes(&self, now: Duration, stopped: bool) -> Result<u64, Grant> {
        let chunk_bytes = self.bucket.chunk_bytes(self.turn_bytes(stopped));
        let is_room = self.inflight_bytes.saturating_add(chunk_bytes) <= self.config.inflight_bytes_max;
        if !is_room && self.inflight_bytes > 0 {
            return Err(Grant::Nothing);
        }
        match self.bucket.closed_until(now) {
            Some(until) => Err(Grant::Until(until)),
            None => Ok(chunk_bytes),
        }
    }

    fn read(&mut self, now: Duration, index: usize, chunk_bytes: u64, stopped: bool) -> Step {
        let own_bytes = if stopped { u64::MAX } else { self.own_turn_bytes(index) };
        let credit_bytes = self.progress.get(index).and_then(|progress| progress.credit_bytes).unwrap_or(u64::MAX);
        let bytes_max = self.config.whole_pieces(chunk_bytes.min(own_bytes).min(credit_bytes)).max(1);
        if let Some(progress) = self.progress.get_mut(index) {
            progress.busy = Busy::Read { bytes_max, since: now };
        }
        self.turns.charge(index, bytes_max);
        self.bucket.take(now, bytes_max);
        self.inflight_bytes = self.inflight_bytes.saturating_add(bytes_max);
        Step::Read { section: SectionId::new(index), bytes_max, stopped }
    }

    /// Gives back what was granted and not read.
    pub(super) fn ungrant(&mut self, index: usize, bytes: u64) {
        self.turns.refund(index, bytes);
        self.bucket.refund(bytes);
        self.inflight_bytes = self.inflight_bytes.saturating_sub(bytes);
    }
}
