// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Frames over a blocking `Read` or `Write`.
//!
//! The reader hands out nothing that it has not verified, and fetches each payload together with the next header in
//! one scatter read, and with its own header too where the caller expects it. The writer puts out header and payload in
//! one gather write. Neither allocates once it is created, apart from a control frame's buffer that grows to the largest
//! one, and from what the reader has to keep where something else comes than is expected.

mod reader;
mod transport;
mod writer;

use thiserror::Error;

pub use self::reader::{Frame, FrameReader, Received};
pub use self::writer::FrameWriter;
use super::error::Reason;
use crate::decode::{Blame, Fault, Located};

/// Why reading or writing frames failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The transport refused a read.
    #[error("reading {what} at stream offset {offset}: {source}")]
    Read {
        /// What was being read.
        what: &'static str,
        /// Stream offset of the next byte.
        offset: u64,
        /// The transport's error.
        source: std::io::Error,
    },
    /// The transport refused a write.
    #[error("writing {what} at stream offset {offset}: {source}")]
    Write {
        /// What was being written.
        what: &'static str,
        /// Stream offset of the next byte.
        offset: u64,
        /// The transport's error.
        source: std::io::Error,
    },
    /// The bytes read are not a stream of this format, or what was to be written cannot be a frame.
    #[error(transparent)]
    Format(#[from] Located<Reason>),
    /// An earlier call failed: the position in the stream is lost, and nothing was read or written.
    #[error("the stream failed before, at offset {offset}")]
    AfterError {
        /// Stream offset up to which all was well.
        offset: u64,
    },
}

impl Blame for Error {
    fn fault(&self) -> Fault {
        match self {
            Self::Read { .. } | Self::Write { .. } => Fault::Transport,
            Self::Format(error) => error.fault(),
            Self::AfterError { .. } => Fault::Caller,
        }
    }
}
