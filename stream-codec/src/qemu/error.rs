// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Why bytes are not a stream of QEMU's, or a message cannot be one.

use thiserror::Error;

use crate::decode::{Blame, Fault, Located};
use crate::frame::TextFault;

/// A [`Reason`] and the stream offset at which the refused thing starts.
pub type Error = Located<Reason>;

/// Why a part of a stream was refused. [`Blame::fault`] says whose fault it is and what to do.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum Reason {
    /// The first bytes are not the magic: this is some other kind of stream.
    #[error("not a {what}: it starts with {found:#010x}")]
    Magic {
        /// What it should be.
        what: &'static str,
        /// The first four bytes, big-endian.
        found: u32,
    },
    /// A version that this reader does not know.
    #[error("{what} {found}; this reader knows {known}")]
    Version {
        /// Of what.
        what: &'static str,
        /// The version found.
        found: u32,
        /// The version known.
        known: u32,
    },
    /// A number that stands for something, and for nothing that this reader knows.
    #[error("unknown {what} {value:#x}")]
    Unknown {
        /// What it numbers.
        what: &'static str,
        /// The number.
        value: u64,
    },
    /// A field has a value that it must not have.
    #[error("{what} is {value:#x}, must be {expected}")]
    Value {
        /// Name of the field.
        what: &'static str,
        /// What it holds.
        value: u64,
        /// What it may hold.
        expected: &'static str,
    },
    /// A number or length is above a limit of the caller. Nothing was allocated for it.
    #[error("{what}: {value} wanted, the limit is {limit}")]
    Limit {
        /// Name of the limit.
        what: &'static str,
        /// What the stream wants, at least.
        value: u64,
        /// The caller's limit.
        limit: u64,
    },
    /// There is no memory for something that is within the limits.
    #[error("no memory for {bytes} bytes")]
    NoMemory {
        /// How many bytes were wanted.
        bytes: usize,
    },
    /// A text is not acceptable.
    #[error("the {what} {fault}")]
    Text {
        /// Which text.
        what: &'static str,
        /// What is wrong with it.
        fault: TextFault,
    },
    /// A section goes on or ends that has not been started.
    #[error("section {id} goes on, but no section with this id was started")]
    NotStarted {
        /// The section id.
        id: u32,
    },
    /// A section id is given to a second device.
    #[error("section {id} belongs to another device already")]
    IdReused {
        /// The section id.
        id: u32,
    },
    /// A section does not end where its payload does.
    #[error("section {id} must end here with a footer, found {found:02x?}")]
    Footer {
        /// The section id.
        id: u32,
        /// The bytes in the footer's place.
        found: [u8; 5],
    },
    /// The bytes of a section are not what the vmdesc says of them.
    #[error("the vmdesc has a subsection here that the stream has not; is it the vmdesc of another stream?")]
    Description,
    /// The end of a payload cannot be found: nothing describes it and the stream has no footers.
    #[error("the payload of section {id} is of unknown length: give the vmdesc, for the stream has no footers")]
    NoExtent {
        /// The section id.
        id: u32,
    },
    /// A RAM record names a block that is not in the list of blocks.
    #[error("page of a RAM block that the section's start did not list")]
    UnknownBlock,
    /// A package ends inside something.
    #[error("the package ends inside {what}")]
    PackageCut {
        /// The field that is cut.
        what: &'static str,
    },
    /// The stream ends inside something.
    #[error("the stream ends {have} bytes into this, before the end of {what}")]
    Truncated {
        /// The field that is missing or cut.
        what: &'static str,
        /// How many bytes of the whole there were.
        have: usize,
    },
    /// Bytes follow the end of the stream.
    #[error("bytes follow the end of the stream")]
    Trailing,
}

impl Blame for Reason {
    fn fault(&self) -> Fault {
        match self {
            Self::Truncated { .. } => Fault::Transport,
            Self::Version { .. } | Self::Unknown { .. } => Fault::Versions,
            Self::Limit { .. } | Self::NoMemory { .. } => Fault::Limits,
            Self::NoExtent { .. } | Self::Description => Fault::Caller,
            Self::Magic { .. }
            | Self::Value { .. }
            | Self::Text { .. }
            | Self::NotStarted { .. }
            | Self::IdReused { .. }
            | Self::Footer { .. }
            | Self::UnknownBlock
            | Self::PackageCut { .. }
            | Self::Trailing => Fault::Sender,
        }
    }
}
