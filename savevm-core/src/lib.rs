// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Live migration of VFIO device state.
#![no_std]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects, clippy::as_conversions))]

extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

pub mod device;
#[cfg(feature = "std")]
pub mod digest;
mod hooks;
mod limits;
#[cfg(feature = "sim")]
pub mod sim;

pub use device::{Device, DeviceError, PrecopyInfo, TransitionError};
pub use hooks::{Cancel, Hooks, Phase};
pub use limits::Limits;
