// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the target's scheduler asks for, and what it is told.

use core::time::Duration;

use vfio_mig_fsm::{Capabilities, State};

use super::step::{SectionId, Sum};

/// One section of the target.
#[derive(Clone, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct LoadSection {
    /// The states it has.
    #[cfg_attr(feature = "serde", serde(with = "super::wire::capabilities"))]
    pub capabilities: Capabilities,
    /// How many bytes may wait here to be written; what the source was granted.
    pub window_bytes: u64,
    /// Sections complete in this order, those of one stage beside each other.
    pub stage: u8,
}

impl LoadSection {
    /// A section of stage 0 with a window of 4 MiB.
    #[must_use]
    pub const fn new(capabilities: Capabilities) -> Self {
        Self { capabilities, window_bytes: 4 << 20, stage: 0 }
    }
}

/// Something for the target's engine to do. As for [`Step`](super::Step), a section has one call under way at most.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[must_use]
#[non_exhaustive]
pub enum LoadStep {
    /// Request this state. Answered by [`LoadEvent::Transitioned`] or [`LoadEvent::TransitionFailed`].
    Transition {
        /// Whose.
        section: SectionId,
        /// The state.
        #[cfg_attr(feature = "serde", serde(with = "super::wire::state"))]
        to: State,
    },
    /// Tell the source that the section is ready to take bytes.
    Accept {
        /// Whose.
        section: SectionId,
    },
    /// Write the chunk of this number. Answered by [`LoadEvent::Written`] or [`LoadEvent::Failed`].
    Write {
        /// Whose.
        section: SectionId,
        /// Which chunk.
        sequence: u64,
        /// Its length.
        bytes: u64,
    },
    /// Tell the source that so many bytes were written, and how long that took.
    Grant {
        /// Whose.
        section: SectionId,
        /// How many.
        bytes: u64,
        /// The time in the device's write calls.
        busy: Duration,
    },
    /// Tell the source that the initial bytes of this generation are in the device.
    AcknowledgeInitial {
        /// Whose.
        section: SectionId,
        /// Which generation.
        generation: u32,
    },
    /// Tell the source that the section is loaded, with what was received.
    Acknowledge {
        /// Whose.
        section: SectionId,
        /// What was received.
        sum: Sum,
        /// How long the completion took.
        took: Duration,
    },
    /// Tell the source that the guest runs here.
    Confirm,
    /// Tell the source that nothing comes of it.
    TellAbort,
    /// Reset the section. Answered by [`LoadEvent::Reset`] or [`LoadEvent::ResetFailed`].
    Reset {
        /// Whose.
        section: SectionId,
    },
    /// Nothing to do before the next event.
    Wait,
    /// Everything is loaded; the source's commit may come: [`LoadScheduler::take_over`](super::LoadScheduler::take_over).
    Loaded,
    /// It is over.
    Ended,
}

/// Something that happened at the target.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum LoadEvent {
    /// The requested state was reached.
    Transitioned {
        /// Whose.
        section: SectionId,
    },
    /// The request failed.
    TransitionFailed {
        /// Whose.
        section: SectionId,
    },
    /// A chunk arrived, on any channel.
    Arrived {
        /// Whose.
        section: SectionId,
        /// Its number, from 0.
        sequence: u64,
        /// Its length.
        bytes: u64,
    },
    /// The chunk asked for was written.
    Written {
        /// Whose.
        section: SectionId,
        /// The digest of everything written so far.
        digest: u64,
    },
    /// Every chunk up to the section's end was written, in their order, by an engine that keeps the window itself: one that does
    /// not report a chunk when it arrives is not asked to write it.
    Filled {
        /// Whose.
        section: SectionId,
        /// What was received.
        sum: Sum,
    },
    /// A write failed. The first failure of a section is final.
    Failed {
        /// Whose.
        section: SectionId,
    },
    /// The source's announcement: the initial bytes of this generation are the chunks before `chunks`.
    InitialComplete {
        /// Whose.
        section: SectionId,
        /// Which generation.
        generation: u32,
        /// How many chunks were sent before it.
        chunks: u64,
    },
    /// The source's last word on a section: so many chunks, with this sum.
    SectionEnd {
        /// Whose.
        section: SectionId,
        /// How many.
        chunks: u64,
        /// What was sent.
        sum: Sum,
    },
    /// The connection failed.
    LinkFailed,
    /// The source gave up.
    PeerFailed,
    /// Somebody asked to stop.
    Cancel,
    /// The section was reset.
    Reset {
        /// Whose.
        section: SectionId,
    },
    /// The section could not be reset.
    ResetFailed {
        /// Whose.
        section: SectionId,
    },
}
