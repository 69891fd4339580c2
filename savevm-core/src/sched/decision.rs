// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the scheduler decided, and why.

use core::fmt;
use core::time::Duration;

use vfio_mig_fsm::State;

use super::step::{SectionId, Sum};

/// Where a migration is.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Phase {
    /// Sections begin to be tracked, and are asked for their sizes.
    Setup,
    /// State moves while the guest runs.
    Precopy,
    /// Every section goes quiet towards the others.
    Quiescing,
    /// All are quiet; the vCPUs are to be paused.
    Quiet,
    /// Nothing runs; the rest moves and the target loads.
    Stopped,
    /// The target has everything.
    Ready,
    /// The guest is the target's.
    Committed,
    /// Everything is put back.
    Undoing,
    /// Over.
    Ended,
}

/// A time that is not known exactly.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Interval {
    /// Shorter than this in one case of twenty.
    pub low: Duration,
    /// As likely too short as too long.
    pub expected: Duration,
    /// Longer than this only as often as the configured confidence admits.
    pub high: Duration,
    /// Longer than this in one case of twenty.
    pub p95: Duration,
}

/// What a switchover now would cost.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Estimate {
    /// From pausing the vCPUs to running at the target.
    pub downtime: Interval,
    /// The part that no byte is responsible for.
    pub fixed: Interval,
    /// What would have to move while the guest stands.
    pub pending_bytes: u64,
    /// The bandwidth this was computed with, bytes per second.
    pub bandwidth_bytes_per_s: u64,
    /// Whether that was measured or given, as opposed to assumed.
    pub bandwidth_is_known: bool,
}

/// What a VMM moves beside the scheduler's sections while its guest stands.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct External {
    /// Over the same channels.
    pub bytes: u64,
    /// Before or after everything else.
    pub fixed: Duration,
}

impl External {
    /// Bytes over the same channels, and time of its own.
    #[must_use]
    pub const fn new(bytes: u64, fixed: Duration) -> Self {
        Self { bytes, fixed }
    }
}

/// Where the bytes that are left are going.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Trend {
    /// Too early to say.
    #[default]
    Unknown,
    /// Reading helps.
    Falling,
    /// Reading keeps up with the guest, and no more.
    Level,
    /// The guest is faster.
    Rising,
}

/// Why pre-copy goes on.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Hold {
    /// A section's sizes are not known, or too old to decide by.
    Sizes {
        /// The first such section.
        section: SectionId,
    },
    /// The initial bytes of a section are not acknowledged.
    Unacknowledged {
        /// The first such section.
        section: SectionId,
        /// The generation that is missing.
        generation: u32,
    },
    /// What the channels carry is not known, and enough is left to read for them to show it.
    Bandwidth,
    /// The estimate exceeds the limit.
    Downtime {
        /// Where it is going.
        trend: Trend,
    },
    /// The caller decides.
    Manual,
}

/// Why the switchover begins.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Why {
    /// The estimate is within the limit.
    Fits,
    /// It is not, and the policy for this trend says to switch.
    Trend(Trend),
    /// It is not, and pre-copy has taken as long as it may.
    Late,
    /// The caller asked.
    Asked,
    /// Nothing can be read while the guest runs.
    NothingToPrecopy,
}

/// Why a migration does not happen. The first cause; what follows from it is not reported.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Cause {
    /// A section failed a step.
    Section {
        /// Which.
        section: SectionId,
    },
    /// A section refused a state.
    Transition {
        /// Which.
        section: SectionId,
        /// The state requested.
        #[cfg_attr(feature = "serde", serde(with = "super::wire::state"))]
        to: State,
    },
    /// A section said "nothing for now" in STOP_COPY, claimed more bytes than were asked for, or ended while it ran.
    Contract {
        /// Which.
        section: SectionId,
    },
    /// The connection failed.
    Link,
    /// The peer gave up.
    Peer {
        /// At which section, where it says so.
        section: Option<SectionId>,
    },
    /// The target received something else than what was sent.
    Mismatch {
        /// Which section.
        section: SectionId,
        /// Count and digest at the source.
        sent: Sum,
        /// Count and digest at the target.
        received: Sum,
    },
    /// More arrived than the window granted.
    Overrun {
        /// Which section.
        section: SectionId,
    },
    /// The vCPUs could not be paused.
    Guest,
    /// Somebody asked to stop.
    Cancelled,
    /// The costs that no reading reduces exceed the limit.
    Infeasible,
    /// The policy for this trend says to give up.
    Trend(Trend),
    /// Pre-copy took too long.
    Late,
    /// The switchover took too long.
    Switchover,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Section { section } => write!(f, "{section} failed"),
            Self::Transition { section, to } => write!(f, "{section} did not go to {to}"),
            Self::Contract { section } => write!(f, "{section} answered what its contract does not allow"),
            Self::Link => f.write_str("the connection failed"),
            Self::Peer { section: None } => f.write_str("the peer gave up"),
            Self::Peer { section: Some(section) } => write!(f, "the peer gave up at {section}"),
            Self::Mismatch { section, sent, received } => write!(
                f,
                "{section}: {} bytes (digest {:#x}) were sent, {} (digest {:#x}) received",
                sent.bytes, sent.digest, received.bytes, received.digest
            ),
            Self::Overrun { section } => write!(f, "{section}: more arrived than was granted"),
            Self::Guest => f.write_str("the guest could not be paused"),
            Self::Cancelled => f.write_str("cancelled"),
            Self::Infeasible => f.write_str("stopping and loading alone take longer than the downtime allowed"),
            Self::Trend(Trend::Rising) => f.write_str("the guest changes its state faster than it can be sent"),
            Self::Trend(_) => f.write_str("reading on does not bring the downtime below the limit"),
            Self::Late => f.write_str("pre-copy took longer than allowed"),
            Self::Switchover => f.write_str("the switchover took longer than allowed"),
        }
    }
}

/// How a section came out of a migration that did not happen.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Restored {
    /// It was not touched.
    Untouched,
    /// It is back where it was found, contents intact.
    Returned,
    /// Only a reset helped.
    Reset,
    /// Nothing helped.
    Lost,
}

/// How a migration ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Outcome {
    /// The guest runs at the target.
    Done {
        /// What was predicted when the switchover was decided.
        predicted: Interval,
        /// What it took.
        downtime: Duration,
    },
    /// It did not happen; the guest is here.
    Aborted(Cause),
    /// The target was told to run the guest, and did not confirm. This side stays stopped.
    InDoubt(Cause),
}

/// One decision.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Decision {
    /// The sizes are known and the fixed costs are within the limit.
    Feasible(Estimate),
    /// The fixed costs alone exceed the limit: said before anything was transferred.
    Infeasible(Estimate),
    /// Pre-copy goes on. Said when the reason changes.
    Iterate(Hold, Estimate),
    /// The switchover begins.
    Switch(Why, Estimate),
    /// All are quiet and the vCPUs are to be paused; what is left by now is the prediction that counts.
    Pause(Estimate),
    /// A section began a new initial phase; its acknowledgement is void.
    Reopened {
        /// Which.
        section: SectionId,
        /// The generation now awaited.
        generation: u32,
    },
    /// Back to pre-copy from the barrier: a section began anew, or what is left no longer fits.
    GoBack,
    /// A section began anew too often; the switchover goes on.
    Persist,
    /// An acknowledgement of a generation that is over.
    StaleAcknowledgement {
        /// Which section.
        section: SectionId,
        /// The generation acknowledged.
        generation: u32,
    },
    /// An event that answers nothing that was asked. A fault of the engine.
    Unexpected {
        /// Of which section, if any.
        section: Option<SectionId>,
    },
    /// The migration does not happen.
    GiveUp(Cause),
    /// How the promise was kept.
    Finished(Outcome),
}
