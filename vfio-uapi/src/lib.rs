// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Typed, I/O-safe VFIO device-migration ioctls.
//!
//! **Invariant:** a call of this crate is one call of the kernel with its rules kept, or an error. It holds no policy: it
//! starts no thread, chooses no state, and repeats nothing that changes a device. (Where a rule needs it, a call first
//! asks for the device's state or info; the method says so.)
//!
//! - [`Device`] wraps a device fd: migration support and states, sizes, DMA logging, reset, regions.
//! - [`SaveFd`] and [`LoadFd`] are the data fds its transitions return.
//! - [`open`] leads to device fds, by path or from fds that were handed in.
//! - [`Error`] and [`SetStateError`] say what failed, on which device, and what the errno means for that call.
//! - [`IOCTLS`] is the list for seccomp filters.
//!
//! ```no_run
//! use vfio_uapi::{DataFd, Device, DeviceState, LoadFd};
//!
//! # fn load(fd: std::os::fd::OwnedFd, stream: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
//! let device = Device::with_label(fd, "0000:06:00.2");
//! let Some(DataFd::Load(mut load)) = device.set_device_state(DeviceState::RESUMING)? else {
//!     return Err("no resuming fd".into());
//! };
//! for chunk in stream.chunks(1 << 20) {
//!     load.write_all(chunk)?;
//! }
//! device.set_device_state(DeviceState::RUNNING)?;
//! # Ok(())
//! # }
//! ```
//!
//! Every size, offset, number and flag is a literal of the uAPI (`linux/vfio.h`, `linux/iommufd.h`), checked against the
//! types by the compiler. All `unsafe` is in one module.

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
pub use dma::{DirtyBitmap, DirtyPages, DirtyRanges, DmaRange};
pub use error::{Error, Refusal, Result, SetStateError};
pub use info::{DeviceFlags, DeviceInfo, IrqFlags, IrqInfo, RegionFlags, RegionInfo};
pub use ioctls::{FdKind, IOCTLS, Ioctl};
pub use probe::{FeatureOp, Support};
pub use state::{DeviceState, MigrationFlags};

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(test)]
mod test {
    use std::os::fd::{AsFd, OwnedFd};

    use static_assertions::{assert_impl_all, assert_not_impl_any};

    use super::*;

    // Threads share a device, and one of them owns each data fd.
    assert_impl_all!(Device<OwnedFd>: AsFd, Send, Sync);
    assert_impl_all!(Device<std::os::fd::BorrowedFd<'static>>: AsFd, Send, Sync);
    assert_impl_all!(SaveFd: AsFd, From<OwnedFd>, Into<OwnedFd>, Send, Sync);
    assert_impl_all!(LoadFd: AsFd, From<OwnedFd>, Into<OwnedFd>, Send, Sync);
    assert_not_impl_any!(SaveFd: Clone, Copy);
    assert_not_impl_any!(LoadFd: Clone, Copy);
    // Errors travel between threads and into reports, and tests compare them.
    assert_impl_all!(Error: Clone, Eq, Send, Sync, core::error::Error);
    assert_impl_all!(SetStateError: Clone, Eq, Send, Sync, core::error::Error);

    #[test]
    fn the_seccomp_table_names_each_call_once_and_in_order() {
        for pair in IOCTLS.windows(2) {
            assert!(pair[0].fd != pair[1].fd || pair[0].number < pair[1].number, "{pair:?}");
        }
        let mut names: Vec<_> = IOCTLS.iter().map(|ioctl| ioctl.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), IOCTLS.len());
    }
}
