// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whether a device keeps to its own channel or uses all of them.
//!
//! Spreading a device over channels costs up to three times the CPU (`spec/perf/limits.md` section 3), because every
//! chunk changes hands. It pays only where one channel is slower than the device: then the device's thread spends its
//! time in sending, and not in reading or in waiting for credit; and only where another channel has nothing to do all
//! the while. So that is what it takes to try; and only a rate that rises makes it stay.
//!
//! On a slow channel the chunks that it takes to know are what spreading loses: while one goes, each of the others could have carried
//! one. So a few that leave no doubt are enough. They must be alike: a channel is slow evenly, a busy machine is not. And they must take
//! long: where they do not, there is nothing to be gained by haste.

use core::time::Duration;

/// Chunks over which a rate is measured.
const SAMPLE_CHUNKS: u32 = 16;
/// Chunks in a row that leave no doubt.
const CLEAR_CHUNKS: u32 = 4;
/// What each of them takes at least.
const CLEAR_TIME: Duration = Duration::from_millis(4);
/// Chunks after a change that do not count: what is in flight belongs to the time before.
const SETTLE_CHUNKS: u32 = 8;
/// Chunks from a failed try to the next; doubled each time.
const PAUSE_CHUNKS: u32 = 512;
const PAUSE_CHUNKS_MAX: u32 = 1 << 20;

/// What one chunk took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lap {
    pub(crate) bytes: u64,
    /// From the end of the one before to the end of this one.
    pub(crate) whole: Duration,
    /// In sending.
    pub(crate) sending: Duration,
    /// For credit.
    pub(crate) waiting: Duration,
    /// The other channels that were idle then, a bit for each.
    pub(crate) idle: u64,
}

const NO_LAPS: Lap =
    Lap { bytes: 0, whole: Duration::ZERO, sending: Duration::ZERO, waiting: Duration::ZERO, idle: u64::MAX };

impl Lap {
    fn add(&mut self, other: Self) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.whole = self.whole.saturating_add(other.whole);
        self.sending = self.sending.saturating_add(other.sending);
        self.waiting = self.waiting.saturating_add(other.waiting);
        self.idle &= other.idle;
    }

    /// It was slow, and nearly all of it was sending.
    fn is_clear(&self) -> bool {
        self.whole >= CLEAR_TIME && self.sending.saturating_mul(10) >= self.whole.saturating_mul(9)
    }
}

/// Chunks in a row that were clear, and alike.
#[derive(Clone, Copy, Debug)]
struct Clear {
    chunks: u32,
    sum: Lap,
    shortest: Duration,
    longest: Duration,
}

const NOT_CLEAR: Clear = Clear { chunks: 0, sum: NO_LAPS, shortest: Duration::MAX, longest: Duration::ZERO };

impl Clear {
    fn lap(&mut self, lap: Lap) {
        let (shortest, longest) = (self.shortest.min(lap.whole), self.longest.max(lap.whole));
        if !lap.is_clear() {
            *self = NOT_CLEAR;
        } else if longest > shortest.saturating_mul(2) {
            *self = Self { chunks: 1, sum: lap, shortest: lap.whole, longest: lap.whole };
        } else {
            (self.shortest, self.longest, self.chunks) = (shortest, longest, self.chunks.saturating_add(1));
            self.sum.add(lap);
        }
    }
}

/// The decision for one device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    mode: Mode,
    chunks: u32,
    sum: Lap,
    clear: Clear,
    pause_chunks: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    /// On its own channel, watching.
    Keeping,
    /// On its own channel for so many more chunks, whatever happens.
    Resting(u32),
    /// On all, to see whether it is faster than this many bytes per second.
    Trying(f64),
    /// On all, as long as it stays faster.
    Spread(f64),
}

impl Spread {
    pub(crate) const fn new() -> Self {
        Self { mode: Mode::Keeping, chunks: 0, sum: NO_LAPS, clear: NOT_CLEAR, pause_chunks: PAUSE_CHUNKS }
    }

    /// Whether the next chunk may go on any channel.
    pub(crate) const fn is_spread(&self) -> bool {
        matches!(self.mode, Mode::Trying(_) | Mode::Spread(_))
    }

    /// A chunk has gone.
    pub(crate) fn lap(&mut self, lap: Lap) {
        self.chunks = self.chunks.saturating_add(1);
        if let Mode::Resting(left) = self.mode {
            return self.enter(left.checked_sub(1).map_or(Mode::Keeping, Mode::Resting));
        }
        if self.is_spread() && self.chunks <= SETTLE_CHUNKS {
            return;
        }
        self.sum.add(lap);
        if self.mode == Mode::Keeping {
            self.clear.lap(lap);
            if self.clear.chunks >= CLEAR_CHUNKS && self.clear.sum.idle != 0 {
                return self.enter(Mode::Trying(rate(self.clear.sum.bytes, self.clear.sum.whole)));
            }
        }
        let settle = if self.is_spread() { SETTLE_CHUNKS } else { 0 };
        if self.chunks >= SAMPLE_CHUNKS.saturating_add(settle) {
            self.judge();
        }
    }

    fn judge(&mut self) {
        let rate = rate(self.sum.bytes, self.sum.whole);
        match self.mode {
            Mode::Keeping => {
                let sends_most = self.sum.sending.saturating_mul(3) >= self.sum.whole.saturating_mul(2);
                let hardly_waits = self.sum.waiting.saturating_mul(10) <= self.sum.whole;
                self.enter(if sends_most && hardly_waits && self.sum.idle != 0 {
                    Mode::Trying(rate)
                } else {
                    Mode::Keeping
                });
            }
            Mode::Trying(before) if rate < before * 1.2 => {
                self.enter(Mode::Resting(self.pause_chunks));
                self.pause_chunks = self.pause_chunks.saturating_mul(2).min(PAUSE_CHUNKS_MAX);
            }
            // It did help. Perhaps it still does, and the machine had something else to do for a moment: no reason for a rest.
            Mode::Spread(before) if rate < before * 1.2 => self.enter(Mode::Keeping),
            Mode::Trying(before) | Mode::Spread(before) => self.enter(Mode::Spread(before)),
            Mode::Resting(_) => {}
        }
    }

    fn enter(&mut self, mode: Mode) {
        if mode != self.mode {
            self.clear = NOT_CLEAR;
        }
        self.mode = mode;
        self.chunks = 0;
        self.sum = NO_LAPS;
    }
}

/// Bytes per second.
fn rate(bytes: u64, time: Duration) -> f64 {
    // Beyond 2³² bytes the last digits do not matter for a comparison.
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    f64::from(bytes) / time.as_secs_f64().max(1e-9)
}

#[cfg(all(test, not(loom)))]
mod test {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn lap(whole: u32, sending: u32, waiting: u32) -> Lap {
        Lap { bytes: 1 << 20, whole: MS * whole, sending: MS * sending, waiting: MS * waiting, idle: 2 }
    }

    fn laps(spread: &mut Spread, count: u32, lap: Lap) {
        (0..count).for_each(|_| spread.lap(lap));
    }

    #[test]
    fn a_device_that_is_not_held_up_keeps_its_channel() {
        for steady in [lap(10, 5, 0), lap(10, 8, 2), lap(10, 0, 9)] {
            let mut spread = Spread::new();
            laps(&mut spread, 200, steady);
            assert!(!spread.is_spread(), "{steady:?}");
        }
    }

    #[test]
    fn a_slow_channel_is_tried_beside_others_and_left_if_that_helps() {
        let mut spread = Spread::new();
        laps(&mut spread, SAMPLE_CHUNKS - 1, lap(10, 8, 0));
        assert!(!spread.is_spread());
        spread.lap(lap(10, 8, 0));
        assert!(spread.is_spread());
        laps(&mut spread, 500, lap(4, 0, 0));
        assert!(spread.is_spread(), "it is faster");
        laps(&mut spread, 2 * (SETTLE_CHUNKS + SAMPLE_CHUNKS), lap(10, 0, 0));
        assert!(!spread.is_spread(), "it no longer is");
        laps(&mut spread, CLEAR_CHUNKS, lap(10, 9, 0));
        assert!(spread.is_spread(), "and may be again");
    }

    #[test]
    fn a_few_chunks_that_leave_no_doubt_are_enough() {
        let mut spread = Spread::new();
        // Into the socket's buffer they went at once. The end of a sample changes nothing.
        laps(&mut spread, SAMPLE_CHUNKS - 2, lap(1, 0, 0));
        laps(&mut spread, CLEAR_CHUNKS - 1, lap(10, 9, 0));
        assert!(!spread.is_spread());
        spread.lap(lap(10, 9, 0));
        assert!(spread.is_spread());
        // What is to be beaten is the rate of those that were slow: 100 MiB/s.
        laps(&mut spread, 500, lap(8, 0, 0));
        assert!(spread.is_spread());
        laps(&mut spread, 100, lap(9, 0, 0));
        assert!(!spread.is_spread());
    }

    #[test]
    fn chunks_that_were_slow_now_and_then_leave_a_doubt() {
        let tried_after = |lap_of: &dyn Fn(u32) -> Lap| {
            let mut spread = Spread::new();
            (0..SAMPLE_CHUNKS).find(|round| {
                spread.lap(lap_of(*round));
                spread.is_spread()
            })
        };
        assert_eq!(tried_after(&|_| lap(10, 9, 0)), Some(CLEAR_CHUNKS - 1));
        let uneven = |round: u32| if round % CLEAR_CHUNKS == 3 { lap(21, 20, 0) } else { lap(10, 9, 0) };
        assert_eq!(tried_after(&uneven), Some(SAMPLE_CHUNKS - 1), "a busy machine");
        let reads = |round: u32| if round % CLEAR_CHUNKS == 3 { lap(10, 8, 0) } else { lap(10, 9, 0) };
        assert_eq!(tried_after(&reads), Some(SAMPLE_CHUNKS - 1), "the device takes its time");
        let quick = |_| Lap { whole: MS * 3, sending: MS * 3, ..lap(0, 0, 0) };
        assert_eq!(tried_after(&quick), Some(SAMPLE_CHUNKS - 1), "there is no hurry");
        let busy = |round: u32| Lap { idle: if round == 1 { 0 } else { 2 }, ..lap(10, 9, 0) };
        assert_eq!(tried_after(&busy), None, "the other channel had work");
    }

    #[test]
    fn where_every_other_channel_has_work_now_and_then_none_is_tried() {
        let mut spread = Spread::new();
        for round in 0..10_000 {
            spread.lap(Lap { idle: if round % 2 == 0 { 2 } else { 4 }, ..lap(10, 9, 0) });
            assert!(!spread.is_spread());
        }
    }

    #[test]
    fn a_try_that_does_not_help_is_rare() {
        let mut spread = Spread::new();
        let mut spread_chunks = 0;
        for _ in 0..10_000 {
            spread_chunks += u32::from(spread.is_spread());
            spread.lap(lap(10, 9, 0));
        }
        assert!((24..=24 * 6).contains(&spread_chunks), "{spread_chunks} of 10000 chunks");
    }
}
