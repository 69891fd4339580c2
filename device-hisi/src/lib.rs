// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#![doc = include_str!("../README.md")]
//!
//! # Modules
//!
//! * [`Stream`], [`Match`], [`State`] – the structure as values; [`StateDecoder`] reads it in pieces.
//! * [`check`] – the limits of the format, as a list of findings.
//! * [`compatible`] – whether a source's state fits a target VF, as a list of reasons.
//! * [`resume`] – the bytes for a target's resuming fd, and how they must be written.
//! * [`layout`] – where each field stands and what it means.
//! * [`model`] – what the kernel's resuming side does with a sequence of writes.
//!
//! **Invariant:** this crate performs no I/O, never panics, and holds at most 176 bytes of any stream.

#![no_std]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects, clippy::as_conversions))]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod addresses;
pub mod check;
pub mod compatible;
mod decoder;
mod error;
mod explain;
pub mod layout;
pub mod model;
pub mod resume;
mod state;
mod version;

pub use self::addresses::{AddressFault, QueueAddress};
pub use self::decoder::{Event, StateDecoder};
pub use self::error::{Error, Reason};
pub use self::state::{Match, State, Stream};
pub use self::version::{MAGIC_V1, MAGIC_V2, MAJOR, Version};
/// What this crate's decoder and errors are made of.
#[doc(no_inline)]
pub use stream_codec::{
    cursor::CursorError,
    decode::{Blame, Decoder, Fault, Located, Step},
};

/// Length of the match part in bytes: all there is of a VF whose guest driver is absent.
pub const MATCH_BYTES: usize = 40;

/// Length of a whole state in bytes. No stream of this driver is longer.
pub const STATE_BYTES: usize = 176;

/// `vf_qm_state` of a VF whose guest driver is loaded.
pub const VF_READY: u32 = 0;

/// `vf_qm_state` of a VF without guest driver. There is nothing to load into its target.
pub const VF_NOT_READY: u32 = 1;

/// Name of the accelerator a VF with this PCI device id (vendor 0x19e5) is, if the kernel's driver knows it.
///
/// ```
/// assert_eq!(device_hisi::device_name(0xa256), Some("SEC"));
/// assert_eq!(device_hisi::device_name(0xa255), None); // the SEC's PF
/// ```
#[must_use]
pub const fn device_name(dev_id: u32) -> Option<&'static str> {
    match dev_id {
        0xa251 => Some("ZIP"),
        0xa256 => Some("SEC"),
        0xa259 => Some("HPRE"),
        _ => None,
    }
}
