// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a session remembers of each device.

use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use super::super::digest::Digest;
use super::super::kind::Kind;
use super::super::message::{DeviceEnd, DeviceOpen, Loaded};
use super::violation::Violation;

/// How far a device has come. In a file the answers that nobody gives count as given.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum DevicePhase {
    /// Announced by the device count only.
    Unopened,
    /// Named by the source.
    Opened,
    /// Accepted by the target; data may come.
    Accepted,
    /// All its data have come.
    Ended,
    /// The target's device has taken them.
    Loaded,
}

impl fmt::Display for DevicePhase {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Unopened => "not opened",
            Self::Opened => "opened",
            Self::Accepted => "accepted",
            Self::Ended => "ended",
            Self::Loaded => "loaded",
        })
    }
}

#[derive(Clone, Debug)]
struct Track {
    phase: DevicePhase,
    frames: u64,
    bytes: u64,
    digest: Digest,
}

impl Track {
    const NEW: Self = Self { phase: DevicePhase::Unopened, frames: 0, bytes: 0, digest: Digest::NONE };
}

#[derive(Clone, Debug)]
pub(super) struct Devices {
    tracks: Vec<Track>,
    names: BTreeSet<String>,
    /// How many devices are at least accepted, and loaded.
    accepted: usize,
    loaded: usize,
}

impl Devices {
    pub(super) const fn new() -> Self {
        Self { tracks: Vec::new(), names: BTreeSet::new(), accepted: 0, loaded: 0 }
    }

    /// Prepares for `count` devices, a number that was compared with the limit.
    pub(super) fn expect(&mut self, count: u32) -> Result<(), Violation> {
        let no_memory = Violation::NoMemory { count };
        let size = usize::try_from(count).map_err(|_| no_memory)?;
        self.tracks.try_reserve_exact(size).map_err(|_| no_memory)?;
        self.tracks.resize(size, Track::NEW);
        Ok(())
    }

    pub(super) fn phase(&self, device: u32) -> Option<DevicePhase> {
        self.track(device).map(|track| track.phase)
    }

    pub(super) fn bytes(&self, device: u32) -> Option<u64> {
        self.track(device).map(|track| track.bytes)
    }

    pub(super) fn next_sequence(&self, device: u32) -> Option<u64> {
        self.track(device).map(|track| track.frames)
    }

    pub(super) fn open(&mut self, open: &DeviceOpen<'_>, is_file: bool) -> Result<(), Violation> {
        let device = open.device;
        let track = find(&mut self.tracks, Kind::DeviceOpen, device, DevicePhase::Unopened)?;
        if self.names.contains(open.name) {
            return Err(Violation::DuplicateName { device });
        }
        self.names.insert(open.name.into());
        track.phase = DevicePhase::Opened;
        if is_file { self.accept(device) } else { Ok(()) }
    }

    pub(super) fn accept(&mut self, device: u32) -> Result<(), Violation> {
        let track = find(&mut self.tracks, Kind::DeviceAccept, device, DevicePhase::Opened)?;
        track.phase = DevicePhase::Accepted;
        self.accepted = self.accepted.saturating_add(1);
        Ok(())
    }

    pub(super) fn data(&mut self, device: u32, sequence: u64, length: u32) -> Result<(), Violation> {
        let track = find(&mut self.tracks, Kind::Data, device, DevicePhase::Accepted)?;
        if sequence != track.frames {
            return Err(Violation::Sequence { device, expected: track.frames, found: sequence });
        }
        let totals = track.frames.checked_add(1).zip(track.bytes.checked_add(length.into()));
        (track.frames, track.bytes) = totals.ok_or(Violation::Overflow { device })?;
        Ok(())
    }

    pub(super) fn end(&mut self, end: &DeviceEnd, is_file: bool) -> Result<(), Violation> {
        let DeviceEnd { device, frames, bytes, digest } = *end;
        let track = find(&mut self.tracks, Kind::DeviceEnd, device, DevicePhase::Accepted)?;
        if frames != track.frames {
            return Err(Violation::FrameCount { device, stated: frames, counted: track.frames });
        }
        if bytes != track.bytes {
            return Err(Violation::ByteCount { device, stated: bytes, counted: track.bytes });
        }
        track.digest = digest;
        track.phase = DevicePhase::Ended;
        if is_file { self.load(&Loaded { device, bytes, digest }) } else { Ok(()) }
    }

    pub(super) fn load(&mut self, loaded: &Loaded) -> Result<(), Violation> {
        let Loaded { device, bytes, digest } = *loaded;
        let track = find(&mut self.tracks, Kind::Loaded, device, DevicePhase::Ended)?;
        if bytes != track.bytes {
            return Err(Violation::ByteCount { device, stated: bytes, counted: track.bytes });
        }
        if digest != track.digest {
            return Err(Violation::Digests { device, source_digest: track.digest, target_digest: digest });
        }
        track.phase = DevicePhase::Loaded;
        self.loaded = self.loaded.saturating_add(1);
        Ok(())
    }

    pub(super) fn require_all_accepted(&self, kind: Kind) -> Result<(), Violation> {
        self.require(kind, DevicePhase::Accepted, self.accepted)
    }

    pub(super) fn require_all_loaded(&self, kind: Kind) -> Result<(), Violation> {
        self.require(kind, DevicePhase::Loaded, self.loaded)
    }

    fn require(&self, kind: Kind, needed: DevicePhase, have: usize) -> Result<(), Violation> {
        match self.tracks.len().saturating_sub(have) {
            0 => Ok(()),
            missing => Err(Violation::NotAll { kind, needed, missing: u32::try_from(missing).unwrap_or(u32::MAX) }),
        }
    }

    fn track(&self, device: u32) -> Option<&Track> {
        self.tracks.get(usize::try_from(device).ok()?)
    }
}

/// The device's record, if the device is in the phase that a frame of this kind needs.
fn find(tracks: &mut [Track], kind: Kind, device: u32, needed: DevicePhase) -> Result<&mut Track, Violation> {
    let count = u32::try_from(tracks.len()).unwrap_or(u32::MAX);
    let track = usize::try_from(device).ok().and_then(|index| tracks.get_mut(index));
    let track = track.ok_or(Violation::UnknownDevice { kind, device, count })?;
    if track.phase == needed { Ok(track) } else { Err(Violation::Device { kind, device, phase: track.phase }) }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn totals_do_not_wrap() {
        let open = DeviceOpen { device: 0, name: "vf", identity: "", migration_flags: 0, stop_copy_bytes: 0 };
        let overflowing = |frames, bytes| {
            let mut devices = Devices::new();
            devices.expect(1).unwrap();
            devices.open(&open, true).unwrap();
            devices.tracks[0] = Track { frames, bytes, ..devices.tracks[0].clone() };
            let result = devices.data(0, frames, 2);
            (result, devices.bytes(0), devices.next_sequence(0))
        };
        let overflow = Err(Violation::Overflow { device: 0 });
        assert_eq!(overflowing(5, u64::MAX - 1), (overflow, Some(u64::MAX - 1), Some(5)));
        assert_eq!(overflowing(u64::MAX, 0), (overflow, Some(0), Some(u64::MAX)));
        assert_eq!(overflowing(5, u64::MAX - 2), (Ok(()), Some(u64::MAX), Some(6)));
    }
}
