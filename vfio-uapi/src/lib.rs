// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Typed, I/O-safe VFIO device-migration ioctls.

#![cfg_attr(test, allow(clippy::arithmetic_side_effects, clippy::as_conversions))]

mod call;
#[cfg(feature = "contract")]
#[doc(hidden)]
pub mod contract;
mod data;
mod device;
mod dma;
mod error;
mod info;
mod ioctl;
mod ioctls;
mod layout;
pub mod open;
mod probe;
mod state;

pub use call::Call;
pub use data::{DataFd, LoadFd, PrecopyInfo, PrecopyInfoVersion, Read, SaveFd, SavePhase};
pub use device::Device;
pub use dma::{DirtyBitmap, DirtyPages, DmaRange};
pub use error::{Error, Refusal, Result, SetStateError};
pub use info::{DeviceFlags, DeviceInfo, IrqFlags, IrqInfo, RegionFlags, RegionInfo};
pub use ioctls::{FdKind, IOCTLS, Ioctl};
pub use probe::{FeatureOp, Support};
pub use state::{DeviceState, MigrationFlags};
