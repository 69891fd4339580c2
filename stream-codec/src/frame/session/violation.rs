// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What can be wrong with the order of frames.

use core::fmt;

use thiserror::Error;

use super::super::digest::Digest;
use super::super::hello::{Refusal, Role};
use super::super::kind::Kind;
use super::{DevicePhase, Phase};
use crate::decode::{Blame, Fault};

/// A frame that may not come, and who sent it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SessionError {
    /// Who sent the frame, or was about to.
    pub by: Role,
    /// Whether that is this side: the calling program is at fault then, and nothing has changed.
    pub is_ours: bool,
    /// What is wrong with it.
    pub violation: Violation,
}

impl fmt::Display for SessionError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.is_ours { "must not send" } else { "sent" };
        write!(formatter, "this is what the {} {verb}: {}", self.by, self.violation)
    }
}

impl core::error::Error for SessionError {}

impl Blame for SessionError {
    fn fault(&self) -> Fault {
        match self.violation {
            Violation::Refused(_) | Violation::NoCredit { .. } => Fault::Versions,
            Violation::Channels { .. }
            | Violation::Devices { .. }
            | Violation::Regions { .. }
            | Violation::NoMemory { .. } => Fault::Limits,
            Violation::EndedEarly { .. } | Violation::Digests { .. } => Fault::Transport,
            Violation::DataLength { .. } if !self.is_ours => Fault::Limits,
            _ if self.is_ours => Fault::Caller,
            _ => Fault::Sender,
        }
    }
}

/// A rule of the conversation that was broken.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum Violation {
    /// The frame does not belong into this phase.
    #[error("a {kind} in the {phase} phase")]
    Phase {
        /// The frame.
        kind: Kind,
        /// The phase it came in.
        phase: Phase,
    },
    /// A side that does not send such frames sent one.
    #[error("a {kind}, which belongs to the other side")]
    WrongSender {
        /// The frame.
        kind: Kind,
    },
    /// An answer to a file.
    #[error("a {kind} in answer to a file")]
    FileAnswered {
        /// The frame.
        kind: Kind,
    },
    /// A Hello in a role its sender cannot have here, or of ours that does not say what this session was created with.
    #[error("a Hello as {role}")]
    Role {
        /// The role it names.
        role: Role,
    },
    /// The two sides have nothing in common.
    #[error(transparent)]
    Refused(Refusal),
    /// More channels than the limit; a file has one.
    #[error("a session of {count} channels, the limit is {limit}")]
    Channels {
        /// How many channels were announced.
        count: u16,
        /// The limit.
        limit: u16,
    },
    /// More than one channel without the feature that bounds what is under way.
    #[error("a session of {count} channels without feature bit 0, credit")]
    NoCredit {
        /// How many channels were announced.
        count: u16,
    },
    /// A channel at or above the announced count.
    #[error("a {kind} on channel {channel} of {count}")]
    UnknownChannel {
        /// The frame.
        kind: Kind,
        /// The channel it came on.
        channel: u16,
        /// How many channels were announced.
        count: u16,
    },
    /// The channel has not come so far, or is past that: a second Hello, Data after the end, an end nobody began.
    #[error("a {kind} out of place on channel {channel}")]
    Channel {
        /// The frame.
        kind: Kind,
        /// The channel it came on.
        channel: u16,
    },
    /// A frame that belongs on the first channel, or may not be there.
    #[error("a {kind} on channel {channel}, where there is none")]
    WrongChannel {
        /// The frame.
        kind: Kind,
        /// The channel it came on.
        channel: u16,
    },
    /// A Commit while something may be under way on another channel.
    #[error("a Commit while {missing} channels have not ended")]
    OpenChannels {
        /// How many have not.
        missing: u32,
    },
    /// A Data frame beyond what the target has room for.
    #[error("frame {sequence} of device {device}, which has credit for frames below {credit}")]
    Credit {
        /// The device.
        device: u32,
        /// The number of the frame.
        sequence: u64,
        /// The number of the first frame that must not come yet.
        credit: u64,
    },
    /// A Data frame that has come before.
    #[error("frame {sequence} of device {device} for the second time")]
    Repeated {
        /// The device.
        device: u32,
        /// The number of the frame.
        sequence: u64,
    },
    /// A Credit that is not above the one before, or so far above what has come that no side could mean it, or in a
    /// session without credit.
    #[error("a credit of {frames} frames for device {device}; it may be {least} to {most}")]
    Grant {
        /// The device.
        device: u32,
        /// What was granted.
        frames: u64,
        /// The least that says something new.
        least: u64,
        /// The most that may be granted now.
        most: u64,
    },
    /// An InitialDone of a generation that is not above the one before.
    #[error("initial bytes of generation {generation} of device {device}, where {least} is the least that is new")]
    Announcement {
        /// The device.
        device: u32,
        /// What was announced.
        generation: u32,
        /// The least that says something new.
        least: u32,
    },
    /// Initial bytes in frames that the device has not had.
    #[error("the initial bytes of device {device} in {stated} frames, of which there are at most {most}")]
    InitialFrames {
        /// The device.
        device: u32,
        /// How many frames are said to have them.
        stated: u64,
        /// How many there can be.
        most: u64,
    },
    /// An InitialAck for what was not announced or is not there yet, or was acknowledged before.
    #[error(
        "an acknowledgement of the initial bytes of generation {generation} of device {device}, where {announced} was \
         announced and {acknowledged} acknowledged"
    )]
    Acknowledgement {
        /// The device.
        device: u32,
        /// What was acknowledged.
        generation: u32,
        /// The last generation announced; 0 for none.
        announced: u32,
        /// The last one acknowledged; 0 for none.
        acknowledged: u32,
    },
    /// More devices than the limit.
    #[error("{count} devices, the limit is {limit}")]
    Devices {
        /// How many devices were announced.
        count: u32,
        /// The limit.
        limit: u32,
    },
    /// A frame of a feature that the two sides have not agreed on.
    #[error("a {kind} without feature bit {bit}, which both sides must offer")]
    NoFeature {
        /// The frame.
        kind: Kind,
        /// The feature.
        bit: u32,
    },
    /// Two devices stand for guest memory.
    #[error("a Region of device {device}, and guest memory is device {memory}")]
    SecondMemory {
        /// The later of the two.
        device: u32,
        /// The earlier.
        memory: u32,
    },
    /// More regions of guest memory than the limit.
    #[error("more than {limit} regions of guest memory, which is the limit")]
    Regions {
        /// The limit.
        limit: u16,
    },
    /// There is no memory for a record per device.
    #[error("no memory for {count} devices")]
    NoMemory {
        /// How many devices were announced.
        count: u32,
    },
    /// The target's Hello does not repeat what the source's said: it belongs to another session.
    #[error("a Hello with another {what}")]
    Echo {
        /// What differs.
        what: &'static str,
    },
    /// A device number at or above the announced count.
    #[error("a {kind} for device {device} of {count}")]
    UnknownDevice {
        /// The frame.
        kind: Kind,
        /// Its device.
        device: u32,
        /// How many devices were announced.
        count: u32,
    },
    /// Two devices of the same name.
    #[error("device {device} has the name of an earlier device")]
    DuplicateName {
        /// The later of the two.
        device: u32,
    },
    /// The frame does not fit how far the device has come.
    #[error("a {kind} for device {device}, which is {phase}")]
    Device {
        /// The frame.
        kind: Kind,
        /// Its device.
        device: u32,
        /// How far that has come.
        phase: DevicePhase,
    },
    /// A Data frame's number does not follow the one before: a repeated, lost or reordered frame.
    #[error("frame {found} of device {device} where frame {expected} is next")]
    Sequence {
        /// The device.
        device: u32,
        /// The number that is next.
        expected: u64,
        /// The number found.
        found: u64,
    },
    /// A Data frame is longer than its reader takes.
    #[error("{length} bytes of data for device {device}, the limit is {limit}")]
    DataLength {
        /// The device.
        device: u32,
        /// Length of the payload in bytes.
        length: u32,
        /// What the reader takes.
        limit: u32,
    },
    /// The device's byte or frame count does not fit 64 bits.
    #[error("the totals of device {device} overflow")]
    Overflow {
        /// The device.
        device: u32,
    },
    /// The stated number of Data frames is not what there was.
    #[error("device {device} ends after {stated} frames, there were {counted}")]
    FrameCount {
        /// The device.
        device: u32,
        /// What the frame says.
        stated: u64,
        /// What was counted.
        counted: u64,
    },
    /// The stated number of bytes is not what there was.
    #[error("device {device} with {stated} bytes, there were {counted}")]
    ByteCount {
        /// The device.
        device: u32,
        /// What the frame says.
        stated: u64,
        /// What was counted.
        counted: u64,
    },
    /// Source and target have different digests of a device.
    #[error("device {device} left the source as {source_digest} and arrived as {target_digest}")]
    Digests {
        /// The device.
        device: u32,
        /// Of what the source read from its device.
        source_digest: Digest,
        /// Of what the target wrote to its device.
        target_digest: Digest,
    },
    /// Not every device is as far as it must be.
    #[error("a {kind} while {missing} devices are not {needed}")]
    NotAll {
        /// The frame.
        kind: Kind,
        /// How far every device must be.
        needed: DevicePhase,
        /// How many are not.
        missing: u32,
    },
    /// Anything after an Abort.
    #[error("a {kind} after an Abort")]
    AfterAbort {
        /// The frame.
        kind: Kind,
    },
    /// The peer's stream ended before its last frame.
    #[error("the end of the stream in the {phase} phase")]
    EndedEarly {
        /// The phase it ended in.
        phase: Phase,
    },
}
