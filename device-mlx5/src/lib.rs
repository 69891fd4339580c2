// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#![doc = include_str!("../README.md")]
//!
//! # Modules
//!
//! * [`StreamDecoder`], [`Event`], [`Image`] – the stream as firmware images, in pieces and without copies.
//! * [`Summary`] – what a stream was, with remarks; for a person through `Display`.
//! * [`Encoder`] – headers in the order the format demands.
//! * [`Form`] – the older forms of the stream, as far as its first bytes tell them apart.
//! * [`record`] – the layer below, which knows no device: records with tag, flags and length.
//! * [`model`] – what the kernel's resuming side does with a sequence of writes.
//!
//! **Invariant:** this crate performs no I/O, never panics, never copies a payload, and holds at most 24 bytes of any
//! stream.

#![no_std]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects, clippy::as_conversions))]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod decoder;
mod encoder;
mod form;
mod image;
pub mod model;
pub mod record;
mod summary;

pub use self::decoder::{Event, StreamDecoder};
pub use self::encoder::{EncodeError, Encoder};
pub use self::form::Form;
pub use self::image::{Image, Part, Phase};
pub use self::record::{Error, Limits, Reason};
pub use self::summary::{Remark, Summary};
/// What this crate's decoders and errors are made of.
#[doc(no_inline)]
pub use stream_codec::decode::{Blame, Decoder, Fault, Located, Step};

use self::record::{Format, Tag};

/// Tag of a firmware image.
pub const TAG_FW_DATA: u32 = 0;

/// Tag of the announcement of the largest image's size. Its payload is one little-endian `u64`.
pub const TAG_STOP_COPY_SIZE: u32 = 1;

/// Payload of a STOP_COPY_SIZE record in bytes.
pub const STOP_COPY_SIZE_BYTES: u64 = 8;

/// The records of this driver.
pub const FORMAT: Format = Format {
    name: "mlx5",
    tags: &[Tag { number: TAG_FW_DATA, name: "FW_DATA" }, Tag { number: TAG_STOP_COPY_SIZE, name: "STOP_COPY_SIZE" }],
    image_tag: TAG_FW_DATA,
    record_bytes_max: 0xffff_ffff,
};
