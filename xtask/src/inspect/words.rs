// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Putting things into words that are safe on a terminal.

/// A text from a stream as it may be shown: whatever could move a cursor, or make text read differently than it is
/// stored, is escaped.
pub(super) fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\\' => shown.push_str("\\\\"),
            _ if is_tricky(character) => shown.extend(character.escape_unicode()),
            _ => shown.push(character),
        }
    }
    shown
}

/// Control characters, and those that are invisible or change the direction of text.
pub(super) fn is_tricky(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Bytes in hexadecimal, at most `max` of them.
pub(super) fn hex(bytes: &[u8], max: usize) -> String {
    let shown = bytes.iter().take(max).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
    if bytes.len() > max { format!("{shown} …") } else { shown }
}

/// A number of bytes: exact, and rounded where that is easier to grasp.
pub(super) fn size(bytes: u64) -> String {
    match rounded(bytes) {
        Some(rounded) => format!("{bytes} bytes ({rounded})"),
        None if bytes == 1 => "1 byte".to_owned(),
        None => format!("{bytes} bytes"),
    }
}

fn rounded(bytes: u64) -> Option<String> {
    let (shift, unit) = match bytes {
        0..0x10_0000 => return None,
        0x10_0000..0x4000_0000 => (20, "MiB"),
        0x4000_0000..0x100_0000_0000 => (30, "GiB"),
        _ => (40, "TiB"),
    };
    let tenths = u128::from(bytes).saturating_mul(10).checked_shr(shift)?;
    let (whole, tenth) = (tenths.checked_div(10)?, tenths.checked_rem(10)?);
    Some(if tenth == 0 { format!("{whole} {unit}") } else { format!("{whole}.{tenth} {unit}") })
}

/// `1 page`, `2 pages`.
pub(super) fn count(number: u64, one: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {one}s") }
}

/// A UUID as it is written elsewhere.
pub(super) fn uuid(bytes: &[u8; 16]) -> String {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let part = |range: core::ops::Range<usize>| digits.get(range).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", part(0..8), part(8..12), part(12..16), part(16..20), part(20..32))
}

/// The length of something in memory, as offsets are counted.
pub(super) fn wide(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_that_could_command_it() {
        assert_eq!(shown("0000:00:01.0/vfio"), "0000:00:01.0/vfio");
        assert_eq!(shown("a\x1b[2Jb\u{9b}c\u{7f}"), "a\\u{1b}[2Jb\\u{9b}c\\u{7f}");
        assert_eq!(shown("gpj\u{202e}.exe"), "gpj\\u{202e}.exe");
        // What is escaped cannot be confused with what looks like an escape.
        assert_eq!(shown("\\u{1b}"), "\\\\u{1b}");
        assert_eq!(shown("größe"), "größe");
    }

    #[test]
    fn sizes_are_exact_and_rounded_down() {
        assert_eq!(size(1), "1 byte");
        assert_eq!(size(0xf_ffff), "1048575 bytes");
        assert_eq!(size(0x10_0000), "1048576 bytes (1 MiB)");
        assert_eq!(size(0x4000_0000 - 1), "1073741823 bytes (1023.9 MiB)");
        assert_eq!(size(u64::MAX), "18446744073709551615 bytes (16777215.9 TiB)");
    }
}
