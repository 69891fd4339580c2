// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Why bytes are no stream of this driver.

use stream_codec::cursor::CursorError;
use stream_codec::decode::{Blame, Fault, Located};
use thiserror::Error;

use crate::{MATCH_BYTES, STATE_BYTES};

/// A [`Reason`] and the stream offset of the field it concerns.
pub type Error = Located<Reason>;

/// Why bytes cannot be read as a stream of this driver. [`Blame::fault`] says whose fault it is and what to do.
///
/// These are faults of the structure. Values out of range are findings of [`check`](crate::check): such a stream can
/// be read and explained, but must not be loaded.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum Reason {
    /// The first bytes are neither magic: this is some other format.
    #[error("acc_magic is {found:02x?}, which is no state of a HiSilicon accelerator")]
    Magic {
        /// The first eight bytes.
        found: [u8; 8],
    },
    /// The first bytes are a magic backwards: a big-endian host or a converter wrote this.
    #[error("acc_magic is {found:02x?}, a known magic in the wrong byte order: the stream must be little-endian")]
    ByteOrder {
        /// The first eight bytes.
        found: [u8; 8],
    },
    /// A version 2 magic with a major version that no known kernel writes or accepts.
    #[error("major_ver is {major} (minor_ver {minor}); known is {known}", known = crate::MAJOR)]
    Major {
        /// The major version.
        major: u16,
        /// The minor version.
        minor: u16,
    },
    /// The stream ends inside the structure. The kernel refuses to leave RESUMING with that, unless the match part is
    /// complete and nothing follows it.
    #[error("the stream ends after {have} bytes; {MATCH_BYTES} or {STATE_BYTES} make a state. Missing: {missing}")]
    Truncated {
        /// How many bytes there are.
        have: usize,
        /// The first field that is missing or cut.
        missing: CursorError,
    },
    /// The stream goes on after the structure.
    #[error("the stream is longer than the {STATE_BYTES} bytes of a state")]
    TooLong,
}

impl Blame for Reason {
    fn fault(&self) -> Fault {
        match self {
            Self::Truncated { .. } => Fault::Transport,
            Self::ByteOrder { .. } | Self::Major { .. } => Fault::Versions,
            Self::Magic { .. } | Self::TooLong => Fault::Sender,
        }
    }
}
