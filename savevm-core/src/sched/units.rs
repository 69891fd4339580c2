// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Bytes, times and rates, in whole numbers: the same on every machine, so that a log replays anywhere.

use core::time::Duration;

/// Nanoseconds; 584 years at most.
pub(super) fn nanos(time: Duration) -> u64 {
    time.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(time.subsec_nanos()))
}

/// Bytes per second, if any time passed.
pub(super) fn rate(bytes: u64, time: Duration) -> Option<u64> {
    let per_second = u128::from(bytes).saturating_mul(1_000_000_000);
    let rate = per_second.checked_div(u128::from(nanos(time)))?;
    Some(u64::try_from(rate).unwrap_or(u64::MAX))
}

/// How long `bytes` take at `bytes_per_s`; for ever at 0.
pub(super) fn time_for(bytes: u64, bytes_per_s: u64) -> Duration {
    if bytes == 0 {
        return Duration::ZERO;
    }
    let nanos = u128::from(bytes).saturating_mul(1_000_000_000).checked_div(u128::from(bytes_per_s));
    // An hour is longer than any limit; a larger value would only overflow elsewhere.
    const LONGEST: Duration = Duration::from_secs(3600);
    nanos.and_then(|nanos| u64::try_from(nanos).ok()).map_or(LONGEST, Duration::from_nanos).min(LONGEST)
}

/// What flows at `bytes_per_s` in `time`.
pub(super) fn bytes_in(time: Duration, bytes_per_s: u64) -> u64 {
    let bytes = u128::from(nanos(time)).saturating_mul(u128::from(bytes_per_s)).checked_div(1_000_000_000);
    bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(u64::MAX)
}

/// `value` × `numerator` ÷ `denominator`; 0 if there is nothing to divide by.
pub(super) fn scale(value: u64, numerator: u64, denominator: u64) -> u64 {
    let scaled = u128::from(value).saturating_mul(u128::from(numerator)).checked_div(u128::from(denominator));
    scaled.map_or(0, |scaled| u64::try_from(scaled).unwrap_or(u64::MAX))
}

/// So many thousandths of `value`.
pub(super) fn per_mille(value: u64, thousandths: u32) -> u64 {
    scale(value, u64::from(thousandths), 1000)
}

/// √(a² + b²): how independent deviations add.
pub(super) fn hypotenuse(a: u64, b: u64) -> u64 {
    a.saturating_mul(a).saturating_add(b.saturating_mul(b)).isqrt()
}
