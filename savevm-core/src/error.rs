// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Why a migration did not happen, and how the devices came out of it.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::device::{DeviceError, TransitionError};
use crate::digest::DigestSum;
use crate::dirty::TrackError;
use crate::hooks::Phase;
use crate::link::LinkError;
use crate::ram::MemoryError;
use crate::restore::Restored;
use crate::tap::TapError;

/// A migration ended without success on this side.
///
/// The devices have already been put back when this is returned; [`MigrationError::devices`] says how.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub struct MigrationError {
    /// Where it was.
    pub phase: Phase,
    /// The first cause.
    #[source]
    pub cause: Cause,
    /// How each device came out of it. Empty after the commit, when the devices no longer belong to this side.
    pub devices: Vec<Restored>,
    /// Whether the commit had been sent. If so the target holds everything and may run: the source must not.
    pub committed: bool,
}

impl fmt::Display for MigrationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "migration failed in phase {}: {}", self.phase, self.cause)?;
        if self.committed {
            f.write_str("; the target had acknowledged everything and was told to run, so the source must stay stopped: ask the target")?;
        }
        for device in &self.devices {
            write!(f, "; {device}")?;
        }
        Ok(())
    }
}

/// The first thing that went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// A call to a device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A device did not reach a state.
    #[error(transparent)]
    Transition(#[from] TransitionError),
    /// Guest memory could not be read or written.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Writes to guest memory cannot be tracked.
    #[error(transparent)]
    Tracking(#[from] TrackError),
    /// A channel failed, or carried something that is no valid stream.
    #[error("channel {channel}: {error}")]
    Link {
        /// The channel's index.
        channel: u16,
        /// What happened to it.
        #[source]
        error: Box<LinkError>,
    },
    /// A connection to a QEMU failed, or carried what its format has not.
    #[error(transparent)]
    Qemu(#[from] crate::qemu::StreamError),
    /// The peer gave up and said why.
    #[error("the peer gave up: {reason}")]
    Peer {
        /// The peer's words.
        reason: String,
    },
    /// Somebody asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// The scheduler gave up, as the caller's policy says: the downtime would have been too long.
    #[error("given up: {reason}")]
    GivenUp {
        /// Why.
        reason: String,
    },
    /// The VMM could not stop its guest.
    #[error("the VMM could not pause the guest: {reason}")]
    Guest {
        /// The VMM's words.
        reason: String,
    },
    /// What the peer offers or asks for does not fit what is here.
    #[error("refused: {reason}")]
    Refused {
        /// What does not fit, and where.
        reason: String,
    },
    /// What arrived is not what was sent.
    #[error("{device}: the source sent {sent}, the target has {received}: bytes were lost or damaged on the way")]
    Digest {
        /// The device's name.
        device: String,
        /// The source's count and checksum.
        sent: DigestSum,
        /// The target's.
        received: DigestSum,
    },
    /// The caller's tap on a device's stream does not let it pass.
    #[error("the check of {device}'s stream refuses it: {error}")]
    Tap {
        /// The device's name.
        device: String,
        /// What the tap says.
        #[source]
        error: Box<TapError>,
    },
    /// A device yields or receives more than the caller allows.
    #[error("{device}: the state exceeds the limit of {limit} bytes; raise the limit if that is what the device holds")]
    TooLarge {
        /// The device's name.
        device: String,
        /// The limit in force.
        limit: u64,
    },
}

impl Cause {
    /// A tap's refusal of the stream of `device`.
    pub(crate) fn tap(device: &str) -> impl FnOnce(TapError) -> Self + '_ {
        move |error| Self::Tap { device: device.into(), error: error.into() }
    }

    /// A refusal, in a sentence.
    pub(crate) fn refused(reason: impl Into<String>) -> Self {
        Self::Refused { reason: reason.into() }
    }
}
