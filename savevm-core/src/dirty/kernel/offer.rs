// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Asking the kernel what it can track for a device.

use std::os::fd::AsFd;
use std::string::{String, ToString};

use vfio_uapi::open::{CdevId, Container, HwCapabilities, Iommufd};
use vfio_uapi::{Device, DirtyBitmap, FeatureOp, Refusal};

use super::dma_range;
use crate::dirty::choose::Offer;
use crate::dirty::range::Range;

/// Whether a device logs its DMA: by starting, reading and stopping the log of `trial`, a range of whole pages of 4 KiB. Before anything
/// else tracks with it: what the log has is lost.
///
/// Kernels without `CONFIG_IOMMUFD_DRIVER` accept a PROBE and a START, and refuse every report (EOPNOTSUPP).
pub fn device_log_offer<F: AsFd>(device: &Device<F>, trial: Range) -> Offer {
    match device.probe(FeatureOp::DMA_LOGGING_START) {
        Ok(support) if support.is_supported() => {}
        Ok(_) => return Offer::Refused(String::from("its driver logs no DMA (VFIO_DEVICE_FEATURE_DMA_LOGGING_START)")),
        Err(error) => return Offer::Refused(error.to_string()),
    }
    let granule = match device.dma_logging_start(super::PAGE_BYTES_MIN, &[dma_range(trial)]) {
        Ok(granule) => granule,
        Err(error) => return Offer::Refused(error.to_string()),
    };
    let reported = DirtyBitmap::new(dma_range(trial), super::PAGE_BYTES_MIN)
        .map_err(|why: Refusal| why.to_string())
        .and_then(|mut bitmap| device.dma_logging_report(&mut bitmap).map_err(|error| error.to_string()));
    let stopped = device.dma_logging_stop().map_err(|error| error.to_string());
    match reported.and(stopped) {
        Err(why) => Offer::Refused(why),
        Ok(()) if !granule.is_power_of_two() => Offer::Refused(String::from("its page size is no power of two")),
        Ok(()) => Offer::Works,
    }
}

/// Whether the IOMMU behind a device that is bound to an iommufd tracks dirty pages.
pub fn page_table_offer<F: AsFd>(iommufd: &Iommufd<F>, device: CdevId) -> Offer {
    match iommufd.hw_info(device) {
        Ok(info) if info.capabilities.contains(HwCapabilities::DIRTY_TRACKING) => Offer::Works,
        Ok(_) => Offer::Refused(String::from("its IOMMU does not track (IOMMU_HW_CAP_DIRTY_TRACKING)")),
        Err(error) => Offer::Refused(error.to_string()),
    }
}

/// Whether a container tracks dirty pages. `all_pin` says that every device in it is a mediated one, which pins what it uses: the
/// kernel does not tell.
pub fn container_offer<F: AsFd>(container: &Container<F>, all_pin: bool) -> Offer {
    match container.iommu_info() {
        Err(error) => Offer::Refused(error.to_string()),
        Ok(info) if info.dirty_pages.and_then(|info| info.page_size()).is_none() => {
            Offer::Refused(String::from("it has no dirty pages (an iommufd that serves as a container has none)"))
        }
        Ok(_) if !all_pin => {
            Offer::Refused(String::from("a device in it does not pin what it uses, so every page is always dirty"))
        }
        Ok(_) => Offer::Works,
    }
}
