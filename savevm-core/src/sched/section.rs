// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the scheduler knows of one section.

use core::time::Duration;

use vfio_mig_fsm::State;

use super::ack::Acknowledgement;
use super::config::{Profile, Section};
use super::decision::Restored;
use super::query::Budget;
use super::step::{Sizes, Sum};
use super::units;

/// The device call under way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Busy {
    Idle,
    Transition { to: State, since: Duration },
    Read { bytes_max: u64, since: Duration },
    Query,
    Reset,
}

/// Bytes and the time they took.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Speed {
    bytes: u64,
    time: Duration,
    /// Of the time, so much was waiting for the other end.
    held: Duration,
}

/// From how many bytes on a speed is believed.
const SPEED_BYTES_MIN: u64 = 4 << 20;
/// What the target writes faster than an earlier one did before that is forgotten.
const DISPROOF_BYTES: u64 = 16 << 20;

impl Speed {
    pub(super) fn add(&mut self, bytes: u64, time: Duration) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.time = self.time.saturating_add(time);
    }

    fn hold(&mut self, held: Duration) {
        self.held = self.held.saturating_add(held);
    }

    pub(super) fn bytes_per_s(&self) -> Option<u64> {
        if self.bytes < SPEED_BYTES_MIN { None } else { units::rate(self.bytes, self.time) }
    }

    /// Where the other end's part is known by itself.
    fn own_bytes_per_s(&self) -> Option<u64> {
        let own = Self { time: self.time.saturating_sub(self.held), ..*self };
        own.bytes_per_s()
    }
}

/// Progress of one section.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    /// Where it is, unless a failed transition left that open.
    pub(super) state: Option<State>,
    pub(super) busy: Busy,
    pub(super) touched: bool,
    /// Read from the section, from its first byte.
    pub(super) read_bytes: u64,
    /// Of these, not yet taken by the transport.
    pub(super) unsent_bytes: u64,
    /// What the target still takes.
    pub(super) credit_bytes: Option<u64>,
    pub(super) sizes: Option<Sizes>,
    pub(super) asked_at: Duration,
    read_since_query: u64,
    /// How long the read under way has waited for credit.
    pub(super) held: Duration,
    /// What the read under way settles beside the bytes it yields.
    pub(super) skipped_bytes: u64,
    /// Its last answer had a stop-copy size.
    stop_copy_is_known: bool,
    /// The last read yielded nothing, and nothing since says otherwise.
    pub(super) drained: bool,
    /// Queries in a row that claimed initial bytes of which nothing could be read.
    empty_claims: u32,
    pub(super) budget: Budget,
    pub(super) ack: Acknowledgement,
    /// Asked for its sizes behind the barrier.
    pub(super) rechecked: bool,
    /// Began anew since the barrier was last left.
    pub(super) reopened: bool,
    /// A request on the way home failed: only a reset is left.
    pub(super) way_back_failed: bool,
    /// How fast the guest makes new bytes.
    dirty_bytes_per_s: u64,
    read_speed: Speed,
    /// Of reads that went on while the guest made what they yielded: at most as fast as the guest.
    trickle_speed: Speed,
    write_speed: Speed,
    /// From being read to being taken by the transport,
    sent_speed: Speed,
    /// since when, for all that is unsent; `None` if it came by a trickle or behind more that was unsent.
    sending: Option<Duration>,
    /// What the reads of these bytes settled beside them.
    skipped_unsent_bytes: u64,
    /// Known to be written, and since when,
    written_bytes: u64,
    credited_at: Option<Duration>,
    /// and by when all that is read should be, where the target's speed is known.
    pub(super) written_at: Option<Duration>,
    /// Written by the target faster than its speed was thought to be.
    disproof_bytes: u64,
    /// What STOP_COPY is expected to yield, set when it is requested.
    pub(super) stopped_bytes: u64,
    pub(super) read_at_stop: u64,
    pub(super) ended: Option<Sum>,
    pub(super) finished_at: Option<Duration>,
    pub(super) loaded: bool,
    pub(super) restored: Option<Restored>,
    pub(super) learned: Profile,
}

/// Claims that yield nothing before they are no longer waited for.
const EMPTY_CLAIMS_MAX: u32 = 3;

impl Progress {
    pub(super) fn new(section: &Section) -> Self {
        Self {
            state: Some(section.home),
            busy: Busy::Idle,
            touched: false,
            read_bytes: 0,
            unsent_bytes: 0,
            credit_bytes: section.credit_bytes,
            sizes: None,
            asked_at: Duration::ZERO,
            read_since_query: 0,
            held: Duration::ZERO,
            skipped_bytes: 0,
            stop_copy_is_known: false,
            drained: false,
            empty_claims: 0,
            budget: Budget::default(),
            ack: Acknowledgement::new(section.acknowledged && section.precopies()),
            rechecked: false,
            reopened: false,
            way_back_failed: false,
            dirty_bytes_per_s: 0,
            read_speed: Speed::default(),
            trickle_speed: Speed::default(),
            write_speed: Speed::default(),
            sent_speed: Speed::default(),
            sending: None,
            skipped_unsent_bytes: 0,
            written_bytes: 0,
            credited_at: None,
            written_at: None,
            disproof_bytes: 0,
            stopped_bytes: 0,
            read_at_stop: 0,
            ended: None,
            finished_at: None,
            loaded: false,
            restored: None,
            learned: section.profile,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.busy == Busy::Idle
    }

    pub(super) fn is_querying(&self) -> bool {
        self.busy == Busy::Query
    }

    pub(super) fn is_idle_or_reading(&self) -> bool {
        matches!(self.busy, Busy::Idle | Busy::Read { .. })
    }

    pub(super) fn is_precopying(&self) -> bool {
        matches!(self.state, Some(State::PreCopy | State::PreCopyP2p))
    }

    /// Has something that can be read in its present state.
    pub(super) fn has_bytes(&self) -> bool {
        let is_open = self.credit_bytes != Some(0);
        match self.state {
            Some(State::StopCopy) => is_open && self.ended.is_none(),
            Some(State::PreCopy | State::PreCopyP2p) => is_open && !self.drained,
            _ => false,
        }
    }

    /// The target has written `bytes`, in so much time where it was busy with them.
    pub(super) fn was_written(&mut self, now: Duration, bytes: u64, busy: Option<Duration>) {
        if let Some(busy) = busy {
            self.write_speed.add(bytes, busy);
        }
        let since = self.credited_at.filter(|at| *at < now);
        let rate = since.and_then(|since| units::rate(bytes, now.saturating_sub(since)));
        if rate.zip(self.learned.write_bytes_per_s).is_some_and(|(rate, known)| rate / 5 > known / 4) {
            self.disproof_bytes = self.disproof_bytes.saturating_add(bytes);
        }
        self.credited_at = Some(now);
        self.written_bytes = self.written_bytes.saturating_add(bytes);
        let unwritten = self.read_bytes.saturating_sub(self.written_bytes);
        // A credit may be told of late, when more is written than it says.
        self.written_at = self.write_bytes_per_s().map(|speed| {
            let by_now = now.saturating_add(units::time_for(unwritten, speed));
            self.written_at.map_or(by_now, |before| before.min(by_now))
        });
    }

    /// `bytes` were read from `since` on: the target begins with them then, or has others to write before.
    pub(super) fn expect_written(&mut self, since: Duration, bytes: u64) {
        self.written_at = self.write_bytes_per_s().map(|speed| {
            let begins = self.written_at.unwrap_or_default().max(since);
            begins.saturating_add(units::time_for(bytes, speed))
        });
    }

    /// `bytes` were read from `since` to `now`, of `bytes_max` asked for.
    pub(super) fn read(&mut self, now: Duration, bytes: u64, bytes_max: u64, since: Duration) {
        let (time, is_alone) = (now.saturating_sub(since), self.unsent_bytes == 0);
        self.read_bytes = self.read_bytes.saturating_add(bytes);
        self.unsent_bytes = self.unsent_bytes.saturating_add(bytes);
        self.read_since_query = self.read_since_query.saturating_add(bytes);
        // Sizes count what is there, and speeds are set against sizes: so both take in what was settled and never sent.
        let settled = bytes.saturating_add(core::mem::take(&mut self.skipped_bytes));
        let outruns = self.outruns(settled);
        self.sending = (is_alone && !outruns).then_some(now);
        self.skipped_unsent_bytes = self.skipped_unsent_bytes.saturating_add(settled.saturating_sub(bytes));
        let speed = if outruns { &mut self.trickle_speed } else { &mut self.read_speed };
        speed.add(settled, time);
        speed.hold(core::mem::take(&mut self.held));
        self.empty_claims = 0;
        if let Some(credit) = &mut self.credit_bytes {
            *credit = credit.saturating_sub(bytes);
        }
        if let Some(sizes) = &mut self.sizes {
            let unread = sizes.initial_bytes.saturating_add(sizes.dirty_bytes);
            // What STOP_COPY would yield covers what is unread, by a driver's reckoning. One whose figure is a constant
            // (hisi, qat, pds) shows by it being far less.
            if sizes.stop_copy_bytes >= unread / 2 {
                sizes.stop_copy_bytes = sizes.stop_copy_bytes.saturating_sub(settled.min(unread));
            }
            let of_initial = sizes.initial_bytes.min(settled);
            sizes.initial_bytes = sizes.initial_bytes.saturating_sub(of_initial);
            sizes.dirty_bytes = sizes.dirty_bytes.saturating_sub(settled.saturating_sub(of_initial));
            // The rest is what the guest makes while it is read: a trickle that never ends, call by call. It waits for the
            // next query.
            let is_trickle = bytes < bytes_max && sizes.initial_bytes == 0 && sizes.dirty_bytes == 0;
            self.drained |= is_trickle && self.state != Some(State::StopCopy);
        }
    }

    /// The transport took `bytes` of what was read.
    pub(super) fn sent(&mut self, now: Duration, bytes: u64) {
        self.unsent_bytes = self.unsent_bytes.saturating_sub(bytes);
        let settled = bytes.saturating_add(core::mem::take(&mut self.skipped_unsent_bytes));
        if let Some(since) = self.sending {
            self.sent_speed.add(settled, now.saturating_sub(since));
            self.sending = (self.unsent_bytes > 0).then_some(now);
        }
    }

    /// Whether more was read than there was: the rest came into being meanwhile, and the read waited for it. Frames of memory are a little
    /// larger than what they carry.
    fn outruns(&self, settled_bytes: u64) -> bool {
        let unread = |sizes: Sizes| sizes.initial_bytes.saturating_add(sizes.dirty_bytes);
        let made = self.sizes.map_or(0, |sizes| settled_bytes.saturating_sub(unread(sizes)));
        self.state != Some(State::StopCopy) && made > settled_bytes / 32
    }

    /// A new answer of the section about itself.
    pub(super) fn queried(&mut self, now: Duration, sizes: Sizes) {
        let before = self.sizes;
        let age = now.saturating_sub(self.asked_at);
        if let Some(before) = before {
            // `before` has been reduced by what was read since.
            let made = (sizes.initial_bytes.saturating_add(sizes.dirty_bytes))
                .saturating_sub(before.initial_bytes.saturating_add(before.dirty_bytes));
            if let Some(rate) = units::rate(made, age).filter(|_| !sizes.reinit) {
                self.dirty_bytes_per_s = self.dirty_bytes_per_s.midpoint(rate);
            }
        }
        let precopy_bytes = sizes.initial_bytes.saturating_add(sizes.dirty_bytes);
        if self.drained && self.read_since_query == 0 && sizes.initial_bytes > 0 {
            self.empty_claims = self.empty_claims.saturating_add(1);
        }
        self.budget.answered(self.read_since_query > 0 || before != Some(sizes));
        self.drained = precopy_bytes == 0;
        self.stop_copy_is_known = sizes.stop_copy_bytes > precopy_bytes;
        self.read_since_query = 0;
        self.asked_at = now;
        self.sizes = Some(sizes);
    }

    /// The initial bytes have been read, so far as they can be.
    pub(super) fn initial_is_out(&self) -> bool {
        let is_read = self.sizes.is_some_and(|sizes| sizes.initial_bytes == 0);
        (is_read || self.empty_claims >= EMPTY_CLAIMS_MAX) && self.unsent_bytes == 0
    }

    /// What would be left to read if the vCPUs stopped in `delay`.
    pub(super) fn pending_bytes(&self, section: &Section, now: Duration, delay: Duration) -> u64 {
        let Some(sizes) = &self.sizes else { return 0 };
        let ahead = now.saturating_sub(self.asked_at).saturating_add(delay);
        let grown = units::bytes_in(ahead, self.dirty_bytes_per_s);
        let announced = sizes.pending_bytes().saturating_add(grown);
        match section.profile.size_per_mille {
            0 => announced,
            per_mille => units::per_mille(announced, per_mille),
        }
    }

    /// So much was read since it was asked that the error of its answer outweighs what is left.
    pub(super) fn is_blurred(&self) -> bool {
        let stop_copy_bytes = self.sizes.map_or(0, |sizes| sizes.stop_copy_bytes);
        self.stop_copy_is_known && self.read_since_query > stop_copy_bytes
    }

    /// What can be read while the guest runs, so far as one knows.
    pub(super) fn unread_bytes(&self) -> u64 {
        let known = self.sizes.filter(|_| self.is_precopying() && !self.drained);
        known.map_or(0, |sizes| sizes.initial_bytes.saturating_add(sizes.dirty_bytes))
    }

    /// What is left of the state of a stopped section, so far as one knows.
    pub(super) fn remaining_bytes(&self) -> u64 {
        self.stopped_bytes.saturating_sub(self.read_bytes.saturating_sub(self.read_at_stop))
    }

    pub(super) fn read_bytes_per_s(&self, section: &Section) -> Option<u64> {
        // Reads that waited for the guest say how fast the guest is. They count if all else fails.
        let known = self.measured_read_bytes_per_s().or(section.profile.read_bytes_per_s);
        known.or(self.trickle_speed.bytes_per_s())
    }

    /// Waiting for credit is part of it as long as nobody knows what the target's part is.
    fn measured_read_bytes_per_s(&self) -> Option<u64> {
        match self.write_bytes_per_s() {
            Some(_) => self.read_speed.own_bytes_per_s(),
            None => self.read_speed.bytes_per_s(),
        }
    }

    pub(super) fn sent_bytes_per_s(&self) -> Option<u64> {
        self.sent_speed.bytes_per_s()
    }

    /// As this migration shows it, or as an earlier one did and nothing in this one has disproved.
    pub(super) fn write_bytes_per_s(&self) -> Option<u64> {
        let before = self.learned.write_bytes_per_s.filter(|_| self.disproof_bytes < DISPROOF_BYTES);
        self.write_speed.bytes_per_s().or(before)
    }

    /// The slower of reading it here and writing it there.
    pub(super) fn bytes_per_s(&self, section: &Section) -> Option<u64> {
        match (self.read_bytes_per_s(section), self.write_bytes_per_s()) {
            (Some(read), Some(write)) => Some(read.min(write)),
            (read, write) => read.or(write),
        }
    }

    /// From now to its acknowledgement, were the channel its own.
    pub(super) fn tail(&self, section: &Section) -> Duration {
        let moving = self.bytes_per_s(section).map(|speed| units::time_for(self.remaining_bytes(), speed));
        section.profile.load.expected.saturating_add(moving.unwrap_or_default())
    }

    /// Remembers how long a transition took.
    pub(super) fn learn_transition(&mut self, to: State, took: Duration) {
        match to {
            State::RunningP2p | State::PreCopyP2p => self.learned.quiesce.learn(took),
            State::StopCopy => self.learned.stop.learn(took),
            _ => {}
        }
    }

    pub(super) fn learn_load(&mut self, took: Duration) {
        self.learned.load.learn(took);
    }

    /// Remembers speeds and the size, once everything was read.
    pub(super) fn learn_end(&mut self) {
        self.learned.read_bytes_per_s = self.measured_read_bytes_per_s().or(self.learned.read_bytes_per_s);
        self.learned.write_bytes_per_s = self.write_bytes_per_s();
    }
}
