// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The questions [`Device::probe`](crate::Device::probe) can ask.

use core::fmt;

use vfio_bindings::bindings::vfio as sys;

/// A feature of `VFIO_DEVICE_FEATURE` with the operations asked about.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct FeatureOp {
    index: u16,
    get: bool,
    set: bool,
}

impl FeatureOp {
    /// `MIGRATION`: the migration flags.
    pub const MIGRATION: Self = Self::get(1);
    /// `MIG_DEVICE_STATE`: the state, to get and to set.
    pub const DEVICE_STATE: Self = Self::get_and_set(2);
    /// `DMA_LOGGING_START`.
    pub const DMA_LOGGING_START: Self = Self::set(6);
    /// `DMA_LOGGING_STOP`.
    pub const DMA_LOGGING_STOP: Self = Self::set(7);
    /// `DMA_LOGGING_REPORT`.
    pub const DMA_LOGGING_REPORT: Self = Self::get(8);
    /// `MIG_DATA_SIZE`: the estimate of the bytes in STOP_COPY.
    pub const MIG_DATA_SIZE: Self = Self::get(9);
    /// `MIG_PRECOPY_INFOv2`: the opt-in to the announcement of a new initial phase.
    pub const PRECOPY_INFO_V2: Self = Self::set(12);

    /// GET of the feature with this index.
    #[must_use]
    pub const fn get(index: u16) -> Self {
        Self { index, get: true, set: false }
    }

    /// SET of the feature with this index.
    #[must_use]
    pub const fn set(index: u16) -> Self {
        Self { index, get: false, set: true }
    }

    /// GET and SET of the feature with this index: supported if both are.
    #[must_use]
    pub const fn get_and_set(index: u16) -> Self {
        Self { index, get: true, set: true }
    }

    /// The feature's index.
    #[must_use]
    pub const fn index(self) -> u16 {
        self.index
    }

    /// The kernel's name of the feature, or `None` for an index this crate does not know.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        Some(match self.index {
            0 => "PCI_VF_TOKEN",
            1 => "MIGRATION",
            2 => "MIG_DEVICE_STATE",
            3 => "LOW_POWER_ENTRY",
            4 => "LOW_POWER_ENTRY_WITH_WAKEUP",
            5 => "LOW_POWER_EXIT",
            6 => "DMA_LOGGING_START",
            7 => "DMA_LOGGING_STOP",
            8 => "DMA_LOGGING_REPORT",
            9 => "MIG_DATA_SIZE",
            10 => "BUS_MASTER",
            11 => "DMA_BUF",
            12 => "MIG_PRECOPY_INFOv2",
            13 => "ZPCI_ERROR",
            _ => return None,
        })
    }

    /// The operation bits of the header.
    pub(crate) const fn flags(self) -> u32 {
        let get = if self.get { sys::VFIO_DEVICE_FEATURE_GET } else { 0 };
        let set = if self.set { sys::VFIO_DEVICE_FEATURE_SET } else { 0 };
        get | set
    }
}

impl fmt::Display for FeatureOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.get, self.set) {
            (true, true) => f.write_str("GET|SET ")?,
            (true, false) => f.write_str("GET ")?,
            (false, _) => f.write_str("SET ")?,
        }
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "feature {}", self.index),
        }
    }
}

/// The answer to a probe.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "the kernel has these three answers")]
pub enum Support {
    /// The feature exists with all operations asked about.
    Supported,
    /// The device does not offer the feature (ENOTTY).
    NotOffered,
    /// The feature lacks an operation asked about, `MIG_PRECOPY_INFOv2` meets a device without PRE_COPY, or an older
    /// kernel does not know the feature for this driver (EINVAL).
    Refused,
}

impl Support {
    /// Whether the feature can be used.
    #[must_use]
    pub const fn is_supported(self) -> bool {
        matches!(self, Self::Supported)
    }
}
