// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which pages of guest memory were written, by vCPUs and by devices past the CPU, and which of them the target has.
//!
//! # The trap
//!
//! Every interface that reports dirty pages reads *and clears*. Whoever has read the bits is the only one who knows. If what was read
//! goes to a target and the attempt fails, a second attempt that asks the kernel again finds those pages clean, sends none of them,
//! and the guest wakes up with old memory. So a bit that was read is *owed* until the target has acknowledged the page, and goes
//! back when an attempt fails: [`Ledger`]. And where a report fails, nobody knows what it would have said: everything is dirty.
//!
//! # Parts
//!
//! ```text
//!   device DMA log ─┐
//!   iommufd HWPT  ──┤ DirtyTracker::read   Marks: addresses → pages       take → Owed → acknowledge
//!   type1         ──┼───────────────────►  Slots, page sizes    ────────► Ledger: dirty, owed
//!   the VMM's log ──┘                      (Tracking is the union)         give_up ◄── failed attempt
//! ```
//!
//! - [`choose`] says by whom a device's writes are reported, and why; a device that nobody can report for is refused.
//! - [`Tracking`] starts, reads and restarts all trackers, and follows memory as it is mapped and unmapped.
//! - [`Ledger`] is the account of all pages. [`Owed`] is a batch on its way.
//! - [`RegionTable`] is what both sides must agree on.
//!
//! # Example
//!
//! ```
//! use core::num::NonZeroU64;
//! use savevm_core::dirty::{Guest, HostLog, Ledger, Portion, Range, Region, RegionTable, Request, Slot, Target, Tracking};
//!
//! let ram = Region { name: "ram".into(), bytes: 64 << 20, page_bytes: 4096 };
//! let table = RegionTable::new(vec![ram], 16)?;
//! let mut tracking = Tracking::new(Ledger::of(&table, 1 << 20)?, 64, 8);
//! let (region, _) = tracking.ledger().regions().next().expect("one region");
//! let _ = tracking.map(Slot { range: Range::new(0, 64 << 20)?, region, offset: 0 })?;
//! let log = HostLog::new("kvm", |request| match request {
//!     // Page 3 was written, whenever one asks.
//!     Request::Read(range, marks) => marks.words(range.start(), 4096, &[1 << 3]).map_err(|error| error.to_string()),
//!     _ => Ok(()),
//! });
//! assert!(tracking.add_tracker(Box::new(log)).is_ok());
//! tracking.start()?;
//!
//! let thousand = NonZeroU64::new(1000).expect("not 0");
//! let portion = Portion::new(thousand, NonZeroU64::new(1 << 20).expect("not 0"));
//! while let Some(owed) = tracking.take(portion)? {
//!     for run in owed.runs(thousand) { /* send the pages */ }
//!     tracking.acknowledge(owed)?;
//! }
//! assert!(tracking.collect(Guest::Stopped).errors.is_empty());
//! assert_eq!(tracking.ledger().dirty_pages(), 1);
//! // The connection is gone, and with it all the target had.
//! tracking.give_up(Target::Lost);
//! assert_eq!(tracking.ledger().dirty_pages(), 16384);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Bounds
//!
//! Two bits per page of the regions, one bit per page of the stretch of every [`Owed`] that is alive and of the last 16 of each region,
//! and as many slots and trackers as the caller allows.

mod all_dirty;
mod bitmap;
mod choose;
mod host;
#[cfg(feature = "kernel")]
pub mod kernel;
mod ledger;
mod marks;
mod owed;
mod range;
mod region;
mod runs;
mod slots;
mod take;
mod tracker;
mod tracking;
mod under_way;

pub use all_dirty::AllDirty;
pub use bitmap::{Bitmap, BitmapError};
pub use choose::{Choice, NotTracked, Offer, Offers, Source, Untracked, choose};
pub use host::{HostLog, Request};
pub use ledger::{Ledger, LedgerError, RegionId, Stale, Unfinished};
pub use marks::{BadReport, Marks};
pub use owed::{Owed, Portion, Target};
pub use range::{Range, RangeError};
pub use region::{Difference, Region, RegionError, RegionTable, RegionsDiffer};
pub use runs::{Block, Blocks, Run, Runs};
pub use slots::{Slot, SlotError};
pub use tracker::{DirtyTracker, Doing, Extended, TrackError};
pub use tracking::{Collected, Guest, Incomplete, TrackerState, Tracking, UnmapError};

#[cfg(test)]
mod test;
