// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whoever knows which pages were written.

use alloc::string::String;
use core::fmt;

use super::marks::Marks;
use super::range::Range;

/// Something that keeps track of writes to guest memory: of one device, of all devices behind an IOMMU, or of the vCPUs.
///
/// It reads *and clears*: what it has reported it does not report again. Whoever holds the report is liable for it, which is what
/// [`Ledger`](super::Ledger) is for.
pub trait DirtyTracker: Send {
    /// Which device or interface it is, for errors: `net0 (DMA log of the device)`.
    fn name(&self) -> &str;

    /// Begins to track writes to these addresses. They ascend and do not touch.
    ///
    /// # Errors
    /// When the tracking does not run afterwards.
    fn start(&mut self, ranges: &[Range]) -> Result<(), TrackError>;

    /// More addresses have memory behind them while it runs.
    ///
    /// # Errors
    /// When they cannot be tracked. What was tracked before still is.
    fn extend(&mut self, range: Range) -> Result<Extended, TrackError>;

    /// Marks the pages of `range` that were written since the last read, and forgets them. `range` is a mapped slot or the piece
    /// of one that is about to be unmapped. Marking too much is harmless.
    ///
    /// # Errors
    /// When anything may be missing. The caller then takes **every** page of every range of this tracker for dirty, and asks
    /// it no more until it was started again.
    fn read(&mut self, range: Range, marks: &mut Marks<'_>) -> Result<(), TrackError>;

    /// Ends the tracking. What was not read is lost.
    ///
    /// # Errors
    /// When it may still run.
    fn stop(&mut self) -> Result<(), TrackError>;
}

/// What became of addresses that a running tracker was told of.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "they are tracked, or they are not")]
pub enum Extended {
    /// Writes to them are tracked from now on.
    Tracked,
    /// They can be tracked only from a new start, as with a device's DMA log.
    NeedsRestart,
}

/// What a tracker was doing.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Doing {
    /// Starting.
    Start,
    /// Taking in addresses while it runs.
    Extend(Range),
    /// Reading and clearing.
    Read(Range),
    /// Stopping.
    Stop,
}

impl fmt::Display for Doing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start => f.write_str("starting to track dirty pages"),
            Self::Extend(range) => write!(f, "tracking the new memory at {range}"),
            Self::Read(range) => write!(f, "reading the dirty pages of {range}"),
            Self::Stop => f.write_str("stopping to track dirty pages"),
        }
    }
}

/// A tracker did not do what was asked.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{tracker}: {doing} failed: {detail}")]
#[non_exhaustive]
pub struct TrackError {
    /// The device and the interface.
    pub tracker: String,
    /// What was asked.
    pub doing: Doing,
    /// The errno, where the failure came with one.
    pub errno: Option<i32>,
    /// What it means, for a person.
    pub detail: String,
}

impl TrackError {
    /// A failure, with the errno where there is one.
    #[must_use]
    pub fn new(tracker: &str, doing: Doing, errno: Option<i32>, detail: impl Into<String>) -> Self {
        Self { tracker: tracker.into(), doing, errno, detail: detail.into() }
    }
}
