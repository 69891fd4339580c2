// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the other side said, detached from the buffer it came in.

use std::format;
use std::string::{String, ToString};

use stream_codec::frame::{Digest, DigestAlgorithm, Hello, Message};

use super::{Proof, index};
use crate::digest::DigestSum;
use crate::dirty::Region;
use crate::error::Cause;

/// One received control frame.
#[derive(Debug)]
pub(crate) enum Incoming {
    Hello(Hello),
    Open { index: usize, name: String, identity: String },
    Region(Region),
    Accept,
    End { index: usize, frames: u64, sum: DigestSum },
    InitialDone { index: usize, generation: u32, frames: u64 },
    InitialAck { index: usize, generation: u32 },
    Credit { index: usize, frames: u64 },
    ChannelEnd,
    Switchover,
    Loaded { index: usize, sum: DigestSum },
    Commit,
    Complete,
    Abort { reason: String },
}

impl Incoming {
    /// What a message says, if the end of a device comes with the proof that was agreed on for it.
    pub(crate) fn from_message(message: &Message<'_>, proof: impl Fn(usize) -> Proof) -> Result<Self, Cause> {
        let sum = |device, bytes, digest| sum(bytes, digest, proof(index(device)));
        Ok(match message {
            Message::Hello(hello) => Self::Hello(*hello),
            Message::DeviceOpen(open) => Self::Open {
                index: index(open.device),
                name: open.name.to_string(),
                identity: open.identity.to_string(),
            },
            Message::Region(region) => Self::Region(Region {
                name: region.name.to_string(),
                bytes: region.bytes,
                page_bytes: region.page_bytes,
            }),
            Message::DeviceAccept { .. } => Self::Accept,
            Message::DeviceEnd(end) => Self::End {
                index: index(end.device),
                frames: end.frames,
                sum: sum(end.device, end.bytes, &end.digest)?,
            },
            Message::InitialDone(done) => {
                Self::InitialDone { index: index(done.device), generation: done.generation, frames: done.frames }
            }
            Message::InitialAck { device, generation } => {
                Self::InitialAck { index: index(*device), generation: *generation }
            }
            Message::Credit { device, frames } => Self::Credit { index: index(*device), frames: *frames },
            Message::ChannelEnd => Self::ChannelEnd,
            Message::Switchover => Self::Switchover,
            Message::Loaded(loaded) => {
                Self::Loaded { index: index(loaded.device), sum: sum(loaded.device, loaded.bytes, &loaded.digest)? }
            }
            Message::Commit => Self::Commit,
            Message::Complete => Self::Complete,
            Message::Abort(abort) => Self::Abort { reason: format!("{} ({})", abort.reason, abort.code) },
            other => {
                return Err(Cause::refused(format!("the peer sent a {} that this version does not use", other.kind())));
            }
        })
    }

    /// The session lets it pass at this point, and still it is not what this side waits for.
    pub(crate) fn out_of_place(&self) -> Cause {
        let what = match self {
            Self::Hello(_) => "a Hello",
            Self::Open { .. } => "a DeviceOpen",
            Self::Region(_) => "a Region",
            Self::Accept => "a DeviceAccept",
            Self::End { .. } => "a DeviceEnd",
            Self::InitialDone { .. } => "an InitialDone",
            Self::InitialAck { .. } => "an InitialAck",
            Self::Credit { .. } => "a Credit",
            Self::ChannelEnd => "a ChannelEnd",
            Self::Switchover => "a Switchover",
            Self::Loaded { .. } => "a Loaded",
            Self::Commit => "a Commit",
            Self::Complete => "a Complete",
            Self::Abort { .. } => "an Abort",
        };
        Cause::refused(format!("the peer sent {what} where this side waits for something else"))
    }
}

fn sum(bytes: u64, digest: &Digest, proof: Proof) -> Result<DigestSum, Cause> {
    let crc = <[u8; 8]>::try_from(digest.bytes()).map(u64::from_le_bytes);
    match (proof, digest.algorithm(), crc) {
        (Proof::Digest, DigestAlgorithm::CRC64_NVME, Ok(crc64_nvme)) => Ok(DigestSum::new(bytes, crc64_nvme)),
        (Proof::Count, DigestAlgorithm::NONE, _) => Ok(DigestSum::new(bytes, 0)),
        (Proof::Digest, algorithm, _) => Err(Cause::refused(format!(
            "digest algorithm {} of the peer; this version computes CRC-64/NVME",
            algorithm.0
        ))),
        (Proof::Count, algorithm, _) => Err(Cause::refused(format!(
            "digest algorithm {} of the peer, for memory that both sides agreed to count only",
            algorithm.0
        ))),
    }
}

#[cfg(test)]
mod test {
    use stream_codec::frame::{DeviceEnd, Loaded};

    use super::*;

    /// Whether the end of these devices is taken, of which the second is memory that is only counted.
    fn taken(device: u32, digest: Digest) -> [bool; 2] {
        let proof = |index| if index == 1 { Proof::Count } else { Proof::Digest };
        let end = Message::DeviceEnd(DeviceEnd { device, frames: 1, bytes: 9, digest });
        let loaded = Message::Loaded(Loaded { device, bytes: 9, digest });
        [end, loaded].map(|message| Incoming::from_message(&message, proof).is_ok())
    }

    #[test]
    fn a_device_needs_a_digest_and_counted_memory_has_none() {
        assert_eq!(taken(0, Digest::crc64_nvme(7)), [true; 2]);
        assert_eq!(taken(0, Digest::NONE), [false; 2]);
        assert_eq!(taken(1, Digest::NONE), [true; 2]);
        assert_eq!(taken(1, Digest::crc64_nvme(0)), [false; 2]);
    }
}
