// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Sizes, rates and times as a person writes them.

use core::time::Duration;

/// Bytes: a whole number with an optional unit `B`, `KiB`, `MiB`, `GiB` or `TiB`.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let scale: u64 = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(scale)
}

/// Bytes per second: [`bytes`] with an optional `/s`.
pub(super) fn bytes_per_s(text: &str) -> Option<u64> {
    bytes(text.strip_suffix("/s").unwrap_or(text))
}

/// Time: a whole number with the unit `us`, `ms` or `s`; without a unit, milliseconds.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    match unit {
        "us" => Some(Duration::from_micros(number)),
        "" | "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        _ => None,
    }
}

/// A whole number, decimal or with the prefix `0x`.
pub(super) fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) if !digits.starts_with('+') => u64::from_str_radix(digits, 16).ok(),
        Some(_) => None,
        None if text.starts_with('+') => None,
        None => text.parse().ok(),
    }
}

fn split(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at_checked(end)?;
    Some((digits.parse().ok()?, unit))
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn units_scale_and_refuse() {
        assert_eq!(bytes("3MiB"), Some(3_145_728));
        assert_eq!(bytes("17"), Some(17));
        assert_eq!(bytes("16777216TiB"), None, "overflows 64 bits");
        assert_eq!(bytes("3MB"), None);
        assert_eq!(bytes("MiB"), None);
        assert_eq!(bytes_per_s("100KiB/s"), Some(102_400));
        assert_eq!(duration("5"), Some(Duration::from_millis(5)));
        assert_eq!(duration("250us"), Some(Duration::from_micros(250)));
        assert_eq!(duration("2min"), None);
        assert_eq!(number("0x20"), Some(32));
        assert_eq!(number("+3"), None);
        assert_eq!(number("0x+3"), None);
    }
}
