// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Debian version numbers: their order (Debian policy, section 5.6.12) and their leading digits.

use core::cmp::Ordering;

/// Compares two package versions `[epoch:]upstream[-revision]`.
pub(crate) fn compare(left: &str, right: &str) -> Ordering {
    let (left_epoch, left_upstream, left_revision) = split(left);
    let (right_epoch, right_upstream, right_revision) = split(right);
    left_epoch
        .cmp(&right_epoch)
        .then_with(|| compare_part(left_upstream, right_upstream))
        .then_with(|| compare_part(left_revision, right_revision))
}

/// The first two numbers of a package's upstream version: `1:10.0.2+ds-2` is `(10, 0)`.
pub(crate) fn major_minor(version: &str) -> Option<(u32, u32)> {
    let (_, upstream, _) = split(version);
    let mut numbers = upstream.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    let major = numbers.next()?.ok()?;
    let minor = numbers.next().and_then(Result::ok).unwrap_or(0);
    Some((major, minor))
}

/// True for packages rebuilt for an older release, which both distributions mark in the version.
pub(crate) fn is_backport(version: &str) -> bool {
    version.contains("~bpo")
}

fn split(version: &str) -> (u64, &str, &str) {
    let (epoch, rest) = match version.split_once(':') {
        Some((epoch, rest)) => (epoch.parse().unwrap_or(0), rest),
        None => (0, version),
    };
    let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
    (epoch, upstream, revision)
}

/// Compares alternately the longest prefix without digits and the longest number.
fn compare_part(mut left: &str, mut right: &str) -> Ordering {
    loop {
        let (left_text, left_rest) = take(left, |c| !c.is_ascii_digit());
        let (right_text, right_rest) = take(right, |c| !c.is_ascii_digit());
        let (left_number, left_rest) = take(left_rest, |c| c.is_ascii_digit());
        let (right_number, right_rest) = take(right_rest, |c| c.is_ascii_digit());
        let order = compare_text(left_text, right_text).then_with(|| compare_number(left_number, right_number));
        if order != Ordering::Equal || (left_rest.is_empty() && right_rest.is_empty()) {
            return order;
        }
        (left, right) = (left_rest, right_rest);
    }
}

fn take(text: &str, accept: impl Fn(char) -> bool) -> (&str, &str) {
    let end = text.find(|c| !accept(c)).unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, ""))
}

/// Numbers of any length: without leading zeros the longer is the larger.
fn compare_number(left: &str, right: &str) -> Ordering {
    let (left, right) = (left.trim_start_matches('0'), right.trim_start_matches('0'));
    left.len().cmp(&right.len()).then_with(|| left.cmp(right))
}

/// `~` sorts before the end, the end before letters, letters before everything else.
fn compare_text(left: &str, right: &str) -> Ordering {
    let rank = |c: Option<char>| match c {
        Some('~') => (0, '~'),
        None => (1, '\0'),
        Some(c) if c.is_ascii_alphabetic() => (2, c),
        Some(c) => (3, c),
    };
    let (mut left, mut right) = (left.chars(), right.chars());
    loop {
        let (a, b) = (left.next(), right.next());
        let order = rank(a).cmp(&rank(b));
        if order != Ordering::Equal || a.is_none() {
            return order;
        }
    }
}

#[cfg(test)]
mod test {
    use std::process::Command;

    use super::*;

    /// Ascending, neighbours differ.
    const ASCENDING: &[&[&str]] = &[
        &["~~", "~~a", "~", "", "a"],
        &["6.12.95-1~bpo12+1", "6.12.95-1", "6.12.107-1~deb12u1", "6.12.117-1~deb12u1", "6.12.117-1"],
        &["7.2+dfsg-7+deb12u15", "1:7.2+dfsg-7+deb12u18", "1:7.2+dfsg-7+deb12u18+b3", "1:10.0.2+ds-2~bpo12+1", "2:1"],
        &["1.0", "1.0a", "1.0+b", "1.00.1", "1.0.10", "1.1"],
        &["6.8.0-9.9", "6.8.0-31.31", "6.8.0-101.101"],
        &["99999999999999999999", "100000000000000000000"],
    ];

    #[test]
    fn versions_are_ordered_as_policy_says() {
        for chain in ASCENDING {
            for (i, left) in chain.iter().enumerate() {
                for (j, right) in chain.iter().enumerate() {
                    assert_eq!(compare(left, right), i.cmp(&j), "{left} against {right}");
                }
            }
        }
        assert_eq!(compare("1.0-0", "1.0"), Ordering::Equal);
        assert_eq!(compare("0:1.01-1", "1.1-1"), Ordering::Equal);
    }

    #[test]
    fn dpkg_agrees() {
        if Command::new("dpkg").arg("--version").output().is_err() {
            println!("skipped: dpkg is not installed");
            return;
        }
        for pair in ASCENDING.iter().flat_map(|chain| chain.windows(2)) {
            // To dpkg an empty version is no version, which has rules of its own.
            if pair.contains(&"") {
                continue;
            }
            let output = Command::new("dpkg").args(["--compare-versions", pair[0], "lt", pair[1]]).output().unwrap();
            assert!(output.status.success(), "dpkg does not put {} before {}", pair[0], pair[1]);
        }
    }

    #[test]
    fn leading_numbers_skip_the_epoch() {
        assert_eq!(major_minor("1:10.0.2+ds-2+deb13u1~bpo12+1"), Some((10, 0)));
        assert_eq!(major_minor("6.12.117-1~deb12u1"), Some((6, 12)));
        assert_eq!(major_minor("11~rc1"), Some((11, 0)));
        assert_eq!(major_minor("unknown"), None);
    }
}
