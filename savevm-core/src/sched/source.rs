// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The source's scheduler: its state, what can be asked of it, and which phase answers a poll.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use super::bandwidth::Meter;
use super::bucket::Bucket;
use super::committed::Committed;
use super::config::{Config, Profile, Section};
use super::decision::{Cause, Decision, Estimate, External, Hold, Interval, Outcome, Phase, Restored};
use super::drr::{Claim, Turns};
use super::section::Progress;
use super::step::{Event, SectionId, Step};
use super::trend::History;

/// Decisions kept for a reader that is late; the oldest go first.
const DECISIONS_MAX: usize = 256;

/// The source's scheduler, up to the point of no return.
///
/// ```
/// use core::time::Duration;
/// use savevm_core::sched::{Config, Event, Kind, SaveScheduler, Section, Sizes, Step};
/// use vfio_mig_fsm::{Capabilities, State};
///
/// let net0 = Section::new("net0", Kind::Device, Capabilities::from_flags(7).expect("a legal set"));
/// let mut scheduler = SaveScheduler::new(Config::new(vec![net0]));
///
/// let Step::Transition { section, to } = scheduler.poll(Duration::ZERO) else { panic!("nothing to start") };
/// assert_eq!(to, State::PreCopy);
/// assert!(matches!(scheduler.poll(Duration::ZERO), Step::Wait { .. }));
///
/// scheduler.handle(Duration::from_millis(1), Event::Transitioned { section });
/// assert_eq!(scheduler.poll(Duration::from_millis(1)), Step::Query { section });
/// scheduler.handle(Duration::from_millis(2), Event::Queried { section, sizes: Sizes::new(1 << 20, 0, 4 << 20) });
/// assert!(matches!(scheduler.poll(Duration::from_millis(2)), Step::Read { .. }));
/// ```
#[derive(Clone, Debug)]
pub struct SaveScheduler {
    pub(super) config: Config,
    pub(super) progress: Vec<Progress>,
    pub(super) phase: Phase,
    pub(super) turns: Turns,
    pub(super) claims: Vec<Claim>,
    pub(super) is_initial: Vec<bool>,
    pub(super) bucket: Bucket,
    pub(super) meter: Meter,
    /// Granted for reading, or read, and not yet sent.
    pub(super) inflight_bytes: u64,
    pub(super) started_at: Option<Duration>,
    pub(super) window_end: Duration,
    pub(super) history: History,
    /// Something happened that a decision may depend on.
    pub(super) reconsider: bool,
    pub(super) hold: Option<Hold>,
    pub(super) predicted: Interval,
    pub(super) reinits: u32,
    pub(super) persists: bool,
    /// The switchover under way was decided because it fits.
    pub(super) promised: bool,
    pub(super) retreats: u32,
    pub(super) pause_asked: bool,
    pub(super) guest_paused: bool,
    pub(super) stopped_at: Option<Duration>,
    pub(super) tell_abort: bool,
    pub(super) resume_told: bool,
    pub(super) cause: Option<Cause>,
    pub(super) outcome: Option<Outcome>,
    decisions: VecDeque<(Duration, Decision)>,
}

impl SaveScheduler {
    /// A migration that has not begun.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let count = config.sections.len();
        let bucket = Bucket::new(config.rate_bytes_per_s);
        let meter = Meter::new(config.bandwidth_bytes_per_s, config.bandwidth_guess_bytes_per_s);
        Self {
            progress: config.sections.iter().map(Progress::new).collect(),
            phase: Phase::Setup,
            turns: Turns::new(count),
            claims: alloc::vec![Claim::default(); count],
            is_initial: alloc::vec![false; count],
            bucket,
            meter,
            inflight_bytes: 0,
            started_at: None,
            window_end: Duration::ZERO,
            history: History::default(),
            reconsider: false,
            hold: None,
            predicted: Interval::default(),
            reinits: 0,
            persists: false,
            promised: false,
            retreats: 0,
            pause_asked: false,
            guest_paused: false,
            stopped_at: None,
            tell_abort: false,
            resume_told: false,
            cause: None,
            outcome: None,
            decisions: VecDeque::new(),
            config,
        }
    }

    /// Where the migration is.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// What it was made with.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Bytes granted for reading, or read, and not yet sent.
    #[must_use]
    pub const fn inflight_bytes(&self) -> u64 {
        self.inflight_bytes
    }

    /// Bytes read of a section so far.
    #[must_use]
    pub fn read_bytes(&self, section: SectionId) -> u64 {
        self.progress.get(section.index()).map_or(0, |progress| progress.read_bytes)
    }

    /// When the downtime began.
    #[must_use]
    pub const fn stopped_at(&self) -> Option<Duration> {
        self.stopped_at
    }

    /// How it ended, once it has.
    #[must_use]
    pub const fn outcome(&self) -> Option<Outcome> {
        self.outcome
    }

    /// How a section came out of an abort, once that is known.
    #[must_use]
    pub fn restored(&self, section: SectionId) -> Option<Restored> {
        self.progress.get(section.index()).and_then(|progress| progress.restored)
    }

    /// What this migration taught of a section: for [`Section::profile`] of the next one of its like.
    #[must_use]
    pub fn learned(&self, section: SectionId) -> Option<Profile> {
        self.progress.get(section.index()).map(|progress| progress.learned)
    }

    /// What the channels carried while they had something to carry, in bytes per second: for the guess
    /// ([`Config::bandwidth_guess_bytes_per_s`]) of a next migration over the same link. `None` where that was too little to tell.
    #[must_use]
    pub fn measured_bytes_per_s(&self) -> Option<u64> {
        self.meter.measured()
    }

    /// The oldest decision not yet taken, and when it was made.
    #[must_use]
    pub fn take_decision(&mut self) -> Option<(Duration, Decision)> {
        self.decisions.pop_front()
    }

    /// What a switchover now would cost, with what the caller moves beside it.
    #[must_use]
    pub fn estimate(&self, now: Duration, external: &External) -> Estimate {
        let delay = if self.phase < Phase::Quiet { self.quiesce_delay() } else { Duration::ZERO };
        self.forecast(now, external, delay)
    }

    /// Something happened.
    ///
    /// An event that answers nothing changes nothing but for a [`Decision::Unexpected`].
    pub fn handle(&mut self, now: Duration, event: Event) {
        self.take_event(now, event);
    }

    /// Switch over now: everything that can goes quiet, while the vCPUs run.
    pub fn quiesce(&mut self, now: Duration) {
        self.handle(now, Event::Quiesce);
    }

    /// The vCPUs stand: take every section to STOP_COPY and drain it.
    pub fn stop(&mut self, now: Duration) {
        self.handle(now, Event::GuestPaused);
    }

    /// Give up: everything is put back. Possible in every phase of this type.
    pub fn abort(&mut self, now: Duration) {
        self.handle(now, Event::Cancel);
    }

    /// The point of no return: the guest is the target's from here on, and nothing can be put back.
    ///
    /// # Errors
    /// The scheduler as it was, if the target has not loaded and verified every section.
    pub fn commit(mut self, now: Duration) -> Result<Committed, Box<Self>> {
        if self.phase != Phase::Ready {
            return Err(Box::new(self));
        }
        let _ = now;
        self.phase = Phase::Committed;
        Ok(Committed::new(self))
    }

    /// What to do next.
    pub fn poll(&mut self, now: Duration) -> Step {
        if self.started_at.is_none() {
            self.started_at = Some(now);
            self.window_end = now.saturating_add(self.config.window);
        }
        match self.phase {
            Phase::Setup => self.poll_setup(now),
            Phase::Precopy => self.poll_precopy(now),
            Phase::Quiescing => self.poll_quiescing(now),
            Phase::Quiet => self.poll_quiet(now),
            Phase::Stopped | Phase::Ready => self.poll_stopped(now),
            Phase::Undoing => self.poll_undoing(now),
            Phase::Committed | Phase::Ended => Step::Ended,
        }
    }

    pub(super) fn decide(&mut self, now: Duration, decision: Decision) {
        if self.decisions.len() >= DECISIONS_MAX {
            self.decisions.pop_front();
        }
        self.decisions.push_back((now, decision));
    }

    /// A section's configuration and progress together.
    pub(super) fn section(&self, index: usize) -> Option<(&Section, &Progress)> {
        self.config.sections.get(index).zip(self.progress.get(index))
    }

    /// All sections, with their numbers.
    pub(super) fn sections(&self) -> impl Iterator<Item = (usize, &Section, &Progress)> {
        let both = self.config.sections.iter().zip(&self.progress);
        both.enumerate().map(|(index, (section, progress))| (index, section, progress))
    }

    pub(super) fn find(&self, mut wanted: impl FnMut(&Section, &Progress) -> bool) -> Option<usize> {
        let found = self.sections().find(|(_, section, progress)| wanted(section, progress));
        found.map(|(index, _, _)| index)
    }
}
