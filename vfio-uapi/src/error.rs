// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Errors: which call on which device, the raw errno, and what it means there.

use std::sync::Arc;

use nix::errno::Errno;

use crate::{Call, DeviceState, DmaRange};

/// The result of a call of this crate.
pub type Result<T, E = Error> = core::result::Result<T, E>;

/// Why a call failed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel, that is the VFIO core or the device's driver, refused or failed.
    #[error("{device}: {call}: {} ({})", call.meaning(*errno), ErrnoName(*errno))]
    Kernel {
        /// The label of the device, container, group, iommufd or path.
        device: Arc<str>,
        /// The call.
        call: Call,
        /// The raw errno.
        errno: i32,
    },
    /// This crate refused the call before it reached the kernel, which would have accepted it or done worse.
    #[error("{device}: {call} not issued: {reason}")]
    Refused {
        /// The label of the device.
        device: Arc<str>,
        /// The call.
        call: Call,
        /// What is wrong with it.
        reason: Refusal,
    },
    /// The kernel's answer to a successful call makes no sense.
    #[error("{device}: {call}: {what}")]
    Answer {
        /// The label of the device.
        device: Arc<str>,
        /// The call.
        call: Call,
        /// What the answer was.
        what: &'static str,
    },
}

impl Error {
    /// The raw errno, of the failure itself or of the earlier one that forbids this call.
    #[must_use]
    pub const fn errno(&self) -> Option<i32> {
        match self {
            Self::Kernel { errno, .. } | Self::Refused { reason: Refusal::AfterFailedWrite { errno }, .. } => {
                Some(*errno)
            }
            Self::Refused { .. } | Self::Answer { .. } => None,
        }
    }

    /// The call that failed.
    #[must_use]
    pub const fn call(&self) -> Call {
        match self {
            Self::Kernel { call, .. } | Self::Refused { call, .. } | Self::Answer { call, .. } => *call,
        }
    }

    /// The label of the device, container, group, iommufd or path.
    #[must_use]
    pub fn device(&self) -> &str {
        match self {
            Self::Kernel { device, .. } | Self::Refused { device, .. } | Self::Answer { device, .. } => device,
        }
    }

    /// Whether a signal interrupted the call (EINTR).
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        self.errno() == Some(nix::libc::EINTR)
    }

    /// Whether the kernel or the device does not offer what was asked (ENOTTY or EOPNOTSUPP).
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        matches!(self.errno(), Some(nix::libc::ENOTTY | nix::libc::EOPNOTSUPP))
    }

    pub(crate) fn kernel(device: &Arc<str>, call: Call, errno: i32) -> Self {
        Self::Kernel { device: Arc::clone(device), call, errno }
    }

    pub(crate) fn refused(device: &Arc<str>, call: Call, reason: Refusal) -> Self {
        Self::Refused { device: Arc::clone(device), call, reason }
    }

    pub(crate) fn answer(device: &Arc<str>, call: Call, what: &'static str) -> Self {
        Self::Answer { device: Arc::clone(device), call, what }
    }
}

/// What this crate does not let through to the kernel.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The buffer is empty, and a result of 0 would look like an end.
    #[error("the buffer is empty")]
    EmptyBuffer,
    /// An earlier write on this fd failed. Drivers may take further data and load it; reset the device instead.
    #[error("an earlier write failed with {}; reset the device", ErrnoName(*errno))]
    AfterFailedWrite {
        /// The errno of that write; 0 if the driver took no byte without an error.
        errno: i32,
    },
    /// The resuming session of this fd is over: the device left RESUMING or was reset. One driver crashes the kernel
    /// on such a write.
    #[error("the device has left RESUMING")]
    SessionEnded,
    /// The device is in ERROR. A request would make most drivers warn in the kernel log, which can be fatal to the
    /// host.
    #[error("the device is in ERROR; reset it")]
    InError,
    /// STOP_COPY to a PRE_COPY state: kernels before the fix of 2026 spin forever on it, newer ones say EINVAL.
    #[error("no way leads from STOP_COPY to {target}, and older kernels hang on the request")]
    NoWayBack {
        /// The state that was asked for.
        target: DeviceState,
    },
    /// An access of a region beyond its end.
    #[error("offset {offset:#x} + {length:#x} is beyond the {size:#x} bytes of region {index}")]
    RegionBounds {
        /// The region's index.
        index: u32,
        /// The offset in the region, in bytes.
        offset: u64,
        /// The length of the access, in bytes.
        length: u64,
        /// The size of the region, in bytes.
        size: u64,
    },
    /// A page size that is no power of two, or below the 4096 bytes a report demands.
    #[error("a page size of {page_size} bytes, not a power of two of at least {min}")]
    PageSize {
        /// The page size, in bytes.
        page_size: u64,
        /// The smallest possible one, in bytes.
        min: u64,
    },
    /// No range to log.
    #[error("no range to log")]
    NoRange,
    /// More ranges to log than any kernel takes.
    #[error("{count} ranges, more than the {max} any kernel takes")]
    TooManyRanges {
        /// The number of ranges.
        count: usize,
        /// The limit.
        max: usize,
    },
    /// A range without length.
    #[error("an empty range at {iova:#x}")]
    EmptyRange {
        /// The start of the range.
        iova: u64,
    },
    /// A range whose start or length is no multiple of the page size.
    #[error("the range {iova:#x} + {length:#x} is not aligned to pages of {page_size:#x}")]
    UnalignedRange {
        /// The start of the range.
        iova: u64,
        /// The length of the range, in bytes.
        length: u64,
        /// The page size, in bytes.
        page_size: u64,
    },
    /// A range that reaches the end of the 64-bit address space. Its last page cannot be logged.
    #[error("the range {iova:#x} + {length:#x} reaches 2^64")]
    RangeEnd {
        /// The start of the range.
        iova: u64,
        /// The length of the range, in bytes.
        length: u64,
    },
    /// Two ranges that overlap.
    #[error("the ranges at {first:#x} and {second:#x} overlap")]
    Overlap {
        /// The start of the lower range.
        first: u64,
        /// The start of the higher one.
        second: u64,
    },
    /// A bitmap beyond [`DirtyBitmap::MAX_BYTES`](crate::DirtyBitmap::MAX_BYTES), or beyond the memory there is.
    #[error("a bitmap of {bytes} bytes is too large; split the range")]
    BitmapSize {
        /// The size, in bytes.
        bytes: u64,
    },
    /// A page table that was allocated without dirty tracking, or by the kernel itself: it has no dirty bits to read.
    #[error("the page table was allocated without dirty tracking")]
    NoDirtyTracking,
    /// A range with a hole. The kernel finds no dirty page there and reports success.
    #[error("nothing is known to be mapped at {iova:#x}, where the kernel would find every page clean")]
    NotMapped {
        /// The first address of the range that is not mapped.
        iova: u64,
    },
    /// Two bitmaps of different pages.
    #[error("the other bitmap is of {range} in pages of {page_size:#x}")]
    OtherPages {
        /// The other range.
        range: DmaRange,
        /// The other page size, in bytes.
        page_size: u64,
    },
    /// A name with a NUL, a blank or nothing in it: it would reach the kernel as another one.
    #[error("not a device name or token")]
    Name,
    /// The group is not viable: some device in it belongs to a driver that is not a vfio driver.
    #[error("the group is not viable; bind all its devices to vfio drivers")]
    NotViable,
    /// The container speaks another version of the API, or lacks the TYPE1v2 IOMMU.
    #[error("the container offers no TYPE1v2 IOMMU of API version 0")]
    NoType1V2,
    /// Discovery found no such way to this device.
    #[error("{0}")]
    NotFound(&'static str),
}

/// A failed request for a device state, and where the device is now.
///
/// After a failure the device can be in any state of the path, the last one included: when no fd is left for the data
/// (EMFILE), it has arrived and has no data fd. The state below was asked of the device after the failure.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{error}; asked for {target}, {}", FoundIn(found))]
#[non_exhaustive]
pub struct SetStateError {
    /// The state that was asked for.
    pub target: DeviceState,
    /// Why the request failed.
    pub error: Error,
    /// The state the device is in, or why it could not be told.
    pub found: Result<DeviceState>,
}

impl SetStateError {
    /// The raw errno of the failed request.
    #[must_use]
    pub const fn errno(&self) -> Option<i32> {
        self.error.errno()
    }
}

/// An errno by its symbol.
struct ErrnoName(i32);

impl core::fmt::Display for ErrnoName {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match Errno::from_raw(self.0) {
            Errno::UnknownErrno => write!(f, "errno {}", self.0),
            errno => write!(f, "{errno:?}, errno {}", self.0),
        }
    }
}

struct FoundIn<'a>(&'a Result<DeviceState>);

impl core::fmt::Display for FoundIn<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.0 {
            Ok(state) => write!(f, "found in {state}"),
            Err(error) => write!(f, "and its state cannot be told: {error}"),
        }
    }
}

#[cfg(test)]
mod test;
