// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Why bytes are not a stream of this format, or a message cannot be one.

use thiserror::Error;

use super::kind::Kind;
use super::text::TextFault;
use crate::cursor::CursorError;
use crate::decode::{Blame, Fault, Located};

/// A [`Reason`] and the stream offset of the prologue or frame it concerns.
pub type Error = Located<Reason>;

/// Why a prologue, a header or a payload was refused. [`Blame::fault`] says whose fault it is and what to do.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum Reason {
    /// The first bytes are not the magic: this is some other format.
    #[error("not a stream of this format: it starts with {found:02x?}")]
    Magic {
        /// The first eight bytes.
        found: [u8; 8],
    },
    /// The prologue's checksum does not fit its bytes.
    #[error("the prologue's CRC-32 is {stated:#010x}, its bytes give {computed:#010x}")]
    PrologueChecksum {
        /// The checksum in the prologue.
        stated: u32,
        /// The checksum of its bytes.
        computed: u32,
    },
    /// The stream is framed in a way this version does not know.
    #[error("framing version {version} with headers of {header_bytes} bytes; this reader knows version 1 with 32")]
    Framing {
        /// The framing version.
        version: u16,
        /// The size of a frame header in bytes.
        header_bytes: u16,
    },
    /// A header's checksum does not fit its bytes.
    #[error("the header's CRC-32 is {stated:#010x}, its bytes give {computed:#010x}")]
    HeaderChecksum {
        /// The checksum in the header.
        stated: u32,
        /// The checksum of its first 28 bytes.
        computed: u32,
    },
    /// Flags are set that this kind of frame may not have.
    #[error("reserved flags in {flags:#06x} of a frame of kind {kind:#06x}")]
    Flags {
        /// The header's kind.
        kind: u16,
        /// The header's flags.
        flags: u16,
    },
    /// The kind is not known and the frame may not be skipped.
    #[error("unknown kind {kind:#06x} of a frame that must not be skipped")]
    UnknownKind {
        /// The header's kind.
        kind: u16,
    },
    /// A header field that must be zero is not.
    #[error("the header of a {kind} frame has {value:#x} in its {what} field, which must be zero")]
    NotZero {
        /// What the frame is.
        kind: Kind,
        /// Name of the field.
        what: &'static str,
        /// What it holds.
        value: u64,
    },
    /// The header's device field does not fit the kind of the frame.
    #[error("a {kind} frame with {device:#x} in its device field")]
    DeviceField {
        /// What the frame is.
        kind: Kind,
        /// The header's device field.
        device: u32,
    },
    /// A device number, or a number of devices, is above the reader's limit.
    #[error("{count} devices are needed, the limit is {limit}")]
    Devices {
        /// How many devices the stream has, at least.
        count: u32,
        /// The reader's limit.
        limit: u32,
    },
    /// A payload is longer than the reader's limit. Nothing was allocated for it.
    #[error("a payload of {length} bytes in a frame of kind {kind:#06x}, the limit is {limit}")]
    PayloadLength {
        /// The header's kind.
        kind: u16,
        /// The header's payload length in bytes.
        length: u32,
        /// The reader's limit for this kind in bytes.
        limit: u32,
    },
    /// A Data frame carries nothing.
    #[error("a Data frame without payload")]
    EmptyData,
    /// A payload's checksum does not fit its bytes.
    #[error("the payload's CRC-32 is {stated:#010x}, its bytes give {computed:#010x}")]
    PayloadChecksum {
        /// The checksum in the header.
        stated: u32,
        /// The checksum of the payload.
        computed: u32,
    },
    /// A payload does not have the fields of its kind.
    #[error("malformed {kind}: {error}")]
    Malformed {
        /// What the frame is.
        kind: Kind,
        /// What is missing or too much.
        error: CursorError,
    },
    /// A text is not acceptable.
    #[error("the {what} {fault}")]
    Text {
        /// Which text.
        what: &'static str,
        /// What is wrong with it.
        fault: TextFault,
    },
    /// A digest does not have the length of its algorithm.
    #[error("a digest of {length} bytes under algorithm {algorithm}")]
    Digest {
        /// Number of the algorithm.
        algorithm: u16,
        /// Length in bytes.
        length: u16,
    },
    /// InitialDone and InitialAck count generations from 1.
    #[error("initial bytes of generation 0, where 1 is the first")]
    Generation,
    /// A Hello's version range is empty or holds version 0.
    #[error("versions {min} to {max} are no range")]
    VersionRange {
        /// Lowest version.
        min: u16,
        /// Highest version.
        max: u16,
    },
    /// A Hello requires features that it does not offer.
    #[error("feature bit {bit} is required but not offered by the same side")]
    RequiredNotOffered {
        /// The lowest such bit.
        bit: u32,
    },
    /// A Hello's role is none.
    #[error("role {role} is unknown")]
    Role {
        /// The number found.
        role: u8,
    },
    /// A Hello's channel index is not below the channel count.
    #[error("channel {index} of {count}")]
    Channel {
        /// The channel's index.
        index: u16,
        /// How many channels there are.
        count: u16,
    },
    /// The stream ends inside something.
    #[error("the stream ends {have} bytes into {what} of {wanted} bytes")]
    Truncated {
        /// What was cut.
        what: &'static str,
        /// How long it is, in bytes.
        wanted: u32,
        /// How much of it there was, in bytes.
        have: u32,
    },
    /// There is no memory for a payload that is within the limits.
    #[error("no memory for a payload of {length} bytes")]
    NoMemory {
        /// The payload's length in bytes.
        length: u32,
    },
    /// The buffer the caller gave is shorter than the payload.
    #[error("a payload of {length} bytes does not fit the buffer of {buffer}")]
    Buffer {
        /// The payload's length in bytes.
        length: u32,
        /// The buffer's length in bytes.
        buffer: usize,
    },
}

impl Blame for Reason {
    fn fault(&self) -> Fault {
        match self {
            Self::PrologueChecksum { .. }
            | Self::HeaderChecksum { .. }
            | Self::PayloadChecksum { .. }
            | Self::Truncated { .. } => Fault::Transport,
            Self::Framing { .. } | Self::UnknownKind { .. } => Fault::Versions,
            Self::Devices { .. }
            | Self::PayloadLength { .. }
            | Self::NoMemory { .. }
            | Self::Text { fault: TextFault::TooLong { .. }, .. } => Fault::Limits,
            Self::Buffer { .. } => Fault::Caller,
            Self::Magic { .. }
            | Self::Flags { .. }
            | Self::NotZero { .. }
            | Self::DeviceField { .. }
            | Self::EmptyData
            | Self::Malformed { .. }
            | Self::Text { .. }
            | Self::Digest { .. }
            | Self::Generation
            | Self::VersionRange { .. }
            | Self::RequiredNotOffered { .. }
            | Self::Role { .. }
            | Self::Channel { .. } => Fault::Sender,
        }
    }
}
