// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The fixed header in front of every payload.

use super::error::{Error, Reason};
use super::kind::{DeviceField, FLAG_SKIPPABLE, FLAG_UNCHECKED, Kind, NO_DEVICE};
use super::limits::Limits;
use crate::decode::Located;

/// Size of a frame header in bytes.
pub const HEADER_BYTES: usize = 32;

/// A frame header, without the checksum of itself. See the [frame module](super) for its layout.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Header {
    /// What the frame is: a [`Kind`], or a number this version does not know.
    pub kind: u16,
    /// [`FLAG_SKIPPABLE`] on a kind that version 1 does not know, [`FLAG_UNCHECKED`] on Data, or zero.
    pub flags: u16,
    /// How many bytes of payload follow.
    pub payload_length: u32,
    /// The device the frame concerns, or [`NO_DEVICE`].
    pub device: u32,
    /// Zero in version 1; kept for a frame's channel.
    pub channel: u32,
    /// Number of a Data frame within its device, from 0; in DeviceEnd the number of Data frames there were; in Credit
    /// the number there is room for. Zero otherwise.
    pub sequence: u64,
    /// CRC-32 of the payload; zero if there is none, or if the frame is [unchecked](Self::is_unchecked).
    pub payload_crc: u32,
}

impl Header {
    /// The header of a frame of version 1 with this payload.
    ///
    /// # Errors
    /// [`Reason::PayloadLength`] if the payload is 4 GiB or more.
    pub(super) fn new(kind: Kind, device: u32, sequence: u64, payload: &[u8]) -> Result<Self, Reason> {
        let payload_length = payload_length(kind, payload.len())?;
        let payload_crc = crc32fast::hash(payload);
        Ok(Self { kind: kind.raw(), flags: 0, payload_length, device, channel: 0, sequence, payload_crc })
    }

    /// The header of a Data frame without a checksum.
    pub(super) fn unchecked(device: u32, sequence: u64, length: usize) -> Result<Self, Reason> {
        let kind = Kind::Data;
        let payload_length = payload_length(kind, length)?;
        let flags = FLAG_UNCHECKED;
        Ok(Self { kind: kind.raw(), flags, payload_length, device, channel: 0, sequence, payload_crc: 0 })
    }

    /// Whether the payload has no checksum.
    #[must_use]
    pub const fn is_unchecked(&self) -> bool {
        self.flags & FLAG_UNCHECKED != 0
    }

    /// The kind, or `None` for a frame that a reader of this version skips.
    #[must_use]
    pub const fn kind(&self) -> Option<Kind> {
        Kind::from_raw(self.kind)
    }

    /// The payload's length as a size in memory.
    #[must_use]
    pub fn payload_size(&self) -> usize {
        // Wider than `usize` only where no limit within memory could have let it pass.
        usize::try_from(self.payload_length).unwrap_or(usize::MAX)
    }

    /// The bytes on the wire, with the header's own checksum.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let fields = (self.kind.to_le_bytes().into_iter())
            .chain(self.flags.to_le_bytes())
            .chain(self.payload_length.to_le_bytes())
            .chain(self.device.to_le_bytes())
            .chain(self.channel.to_le_bytes())
            .chain(self.sequence.to_le_bytes())
            .chain(self.payload_crc.to_le_bytes());
        let mut bytes = [0; HEADER_BYTES];
        bytes.iter_mut().zip(fields).for_each(|(slot, byte)| *slot = byte);
        if let Some((checked, crc)) = bytes.split_last_chunk_mut::<4>() {
            *crc = crc32fast::hash(checked).to_le_bytes();
        }
        bytes
    }

    /// Reads a header that stands at `offset` of its stream and checks all that can be checked without the payload.
    /// A header of an unknown kind is accepted if the frame may be skipped.
    ///
    /// # Errors
    /// The [`Reason`] at `offset`. The checksum is checked first: whatever is wrong after it, the sender wrote it.
    pub fn decode(bytes: &[u8; HEADER_BYTES], limits: &Limits, offset: u64) -> Result<Self, Error> {
        let header = Self::split(bytes).and_then(|header| header.check(limits).map(|()| header));
        header.map_err(|reason| Located::new(offset, reason))
    }

    /// Takes the fields apart and compares the checksum.
    fn split(bytes: &[u8; HEADER_BYTES]) -> Result<Self, Reason> {
        let [k0, k1, f0, f1, l0, l1, l2, l3, d0, d1, d2, d3, c0, c1, c2, c3, rest @ ..] = *bytes;
        let [s0, s1, s2, s3, s4, s5, s6, s7, p0, p1, p2, p3, h0, h1, h2, h3] = rest;
        let stated = u32::from_le_bytes([h0, h1, h2, h3]);
        let computed = bytes.split_last_chunk::<4>().map_or(0, |(checked, _)| crc32fast::hash(checked));
        if stated != computed {
            return Err(Reason::HeaderChecksum { stated, computed });
        }
        Ok(Self {
            kind: u16::from_le_bytes([k0, k1]),
            flags: u16::from_le_bytes([f0, f1]),
            payload_length: u32::from_le_bytes([l0, l1, l2, l3]),
            device: u32::from_le_bytes([d0, d1, d2, d3]),
            channel: u32::from_le_bytes([c0, c1, c2, c3]),
            sequence: u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
            payload_crc: u32::from_le_bytes([p0, p1, p2, p3]),
        })
    }

    fn check(&self, limits: &Limits) -> Result<(), Reason> {
        let Self { kind, flags, payload_length: length, .. } = *self;
        let known = self.kind();
        // No kind of version 1 may be skipped, so on those the flag is a fault too.
        let allowed_flags = match known {
            Some(Kind::Data) if limits.unchecked_data => FLAG_UNCHECKED,
            Some(_) => 0,
            None => FLAG_SKIPPABLE,
        };
        if flags & !allowed_flags != 0 {
            return Err(Reason::Flags { kind, flags });
        }
        let limit = match known {
            Some(Kind::Data) => limits.data_bytes,
            Some(_) => limits.control_bytes,
            None if kind == 0 || flags & FLAG_SKIPPABLE == 0 => {
                return Err(Reason::UnknownKind { kind });
            }
            None => limits.payload_bytes(),
        };
        if length > limit {
            return Err(Reason::PayloadLength { kind, length, limit });
        }
        known.map_or(Ok(()), |kind| self.check_known(kind, limits))
    }

    fn check_known(&self, kind: Kind, limits: &Limits) -> Result<(), Reason> {
        let Self { device, channel, sequence, payload_length, payload_crc, .. } = *self;
        if channel != 0 {
            return Err(Reason::NotZero { kind, what: "channel", value: channel.into() });
        }
        if sequence != 0 && !kind.has_sequence() {
            return Err(Reason::NotZero { kind, what: "sequence", value: sequence });
        }
        if (payload_length == 0 || self.is_unchecked()) && payload_crc != 0 {
            return Err(Reason::NotZero { kind, what: "payload CRC", value: payload_crc.into() });
        }
        if payload_length == 0 && kind == Kind::Data {
            return Err(Reason::EmptyData);
        }
        match (kind.device_field(), device) {
            (DeviceField::Absent | DeviceField::Optional, NO_DEVICE) => Ok(()),
            (DeviceField::Required, NO_DEVICE) | (DeviceField::Absent, _) => Err(Reason::DeviceField { kind, device }),
            (DeviceField::Required | DeviceField::Optional, _) if device >= limits.devices => {
                Err(Reason::Devices { count: device.saturating_add(1), limit: limits.devices })
            }
            (DeviceField::Required | DeviceField::Optional, _) => Ok(()),
        }
    }
}

fn payload_length(kind: Kind, length: usize) -> Result<u32, Reason> {
    let too_long = |_| Reason::PayloadLength { kind: kind.raw(), length: u32::MAX, limit: u32::MAX };
    u32::try_from(length).map_err(too_long)
}
