// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! System calls as no library should make them, and the fields of their answers.

use std::os::fd::AsFd;

use vfio_uapi::contract;

/// `VFIO_DEVICE_FEATURE_GET`.
pub(crate) const GET: u32 = 1 << 16;
/// `VFIO_DEVICE_FEATURE_SET`.
pub(crate) const SET: u32 = 1 << 17;
/// `VFIO_DEVICE_FEATURE_PROBE`.
pub(crate) const PROBE: u32 = 1 << 18;

pub(crate) use contract::{dma_logging_report, dma_logging_start, feature, feature_at_null, precopy_info};

/// The native u32 at `offset`; 0 outside.
pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    bytes.get(offset..).and_then(|rest| rest.first_chunk()).map_or(0, |field| u32::from_ne_bytes(*field))
}

/// The native u64 at `offset`; 0 outside.
pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    bytes.get(offset..).and_then(|rest| rest.first_chunk()).map_or(0, |field| u64::from_ne_bytes(*field))
}

/// DMA_LOGGING_STOP.
pub(crate) fn dma_logging_stop(device: &impl AsFd) -> Result<(), i32> {
    feature(device, 8, 7 | SET, &mut [0; 64])
}
