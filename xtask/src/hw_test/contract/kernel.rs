// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Which kernel is running, as far as the contract depends on it.

use core::fmt;

/// Major, minor and patch level of `uname -r`; whatever follows is ignored.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct KernelVersion {
    major: u32,
    minor: u32,
    patch: u32,
}

impl KernelVersion {
    /// From a release string; what cannot be read counts as 0, the version nothing is known about.
    pub(crate) fn parse(release: &str) -> Self {
        let mut numbers = release.splitn(3, '.').map(leading_number);
        let mut next = || numbers.next().unwrap_or(0);
        Self { major: next(), minor: next(), patch: next() }
    }

    const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }

    fn is_patched(self, series: (u32, u32), patch: u32) -> bool {
        (self.major, self.minor) == series && self.patch >= patch
    }

    /// STOP_COPY→PRE_COPY(_P2P) returns EINVAL. Older kernels spin for ever with the device's lock held: fixed by a
    /// commit of June 2026, in 7.2 and in stable 6.12.96. Of other stable trees nothing is known.
    pub(crate) fn survives_blocked_arcs(self) -> bool {
        self >= Self::new(7, 2, 0) || self.is_patched((6, 12), 96)
    }

    /// An unknown feature is ENOTTY also from drivers without a feature callback: since 6.12.58 and the corresponding
    /// mainline change of late 2025. Before, those drivers said EINVAL.
    pub(crate) fn knows_unknown_features(self) -> bool {
        self >= Self::new(6, 19, 0) || self.is_patched((6, 12), 58)
    }

    /// PRECOPY_INFOv2 exists (7.1).
    pub(crate) fn has_precopy_info_v2(self) -> bool {
        self >= Self::new(7, 1, 0)
    }

    /// A header that is compared until it fits is compared again after the next open of the device. Read in 7.3; up to
    /// 6.12 only a new binding of the driver does that. Of the releases between nothing is known.
    pub(crate) fn compares_after_every_open(self) -> bool {
        self >= Self::new(7, 3, 0)
    }
}

fn leading_number(text: &str) -> u32 {
    let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    text.get(..digits).and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn releases_are_read() {
        for (release, expected) in [
            ("6.12.117+deb12-amd64", "6.12.117"),
            ("6.1.0-18-amd64", "6.1.0"),
            ("7.3.4", "7.3.4"),
            ("7.2-rc1", "7.2.0"),
            ("5.10", "5.10.0"),
            ("", "0.0.0"),
            ("strange", "0.0.0"),
        ] {
            assert_eq!(KernelVersion::parse(release).to_string(), expected);
        }
    }

    #[test]
    fn only_kernels_known_to_be_fixed_are_asked() {
        let safe = |release| KernelVersion::parse(release).survives_blocked_arcs();
        assert!(safe("6.12.96-1") && safe("6.12.117+deb12-amd64") && safe("7.2.0") && safe("7.3.4") && safe("8.0"));
        for release in ["6.12.95", "6.13.99", "6.18.200", "7.0.9", "7.1.12", "6.1.300", "odd"] {
            assert!(!safe(release), "{release}");
        }
    }
}
