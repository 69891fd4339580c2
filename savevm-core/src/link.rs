// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is said between the two sides, in this crate's terms.

mod incoming;

use std::string::String;

use stream_codec::decode::Blame;
use stream_codec::frame::io::Error as FrameError;
use stream_codec::frame::{
    AbortCode, DeviceEnd, Digest, Limits as FrameLimits, Loaded, Message, Role, SessionError, Support,
};

use crate::digest::DigestSum;
use crate::error::Cause;
use crate::limits::Limits;
use crate::tap::Refusal;
pub(crate) use incoming::Incoming;

/// The connection failed, or carried what it may not.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The transport failed, or its bytes are no frames.
    #[error("{error}{}", advice(error))]
    Frame {
        /// What the codec says.
        #[from]
        error: FrameError,
    },
    /// Frames out of order, or totals that do not add up.
    #[error("{error}; {}", error.fault().advice())]
    Session {
        /// What the codec says.
        #[from]
        error: SessionError,
    },
    /// The peer closed the connection before the migration was over.
    #[error("the peer closed the connection at stream offset {offset}; look there for the reason")]
    Closed {
        /// Bytes received until then.
        offset: u64,
    },
    /// The peer said nothing for too long.
    #[error("the peer was silent for {seconds} s at stream offset {offset}; is it stopped, or the network cut?")]
    Silent {
        /// The caller's patience.
        seconds: u64,
        /// Bytes received until then.
        offset: u64,
    },
}

fn advice(error: &FrameError) -> String {
    match error {
        FrameError::Format(located) => std::format!("; {}", located.fault().advice()),
        _ => String::new(),
    }
}

/// What this side speaks. A connection is bounded by credit, and initial bytes are acknowledged on it; in a file nobody could
/// do either.
///
/// With memory to move or to fill, a peer that cannot is refused in its first word.
pub(crate) const fn support(limits: &Limits, role: Role, has_memory: bool) -> Support {
    let unchecked = if limits.payload_checksums { 0 } else { Support::UNCHECKED };
    let memory = if has_memory { Support::MEMORY } else { 0 };
    let is_file = matches!(role, Role::File);
    let answers = if is_file { 0 } else { Support::CREDIT | Support::INITIAL_ACK };
    let undigested = if has_memory && !is_file && !limits.memory_digest { Support::MEMORY_UNDIGESTED } else { 0 };
    Support { offered: answers | unchecked | memory | undigested, required: memory, ..Support::CURRENT }
}

/// Whether what is summed up has a digest, or a count alone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Proof {
    Digest,
    Count,
}

impl Proof {
    fn digest(self, sum: DigestSum) -> Digest {
        match self {
            Self::Digest => Digest::crc64_nvme(sum.crc64_nvme),
            Self::Count => Digest::NONE,
        }
    }

    /// The sum over these bytes, as far as it goes.
    pub(crate) fn sum(self, bytes: &[u8]) -> DigestSum {
        match self {
            Self::Digest => DigestSum::of(bytes),
            Self::Count => DigestSum::new(u64::try_from(bytes.len()).unwrap_or(u64::MAX), 0),
        }
    }
}

/// The end of a device's state, as a frame.
pub(crate) fn device_end(index: usize, frames: u64, sum: DigestSum, proof: Proof) -> Message<'static> {
    Message::DeviceEnd(DeviceEnd { device: number(index), frames, bytes: sum.bytes, digest: proof.digest(sum) })
}

/// The acknowledgement of a device, as a frame.
pub(crate) fn loaded(index: usize, sum: DigestSum, proof: Proof) -> Message<'static> {
    Message::Loaded(Loaded { device: number(index), bytes: sum.bytes, digest: proof.digest(sum) })
}

pub(crate) fn frame_limits(limits: &Limits, role: Role) -> FrameLimits {
    // Nobody sends data to a source.
    let data_bytes = if role == Role::Target { limits.chunk_bytes_max } else { 0 };
    FrameLimits {
        data_bytes,
        devices: limits.devices_max,
        unchecked_data: !limits.payload_checksums,
        ..FrameLimits::DEFAULT
    }
}

pub(crate) fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

pub(crate) fn index(device: u32) -> usize {
    usize::try_from(device).unwrap_or(usize::MAX)
}

pub(crate) fn code(cause: &Cause) -> AbortCode {
    match cause {
        Cause::Cancelled => AbortCode::CANCELLED,
        Cause::Device(_) | Cause::Transition(_) | Cause::Memory(_) | Cause::Tracking(_) => AbortCode::DEVICE,
        Cause::Refused { .. } => AbortCode::INCOMPATIBLE,
        Cause::Digest { .. } => AbortCode::INTEGRITY,
        Cause::TooLarge { .. } => AbortCode::RESOURCES,
        Cause::Tap { error, .. } => tap_code(error.refusal),
        Cause::Link { error, .. } if matches!(**error, LinkError::Silent { .. }) => AbortCode::TIMEOUT,
        Cause::Link { .. } => AbortCode::PROTOCOL,
        _ => AbortCode::OTHER,
    }
}

const fn tap_code(refusal: Refusal) -> AbortCode {
    match refusal {
        Refusal::Damaged | Refusal::Incomplete => AbortCode::INTEGRITY,
        Refusal::Incompatible => AbortCode::INCOMPATIBLE,
        Refusal::TooLarge => AbortCode::RESOURCES,
    }
}
