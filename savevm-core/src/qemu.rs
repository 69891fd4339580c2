// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Migration to and from a stock QEMU (10.0 to 11.1), in QEMU's own stream format.
//!
//! [`load`] is what `-incoming` is to QEMU, [`save`] what `migrate` is: which message goes when, which answer is owed,
//! in which order packets of many channels reach a device, and when the devices may run. The bytes are
//! [`stream_codec::qemu`]'s. Everything that is not a VFIO device (RAM, vCPUs, other devices) belongs to the VMM:
//! [`TargetMachine`] and [`SourceMachine`] are its part.
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
//! | `x-migration-multifd-transfer` (auto: on with `multifd`) | [`DeviceState::Multifd`] |
//! | the device's place in the guest, e.g. `0000:00:10.0` | [`Device::name`](crate::Device::name) |
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
//! Both sides read and write the main connection on the caller's thread. A target has one more thread per multifd channel, a
//! source one for the return path and one per device while device state goes over multifd channels. None outlives the
//! call. All connections must return from a read with `WouldBlock` or `TimedOut` now and then (`SO_RCVTIMEO`): that is when
//! a cancel, or a failure on another connection, is noticed.
//!
//! A target holds one buffer of [`Limits::chunk_bytes_max`](crate::Limits) per connection, what the decoders may hold
//! ([`stream_codec::qemu::Limits::main_bytes`]), and of packets that overtook others at most
//! [`LoadOptions::reorder_bytes_max`]. At that bound it stops reading a channel; the packet that is next for its device never
//! counts, because it is written straight from the connection's buffer.

mod agreement;
mod config_space;
mod error;
mod input;
pub mod source;
pub mod target;

pub use agreement::{Acks, Agreement, DeviceState};
pub use config_space::check_config_space;
pub use error::{Connection, StreamError};
pub use source::{SaveOptions, SourceMachine, save};
pub use target::{LoadOptions, TargetMachine, load};

use std::format;
use std::string::String;

/// The name of a device's section: `0000:00:10.0/vfio` for the device `0000:00:10.0`.
#[must_use]
pub fn idstr(device: &str) -> String {
    format!("{device}/vfio")
}
