// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Device states and migration flags, open at the boundary: a number this crate does not know survives.

use core::fmt;

bitflags::bitflags! {
    /// What a device's migration support covers (`VFIO_DEVICE_FEATURE_MIGRATION`).
    ///
    /// Bits this crate does not know are kept: by `vfio.h` they add states and never change what these three mean.
    /// Legal sets today are `STOP_COPY` alone or with `P2P`, `PRE_COPY` or both.
    #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
    pub struct MigrationFlags: u64 {
        /// STOP, STOP_COPY and RESUMING exist. Mandatory for every migratable device.
        const STOP_COPY = 1;
        /// RUNNING_P2P exists (and PRE_COPY_P2P, with [`PRE_COPY`](Self::PRE_COPY)).
        const P2P = 2;
        /// PRE_COPY exists.
        const PRE_COPY = 4;
        const _ = !0;
    }
}

/// The migration state of a device as the kernel numbers it (`enum vfio_device_mig_state`).
///
/// Open on purpose: a newer kernel may report a state this crate has no name for, for instance after a failed
/// multi-step transition.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct DeviceState(u32);

impl DeviceState {
    /// The device failed and only [`Device::reset`](crate::Device::reset) leads out. Never a legal target.
    pub const ERROR: Self = Self(0);
    /// Nothing runs and the state is frozen.
    pub const STOP: Self = Self(1);
    /// Normal operation, and the state after open and after a reset.
    pub const RUNNING: Self = Self(2);
    /// As STOP, with a saving fd.
    pub const STOP_COPY: Self = Self(3);
    /// As STOP, with a resuming fd.
    pub const RESUMING: Self = Self(4);
    /// Runs, but starts no new peer-to-peer DMA.
    pub const RUNNING_P2P: Self = Self(5);
    /// As RUNNING, with state changes tracked and a saving fd.
    pub const PRE_COPY: Self = Self(6);
    /// As RUNNING_P2P, with state changes tracked and a saving fd.
    pub const PRE_COPY_P2P: Self = Self(7);

    /// The state with this kernel number.
    #[must_use]
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    /// The kernel's number.
    #[must_use]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// The kernel's name, or `None` for a number this crate does not know.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::ERROR => "ERROR",
            Self::STOP => "STOP",
            Self::RUNNING => "RUNNING",
            Self::STOP_COPY => "STOP_COPY",
            Self::RESUMING => "RESUMING",
            Self::RUNNING_P2P => "RUNNING_P2P",
            Self::PRE_COPY => "PRE_COPY",
            Self::PRE_COPY_P2P => "PRE_COPY_P2P",
            _ => return None,
        })
    }

    /// Whether a device in this state has a saving session: STOP_COPY, PRE_COPY and PRE_COPY_P2P share one.
    #[must_use]
    pub const fn is_saving(self) -> bool {
        matches!(self, Self::STOP_COPY | Self::PRE_COPY | Self::PRE_COPY_P2P)
    }
}

impl fmt::Display for DeviceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => write!(f, "state {}", self.0),
        }
    }
}

impl fmt::Debug for DeviceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
