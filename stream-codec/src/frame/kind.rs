// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The numbers in the header's `kind` and `flags` fields.

use core::fmt;

/// The header's `device` field of a frame that concerns no device.
pub const NO_DEVICE: u32 = u32::MAX;

/// Bit 0 of the header's flags: a reader that does not know the kind skips the frame instead of refusing it.
/// Bits 2 to 15 are reserved and zero.
pub const FLAG_SKIPPABLE: u16 = 1;

/// Bit 1 of the header's flags, on Data only: the payload has no CRC-32, its field is zero. Both sides have agreed on it
/// ([`Support::UNCHECKED`](super::Support::UNCHECKED)); the device's digest still covers the bytes.
pub const FLAG_UNCHECKED: u16 = 2;

/// What a frame is, for the kinds of version 1. See the [frame module](super) for all numbers, reserved ones included.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Kind {
    /// 0x0001: who the sender is and what it speaks.
    Hello,
    /// 0x0002: the sender gives up.
    Abort,
    /// 0x0003: the source stopped the guest; device data that follow are the final ones.
    Switchover,
    /// 0x0004: the source hands over; the point of no return.
    Commit,
    /// 0x0005: the target has taken over.
    Complete,
    /// 0x0010: the source names a device.
    DeviceOpen,
    /// 0x0011: the target will take that device.
    DeviceAccept,
    /// 0x0012: a piece of a device's state.
    Data,
    /// 0x0013: a device's state is complete.
    DeviceEnd,
    /// 0x0014: the target's device has loaded its state.
    Loaded,
    /// 0x0015: the initial bytes of a device are sent.
    InitialDone,
    /// 0x0016: the target has written them to its device.
    InitialAck,
    /// 0x0017: the target makes room for more Data of a device.
    Credit,
    /// 0x0020: nothing follows on this channel.
    ChannelEnd,
    /// 0x0100: the source names a region of guest memory.
    Region,
}

/// What a kind puts into the header's `device` field.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum DeviceField {
    Required,
    Optional,
    Absent,
}

impl Kind {
    /// Every kind of version 1, in the order of their numbers.
    pub const ALL: [Self; 15] = [
        Self::Hello,
        Self::Abort,
        Self::Switchover,
        Self::Commit,
        Self::Complete,
        Self::DeviceOpen,
        Self::DeviceAccept,
        Self::Data,
        Self::DeviceEnd,
        Self::Loaded,
        Self::InitialDone,
        Self::InitialAck,
        Self::Credit,
        Self::ChannelEnd,
        Self::Region,
    ];

    /// The number on the wire.
    #[must_use]
    pub const fn raw(self) -> u16 {
        match self {
            Self::Hello => 0x0001,
            Self::Abort => 0x0002,
            Self::Switchover => 0x0003,
            Self::Commit => 0x0004,
            Self::Complete => 0x0005,
            Self::DeviceOpen => 0x0010,
            Self::DeviceAccept => 0x0011,
            Self::Data => 0x0012,
            Self::DeviceEnd => 0x0013,
            Self::Loaded => 0x0014,
            Self::InitialDone => 0x0015,
            Self::InitialAck => 0x0016,
            Self::Credit => 0x0017,
            Self::ChannelEnd => 0x0020,
            Self::Region => 0x0100,
        }
    }

    /// The kind with this number, if version 1 has one.
    #[must_use]
    pub const fn from_raw(raw: u16) -> Option<Self> {
        Some(match raw {
            0x0001 => Self::Hello,
            0x0002 => Self::Abort,
            0x0003 => Self::Switchover,
            0x0004 => Self::Commit,
            0x0005 => Self::Complete,
            0x0010 => Self::DeviceOpen,
            0x0011 => Self::DeviceAccept,
            0x0012 => Self::Data,
            0x0013 => Self::DeviceEnd,
            0x0014 => Self::Loaded,
            0x0015 => Self::InitialDone,
            0x0016 => Self::InitialAck,
            0x0017 => Self::Credit,
            0x0020 => Self::ChannelEnd,
            0x0100 => Self::Region,
            _ => return None,
        })
    }

    /// The name, as this documentation writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hello => "Hello",
            Self::Abort => "Abort",
            Self::Switchover => "Switchover",
            Self::Commit => "Commit",
            Self::Complete => "Complete",
            Self::DeviceOpen => "DeviceOpen",
            Self::DeviceAccept => "DeviceAccept",
            Self::Data => "Data",
            Self::DeviceEnd => "DeviceEnd",
            Self::Loaded => "Loaded",
            Self::InitialDone => "InitialDone",
            Self::InitialAck => "InitialAck",
            Self::Credit => "Credit",
            Self::ChannelEnd => "ChannelEnd",
            Self::Region => "Region",
        }
    }

    pub(super) const fn device_field(self) -> DeviceField {
        match self {
            Self::DeviceOpen
            | Self::DeviceAccept
            | Self::Data
            | Self::DeviceEnd
            | Self::Loaded
            | Self::InitialDone
            | Self::InitialAck
            | Self::Credit
            | Self::Region => DeviceField::Required,
            Self::Abort => DeviceField::Optional,
            Self::Hello | Self::Switchover | Self::Commit | Self::Complete | Self::ChannelEnd => DeviceField::Absent,
        }
    }

    /// Whether the header's `sequence` field means something: the number of a Data frame, the count of them at the end or
    /// with all initial bytes, or the count of them there is room for.
    pub(super) const fn has_sequence(self) -> bool {
        matches!(self, Self::Data | Self::DeviceEnd | Self::InitialDone | Self::Credit)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn numbers_and_kinds_are_a_bijection() {
        let known = (0..=u16::MAX).filter_map(Kind::from_raw).collect::<alloc::vec::Vec<_>>();
        assert_eq!(known, Kind::ALL);
        for kind in Kind::ALL {
            assert_eq!(Kind::from_raw(kind.raw()), Some(kind), "{kind}");
        }
    }
}
