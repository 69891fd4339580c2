// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#![doc = include_str!("../README.md")]
//!
//! # Modules
//!
//! * [`cursor`] – reads fields from a slice and names whatever is missing.
//! * [`decode`] – the [`Decoder`](decode::Decoder) contract and the pieces decoders are made of.
//! * [`frame`] – the native stream format: layout, messages, decoder, session rules, blocking reader and writer.
//! * [`qemu`] – the streams of QEMU: main stream with VFIO sections, return path, multifd channels.
//! * `testkit` (feature `testkit`) – the property tests that every implementor of the contract must pass.
//!
//! **Invariant:** nothing here performs I/O, except `frame::io` on a `Read` or `Write` that the caller owns. Nothing
//! allocates by a number read from a stream before that number was compared with a limit of the caller.

#![no_std]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects, clippy::as_conversions))]

extern crate alloc;
#[cfg(any(feature = "std", test))]
extern crate std;

pub mod cursor;
pub mod decode;
pub mod frame;
pub mod qemu;
#[cfg(any(feature = "testkit", test))]
pub mod testkit;
