// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What frames say.

use core::fmt;

use super::digest::Digest;
use super::hello::Hello;
use super::kind::{Kind, NO_DEVICE};

/// A control frame: any frame but Data.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Message<'a> {
    /// First in each direction.
    Hello(Hello),
    /// Source: names a device.
    DeviceOpen(DeviceOpen<'a>),
    /// Source: a region of guest memory, before the DeviceOpen of the device that stands for memory.
    Region(Region<'a>),
    /// Target: will take the device.
    DeviceAccept {
        /// The device's number.
        device: u32,
    },
    /// Source: a device's state is complete.
    DeviceEnd(DeviceEnd),
    /// Source: the guest is stopped; what follows of each device on this channel is its final data. Once on each channel.
    Switchover,
    /// Target: a device has taken its whole state.
    Loaded(Loaded),
    /// Source, while the guest runs: the initial bytes of a device are sent. It waits for the answer before it switches over.
    InitialDone(InitialDone),
    /// Target: has written to the device all that an InitialDone stands behind, and can take the rest without a long load.
    InitialAck {
        /// The device's number.
        device: u32,
        /// The generation that the InitialDone named.
        generation: u32,
    },
    /// Target: takes this many Data frames of a device in all, counted from the first. It keeps a buffer free for each
    /// that has not come yet, whatever its length, so a frame within the credit never waits for another device.
    Credit {
        /// The device's number.
        device: u32,
        /// The number of the first Data frame that must not be sent yet. Stands in the header's sequence field.
        frames: u64,
    },
    /// Either side: nothing follows on this channel, which is not channel 0. The source says it first.
    ChannelEnd,
    /// Source, once every device is loaded: hands over and never runs the guest again by itself.
    Commit,
    /// Target: has taken over.
    Complete,
    /// Either side gives up.
    Abort(Abort<'a>),
}

impl Message<'_> {
    /// The kind of the frame that carries the message.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Hello(_) => Kind::Hello,
            Self::DeviceOpen(_) => Kind::DeviceOpen,
            Self::Region(_) => Kind::Region,
            Self::DeviceAccept { .. } => Kind::DeviceAccept,
            Self::DeviceEnd(_) => Kind::DeviceEnd,
            Self::Switchover => Kind::Switchover,
            Self::Loaded(_) => Kind::Loaded,
            Self::InitialDone(_) => Kind::InitialDone,
            Self::InitialAck { .. } => Kind::InitialAck,
            Self::Credit { .. } => Kind::Credit,
            Self::ChannelEnd => Kind::ChannelEnd,
            Self::Commit => Kind::Commit,
            Self::Complete => Kind::Complete,
            Self::Abort(_) => Kind::Abort,
        }
    }

    /// The device the message concerns.
    #[must_use]
    pub const fn device(&self) -> Option<u32> {
        match self {
            Self::DeviceOpen(open) => Some(open.device),
            Self::Region(region) => Some(region.device),
            Self::DeviceAccept { device } | Self::InitialAck { device, .. } | Self::Credit { device, .. } => {
                Some(*device)
            }
            Self::InitialDone(done) => Some(done.device),
            Self::DeviceEnd(end) => Some(end.device),
            Self::Loaded(loaded) => Some(loaded.device),
            Self::Abort(abort) => abort.device,
            Self::Hello(_) | Self::Switchover | Self::Commit | Self::Complete | Self::ChannelEnd => None,
        }
    }

    /// The header's device field.
    pub(super) fn device_field(&self) -> u32 {
        self.device().unwrap_or(NO_DEVICE)
    }

    /// The header's sequence field.
    pub(super) const fn sequence_field(&self) -> u64 {
        match self {
            Self::DeviceEnd(end) => end.frames,
            Self::InitialDone(done) => done.frames,
            Self::Credit { frames, .. } => *frames,
            _ => 0,
        }
    }
}

/// A device that the source is going to send.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DeviceOpen<'a> {
    /// Number of the device in this stream.
    pub device: u32,
    /// Name by which the target finds its device: 1 to 255 bytes without control characters or `/`, not `.` or `..`.
    pub name: &'a str,
    /// Migration identity, without control characters; may be empty. What it means is the matter of whoever compares.
    pub identity: &'a str,
    /// `VFIO_MIGRATION_*` flags of the source's device (vfio.h, `vfio_device_feature_migration`).
    pub migration_flags: u64,
    /// Estimate of the stop-copy size in bytes. A hint: never allocate by it.
    pub stop_copy_bytes: u64,
}

/// A piece of guest memory that the source is going to send.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Region<'a> {
    /// Number of the device that stands for guest memory.
    pub device: u32,
    /// Name by which both sides mean it: 1 to 255 bytes as a device's name.
    pub name: &'a str,
    /// Its size in bytes.
    pub bytes: u64,
    /// What one dirty bit of the source stands for, in bytes.
    pub page_bytes: u64,
}

/// The end of a device's state, with what the target must have by then.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DeviceEnd {
    /// Number of the device.
    pub device: u32,
    /// How many Data frames the device had. Stands in the header's sequence field.
    pub frames: u64,
    /// How many bytes they carried.
    pub bytes: u64,
    /// Digest over these bytes.
    pub digest: Digest,
}

/// The end of a device's initial bytes: what the driver wants moved before anything else, because loading it takes long
/// (vfio.h, `VFIO_MIG_GET_PRECOPY_INFO`).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct InitialDone {
    /// Number of the device.
    pub device: u32,
    /// Which initial phase of the device it is, counted from 1. A driver may begin anew (`VFIO_PRECOPY_INFO_REINIT`), and an
    /// answer for an earlier phase is worth nothing then.
    pub generation: u32,
    /// All initial bytes are in the device's Data frames before this number. Stands in the header's sequence field.
    pub frames: u64,
}

/// The target's positive acknowledgement of one device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Loaded {
    /// Number of the device.
    pub device: u32,
    /// How many bytes the target's device has taken.
    pub bytes: u64,
    /// Digest over these bytes, computed by the target.
    pub digest: Digest,
}

/// Why a side gives up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Abort<'a> {
    /// What it is about.
    pub code: AbortCode,
    /// The device concerned, if it is one.
    pub device: Option<u32>,
    /// A line for a person, without control characters. [`printable`](super::printable) makes one of any text.
    pub reason: &'a str,
}

/// What an [`Abort`] is about. Numbers that have no name here are carried, not understood.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct AbortCode(pub u16);

impl AbortCode {
    /// The operator cancelled.
    pub const CANCELLED: Self = Self(1);
    /// A device failed.
    pub const DEVICE: Self = Self(2);
    /// Versions, features or devices do not fit.
    pub const INCOMPATIBLE: Self = Self(3);
    /// The peer broke the protocol.
    pub const PROTOCOL: Self = Self(4);
    /// A checksum, digest or byte count differs.
    pub const INTEGRITY: Self = Self(5);
    /// A limit or the memory does not suffice.
    pub const RESOURCES: Self = Self(6);
    /// The peer was silent for too long.
    pub const TIMEOUT: Self = Self(7);
    /// Anything else.
    pub const OTHER: Self = Self(8);

    /// The name, if there is one.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::CANCELLED => "cancelled",
            Self::DEVICE => "device",
            Self::INCOMPATIBLE => "incompatible",
            Self::PROTOCOL => "protocol",
            Self::INTEGRITY => "integrity",
            Self::RESOURCES => "resources",
            Self::TIMEOUT => "timeout",
            Self::OTHER => "other",
            _ => return None,
        })
    }
}

impl fmt::Display for AbortCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => formatter.write_str(name),
            None => write!(formatter, "code {}", self.0),
        }
    }
}
