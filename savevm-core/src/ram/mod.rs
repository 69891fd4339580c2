// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guest memory as one more section of a migration, beside the devices.
//!
//! The VMM implements [`GuestMemory`], or uses [`FileMemory`] where its memory is files (memfd). A source hands it to
//! [`save_with_memory`](crate::save::save_with_memory) together with a [`Tracking`](crate::dirty::Tracking) as a [`Source`], a target to
//! [`load_with_memory`](crate::load::load_with_memory).
//!
//! # What happens when
//!
//! - **open**: both sides compare their regions (names, sizes, page sizes, order) before a device or a byte of memory is touched.
//! - **pre-copy**: the trackers start, then all pages move, then those written meanwhile. A page is on its way at most once, and *owed*
//!   until the target says that it has written it.
//! - **stop-copy**: once every device has stopped, and not before, the trackers are read a last time, and the rest moves.
//! - **load**: count and digest over everything (without [`Limits::memory_digest`](crate::Limits::memory_digest) the count) must agree, and then the account must be empty, before there is a
//!   [`Ready`](crate::save::Ready) to commit.
//! - **failure or cancel**: what was owed, and what the target held, is dirty again; the trackers are stopped. A next attempt starts
//!   with all memory. The target's memory holds pieces of the guest's: nothing may run in it.
//!
//! Pages of zeros are not sent; a target only writes zeros over what is not zero, so that untouched memory stays untouched.
//!
//! # Bounds
//!
//! Memory moves in the engine's buffers, under its credit, like a device. Beside those a source keeps the account (see
//! [`dirty`](crate::dirty)) and up to 32 KiB for each frame on its way.

mod error;
#[cfg(unix)]
mod file;
mod memory;
mod source;
mod target;

pub use error::{Access, MemoryError};
#[cfg(unix)]
pub use file::FileMemory;
pub use memory::GuestMemory;
pub use source::Source;
pub(crate) use source::{Attempt, BLOCK_LEN, Batch, Left};
pub(crate) use target::Sink;

/// The name of the section in reports.
pub(crate) const NAME: &str = "guest memory";
