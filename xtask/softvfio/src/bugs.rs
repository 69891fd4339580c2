// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Faulty behaviour of kernels that loses dirty bits, switched on by name. What every supported kernel does is no bug of
//! one, and is always on: see the modules that do it.

/// Those of iommufd: `bug=` of the kernel.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct KernelBugs {
    /// Until 6.12.117 and 7.3.4 nothing refused GET_DIRTY_BITMAP of length 0, and the last address was computed from it.
    pub(crate) zero_length: bool,
    /// A page table whose tracking is off has no bits to tell, also those that were set while it was on.
    pub(crate) clean_untracked: bool,
}

impl KernelBugs {
    pub(crate) const NAMES: &str = "zero-length or untracked-is-clean, separated by commas";

    pub(crate) fn parse(names: &str) -> Option<Self> {
        names.split(',').try_fold(Self::default(), |bugs, name| match name {
            "zero-length" => Some(Self { zero_length: true, ..bugs }),
            "untracked-is-clean" => Some(Self { clean_untracked: true, ..bugs }),
            _ => None,
        })
    }
}

/// Those of a driver with a dirty log, which is that of pds: `bug=` of a device.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct DeviceBugs {
    /// A report that begins within a word of the log's bitmap has the bits from the next word on.
    pub(crate) shifted_report: bool,
    /// The log ends when the device leaves STOP_COPY.
    pub(crate) stop_ends_log: bool,
}

impl DeviceBugs {
    pub(crate) const NAMES: &str = "pds-shifted-report or pds-stop-ends-log, separated by commas";

    pub(crate) fn parse(names: &str) -> Option<Self> {
        names.split(',').try_fold(Self::default(), |bugs, name| match name {
            "pds-shifted-report" => Some(Self { shifted_report: true, ..bugs }),
            "pds-stop-ends-log" => Some(Self { stop_ends_log: true, ..bugs }),
            _ => None,
        })
    }
}
