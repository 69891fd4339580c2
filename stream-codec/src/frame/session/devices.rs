// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a session remembers of each device.

use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::ops::RangeInclusive;

use super::super::digest::Digest;
use super::super::kind::Kind;
use super::super::message::{DeviceEnd, DeviceOpen, InitialDone, Loaded, Region};
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
    /// Its end was announced, and data are still under way on another channel.
    Ending,
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
            Self::Ending => "ending",
            Self::Ended => "ended",
            Self::Loaded => "loaded",
        })
    }
}

/// How far a credit may be ahead of the first frame that has not come: the width of what is remembered.
pub const CREDIT_FRAMES_MAX: u64 = 128;

#[derive(Clone, Debug)]
struct Track {
    phase: DevicePhase,
    /// All below this have come.
    frames: u64,
    /// Bit `n` is frame `frames + n`: those that came ahead of their turn. Bit 0 is never set.
    ahead: u128,
    /// Of all frames that have come.
    bytes: u64,
    /// The first frame that must not come yet; `u64::MAX` without credit.
    credit: u64,
    /// What DeviceEnd said: frames and bytes in all.
    end: Option<(u64, u64)>,
    digest: Digest,
    initial: Initial,
}

/// The generations of a device's initial bytes, counted from 1.
#[derive(Clone, Copy, Debug, Default)]
struct Initial {
    announced: u32,
    acknowledged: u32,
    /// How many frames the last announcement stands behind.
    frames: u64,
}

impl Track {
    const NEW: Self = Self {
        phase: DevicePhase::Unopened,
        frames: 0,
        ahead: 0,
        bytes: 0,
        credit: u64::MAX,
        end: None,
        digest: Digest::NONE,
        initial: Initial { announced: 0, acknowledged: 0, frames: 0 },
    };

    /// Takes note of a frame, in whatever order.
    fn arrive(&mut self, device: u32, sequence: u64, length: u32) -> Result<(), Violation> {
        let distance = sequence.checked_sub(self.frames).ok_or(Violation::Repeated { device, sequence })?;
        if self.credit != u64::MAX && sequence >= self.credit {
            return Err(Violation::Credit { device, sequence, credit: self.credit });
        }
        if let Some((stated, _)) = self.end.filter(|(frames, _)| sequence >= *frames) {
            return Err(Violation::FrameCount { device, stated, counted: sequence.saturating_add(1) });
        }
        let bit = u32::try_from(distance).ok().and_then(|distance| 1_u128.checked_shl(distance));
        let bit = bit.ok_or(Violation::Sequence { device, expected: self.frames, found: sequence })?;
        if self.ahead & bit != 0 {
            return Err(Violation::Repeated { device, sequence });
        }
        let ahead = self.ahead | bit;
        let run = ahead.trailing_ones();
        let totals = self.frames.checked_add(run.into()).zip(self.bytes.checked_add(length.into()));
        let (frames, bytes) = totals.ok_or(Violation::Overflow { device })?;
        if is_complete(device, self.end, frames, bytes)? {
            self.phase = DevicePhase::Ended;
        }
        (self.frames, self.bytes) = (frames, bytes);
        self.ahead = ahead.checked_shr(run).unwrap_or(0);
        Ok(())
    }

    /// How many frames there must be at least: up to the last that came.
    fn seen(&self) -> u64 {
        let ahead = 128_u32.saturating_sub(self.ahead.leading_zeros());
        self.frames.saturating_add(ahead.into())
    }
}

/// Whether everything that DeviceEnd announced is there.
fn is_complete(device: u32, end: Option<(u64, u64)>, frames: u64, counted: u64) -> Result<bool, Violation> {
    match end {
        Some((stated, bytes)) if frames >= stated && bytes != counted => {
            Err(Violation::ByteCount { device, stated: bytes, counted })
        }
        Some((stated, _)) => Ok(frames >= stated),
        None => Ok(false),
    }
}

#[derive(Clone, Debug)]
pub(super) struct Devices {
    tracks: Vec<Track>,
    names: BTreeSet<String>,
    /// The device that stands for guest memory, and how many regions it has.
    memory: Option<(u32, u16)>,
    /// How many devices are at least accepted, and loaded.
    accepted: usize,
    loaded: usize,
    /// Whether the end was announced.
    ended: usize,
    has_credit: bool,
    /// Frames may overtake each other.
    is_unordered: bool,
}

impl Devices {
    pub(super) const fn new() -> Self {
        Self {
            tracks: Vec::new(),
            names: BTreeSet::new(),
            memory: None,
            accepted: 0,
            loaded: 0,
            ended: 0,
            has_credit: false,
            is_unordered: false,
        }
    }

    /// What the Hellos have agreed on.
    pub(super) fn agree(&mut self, has_credit: bool, is_unordered: bool) {
        self.has_credit = has_credit;
        self.is_unordered = is_unordered;
        if has_credit {
            self.tracks.iter_mut().for_each(|track| track.credit = 0);
        }
    }

    pub(super) fn credit(&self, device: u32) -> Option<u64> {
        self.track(device).map(|track| track.credit)
    }

    pub(super) fn is_all_ended(&self) -> bool {
        self.ended == self.tracks.len()
    }

    pub(super) fn is_all_loaded(&self) -> bool {
        self.loaded == self.tracks.len()
    }

    /// The target makes room.
    pub(super) fn grant(&mut self, device: u32, frames: u64) -> Result<(), Violation> {
        let has_credit = self.has_credit;
        let phases = DevicePhase::Accepted..=DevicePhase::Ended;
        let track = find_in(&mut self.tracks, Kind::Credit, device, phases)?;
        let (least, most) = (track.credit.saturating_add(1), track.frames.saturating_add(CREDIT_FRAMES_MAX));
        if !has_credit || frames < least || frames > most {
            return Err(Violation::Grant { device, frames, least, most });
        }
        track.credit = frames;
        Ok(())
    }

    /// The source has sent the initial bytes of a generation.
    pub(super) fn announce(&mut self, done: &InitialDone) -> Result<(), Violation> {
        let InitialDone { device, generation, frames } = *done;
        let is_unordered = self.is_unordered;
        let track = find(&mut self.tracks, Kind::InitialDone, device, DevicePhase::Accepted)?;
        let least = track.initial.announced.saturating_add(1);
        if generation < least {
            return Err(Violation::Announcement { device, generation, least });
        }
        // What is missing may be under way on another channel, within the credit.
        let most = if is_unordered { track.credit } else { track.frames };
        if frames > most {
            return Err(Violation::InitialFrames { device, stated: frames, most });
        }
        (track.initial.announced, track.initial.frames) = (generation, frames);
        Ok(())
    }

    /// The target has written them.
    pub(super) fn acknowledge(&mut self, device: u32, generation: u32) -> Result<(), Violation> {
        let phases = DevicePhase::Accepted..=DevicePhase::Ended;
        let track = find_in(&mut self.tracks, Kind::InitialAck, device, phases)?;
        let Initial { announced, acknowledged, frames } = track.initial;
        // What has not come cannot have been written.
        let is_early = generation == announced && track.frames < frames;
        if generation > announced || generation <= acknowledged || is_early {
            return Err(Violation::Acknowledgement { device, generation, announced, acknowledged });
        }
        track.initial.acknowledged = generation;
        Ok(())
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

    /// A region of the device that stands for guest memory.
    pub(super) fn region(&mut self, region: &Region<'_>, limit: u16) -> Result<(), Violation> {
        let device = region.device;
        find(&mut self.tracks, Kind::Region, device, DevicePhase::Unopened)?;
        let (memory, count) = self.memory.unwrap_or((device, 0));
        if memory != device {
            return Err(Violation::SecondMemory { device, memory });
        }
        if count >= limit {
            return Err(Violation::Regions { limit });
        }
        self.memory = Some((device, count.saturating_add(1)));
        Ok(())
    }

    /// The device that stands for guest memory, once a region of it was named.
    pub(super) const fn memory(&self) -> Option<u32> {
        match self.memory {
            Some((device, _)) => Some(device),
            None => None,
        }
    }

    pub(super) fn accept(&mut self, device: u32) -> Result<(), Violation> {
        let track = find(&mut self.tracks, Kind::DeviceAccept, device, DevicePhase::Opened)?;
        track.phase = DevicePhase::Accepted;
        self.accepted = self.accepted.saturating_add(1);
        Ok(())
    }

    pub(super) fn data(&mut self, device: u32, sequence: u64, length: u32) -> Result<(), Violation> {
        let is_unordered = self.is_unordered;
        let phases = DevicePhase::Accepted..=DevicePhase::Ending;
        let track = find_in(&mut self.tracks, Kind::Data, device, phases)?;
        if !is_unordered && sequence != track.frames {
            return Err(Violation::Sequence { device, expected: track.frames, found: sequence });
        }
        track.arrive(device, sequence, length)
    }

    pub(super) fn end(&mut self, end: &DeviceEnd, is_file: bool) -> Result<(), Violation> {
        let DeviceEnd { device, frames, bytes, digest } = *end;
        let is_unordered = self.is_unordered;
        let track = find(&mut self.tracks, Kind::DeviceEnd, device, DevicePhase::Accepted)?;
        let counted = track.seen();
        // What is missing may be under way on another channel, within the credit.
        let most = if is_unordered { track.credit } else { counted };
        if frames < counted || frames > most {
            return Err(Violation::FrameCount { device, stated: frames, counted });
        }
        if bytes < track.bytes {
            return Err(Violation::ByteCount { device, stated: bytes, counted: track.bytes });
        }
        let is_complete = is_complete(device, Some((frames, bytes)), track.frames, track.bytes)?;
        track.digest = digest;
        track.phase = if is_complete { DevicePhase::Ended } else { DevicePhase::Ending };
        track.end = Some((frames, bytes));
        self.ended = self.ended.saturating_add(1);
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
    find_in(tracks, kind, device, needed..=needed)
}

/// The same for a frame that may come in several phases.
fn find_in(
    tracks: &mut [Track],
    kind: Kind,
    device: u32,
    needed: RangeInclusive<DevicePhase>,
) -> Result<&mut Track, Violation> {
    let count = u32::try_from(tracks.len()).unwrap_or(u32::MAX);
    let track = usize::try_from(device).ok().and_then(|index| tracks.get_mut(index));
    let track = track.ok_or(Violation::UnknownDevice { kind, device, count })?;
    if needed.contains(&track.phase) { Ok(track) } else { Err(Violation::Device { kind, device, phase: track.phase }) }
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
