// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the channels carry, measured only while there was something to carry.
//!
//! Bytes per window is the offered load: an idle guest would talk the estimate down until nothing ever fits
//! (`spec/qemu/scheduler.md`). So the clock of a sample runs only while bytes wait to be sent, and a sample ends when
//! that clock, not the wall's, has run for [`SAMPLE_TIME`].

use core::time::Duration;

use super::units;

/// Busy time in one sample.
const SAMPLE_TIME: Duration = Duration::from_millis(50);
/// Less busy time than this says nothing: the bytes may all sit in a socket buffer.
pub(super) const TELLING_TIME: Duration = Duration::from_millis(1);
/// Less busy time than this says little, and teaches nothing for a next migration: a socket's buffer would be a large part of it.
const LESSON_MIN: Duration = Duration::from_millis(10);
const SAMPLES_MAX: usize = 48;
/// Deviation of a value that was given.
const GIVEN_SPREAD_PER_MILLE: u32 = 20;
/// Deviation of what is known from few samples.
const FEW_SPREAD_PER_MILLE: u32 = 150;
/// Deviation of what another migration saw, or this one for a moment.
const GUESS_SPREAD_PER_MILLE: u32 = 300;
/// Where nobody has an idea: 10 Gbit/s, as hosts with devices to pass through have at least, and 1.25 Gbit/s in one of a hundred.
const UNKNOWN: Bandwidth = Bandwidth { bytes_per_s: 1_250_000_000, spread_per_mille: 3000, is_known: false };
/// From how many samples on their own deviation is believed.
const FEW: usize = 8;

/// A bandwidth and how sure of it one is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Bandwidth {
    pub(super) bytes_per_s: u64,
    /// One standard deviation of the time a byte takes.
    pub(super) spread_per_mille: u32,
    pub(super) is_known: bool,
}

/// The measurement.
#[derive(Clone, Debug)]
pub(super) struct Meter {
    given: Option<u64>,
    guess: Option<u64>,
    unsent_bytes: u64,
    busy_since: Option<Duration>,
    sample_time: Duration,
    sample_bytes: u64,
    samples: [u64; SAMPLES_MAX],
    taken: usize,
    current: Option<Bandwidth>,
}

impl Meter {
    pub(super) const fn new(given: Option<u64>, guess: Option<u64>) -> Self {
        Self {
            given,
            guess,
            unsent_bytes: 0,
            busy_since: None,
            sample_time: Duration::ZERO,
            sample_bytes: 0,
            samples: [0; SAMPLES_MAX],
            taken: 0,
            current: None,
        }
    }

    /// Bytes wait to be sent.
    pub(super) fn offered(&mut self, now: Duration, bytes: u64) {
        self.unsent_bytes = self.unsent_bytes.saturating_add(bytes);
        if self.busy_since.is_none() {
            self.busy_since = Some(now);
        }
    }

    /// The transport took them.
    pub(super) fn sent(&mut self, now: Duration, bytes: u64) {
        self.unsent_bytes = self.unsent_bytes.saturating_sub(bytes);
        let since = self.busy_since.unwrap_or(now);
        self.sample_time = self.sample_time.saturating_add(now.saturating_sub(since));
        self.sample_bytes = self.sample_bytes.saturating_add(bytes);
        self.busy_since = (self.unsent_bytes > 0).then_some(now);
        if self.sample_time >= SAMPLE_TIME {
            self.close_sample();
        }
    }

    fn close_sample(&mut self) {
        let rate = units::rate(self.sample_bytes, self.sample_time);
        let place = self.taken.checked_rem(SAMPLES_MAX).unwrap_or(0);
        if let (Some(rate), Some(slot)) = (rate, self.samples.get_mut(place)) {
            *slot = rate.max(1);
            self.taken = self.taken.saturating_add(1);
        }
        (self.sample_time, self.sample_bytes) = (Duration::ZERO, 0);
        self.current = self.of_samples();
    }

    /// The best that is known now: what was given, what was measured, what is assumed.
    pub(super) fn bandwidth(&self) -> Bandwidth {
        if let Some(given) = self.given {
            return Bandwidth { bytes_per_s: given, spread_per_mille: GIVEN_SPREAD_PER_MILLE, is_known: true };
        }
        self.seen().or_else(|| self.guessed()).unwrap_or(UNKNOWN)
    }

    /// How fast bytes are taken from those who send: as measured here, until then the better of what little was seen here and what an
    /// earlier migration saw. What was given says what the channels carry, which goes on while others read.
    pub(super) fn sent_bytes_per_s(&self) -> Option<u64> {
        let is_open = self.given.is_none();
        let first = || self.seen().map(|seen| seen.bytes_per_s).max(self.guess);
        self.measured().or_else(first).filter(|_| is_open)
    }

    fn seen(&self) -> Option<Bandwidth> {
        if self.current.is_some() {
            return self.current;
        }
        let rate = units::rate(self.sample_bytes, self.sample_time).filter(|rate| *rate > 0)?;
        let lack = units::scale(1000, units::nanos(LESSON_MIN), units::nanos(self.sample_time)).max(1000);
        let spread = units::scale(u64::from(GUESS_SPREAD_PER_MILLE), lack, 1000);
        let spread_per_mille = u32::try_from(spread).unwrap_or(u32::MAX);
        let seen = Bandwidth { bytes_per_s: rate, spread_per_mille, is_known: true };
        (self.sample_time >= TELLING_TIME).then_some(seen)
    }

    fn guessed(&self) -> Option<Bandwidth> {
        let bytes_per_s = self.guess?.max(1);
        Some(Bandwidth { bytes_per_s, spread_per_mille: GUESS_SPREAD_PER_MILLE, is_known: false })
    }

    /// What was seen of the channels, whatever was said of them.
    pub(super) fn measured(&self) -> Option<u64> {
        let partial = || units::rate(self.sample_bytes, self.sample_time).filter(|_| self.sample_time >= LESSON_MIN);
        self.current.map(|current| current.bytes_per_s).or_else(partial)
    }

    /// Median, and the deviation that its lower side shows.
    fn of_samples(&self) -> Option<Bandwidth> {
        let mut sorted = self.samples;
        let known = sorted.get_mut(..self.taken.min(SAMPLES_MAX))?;
        known.sort_unstable();
        let count = known.len();
        let at = |per_mille: usize| {
            let place = count.saturating_sub(1).saturating_mul(per_mille).checked_div(1000).unwrap_or(0);
            known.get(place).copied()
        };
        let (median, low) = (at(500)?, at(160)?);
        // A byte takes median ÷ low times as long in the slow sixth.
        let slower = units::scale(1000, median, low).saturating_sub(1000);
        let spread = u32::try_from(slower).unwrap_or(u32::MAX);
        let floor = if count < FEW { FEW_SPREAD_PER_MILLE } else { GIVEN_SPREAD_PER_MILLE };
        Some(Bandwidth { bytes_per_s: median, spread_per_mille: spread.max(floor), is_known: true })
    }
}
