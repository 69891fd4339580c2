// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What can be wrong with the connections to a QEMU.

use core::fmt;
use std::io;
use std::string::String;

use stream_codec::decode::Blame;
use stream_codec::qemu;

use super::memory::RamError;

/// Which connection.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Connection {
    /// The main stream, source to target.
    Main,
    /// The return path, target to source.
    ReturnPath,
    /// A multifd channel, by its place in what the caller passed.
    Multifd(usize),
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Main => f.write_str("main stream"),
            Self::ReturnPath => f.write_str("return path"),
            Self::Multifd(index) => write!(f, "multifd channel {index}"),
        }
    }
}

/// A connection failed, or carried what QEMU's format has not.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The transport failed.
    #[error("{connection}, at byte {offset}: {error}")]
    Io {
        /// Which connection.
        connection: Connection,
        /// Bytes received or sent until then.
        offset: u64,
        /// The system's answer.
        #[source]
        error: io::Error,
    },
    /// The bytes are not what the format has.
    #[error("{connection}: {error}; {}", error.fault().advice())]
    Format {
        /// Which connection.
        connection: Connection,
        /// What, and where.
        #[source]
        error: qemu::Error,
    },
    /// A message cannot be written as the format has it.
    #[error("{connection}: {reason}")]
    Unwritable {
        /// Which connection.
        connection: Connection,
        /// Why.
        #[source]
        reason: qemu::Reason,
    },
    /// The peer closed a connection too early.
    #[error("{connection}: the peer closed it at byte {offset}, before {missing}; its own log says why")]
    Closed {
        /// Which connection.
        connection: Connection,
        /// Bytes received until then.
        offset: u64,
        /// What had not come.
        missing: String,
    },
    /// No connection brought anything for too long.
    #[error("nothing came for {seconds} s, and {missing} is still to come; is the peer stopped, or the network cut?")]
    Silent {
        /// The caller's patience.
        seconds: u64,
        /// What had not come.
        missing: String,
    },
    /// The target says that it failed.
    #[error("the target gave up: it ended the return path with status {status}; its own log says why")]
    Refused {
        /// The status in its SHUT message.
        status: u32,
    },
    /// Guest memory does not fit, or comes in a way that cannot be taken.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// Packets of a device came so far out of order that those in between do not fit into memory.
    #[error(
        "{device}: packet {index} came while packet {next} is missing, and no more may be held ({held_bytes} of \
         {bytes_max} bytes, at most {ahead_max} packets ahead); raise the bound if the source is to be trusted"
    )]
    Overflow {
        /// The device's name.
        device: String,
        /// The packet that came.
        index: u32,
        /// The packet that the device waits for.
        next: u32,
        /// What is held already, in bytes.
        held_bytes: usize,
        /// The most that may be held.
        bytes_max: usize,
        /// How far ahead a packet may be.
        ahead_max: u32,
    },
}
