// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the scheduler asks for, and what it is told.

use core::fmt;
use core::time::Duration;

use vfio_mig_fsm::State;

/// A section, by its place in [`Config::sections`](super::Config::sections).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(transparent))]
pub struct SectionId(u32);

impl SectionId {
    /// The section at `index`. More than 2³² sections do not exist.
    #[must_use]
    pub fn new(index: usize) -> Self {
        Self(u32::try_from(index).unwrap_or(u32::MAX))
    }

    /// The place in the configuration.
    #[must_use]
    pub fn index(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for SectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "section {}", self.0)
    }
}

/// Something for the engine to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[must_use]
#[non_exhaustive]
pub enum Step {
    /// Request this state of the section. Answered by [`Event::Transitioned`] or [`Event::TransitionFailed`].
    Transition {
        /// Whose.
        section: SectionId,
        /// The state to request; a path to it exists.
        #[cfg_attr(feature = "serde", serde(with = "super::wire::state"))]
        to: State,
    },
    /// Read at most this much and send it. Answered by [`Event::Read`], [`Event::Drained`], [`Event::Ended`] or
    /// [`Event::Failed`]; bytes that were read are answered a second time by [`Event::Sent`].
    Read {
        /// Whose.
        section: SectionId,
        /// At most so many bytes, at least one.
        bytes_max: u64,
        /// The section is in STOP_COPY: a read of 0 is the end. Otherwise it means "nothing for now".
        stopped: bool,
    },
    /// Ask for the sizes. Answered by [`Event::Queried`] or [`Event::Failed`].
    Query {
        /// Whose.
        section: SectionId,
    },
    /// Tell the target that the initial bytes of this generation have all been sent before this message, and that the
    /// source waits for [`Event::Acknowledged`].
    Announce {
        /// Whose.
        section: SectionId,
        /// The generation to acknowledge.
        generation: u32,
    },
    /// Tell the target that the section is complete, with count and digest. Answered by the target: [`Event::Loaded`].
    Finish {
        /// Whose.
        section: SectionId,
        /// What was sent.
        sum: Sum,
    },
    /// Stop the vCPUs. Answered by [`Event::GuestPaused`] or [`Event::GuestFailed`].
    PauseGuest,
    /// Let the vCPUs run again: the migration did not happen.
    ResumeGuest,
    /// Tell the peer that the migration does not happen.
    TellAbort,
    /// Tell the target that the guest is its own now. Answered by [`Event::Confirmed`], or by silence.
    TellCommit,
    /// Reset the section. Answered by [`Event::Reset`] or [`Event::ResetFailed`].
    Reset {
        /// Whose.
        section: SectionId,
    },
    /// Nothing to do before that time, or, without one, before the next event.
    Wait {
        /// When to poll again at the latest.
        until: Option<Duration>,
    },
    /// Everything is loaded and verified. [`SaveScheduler::commit`](super::SaveScheduler::commit) is possible, and so is an abort.
    Ready,
    /// It is over; [`SaveScheduler::outcome`](super::SaveScheduler::outcome) says how.
    Ended,
}

/// Something that happened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Event {
    /// The requested state was reached.
    Transitioned {
        /// Whose.
        section: SectionId,
    },
    /// The request failed.
    TransitionFailed {
        /// Whose.
        section: SectionId,
        /// Where the section was found, if it could be asked and named a state.
        #[cfg_attr(feature = "serde", serde(with = "super::wire::found"))]
        found: Option<State>,
    },
    /// So many bytes were read.
    Read {
        /// Whose.
        section: SectionId,
        /// At least one, at most what was asked.
        bytes: u64,
    },
    /// Of what the section's sizes count, the read that goes on has settled so much beside the bytes it yields: memory that is zero,
    /// which takes next to none. Comes before [`Read`](Self::Read).
    Skipped {
        /// Whose.
        section: SectionId,
        /// How many.
        bytes: u64,
    },
    /// The read that goes on has waited so long for the target's credit, and not for the section. Comes before [`Read`](Self::Read).
    Held {
        /// Whose.
        section: SectionId,
        /// How long.
        time: Duration,
    },
    /// The read yielded nothing for now.
    Drained {
        /// Whose.
        section: SectionId,
    },
    /// The read met the end of the state.
    Ended {
        /// Whose.
        section: SectionId,
        /// Everything read of this section, from the first byte.
        sum: Sum,
    },
    /// The transport took the bytes: a write of them returned.
    Sent {
        /// Whose.
        section: SectionId,
        /// How many.
        bytes: u64,
    },
    /// The target has written the bytes to its device, and will take as many more.
    Credited {
        /// Whose.
        section: SectionId,
        /// How many.
        bytes: u64,
        /// How long the target's writes of them took, where it says so, or where it is known to have had the next at hand all the time.
        /// Without, it may have waited for them.
        busy: Option<Duration>,
    },
    /// The sizes, as the section tells them.
    Queried {
        /// Whose.
        section: SectionId,
        /// What it told.
        sizes: Sizes,
    },
    /// A read or a query failed. The first failure of a section is final.
    Failed {
        /// Whose.
        section: SectionId,
    },
    /// The target has written the initial bytes of this generation and is ready to go on without a long load.
    Acknowledged {
        /// Whose.
        section: SectionId,
        /// The generation announced.
        generation: u32,
    },
    /// The target has loaded the section and stopped in the state before running.
    Loaded {
        /// Whose.
        section: SectionId,
        /// What the target received.
        sum: Sum,
        /// How long the completion took there, where it says so.
        took: Option<Duration>,
    },
    /// Switch over now, whatever the estimate says. In manual mode, the only way to switch over.
    Quiesce,
    /// Go back to pre-copy from the barrier; the vCPUs have not been paused.
    Resume,
    /// The vCPUs stand.
    GuestPaused,
    /// The vCPUs could not be paused.
    GuestFailed,
    /// The guest runs at the target. After the commit only.
    Confirmed,
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
    /// The connection failed.
    LinkFailed,
    /// The target gave up.
    PeerFailed {
        /// At which section, where it says so.
        section: Option<SectionId>,
    },
    /// Somebody asked to stop. Ignored after the commit.
    Cancel,
}

/// What a section says about its sizes. Hints, all of them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Sizes {
    /// Initial bytes still unread. 0 outside pre-copy.
    pub initial_bytes: u64,
    /// Dirty bytes still unread. 0 outside pre-copy.
    pub dirty_bytes: u64,
    /// What STOP_COPY would yield if it were entered now, dirty bytes included. 0 for a section that does not say.
    pub stop_copy_bytes: u64,
    /// A new initial phase began since the last query (`VFIO_PRECOPY_INFO_REINIT`).
    pub reinit: bool,
}

impl Sizes {
    /// Sizes without a new initial phase.
    #[must_use]
    pub const fn new(initial_bytes: u64, dirty_bytes: u64, stop_copy_bytes: u64) -> Self {
        Self { initial_bytes, dirty_bytes, stop_copy_bytes, reinit: false }
    }

    /// The same, with a new initial phase begun.
    #[must_use]
    pub const fn reinitialised(self) -> Self {
        Self { reinit: true, ..self }
    }

    /// What is left to read, by either account. They overlap (`stop_copy_bytes` covers the dirty ones), so the
    /// larger one counts; their sum would count dirty bytes twice.
    #[must_use]
    pub const fn pending_bytes(&self) -> u64 {
        let precopy = self.initial_bytes.saturating_add(self.dirty_bytes);
        if precopy > self.stop_copy_bytes { precopy } else { self.stop_copy_bytes }
    }
}

/// Count and digest of a section's bytes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Sum {
    /// How many.
    pub bytes: u64,
    /// By the algorithm both sides agreed on; only compared.
    pub digest: u64,
}

impl Sum {
    /// Count and digest.
    #[must_use]
    pub const fn new(bytes: u64, digest: u64) -> Self {
        Self { bytes, digest }
    }
}
