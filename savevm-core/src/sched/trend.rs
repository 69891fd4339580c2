// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where the bytes that are left are going.

use super::decision::Trend;

/// Windows looked back on.
const WINDOWS: usize = 10;
const HALF: usize = WINDOWS / 2;
/// A change of this much between the older and the newer half is one.
const CHANGE_PER_MILLE: u64 = 30;
/// So is a fall by this much of what was read meanwhile: of a large memory that takes minutes no single second moves a thirtieth.
const GAIN_PER_MILLE: u64 = 300;

/// What was left at the end of each of the last windows, and what had been read by then.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    /// The oldest first.
    pending_bytes: [u64; WINDOWS],
    read_bytes: [u64; WINDOWS],
    taken: usize,
}

impl History {
    pub(super) fn push(&mut self, pending_bytes: u64, read_bytes: u64) {
        for (values, value) in [(&mut self.pending_bytes, pending_bytes), (&mut self.read_bytes, read_bytes)] {
            values.rotate_left(1);
            if let Some(last) = values.last_mut() {
                *last = value;
            }
        }
        self.taken = self.taken.saturating_add(1);
    }

    /// Forgets what was, after something that makes it incomparable.
    pub(super) fn clear(&mut self) {
        self.taken = 0;
    }

    pub(super) fn trend(&self) -> Trend {
        if self.taken < WINDOWS {
            return Trend::Unknown;
        }
        let halves = |values: &[u64; WINDOWS]| {
            let sum = |half: &[u64]| half.iter().fold(0_u64, |sum, bytes| sum.saturating_add(*bytes));
            let (older, newer) = values.split_at(HALF);
            (sum(older), sum(newer))
        };
        let ((older, newer), (read_before, read)) = (halves(&self.pending_bytes), halves(&self.read_bytes));
        let change = super::units::scale(older, CHANGE_PER_MILLE, 1000);
        let gain = super::units::scale(read.saturating_sub(read_before), GAIN_PER_MILLE, 1000);
        let fall = if gain == 0 { change } else { change.min(gain) };
        if newer.saturating_add(fall) < older {
            Trend::Falling
        } else if newer > older.saturating_add(change) {
            Trend::Rising
        } else {
            Trend::Level
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn trend_of(samples: impl IntoIterator<Item = u64>) -> Trend {
        let mut history = History::default();
        samples.into_iter().for_each(|bytes| history.push(bytes, u64::MAX));
        history.trend()
    }

    #[test]
    fn trend_tells_falling_level_and_rising() {
        assert_eq!(trend_of((0..9).map(|n| 1000 - n)), Trend::Unknown);
        assert_eq!(trend_of((0..10).map(|n| 1000 - 50 * n)), Trend::Falling);
        assert_eq!(trend_of((0..10).map(|n| 1000 + n % 3)), Trend::Level);
        assert_eq!(trend_of((0..10).map(|n| 1000 + 50 * n)), Trend::Rising);
        assert_eq!(trend_of((0..30).map(|n| if n < 20 { n * 100 } else { 2000 })), Trend::Level, "only the last count");
        assert_eq!(trend_of([0; 12]), Trend::Level);
    }

    #[test]
    fn a_large_memory_falls_although_it_is_large() {
        const GIB: u64 = 1 << 30;
        let trend = |made_of_read: u64| {
            let mut history = History::default();
            // 64 GiB at 1 GiB/s.
            for window in 0..10 {
                let read = window * GIB / 10;
                history.push(64 * GIB - read + read * made_of_read / 100, read);
            }
            history.trend()
        };
        assert_eq!(trend(0), Trend::Falling);
        assert_eq!(trend(60), Trend::Falling);
        assert_eq!(trend(80), Trend::Level, "the guest makes nearly as much as is read");
        assert_eq!(trend(100), Trend::Level);
    }
}
