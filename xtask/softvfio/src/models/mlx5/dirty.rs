// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How much of the device has changed since the last image.

use core::time::Duration;

use super::config::Config;

const NANOS_PER_S: u128 = 1_000_000_000;

/// The firmware's tracking.
#[derive(Debug)]
pub(super) struct Dirty {
    most_bytes: u64,
    rate: Option<u64>,
    left_bytes: u64,
    bytes: u64,
    /// The moment up to which was counted; `None` while the device does nothing.
    counted: Option<Duration>,
    /// What of a byte is still missing, in byte-nanoseconds per second.
    remainder: u128,
}

impl Dirty {
    pub(super) fn new(config: &Config) -> Self {
        let total = config.dirty_total_bytes;
        let left_bytes = if config.dirty_rate.is_some() { total } else { total.min(config.dirty_bytes) };
        let (most_bytes, rate) = (config.dirty_bytes, config.dirty_rate);
        Self { most_bytes, rate, left_bytes, bytes: 0, counted: None, remainder: 0 }
    }

    /// The device runs from now on, or no more. In the P2P states it starts nothing new.
    pub(super) fn run(&mut self, runs: bool, now: Duration) {
        if self.rate.is_some() {
            self.count(now, true);
        }
        self.counted = runs.then_some(now);
    }

    /// Dirty bytes by now.
    pub(super) fn count(&mut self, now: Duration, is_initial_read: bool) -> u64 {
        let Some(counted) = self.counted else { return self.bytes };
        let room = self.most_bytes.saturating_sub(self.bytes).min(self.left_bytes);
        let grown = match self.rate {
            None if !is_initial_read => 0,
            None => room,
            Some(rate) => {
                let elapsed = now.saturating_sub(counted).as_nanos();
                let grown = elapsed.saturating_mul(u128::from(rate)).saturating_add(self.remainder);
                self.remainder = grown % NANOS_PER_S;
                u64::try_from(grown / NANOS_PER_S).unwrap_or(u64::MAX).min(room)
            }
        };
        self.counted = Some(now);
        self.bytes = self.bytes.saturating_add(grown);
        self.left_bytes = self.left_bytes.saturating_sub(grown);
        self.bytes
    }

    /// An image has taken everything up.
    pub(super) fn clear(&mut self) {
        self.bytes = 0;
    }
}
