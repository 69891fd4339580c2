// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Why bytes are no stream of records, or not a whole one.

use stream_codec::decode::{Blame, Fault, Located};
use thiserror::Error;

use super::header::{HEADER_BYTES, Header};

/// A [`Reason`] and the stream offset of the record it concerns, or of the end if something is missing there.
pub type Error = Located<Reason>;

/// Why a stream was refused. [`Blame::fault`] says whose fault it is and what to do.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum Reason {
    /// A record is larger than the kernel accepts.
    #[error("a record (tag {:#x}) of {} bytes; the {format} driver accepts {limit}", header.tag, header.record_bytes)]
    RecordTooLarge {
        /// Whose records these are.
        format: &'static str,
        /// The record's header.
        header: Header,
        /// The driver's limit in bytes.
        limit: u64,
    },
    /// A record is larger than this reader allows.
    #[error("a record (tag {tag:#x}) of {record_bytes} bytes, the limit is {limit}")]
    RecordLimit {
        /// The record's tag.
        tag: u32,
        /// Its payload in bytes.
        record_bytes: u64,
        /// [`Limits::record_bytes`](super::Limits::record_bytes).
        limit: u64,
    },
    /// With this record the stream is longer than this reader allows.
    #[error("the stream has {total_bytes} bytes or more, the limit is {limit}")]
    TotalLimit {
        /// Length of the stream with this record.
        total_bytes: u64,
        /// [`Limits::total_bytes`](super::Limits::total_bytes).
        limit: u64,
    },
    /// A record must be understood, and is not. The kernel says EOPNOTSUPP.
    #[error("unknown tag {:#x} of a record that must not be skipped (flags {:#x})", header.tag, header.flags)]
    UnknownTag {
        /// The record's header.
        header: Header,
    },
    /// The first bytes are no record header.
    #[error(
        "no record starts here (record_size {:#x}, flags {:#x}, tag {:#x}): a bare firmware image as kernels up to 6.8 \
         wrote for firmware without PRE_COPY, or not a stream of this driver",
        header.record_bytes, header.flags, header.tag
    )]
    Bare {
        /// The first 16 bytes, taken for a header.
        header: Header,
    },
    /// A STOP_COPY_SIZE record does not carry one number.
    #[error("a STOP_COPY_SIZE record of {record_bytes} bytes, it has 8")]
    StopCopySizeLength {
        /// Its payload in bytes.
        record_bytes: u64,
    },
    /// A STOP_COPY_SIZE record is not the first of the stream.
    #[error("a STOP_COPY_SIZE record after {index} others, it comes first and once")]
    StopCopySizeNotFirst {
        /// How many records came before.
        index: u64,
    },
    /// An image without content before any that has some, and no STOP_COPY_SIZE to make the kernel allocate a buffer for it:
    /// it has none to show the firmware, and says EINVAL.
    #[error("an empty image before any other, for which the kernel has no buffer")]
    EmptyImage,
    /// The stream ends inside a record header. The kernel would not notice.
    #[error("the stream ends {have} bytes into a record header of {HEADER_BYTES}")]
    TruncatedHeader {
        /// How many bytes of the header there were.
        have: usize,
    },
    /// The stream ends inside a payload. The kernel would not notice, and load nothing of it.
    #[error("the stream ends {have} bytes into a record (tag {tag:#x}) of {record_bytes}")]
    TruncatedRecord {
        /// The record's tag.
        tag: u32,
        /// How many bytes of its payload there were.
        have: u64,
        /// How many it has.
        record_bytes: u64,
    },
    /// The stream ends without any state. The kernel would not notice, and the device start empty.
    #[error("the stream ends without {name}")]
    NoImage {
        /// Name of the record that is missing.
        name: &'static str,
    },
}

impl Blame for Reason {
    fn fault(&self) -> Fault {
        match self {
            Self::RecordTooLarge { .. }
            | Self::StopCopySizeLength { .. }
            | Self::StopCopySizeNotFirst { .. }
            | Self::EmptyImage => Fault::Sender,
            Self::RecordLimit { .. } | Self::TotalLimit { .. } => Fault::Limits,
            Self::UnknownTag { .. } | Self::Bare { .. } => Fault::Versions,
            Self::TruncatedHeader { .. } | Self::TruncatedRecord { .. } | Self::NoImage { .. } => Fault::Transport,
        }
    }
}
