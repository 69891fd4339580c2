// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Property tests for any implementor of [`Decoder`](crate::decode::Decoder), for use in the tests of other crates.
//!
//! The implementor gives a way to make a decoder, a normaliser, the bound of
//! [`buffered_bytes`](crate::decode::Decoder::buffered_bytes), and some valid streams:
//!
//! ```
//! use stream_codec::frame::{Event, FrameDecoder, Limits, Message, encode_control, encode_prologue};
//! use stream_codec::testkit;
//!
//! // The normaliser: what is left of an event when pieces of a payload are put together.
//! fn record(event: Event<'_>, records: &mut Vec<String>) {
//!     records.push(format!("{event:?}")); // enough here, for this stream has no payload to cut
//! }
//!
//! let limits = Limits { control_bytes: 100, ..Limits::DEFAULT };
//! let mut stream = encode_prologue().to_vec();
//! encode_control(&Message::Switchover, &mut stream).unwrap();
//!
//! testkit::check_decoder(|| FrameDecoder::new(limits), record, 100, &[&stream]);
//! ```
//!
//! The functions here panic when a property does not hold: that is how a test fails. The message names the property
//! and the segmentation. Nothing depends on time or on outside randomness, so a failure repeats.

mod check;
mod mutate;
mod run;

pub use self::check::{check_bytes, check_decoder};
pub use self::mutate::{Random, bit_flips, prefixes};
pub use self::run::{Outcome, run};

#[cfg(test)]
mod test;
