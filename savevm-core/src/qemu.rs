// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Migration to and from a stock QEMU (10.0 to 11.1), in QEMU's own stream format.
//!
//! [`load`] is what `-incoming` is to QEMU, [`save`] what `migrate` is: which message goes when, which answer is owed,
//! in which order packets of many channels reach a device, and when the devices may run. The bytes are
//! [`stream_codec::qemu`]'s. Everything that is not a VFIO device (vCPUs, other devices) belongs to the VMM:
//! [`TargetMachine`] and [`SourceMachine`] are its part. RAM does too, or is moved for it: [`load_with_memory`] and [`save_with_memory`].
//!
//! # What both sides must be told
//!
//! QEMU negotiates nothing: both ends must be configured alike. [`Agreement`] is that configuration.
//!
//! | QEMU | here |
//! |---|---|
//! | capability `return-path` | pass the other direction of the main connection |
//! | `switchover-ack`, machine types up to 11.0 or `switchover-ack-legacy=on` | [`Acks::Once`] |
//! | `switchover-ack`, machine types from 11.1 on | [`Acks::PerRequest`] |
//! | `multifd`, `multifd-channels=N` | pass N more connections |
//! | `multifd-flush-after-each-section` (machine types up to 8.0) | [`Agreement::flush_each_section`] |
//! | `x-migration-multifd-transfer` (auto: on with `multifd`) | [`DeviceState::Multifd`] |
//! | the device's place in the guest, e.g. `0000:00:10.0` | [`Device::name`](crate::Device::name) |
//!
//! # Guest memory
//!
//! A [`TargetMemory`] or [`SourceMemory`] says which RAM block of the QEMU each region of guest memory is (`info ramblock` in QEMU's monitor
//! lists its blocks). Block by block names and lengths must be the same; a target compares them before it writes a byte, and names everything
//! that differs ([`RamError`]).
//!
//! Pages of 4 KiB go over the main connection, or over all multifd channels where there are any; pages of zeros go without their bytes. On a
//! target every connection writes its pages at once, behind QEMU's synchronisation points. A source sends what the trackers of its
//! [`Tracking`](crate::dirty::Tracking) report while the guest runs, pass after pass, and the rest while it stands ([`source::Precopy`] says
//! when to stop the guest). QEMU's format has no acknowledgement of pages: up to the end of the stream a failure makes all of them dirty again.
//!
//! What cannot be taken: `xbzrle`, compression, `mapped-ram`, `x-ignore-shared`, postcopy, and target pages that are not of 4 KiB.
//!
//! # Who owns the guest
//!
//! QEMU's protocol has no commit: a QEMU target runs as soon as it has read the end of the stream, and its last word on
//! the return path, SHUT, comes after that. So the end of the stream is the point of no return:
//! [`source::Ready`] holds it back, and [`source::Ready::commit`] sends it. Before it a source returns its devices; after it
//! only the target's word that it failed does. A target here says SHUT 0 when every device has loaded and before any runs,
//! and anything else otherwise.
//!
//! # Threads and memory
//!
//! Both sides read and write the main connection on the caller's thread, a source the return path too. A target has one more thread per
//! multifd channel, a source one per device while device state goes over multifd channels, and one for each channel but the first while
//! a round of pages does. None outlives the
//! call. All connections must return from a read with `WouldBlock` or `TimedOut` now and then (`SO_RCVTIMEO`): that is when
//! a cancel, or a failure on another connection, is noticed.
//!
//! A target holds one buffer of [`Limits::chunk_bytes_max`](crate::Limits) per connection, what the decoders may hold
//! ([`stream_codec::qemu::Limits::main_bytes`]), and of packets that overtook others at most
//! [`LoadOptions::reorder_bytes_max`]. At that bound it stops reading a channel; the packet that is next for its device never
//! counts, because it is written straight from the connection's buffer. Pages are too. A source has half a MiB per channel for packets of
//! pages, a few MiB for what is under way, and the account of its memory ([`dirty`](crate::dirty)).

mod agreement;
mod config_space;
mod error;
mod input;
mod memory;
pub mod source;
pub mod target;

pub use agreement::{Acks, Agreement, DeviceState};
pub use config_space::check_config_space;
pub use error::{Connection, StreamError};
pub use memory::{BlockDifference, RamError, RamPages, TargetMemory};
pub use source::{SaveOptions, SourceMachine, SourceMemory, save, save_with_memory};
pub use target::{LoadOptions, TargetMachine, load, load_with_memory};

use std::format;
use std::string::String;

/// The name of a device's section: `0000:00:10.0/vfio` for the device `0000:00:10.0`.
#[must_use]
pub fn idstr(device: &str) -> String {
    format!("{device}/vfio")
}
