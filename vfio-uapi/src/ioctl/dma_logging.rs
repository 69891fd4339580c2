// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The DMA logging features: the two whose payload holds an address.

use std::os::fd::{AsRawFd, BorrowedFd};

use vfio_bindings::bindings::vfio as sys;

use super::{Feature, Op, Payload, RawResult, address, bits, feature, last_errno, raw};

// SAFETY: u64, u32, u32, u64 without padding, and vfio.h defines feature 6 with them. The kernel only reads through
// `ranges`.
unsafe impl Payload for sys::vfio_device_feature_dma_logging_control {
    const INDEX: u32 = sys::VFIO_DEVICE_FEATURE_DMA_LOGGING_START;
}

/// Feature 7, which has no payload.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct DmaLoggingStop;

// SAFETY: zero bytes, and vfio.h defines feature 7 without a payload.
unsafe impl Payload for DmaLoggingStop {
    const INDEX: u32 = sys::VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP;
}

/// The payload of feature 8. Not a [`Payload`]: the kernel writes through its `bitmap` address.
type Report = sys::vfio_device_feature_dma_logging_report;

/// Starts logging and returns the page size the device chose.
pub(crate) fn start(
    device: BorrowedFd<'_>,
    page_size: u64,
    ranges: &[sys::vfio_device_feature_dma_logging_range],
) -> RawResult<u64> {
    // A count beyond u32 would be refused by the kernel like one too large.
    let num_ranges = u32::try_from(ranges.len()).unwrap_or(u32::MAX);
    let control = sys::vfio_device_feature_dma_logging_control {
        page_size,
        num_ranges,
        __reserved: 0,
        ranges: address(ranges.as_ptr()),
    };
    // `ranges` outlives the call, and the kernel keeps no reference to it.
    Ok(feature(device, Op::Set, control)?.page_size)
}

/// Stops logging.
pub(crate) fn stop(device: BorrowedFd<'_>) -> RawResult<()> {
    feature(device, Op::Set, DmaLoggingStop).map(drop)
}

/// The argument of a report, for which `bitmap` has to be large enough; `None` if it is not.
pub(super) fn report_message(iova: u64, length: u64, page_size: u64, bitmap: &mut [u64]) -> Option<Feature<Report>> {
    let pages = length.checked_div(page_size).filter(|_| length.checked_rem(page_size) == Some(0))?;
    if pages > bits(bitmap)? {
        return None;
    }
    let payload = Report { iova, length, page_size, bitmap: address(bitmap.as_mut_ptr()) };
    let flags = sys::VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT | sys::VFIO_DEVICE_FEATURE_GET;
    Some(Feature { argsz: super::argsz::<Feature<Report>>(), flags, payload })
}

/// Collects the dirty pages of `[iova, iova + length)` into `bitmap`, one bit per page.
///
/// A bitmap with fewer bits than the range has pages is refused with EINVAL before the call.
pub(crate) fn report(
    device: BorrowedFd<'_>,
    iova: u64,
    length: u64,
    page_size: u64,
    bitmap: &mut [u64],
) -> RawResult<()> {
    let mut message = report_message(iova, length, page_size, bitmap).ok_or(nix::libc::EINVAL)?;
    // SAFETY: the pointer covers all `argsz` bytes of `message`, which the kernel reads. It sets bits in the first
    // length/page_size bits at `bitmap`, which is exclusively borrowed until the call has returned and has at least as
    // many (report_message); any u64 is valid.
    unsafe { raw::device_feature(device.as_raw_fd(), (&raw mut message).cast()) }.map_err(last_errno)?;
    Ok(())
}
