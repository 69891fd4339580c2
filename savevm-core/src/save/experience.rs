// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What migrations teach of devices and of their link, for the forecast of the next one.

use core::time::Duration;
use std::collections::BTreeMap;
use std::string::{String, ToString};

use crate::sched::{Profile, Timing};

/// How long devices of each identity took to stop, to load and to run, how fast they are read and written, what the connection
/// carried, and how long the VMM took to pause its vCPUs.
///
/// The first migration of a device guesses at these: tens of milliseconds, which is a large part of most limits. A VMM that hands what
/// came of one migration ([`Committed::experience`](super::Committed::experience)) to the next
/// ([`SaveOptions::experience`](super::SaveOptions::experience)) gets a forecast made of measurements.
///
/// It grows by one entry for each identity ([`Device::identity`](crate::Device::identity)) and holds no more than the caller lets pass
/// through it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
pub struct Experience {
    profiles: BTreeMap<String, Profile>,
    bandwidth_bytes_per_s: Option<u64>,
    pause: Option<Timing>,
}

impl Experience {
    /// None.
    #[must_use]
    pub const fn new() -> Self {
        Self { profiles: BTreeMap::new(), bandwidth_bytes_per_s: None, pause: None }
    }

    /// What is known of devices of this identity.
    #[must_use]
    pub fn get(&self, identity: &str) -> Option<&Profile> {
        self.profiles.get(identity)
    }

    /// Takes what is known from elsewhere, in place of what was known.
    pub fn insert(&mut self, identity: impl Into<String>, profile: Profile) {
        self.profiles.insert(identity.into(), profile);
    }

    /// What the last connection carried while it had enough to carry, in bytes per second. The next migration takes it for a guess, until
    /// it has measured its own; a bandwidth that is given ([`Precopy::bandwidth_bytes_per_s`](super::Precopy::bandwidth_bytes_per_s))
    /// counts before both.
    #[must_use]
    pub const fn bandwidth_bytes_per_s(&self) -> Option<u64> {
        self.bandwidth_bytes_per_s
    }

    /// Takes another guess of what the connection carries, or none: where the next target is not like the last one.
    pub const fn set_bandwidth(&mut self, bytes_per_s: Option<u64>) {
        self.bandwidth_bytes_per_s = bytes_per_s;
    }

    /// How long the VMM takes from being asked to pause its vCPUs until they stand: half of it what the last migration saw. The forecast
    /// assumes 2 ms as long as nobody knows.
    #[must_use]
    pub const fn pause(&self) -> Option<Timing> {
        self.pause
    }

    /// Takes another time for pausing the vCPUs, or none: where the next guest is not like the last one.
    pub const fn set_pause(&mut self, pause: Option<Timing>) {
        self.pause = pause;
    }

    /// Every identity and what is known of it, in the order of the identities.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Profile)> {
        self.profiles.iter().map(|(identity, profile)| (identity.as_str(), profile))
    }

    /// Takes in what a migration taught of its devices, and of its link if it did. Of several of one identity the slowest counts.
    pub(super) fn learn<'d>(&mut self, learned: impl Iterator<Item = (&'d str, Profile)>, bandwidth: Option<u64>) {
        self.bandwidth_bytes_per_s = bandwidth.or(self.bandwidth_bytes_per_s);
        let mut fresh: BTreeMap<&str, Profile> = BTreeMap::new();
        for (identity, profile) in learned {
            fresh.entry(identity).and_modify(|known| *known = slower(*known, profile)).or_insert(profile);
        }
        for (identity, profile) in fresh {
            self.insert(identity.to_string(), profile);
        }
    }

    /// The vCPUs took so long to stand.
    pub(super) fn learn_pause(&mut self, took: Duration) {
        self.pause.get_or_insert_default().learn(took);
    }

    /// From the word that the target may run to its answer.
    pub(super) fn learn_run<'d>(&mut self, identities: impl Iterator<Item = &'d str>, took: Duration) {
        for identity in identities {
            if let Some(profile) = self.profiles.get_mut(identity) {
                profile.run.learn(took);
            }
        }
    }
}

fn slower(one: Profile, other: Profile) -> Profile {
    let longer = |one: Timing, other: Timing| if other.expected > one.expected { other } else { one };
    let lower = |one: Option<u64>, other: Option<u64>| one.into_iter().chain(other).min();
    Profile {
        quiesce: longer(one.quiesce, other.quiesce),
        stop: longer(one.stop, other.stop),
        load: longer(one.load, other.load),
        run: longer(one.run, other.run),
        read_bytes_per_s: lower(one.read_bytes_per_s, other.read_bytes_per_s),
        write_bytes_per_s: lower(one.write_bytes_per_s, other.write_bytes_per_s),
        ..one
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn profile(stop_ms: u64, read: Option<u64>) -> Profile {
        Profile { stop: Timing::new(Duration::from_millis(stop_ms), 100), read_bytes_per_s: read, ..Profile::default() }
    }

    #[test]
    fn of_several_like_devices_the_slowest_counts() {
        let mut experience = Experience::new();
        experience.insert("nic", profile(500, None));
        let learned = [("nic", profile(5, Some(100))), ("gpu", profile(1, None)), ("nic", profile(9, Some(200)))];
        experience.learn(learned.into_iter(), None);
        let nic = experience.get("nic").unwrap();
        assert_eq!((nic.stop.expected, nic.read_bytes_per_s), (Duration::from_millis(9), Some(100)));
        assert_eq!(experience.bandwidth_bytes_per_s(), None);
        for (measured, known) in [(Some(7), 7), (None, 7), (Some(9), 9)] {
            experience.learn(core::iter::empty(), measured);
            assert_eq!(experience.bandwidth_bytes_per_s(), Some(known), "after {measured:?}");
        }
        assert_eq!(experience.pause(), None);
        experience.learn_pause(Duration::from_millis(8));
        assert_eq!(experience.pause(), Some(Timing::new(Duration::from_millis(8), 250)));
        experience.learn_pause(Duration::from_millis(4));
        assert_eq!(experience.pause().unwrap().expected, Duration::from_millis(6));
        assert_eq!(experience.iter().map(|(identity, _)| identity).collect::<std::vec::Vec<_>>(), ["gpu", "nic"]);
    }
}
