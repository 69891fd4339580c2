// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where the bytes that are left are going.

use super::decision::Trend;

/// Windows looked back on.
const WINDOWS: usize = 10;
const HALF: usize = WINDOWS / 2;
/// A change of this much between the older and the newer half is one.
const CHANGE_PER_MILLE: u64 = 30;

/// What was left at the end of each of the last windows.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    /// The oldest first.
    pending_bytes: [u64; WINDOWS],
    taken: usize,
}

impl History {
    pub(super) fn push(&mut self, pending_bytes: u64) {
        self.pending_bytes.rotate_left(1);
        if let Some(last) = self.pending_bytes.last_mut() {
            *last = pending_bytes;
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
        let (older, newer) = self.pending_bytes.split_at(HALF);
        let sum = |half: &[u64]| half.iter().fold(0_u64, |sum, bytes| sum.saturating_add(*bytes));
        let (older, newer) = (sum(older), sum(newer));
        let change = super::units::scale(older, CHANGE_PER_MILLE, 1000);
        if newer.saturating_add(change) < older {
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
        samples.into_iter().for_each(|bytes| history.push(bytes));
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
}
