// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Who speaks, what it speaks, and what two ends have in common.

use core::fmt;

use thiserror::Error;

use super::error::Reason;
use crate::decode::{Blame, Fault};

/// The version of the format that this crate implements.
pub const VERSION: u16 = 1;

/// What the sender of a stream is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Role {
    /// 1: has the devices and sends their state.
    Source,
    /// 2: takes the state and answers.
    Target,
    /// 3: like a source, but into a file: nobody answers.
    File,
}

impl Role {
    /// The number on the wire.
    #[must_use]
    pub const fn raw(self) -> u8 {
        match self {
            Self::Source => 1,
            Self::Target => 2,
            Self::File => 3,
        }
    }

    /// The role with this number.
    #[must_use]
    pub const fn from_raw(raw: u8) -> Option<Self> {
        match raw {
            1 => Some(Self::Source),
            2 => Some(Self::Target),
            3 => Some(Self::File),
            _ => None,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Source => "source",
            Self::Target => "target",
            Self::File => "file",
        })
    }
}

/// The versions and features that one side speaks.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Support {
    /// Lowest version; at least 1.
    pub version_min: u16,
    /// Highest version; at least `version_min`.
    pub version_max: u16,
    /// Features it can use, one bit each: [`Support::CREDIT`], [`Support::UNCHECKED`],
    /// [`Support::MEMORY`], [`Support::INITIAL_ACK`], [`Support::MEMORY_UNDIGESTED`].
    pub offered: u64,
    /// Those it cannot do without: a subset of the offered ones.
    pub required: u64,
}

impl Support {
    /// Feature bit 0: the target grants every device a credit, and the source stays inside it. A session of more than
    /// one channel needs it.
    pub const CREDIT: u64 = 1;

    /// Feature bit 1: Data may come without a checksum of its own.
    pub const UNCHECKED: u64 = 2;

    /// Feature bit 2: one device stands for guest memory. A source with memory requires it.
    pub const MEMORY: u64 = 4;

    /// Feature bit 3: the source says when the initial bytes of a device are sent, and the target when it has written them.
    /// A file does without: there is nobody to answer.
    pub const INITIAL_ACK: u64 = 8;

    /// Feature bit 4, with bit 2: guest memory has no digest, only a count of bytes. Devices have theirs. In a file it means nothing.
    pub const MEMORY_UNDIGESTED: u64 = 16;

    /// Version 1 and no feature: what every reader of version 1 understands.
    pub const CURRENT: Self = Self { version_min: VERSION, version_max: VERSION, offered: 0, required: 0 };

    /// What this side and its peer will speak: the highest version both know and the features both offer.
    ///
    /// ```
    /// use stream_codec::frame::{Refusal, Support};
    ///
    /// let ours = Support { offered: 0b01, ..Support::CURRENT };
    /// let theirs = Support { version_max: 3, offered: 0b11, required: 0b10, ..Support::CURRENT };
    /// assert_eq!(ours.agree(&theirs), Err(Refusal::PeerRequires { bit: 1 }));
    /// ```
    ///
    /// # Errors
    /// [`Refusal`] names the version ranges without overlap, or the lowest feature bit that one side requires and
    /// the other does not offer.
    pub fn agree(&self, peer: &Self) -> Result<Agreement, Refusal> {
        let version = self.version_max.min(peer.version_max);
        if version < self.version_min.max(peer.version_min) {
            return Err(Refusal::Version {
                ours: (self.version_min, self.version_max),
                theirs: (peer.version_min, peer.version_max),
            });
        }
        if let Some(bit) = lowest_bit(peer.required & !self.offered) {
            return Err(Refusal::PeerRequires { bit });
        }
        if let Some(bit) = lowest_bit(self.required & !peer.offered) {
            return Err(Refusal::WeRequire { bit });
        }
        Ok(Agreement { version, features: self.offered & peer.offered })
    }

    /// Checks what one side says about itself.
    pub(super) fn check(&self) -> Result<(), Reason> {
        if self.version_min == 0 || self.version_min > self.version_max {
            return Err(Reason::VersionRange { min: self.version_min, max: self.version_max });
        }
        lowest_bit(self.required & !self.offered).map_or(Ok(()), |bit| Err(Reason::RequiredNotOffered { bit }))
    }
}

fn lowest_bit(bits: u64) -> Option<u32> {
    (bits != 0).then(|| bits.trailing_zeros())
}

/// What two sides have in common.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Agreement {
    /// The version both speak.
    pub version: u16,
    /// The features both use.
    pub features: u64,
}

/// Why two sides have nothing in common. [`Fault::Versions`].
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum Refusal {
    /// No version is known to both.
    #[error("we speak versions {} to {}, the peer {} to {}", .ours.0, .ours.1, .theirs.0, .theirs.1)]
    Version {
        /// Our lowest and highest version.
        ours: (u16, u16),
        /// The peer's lowest and highest version.
        theirs: (u16, u16),
    },
    /// The peer cannot do without a feature we do not offer.
    #[error("the peer requires feature bit {bit}{}, which we do not offer", meaning(*.bit))]
    PeerRequires {
        /// The lowest such bit.
        bit: u32,
    },
    /// We cannot do without a feature the peer does not offer.
    #[error("we require feature bit {bit}{}, which the peer does not offer", meaning(*.bit))]
    WeRequire {
        /// The lowest such bit.
        bit: u32,
    },
}

impl Blame for Refusal {
    fn fault(&self) -> Fault {
        Fault::Versions
    }
}

/// What a feature bit is for, for a message.
const fn meaning(bit: u32) -> &'static str {
    match bit {
        0 => " (credit)",
        1 => " (data without checksums)",
        2 => " (guest memory)",
        3 => " (acknowledged initial bytes)",
        4 => " (guest memory without a digest)",
        _ => "",
    }
}

/// Which of a session's channels a stream is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Channel {
    /// Index, below `count`.
    pub index: u16,
    /// How many channels the session has; at least 1.
    pub count: u16,
}

impl Channel {
    /// The only channel of a session.
    pub const ONLY: Self = Self { index: 0, count: 1 };
}

/// The first frame of each direction of each channel.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Hello {
    /// Versions and features of the sender.
    pub support: Support,
    /// What the sender is.
    pub role: Role,
    /// Chosen at random by the source for one session and repeated by the target; binds the channels together.
    pub nonce: [u8; 16],
    /// Which channel this is. The target repeats it.
    pub channel: Channel,
    /// How many devices the source will open; their numbers are 0 to one less. The target repeats it.
    pub device_count: u32,
    /// Largest payload of one Data frame that the sender of this Hello takes, in bytes; zero if it takes none.
    pub data_bytes_max: u32,
}

impl Hello {
    /// A target's answer to this Hello of a source.
    #[must_use]
    pub const fn reply(&self, support: Support, data_bytes_max: u32) -> Self {
        Self { support, role: Role::Target, data_bytes_max, ..*self }
    }
}
