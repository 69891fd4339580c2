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

use super::trials::Trials;

/// Chunks over which a rate is measured.
pub(super) const SAMPLE_CHUNKS: u32 = 16;
/// Chunks in a row that leave no doubt.
pub(super) const CLEAR_CHUNKS: u32 = 4;
/// What each of them takes at least.
const CLEAR_TIME: Duration = Duration::from_millis(4);
/// Chunks after a change that do not count: what is in flight belongs to the time before.
pub(super) const SETTLE_CHUNKS: u32 = 8;
/// Chunks from a failed try to the next, doubled each time; and from another device's to a try of one's own.
pub(super) const PAUSE_CHUNKS: u32 = 512;
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
    /// Of the trials that have failed, how many this device has drawn its conclusion from.
    known: u32,
    /// A trial of this device keeps others from one.
    holds: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    /// On its own channel, watching.
    Keeping,
    /// On its own channel for so many more chunks, whatever happens.
    Resting(u32),
    /// The same, because another device has tried; but for chunks that leave no doubt.
    Heeding(u32),
    /// On all, to see whether it is faster than this many bytes per second.
    Trying(f64),
    /// On all, as long as it stays faster.
    Spread(f64),
}

impl Spread {
    pub(crate) const fn new() -> Self {
        let (mode, pause_chunks) = (Mode::Keeping, PAUSE_CHUNKS);
        Self { mode, chunks: 0, sum: NO_LAPS, clear: NOT_CLEAR, pause_chunks, known: 0, holds: false }
    }

    /// Whether the next chunk may go on any channel.
    pub(crate) const fn is_spread(&self) -> bool {
        matches!(self.mode, Mode::Trying(_) | Mode::Spread(_))
    }

    /// A chunk has gone.
    pub(crate) fn lap(&mut self, lap: Lap, trials: &Trials) {
        self.chunks = self.chunks.saturating_add(1);
        match self.mode {
            Mode::Resting(0) | Mode::Heeding(0) => return self.keep(trials),
            Mode::Resting(left) => return self.enter(Mode::Resting(left.saturating_sub(1))),
            Mode::Heeding(left) => self.mode = Mode::Heeding(left.saturating_sub(1)),
            Mode::Keeping | Mode::Trying(_) | Mode::Spread(_) => {}
        }
        if self.is_spread() && self.chunks <= SETTLE_CHUNKS {
            return;
        }
        self.sum.add(lap);
        if !self.is_spread() {
            self.clear.lap(lap);
            if self.clear.chunks >= CLEAR_CHUNKS && self.clear.sum.idle != 0 {
                trials.begin_beside();
                self.holds = true;
                return self.enter(Mode::Trying(rate(self.clear.sum.bytes, self.clear.sum.whole)));
            }
        }
        let settle = if self.is_spread() { SETTLE_CHUNKS } else { 0 };
        if self.chunks >= SAMPLE_CHUNKS.saturating_add(settle) {
            self.judge(trials);
        }
    }

    /// No other chunk goes for now: nobody waits for what comes of a trial.
    pub(crate) fn pause(&mut self, trials: &Trials) {
        if core::mem::take(&mut self.holds) {
            trials.end();
        }
    }

    /// From now on nothing else matters as much: what others have found out before does not count.
    pub(crate) fn begin_anew(&mut self, trials: &Trials) {
        if matches!(self.mode, Mode::Keeping | Mode::Heeding(_)) {
            self.keep(trials);
        }
    }

    /// Watches, with a mind of its own.
    fn keep(&mut self, trials: &Trials) {
        self.known = trials.failed();
        self.enter(Mode::Keeping);
    }

    fn judge(&mut self, trials: &Trials) {
        let rate = rate(self.sum.bytes, self.sum.whole);
        match self.mode {
            Mode::Keeping => {
                let sends_most = self.sum.sending.saturating_mul(3) >= self.sum.whole.saturating_mul(2);
                let hardly_waits = self.sum.waiting.saturating_mul(10) <= self.sum.whole;
                let would_try = sends_most && hardly_waits && self.sum.idle != 0;
                self.holds = would_try && trials.begin(self.known);
                self.enter(if self.holds {
                    Mode::Trying(rate)
                } else if would_try && self.known != trials.failed() {
                    Mode::Heeding(PAUSE_CHUNKS)
                } else {
                    Mode::Keeping
                });
            }
            Mode::Trying(before) if rate < before * 1.2 => {
                trials.fail();
                self.pause(trials);
                self.enter(Mode::Resting(self.pause_chunks));
                self.pause_chunks = self.pause_chunks.saturating_mul(2).min(PAUSE_CHUNKS_MAX);
            }
            Mode::Trying(before) => {
                self.pause(trials);
                self.enter(Mode::Spread(before));
            }
            // It did help. Perhaps it still does, and the machine had something else to do for a moment: no reason for a rest.
            Mode::Spread(before) if rate < before * 1.2 => self.keep(trials),
            Mode::Spread(before) => self.enter(Mode::Spread(before)),
            Mode::Resting(_) | Mode::Heeding(_) => {}
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
pub(super) mod test {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    pub(in super::super) fn lap(whole: u32, sending: u32, waiting: u32) -> Lap {
        Lap { bytes: 1 << 20, whole: MS * whole, sending: MS * sending, waiting: MS * waiting, idle: 2 }
    }

    /// A device that has all to itself, or shares what it learns.
    pub(in super::super) struct Rig<'t>(pub(in super::super) Spread, pub(in super::super) &'t Trials);

    impl Rig<'_> {
        pub(in super::super) fn lap(&mut self, lap: Lap) {
            self.0.lap(lap, self.1);
        }

        pub(in super::super) fn is_spread(&self) -> bool {
            self.0.is_spread()
        }
    }

    pub(in super::super) fn laps(rig: &mut Rig<'_>, count: u32, lap: Lap) {
        (0..count).for_each(|_| rig.lap(lap));
    }

    #[test]
    fn a_device_that_is_not_held_up_keeps_its_channel() {
        for steady in [lap(10, 5, 0), lap(10, 8, 2), lap(10, 0, 9)] {
            let trials = Trials::default();
            let mut spread = Rig(Spread::new(), &trials);
            laps(&mut spread, 200, steady);
            assert!(!spread.is_spread(), "{steady:?}");
        }
    }

    #[test]
    fn a_slow_channel_is_tried_beside_others_and_left_if_that_helps() {
        let trials = Trials::default();
        let mut spread = Rig(Spread::new(), &trials);
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
        let trials = Trials::default();
        let mut spread = Rig(Spread::new(), &trials);
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
            let trials = Trials::default();
            let mut spread = Rig(Spread::new(), &trials);
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
        let trials = Trials::default();
        let mut spread = Rig(Spread::new(), &trials);
        for round in 0..10_000 {
            spread.lap(Lap { idle: if round % 2 == 0 { 2 } else { 4 }, ..lap(10, 9, 0) });
            assert!(!spread.is_spread());
        }
    }

    #[test]
    fn a_try_that_does_not_help_is_rare() {
        let trials = Trials::default();
        let mut spread = Rig(Spread::new(), &trials);
        let mut spread_chunks = 0;
        for _ in 0..10_000 {
            spread_chunks += u32::from(spread.is_spread());
            spread.lap(lap(10, 9, 0));
        }
        assert!((24..=24 * 6).contains(&spread_chunks), "{spread_chunks} of 10000 chunks");
    }
}
