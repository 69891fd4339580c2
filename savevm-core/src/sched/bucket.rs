// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One token bucket for everything that is read.
//!
//! Kept as the time at which the bytes granted so far are paid for. A chunk is granted when that time is no further
//! ahead than [`TOLERANCE`], so in any interval at most one chunk and the tolerance's worth exceed the rate.

use core::time::Duration;

use super::units;

/// What a late timer may catch up.
const TOLERANCE: Duration = Duration::from_millis(5);
/// A chunk is at most this long at the capped rate: a section's turn must not take seconds because the cap is low.
const CHUNK_TIME: Duration = Duration::from_millis(50);
/// Below this, calls cost more than fairness gains.
const CHUNK_BYTES_MIN: u64 = 4096;

/// The bucket.
#[derive(Clone, Debug, Default)]
pub(super) struct Bucket {
    rate_bytes_per_s: Option<u64>,
    paid_at: Duration,
}

impl Bucket {
    pub(super) const fn new(rate_bytes_per_s: Option<u64>) -> Self {
        Self { rate_bytes_per_s, paid_at: Duration::ZERO }
    }

    /// Another cap from now on. What was granted stays owed.
    pub(super) fn set_rate(&mut self, now: Duration, rate_bytes_per_s: Option<u64>) {
        if rate_bytes_per_s != self.rate_bytes_per_s {
            self.rate_bytes_per_s = rate_bytes_per_s;
            self.paid_at = now;
        }
    }

    /// The longest chunk to grant.
    pub(super) fn chunk_bytes(&self, chunk_bytes_max: u64) -> u64 {
        match self.rate_bytes_per_s {
            None => chunk_bytes_max,
            Some(rate) => chunk_bytes_max.min(units::bytes_in(CHUNK_TIME, rate).max(CHUNK_BYTES_MIN)),
        }
    }

    /// When the next chunk may be granted, if not now.
    pub(super) fn closed_until(&self, now: Duration) -> Option<Duration> {
        let opens_at = self.paid_at.saturating_sub(TOLERANCE);
        (self.rate_bytes_per_s.is_some() && opens_at > now).then_some(opens_at)
    }

    pub(super) fn take(&mut self, now: Duration, bytes: u64) {
        if let Some(rate) = self.rate_bytes_per_s {
            self.paid_at = self.paid_at.max(now).saturating_add(units::time_for(bytes, rate));
        }
    }

    /// Bytes that were granted and not read.
    pub(super) fn refund(&mut self, bytes: u64) {
        if let Some(rate) = self.rate_bytes_per_s {
            self.paid_at = self.paid_at.saturating_sub(units::time_for(bytes, rate));
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn token_bucket_holds_the_rate_over_a_second_and_any_burst() {
        for rate in [10_000_u64, 1_000_000, 1_000_000_000] {
            let mut bucket = Bucket::new(Some(rate));
            let chunk = bucket.chunk_bytes(1 << 20);
            let mut sent = Vec::new();
            let mut now = Duration::from_secs(7);
            let end = now + Duration::from_secs(10);
            while now < end {
                match bucket.closed_until(now) {
                    Some(until) => now = until,
                    None => {
                        bucket.take(now, chunk);
                        sent.push((now, chunk));
                        assert!(sent.len() < 100_000, "{rate}: there is no end of chunks");
                    }
                }
            }
            let total: u64 = sent.iter().map(|(_, bytes)| bytes).sum();
            let allowed = rate * 10;
            assert!(total.abs_diff(allowed) <= allowed / 100 + chunk, "{rate}: {total} of {allowed}");
            for (start, _) in &sent {
                let window = *start..*start + Duration::from_millis(20);
                let burst: u64 = sent.iter().filter(|(at, _)| window.contains(at)).map(|(_, bytes)| bytes).sum();
                let allowed = rate / 50 + rate / 200 + chunk;
                assert!(burst <= allowed + 1, "{rate}: {burst} in 20 ms, {allowed} allowed");
            }
        }
    }

    #[test]
    fn a_refund_gives_the_time_back() {
        let mut bucket = Bucket::new(Some(1000));
        bucket.take(Duration::ZERO, 1000);
        assert_eq!(bucket.closed_until(Duration::ZERO), Some(Duration::from_millis(995)));
        bucket.refund(1000);
        assert_eq!(bucket.closed_until(Duration::ZERO), None);
    }

    extern crate std;
    use std::vec::Vec;
}
