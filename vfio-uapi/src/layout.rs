// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Every size, offset, number and flag the crate relies on, as literals of the uAPI, checked by the compiler.
//!
//! A change in `vfio-bindings` or in a struct of our own that would alter what reaches the kernel does not compile. The
//! same list is compared with the machine's kernel headers by the tests.

use core::mem::{align_of, offset_of, size_of};

use nix::request_code_none;
use vfio_bindings::bindings::vfio as sys;

use crate::ioctl::hwpt::{self, GetDirtyBitmap, HwInfo, HwptAlloc, IovaRange, IovaRanges, SetDirtyTracking};
use crate::ioctl::iommufd::{self, Destroy, IoasAlloc, IoasMap, IoasUnmap};
use crate::ioctl::type1::{DirtyPages, Info, UnmapDirty};
use crate::ioctl::{Feature, PrecopyInfoV2, cdev};
use crate::open::{DmaAccess, GroupStatus, HwCapabilities, HwptFlags};
use crate::{DeviceFlags, DeviceState, FeatureOp, IrqFlags, MigrationFlags, RegionFlags, ioctls};

#[cfg(test)]
mod test;

/// A C expression, the macro that tells whether a header has it, and its value in this crate.
#[cfg(test)]
struct Entry {
    guard: &'static str,
    expression: &'static str,
    value: u64,
}

/// Asserts the layout of structs, and lists them for the comparison with the headers. Each has the macro that came with
/// it into the header. A struct that has grown since is given twice: whole, and the fields it always had.
macro_rules! structs {
    ($(
        $guard:literal: struct $name:literal as $type:ty $(, size $size:literal align $align:literal)?
            { $($field:ident: $offset:literal),* }
    )*) => {
        const _: () = {
            $(
                $(assert!(size_of::<$type>() == $size && align_of::<$type>() == $align);)?
                $(assert!(offset_of!($type, $field) == $offset);)*
            )*
        };

        #[cfg(test)]
        const STRUCTS: &[Entry] = &[
            $(
                $(
                    Entry { guard: $guard, expression: concat!("sizeof(struct ", $name, ")"), value: $size },
                    Entry { guard: $guard, expression: concat!("_Alignof(struct ", $name, ")"), value: $align },
                )?
                $(
                    Entry {
                        guard: $guard,
                        expression: concat!("offsetof(struct ", $name, ", ", stringify!($field), ")"),
                        value: $offset,
                    },
                )*
            )*
        ];
    };
}

structs! {
    "VFIO_DEVICE_FEATURE": struct "vfio_device_feature" as sys::vfio_device_feature, size 8 align 4
        { argsz: 0, flags: 4, data: 8 }
    "VFIO_DEVICE_FEATURE_MIGRATION": struct "vfio_device_feature_migration" as sys::vfio_device_feature_migration,
        size 8 align 8 { flags: 0 }
    "VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE": struct "vfio_device_feature_mig_state"
        as sys::vfio_device_feature_mig_state, size 8 align 4 { device_state: 0, data_fd: 4 }
    "VFIO_DEVICE_FEATURE_MIG_DATA_SIZE": struct "vfio_device_feature_mig_data_size"
        as sys::vfio_device_feature_mig_data_size, size 8 align 8 { stop_copy_length: 0 }
    "VFIO_DEVICE_FEATURE_DMA_LOGGING_START": struct "vfio_device_feature_dma_logging_control"
        as sys::vfio_device_feature_dma_logging_control, size 24 align 8
        { page_size: 0, num_ranges: 8, __reserved: 12, ranges: 16 }
    "VFIO_DEVICE_FEATURE_DMA_LOGGING_START": struct "vfio_device_feature_dma_logging_range"
        as sys::vfio_device_feature_dma_logging_range, size 16 align 8 { iova: 0, length: 8 }
    "VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT": struct "vfio_device_feature_dma_logging_report"
        as sys::vfio_device_feature_dma_logging_report, size 32 align 8
        { iova: 0, length: 8, page_size: 16, bitmap: 24 }
    "VFIO_MIG_GET_PRECOPY_INFO": struct "vfio_precopy_info" as sys::vfio_precopy_info, size 24 align 8
        { argsz: 0, flags: 4, initial_bytes: 8, dirty_bytes: 16 }
    "VFIO_DEVICE_GET_INFO": struct "vfio_device_info" as sys::vfio_device_info
        { argsz: 0, flags: 4, num_regions: 8, num_irqs: 12, cap_offset: 16 }
    "VFIO_DEVICE_GET_REGION_INFO": struct "vfio_region_info" as sys::vfio_region_info, size 32 align 8
        { argsz: 0, flags: 4, index: 8, cap_offset: 12, size: 16, offset: 24 }
    "VFIO_DEVICE_GET_IRQ_INFO": struct "vfio_irq_info" as sys::vfio_irq_info, size 16 align 4
        { argsz: 0, flags: 4, index: 8, count: 12 }
    "VFIO_GROUP_GET_STATUS": struct "vfio_group_status" as sys::vfio_group_status, size 8 align 4 { argsz: 0, flags: 4 }
    "VFIO_IOMMU_MAP_DMA": struct "vfio_iommu_type1_dma_map" as sys::vfio_iommu_type1_dma_map, size 32 align 8
        { argsz: 0, flags: 4, vaddr: 8, iova: 16, size: 24 }
    "VFIO_IOMMU_UNMAP_DMA": struct "vfio_iommu_type1_dma_unmap" as sys::vfio_iommu_type1_dma_unmap, size 24 align 8
        { argsz: 0, flags: 4, iova: 8, size: 16, data: 24 }
    "VFIO_DEVICE_BIND_IOMMUFD": struct "vfio_device_bind_iommufd" as sys::vfio_device_bind_iommufd
        { argsz: 0, flags: 4, iommufd: 8, out_devid: 12 }
    "VFIO_DEVICE_BIND_FLAG_TOKEN": struct "vfio_device_bind_iommufd" as sys::vfio_device_bind_iommufd, size 24 align 8
        { token_uuid_ptr: 16 }
    "VFIO_DEVICE_ATTACH_IOMMUFD_PT": struct "vfio_device_attach_iommufd_pt" as sys::vfio_device_attach_iommufd_pt
        { argsz: 0, flags: 4, pt_id: 8 }
    "VFIO_DEVICE_ATTACH_PASID": struct "vfio_device_attach_iommufd_pt" as sys::vfio_device_attach_iommufd_pt,
        size 16 align 4 { pasid: 12 }
    "VFIO_DEVICE_DETACH_IOMMUFD_PT": struct "vfio_device_detach_iommufd_pt" as sys::vfio_device_detach_iommufd_pt
        { argsz: 0, flags: 4 }
    "VFIO_DEVICE_DETACH_PASID": struct "vfio_device_detach_iommufd_pt" as sys::vfio_device_detach_iommufd_pt,
        size 12 align 4 { pasid: 8 }
    "IOMMU_DESTROY": struct "iommu_destroy" as Destroy, size 8 align 4 { size: 0, id: 4 }
    "IOMMU_IOAS_ALLOC": struct "iommu_ioas_alloc" as IoasAlloc, size 12 align 4 { size: 0, flags: 4, out_ioas_id: 8 }
    "IOMMU_IOAS_MAP": struct "iommu_ioas_map" as IoasMap, size 40 align 8
        { size: 0, flags: 4, ioas_id: 8, __reserved: 12, user_va: 16, length: 24, iova: 32 }
    "IOMMU_IOAS_UNMAP": struct "iommu_ioas_unmap" as IoasUnmap, size 24 align 8
        { size: 0, ioas_id: 4, iova: 8, length: 16 }
    "IOMMU_IOAS_IOVA_RANGES": struct "iommu_iova_range" as IovaRange, size 16 align 8 { start: 0, last: 8 }
    "IOMMU_IOAS_IOVA_RANGES": struct "iommu_ioas_iova_ranges" as IovaRanges, size 32 align 8
        { size: 0, ioas_id: 4, num_iovas: 8, __reserved: 12, allowed_iovas: 16, out_iova_alignment: 24 }
    "IOMMU_GET_HW_INFO": struct "iommu_hw_info" as HwInfo
        { size: 0, flags: 4, dev_id: 8, data_len: 12, data_uptr: 16, out_data_type: 24 }
    // The macros that came with the fields: those of the dirty bits, and for the PASIDs none before that of vfio.h.
    "IOMMU_HWPT_GET_DIRTY_BITMAP": struct "iommu_hw_info" as HwInfo, size 40 align 8 { out_capabilities: 32 }
    "VFIO_DEVICE_ATTACH_PASID": struct "iommu_hw_info" as HwInfo { out_max_pasid_log2: 28 }
    "IOMMU_HWPT_ALLOC": struct "iommu_hwpt_alloc" as HwptAlloc
        { size: 0, flags: 4, dev_id: 8, pt_id: 12, out_hwpt_id: 16, __reserved: 20 }
    "IOMMU_FAULT_QUEUE_ALLOC": struct "iommu_hwpt_alloc" as HwptAlloc, size 48 align 8
        { data_type: 24, data_len: 28, data_uptr: 32, fault_id: 40, __reserved2: 44 }
    "IOMMU_HWPT_SET_DIRTY_TRACKING": struct "iommu_hwpt_set_dirty_tracking" as SetDirtyTracking, size 16 align 4
        { size: 0, flags: 4, hwpt_id: 8, __reserved: 12 }
    "IOMMU_HWPT_GET_DIRTY_BITMAP": struct "iommu_hwpt_get_dirty_bitmap" as GetDirtyBitmap, size 48 align 8
        { size: 0, hwpt_id: 4, flags: 8, __reserved: 12, iova: 16, length: 24, page_size: 32, data: 40 }
    "VFIO_IOMMU_GET_INFO": struct "vfio_iommu_type1_info" as sys::vfio_iommu_type1_info
        { argsz: 0, flags: 4, iova_pgsizes: 8 }
    "VFIO_IOMMU_INFO_CAPS": struct "vfio_iommu_type1_info" as Info
        { argsz: 0, flags: 4, iova_pgsizes: 8, cap_offset: 16 }
    "VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION": struct "vfio_iommu_type1_info_cap_migration"
        as sys::vfio_iommu_type1_info_cap_migration, size 32 align 8
        { flags: 8, pgsize_bitmap: 16, max_dirty_bitmap_size: 24 }
    "VFIO_IOMMU_DIRTY_PAGES": struct "vfio_bitmap" as sys::vfio_bitmap, size 24 align 8 { pgsize: 0, size: 8, data: 16 }
    "VFIO_IOMMU_DIRTY_PAGES": struct "vfio_iommu_type1_dirty_bitmap" as DirtyPages { argsz: 0, flags: 4 }
    "VFIO_IOMMU_DIRTY_PAGES": struct "vfio_iommu_type1_dirty_bitmap_get" as sys::vfio_iommu_type1_dirty_bitmap_get,
        size 40 align 8 { iova: 0, size: 8, bitmap: 16 }
}

// What the kernel sees of a feature: 8 bytes of header, then the payload. A SET of the state has argsz 16.
const _: () = {
    assert!(offset_of!(Feature<sys::vfio_device_feature_mig_state>, argsz) == 0);
    assert!(offset_of!(Feature<sys::vfio_device_feature_mig_state>, flags) == 4);
    assert!(offset_of!(Feature<sys::vfio_device_feature_mig_state>, payload) == 8);
    assert!(size_of::<Feature<sys::vfio_device_feature_migration>>() == 16);
    assert!(size_of::<Feature<sys::vfio_device_feature_mig_state>>() == 16);
    assert!(size_of::<Feature<sys::vfio_device_feature_mig_data_size>>() == 16);
    assert!(size_of::<Feature<sys::vfio_device_feature_dma_logging_control>>() == 32);
    assert!(size_of::<Feature<sys::vfio_device_feature_dma_logging_report>>() == 40);
    assert!(size_of::<Feature<PrecopyInfoV2>>() == 8);
    assert!(size_of::<sys::vfio_device_info>() >= 20);
    // The kernel finds the bitmap of DIRTY_PAGES behind an 8-byte header, that of UNMAP_DMA behind the struct, and the
    // capabilities behind the info.
    assert!(offset_of!(DirtyPages, get) == 8 && size_of::<DirtyPages>() == 48);
    assert!(offset_of!(UnmapDirty, argsz) == 0 && offset_of!(UnmapDirty, flags) == 4);
    assert!(offset_of!(UnmapDirty, iova) == 8 && offset_of!(UnmapDirty, size) == 16);
    assert!(offset_of!(UnmapDirty, bitmap) == 24 && size_of::<UnmapDirty>() == 48);
    assert!(offset_of!(Info, capabilities) == 24 && size_of::<Info>() == 4096);
    assert!(cdev::BIND_ARGSZ == 16 && cdev::ATTACH_ARGSZ == 12 && cdev::DETACH_ARGSZ == 8);
};

/// Asserts numbers and flags and lists them likewise. Enumerators have no `#ifdef`: a macro of the same kernel stands
/// in.
macro_rules! numbers {
    ($($guard:literal: $name:literal = $value:expr, $literal:literal;)*) => {
        const _: () = { $(assert!($value == $literal);)* };

        #[cfg(test)]
        const NUMBERS: &[Entry] = &[$(Entry { guard: $guard, expression: $name, value: $literal },)*];
    };
}

numbers! {
    "VFIO_DEVICE_FEATURE_GET": "VFIO_DEVICE_FEATURE_GET" = sys::VFIO_DEVICE_FEATURE_GET, 0x1_0000;
    "VFIO_DEVICE_FEATURE_SET": "VFIO_DEVICE_FEATURE_SET" = sys::VFIO_DEVICE_FEATURE_SET, 0x2_0000;
    "VFIO_DEVICE_FEATURE_PROBE": "VFIO_DEVICE_FEATURE_PROBE" = sys::VFIO_DEVICE_FEATURE_PROBE, 0x4_0000;
    "VFIO_DEVICE_FEATURE_MIGRATION": "VFIO_DEVICE_FEATURE_MIGRATION" = sys::VFIO_DEVICE_FEATURE_MIGRATION, 1;
    "VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE": "VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE"
        = sys::VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, 2;
    "VFIO_DEVICE_FEATURE_DMA_LOGGING_START": "VFIO_DEVICE_FEATURE_DMA_LOGGING_START"
        = sys::VFIO_DEVICE_FEATURE_DMA_LOGGING_START, 6;
    "VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP": "VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP"
        = sys::VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP, 7;
    "VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT": "VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT"
        = sys::VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT, 8;
    "VFIO_DEVICE_FEATURE_MIG_DATA_SIZE": "VFIO_DEVICE_FEATURE_MIG_DATA_SIZE"
        = sys::VFIO_DEVICE_FEATURE_MIG_DATA_SIZE, 9;
    "VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2": "VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2"
        = sys::VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2, 12;
    "VFIO_PRECOPY_INFO_REINIT": "VFIO_PRECOPY_INFO_REINIT" = sys::VFIO_PRECOPY_INFO_REINIT, 1;
    "VFIO_MIGRATION_STOP_COPY": "VFIO_MIGRATION_STOP_COPY" = MigrationFlags::STOP_COPY.bits(), 1;
    "VFIO_MIGRATION_P2P": "VFIO_MIGRATION_P2P" = MigrationFlags::P2P.bits(), 2;
    "VFIO_MIGRATION_PRE_COPY": "VFIO_MIGRATION_PRE_COPY" = MigrationFlags::PRE_COPY.bits(), 4;
    "VFIO_MIGRATION_STOP_COPY": "VFIO_DEVICE_STATE_ERROR" = DeviceState::ERROR.raw(), 0;
    "VFIO_MIGRATION_STOP_COPY": "VFIO_DEVICE_STATE_STOP" = DeviceState::STOP.raw(), 1;
    "VFIO_MIGRATION_STOP_COPY": "VFIO_DEVICE_STATE_RUNNING" = DeviceState::RUNNING.raw(), 2;
    "VFIO_MIGRATION_STOP_COPY": "VFIO_DEVICE_STATE_STOP_COPY" = DeviceState::STOP_COPY.raw(), 3;
    "VFIO_MIGRATION_STOP_COPY": "VFIO_DEVICE_STATE_RESUMING" = DeviceState::RESUMING.raw(), 4;
    "VFIO_MIGRATION_P2P": "VFIO_DEVICE_STATE_RUNNING_P2P" = DeviceState::RUNNING_P2P.raw(), 5;
    "VFIO_MIGRATION_PRE_COPY": "VFIO_DEVICE_STATE_PRE_COPY" = DeviceState::PRE_COPY.raw(), 6;
    "VFIO_MIGRATION_PRE_COPY": "VFIO_DEVICE_STATE_PRE_COPY_P2P" = DeviceState::PRE_COPY_P2P.raw(), 7;
    "VFIO_API_VERSION": "VFIO_API_VERSION" = sys::VFIO_API_VERSION, 0;
    "VFIO_TYPE1v2_IOMMU": "VFIO_TYPE1v2_IOMMU" = sys::VFIO_TYPE1v2_IOMMU, 3;
    "VFIO_GROUP_FLAGS_VIABLE": "VFIO_GROUP_FLAGS_VIABLE" = GroupStatus::VIABLE.bits(), 1;
    "VFIO_GROUP_FLAGS_CONTAINER_SET": "VFIO_GROUP_FLAGS_CONTAINER_SET" = GroupStatus::CONTAINER_SET.bits(), 2;
    "VFIO_DEVICE_FLAGS_RESET": "VFIO_DEVICE_FLAGS_RESET" = DeviceFlags::RESET.bits(), 1;
    "VFIO_DEVICE_FLAGS_PCI": "VFIO_DEVICE_FLAGS_PCI" = DeviceFlags::PCI.bits(), 2;
    "VFIO_DEVICE_FLAGS_PLATFORM": "VFIO_DEVICE_FLAGS_PLATFORM" = DeviceFlags::PLATFORM.bits(), 4;
    "VFIO_REGION_INFO_FLAG_READ": "VFIO_REGION_INFO_FLAG_READ" = RegionFlags::READ.bits(), 1;
    "VFIO_REGION_INFO_FLAG_WRITE": "VFIO_REGION_INFO_FLAG_WRITE" = RegionFlags::WRITE.bits(), 2;
    "VFIO_REGION_INFO_FLAG_MMAP": "VFIO_REGION_INFO_FLAG_MMAP" = RegionFlags::MMAP.bits(), 4;
    "VFIO_REGION_INFO_FLAG_CAPS": "VFIO_REGION_INFO_FLAG_CAPS" = RegionFlags::CAPS.bits(), 8;
    "VFIO_DEVICE_GET_REGION_INFO": "VFIO_PCI_BAR0_REGION_INDEX" = crate::RegionInfo::PCI_BAR0, 0;
    "VFIO_DEVICE_GET_REGION_INFO": "VFIO_PCI_ROM_REGION_INDEX" = crate::RegionInfo::PCI_ROM, 6;
    "VFIO_DEVICE_GET_REGION_INFO": "VFIO_PCI_CONFIG_REGION_INDEX" = crate::RegionInfo::PCI_CONFIG, 7;
    "VFIO_DEVICE_GET_REGION_INFO": "VFIO_PCI_VGA_REGION_INDEX" = crate::RegionInfo::PCI_VGA, 8;
    "VFIO_IRQ_INFO_EVENTFD": "VFIO_IRQ_INFO_EVENTFD" = IrqFlags::EVENTFD.bits(), 1;
    "VFIO_IRQ_INFO_MASKABLE": "VFIO_IRQ_INFO_MASKABLE" = IrqFlags::MASKABLE.bits(), 2;
    "VFIO_IRQ_INFO_AUTOMASKED": "VFIO_IRQ_INFO_AUTOMASKED" = IrqFlags::AUTOMASKED.bits(), 4;
    "VFIO_IRQ_INFO_NORESIZE": "VFIO_IRQ_INFO_NORESIZE" = IrqFlags::NORESIZE.bits(), 8;
    "VFIO_DMA_MAP_FLAG_READ": "VFIO_DMA_MAP_FLAG_READ" = DmaAccess::READ.bits(), 1;
    "VFIO_DMA_MAP_FLAG_WRITE": "VFIO_DMA_MAP_FLAG_WRITE" = DmaAccess::WRITE.bits(), 2;
    "VFIO_DEVICE_BIND_FLAG_TOKEN": "VFIO_DEVICE_BIND_FLAG_TOKEN" = sys::VFIO_DEVICE_BIND_FLAG_TOKEN, 1;
    "VFIO_DEVICE_ATTACH_PASID": "VFIO_DEVICE_ATTACH_PASID" = sys::VFIO_DEVICE_ATTACH_PASID, 1;
    "VFIO_DEVICE_DETACH_PASID": "VFIO_DEVICE_DETACH_PASID" = sys::VFIO_DEVICE_DETACH_PASID, 1;
    "VFIO_IOMMU_DIRTY_PAGES": "VFIO_IOMMU_DIRTY_PAGES_FLAG_START" = sys::VFIO_IOMMU_DIRTY_PAGES_FLAG_START, 1;
    "VFIO_IOMMU_DIRTY_PAGES": "VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP" = sys::VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP, 2;
    "VFIO_IOMMU_DIRTY_PAGES": "VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP"
        = sys::VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP, 4;
    "VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP": "VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP"
        = sys::VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP, 1;
    "VFIO_IOMMU_INFO_PGSIZES": "VFIO_IOMMU_INFO_PGSIZES" = sys::VFIO_IOMMU_INFO_PGSIZES, 1;
    "VFIO_IOMMU_INFO_CAPS": "VFIO_IOMMU_INFO_CAPS" = sys::VFIO_IOMMU_INFO_CAPS, 2;
    "VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION": "VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION"
        = sys::VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION, 2;
    "IOMMU_HWPT_ALLOC": "IOMMU_HWPT_ALLOC_NEST_PARENT" = HwptFlags::NEST_PARENT.bits(), 1;
    "IOMMU_HWPT_SET_DIRTY_TRACKING": "IOMMU_HWPT_ALLOC_DIRTY_TRACKING" = HwptFlags::DIRTY_TRACKING.bits(), 2;
    "VFIO_DEVICE_ATTACH_PASID": "IOMMU_HWPT_ALLOC_PASID" = HwptFlags::PASID.bits(), 8;
    "IOMMU_HWPT_SET_DIRTY_TRACKING": "IOMMU_HW_CAP_DIRTY_TRACKING" = HwCapabilities::DIRTY_TRACKING.bits(), 1;
    "VFIO_DEVICE_ATTACH_PASID": "IOMMU_HW_CAP_PCI_PASID_EXEC" = HwCapabilities::PCI_PASID_EXEC.bits(), 2;
    "VFIO_DEVICE_ATTACH_PASID": "IOMMU_HW_CAP_PCI_PASID_PRIV" = HwCapabilities::PCI_PASID_PRIV.bits(), 4;
    "VFIO_DEVICE_FEATURE_ZPCI_ERROR": "IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED"
        = HwCapabilities::PCI_ATS_NOT_SUPPORTED.bits(), 8;
    "IOMMU_HWPT_SET_DIRTY_TRACKING": "IOMMU_HWPT_DIRTY_TRACKING_ENABLE" = hwpt::DIRTY_TRACKING_ENABLE, 1;
    "IOMMU_HWPT_GET_DIRTY_BITMAP": "IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR" = hwpt::DIRTY_BITMAP_NO_CLEAR, 1;
    "IOMMU_IOAS_MAP": "IOMMU_IOAS_MAP_FIXED_IOVA" = iommufd::MAP_FIXED_IOVA, 1;
    "IOMMU_IOAS_MAP": "IOMMU_IOAS_MAP_WRITEABLE" = iommufd::MAP_WRITEABLE, 2;
    "IOMMU_IOAS_MAP": "IOMMU_IOAS_MAP_READABLE" = iommufd::MAP_READABLE, 4;
}

const _: () = {
    assert!(FeatureOp::MIGRATION.flags() == 0x1_0000 && FeatureOp::MIGRATION.index() == 1);
    assert!(FeatureOp::DEVICE_STATE.flags() == 0x3_0000 && FeatureOp::DEVICE_STATE.index() == 2);
    assert!(FeatureOp::DMA_LOGGING_START.flags() == 0x2_0000 && FeatureOp::DMA_LOGGING_START.index() == 6);
    assert!(FeatureOp::DMA_LOGGING_STOP.flags() == 0x2_0000 && FeatureOp::DMA_LOGGING_STOP.index() == 7);
    assert!(FeatureOp::DMA_LOGGING_REPORT.flags() == 0x1_0000 && FeatureOp::DMA_LOGGING_REPORT.index() == 8);
    assert!(FeatureOp::MIG_DATA_SIZE.flags() == 0x1_0000 && FeatureOp::MIG_DATA_SIZE.index() == 9);
    assert!(FeatureOp::PRECOPY_INFO_V2.flags() == 0x2_0000 && FeatureOp::PRECOPY_INFO_V2.index() == 12);
};

/// Asserts a request number against the formula of the header: `_IO(';', base + nr)`.
macro_rules! requests {
    ($($base:expr => { $($number:expr => $name:ident),* $(,)? })*) => {
        const _: () = {
            /// The number in the type this host's `ioctl` has it in.
            #[expect(clippy::as_conversions, reason = "no conversion trait in const; all numbers are below 0x10000")]
            const fn same(number: u32) -> nix::sys::ioctl::ioctl_num_type {
                number as nix::sys::ioctl::ioctl_num_type
            }
            $($(assert!(request_code_none!(sys::VFIO_TYPE, $base + $number) == same(ioctls::$name));)*)*
        };
    };
}

requests! {
    sys::VFIO_BASE => {
        0 => GET_API_VERSION,
        1 => CHECK_EXTENSION,
        2 => SET_IOMMU,
        3 => GROUP_GET_STATUS,
        4 => GROUP_SET_CONTAINER,
        5 => GROUP_UNSET_CONTAINER,
        6 => GROUP_GET_DEVICE_FD,
        7 => DEVICE_GET_INFO,
        8 => DEVICE_GET_REGION_INFO,
        9 => DEVICE_GET_IRQ_INFO,
        11 => DEVICE_RESET,
        12 => IOMMU_GET_INFO,
        13 => IOMMU_MAP_DMA,
        14 => IOMMU_UNMAP_DMA,
        17 => DEVICE_FEATURE,
        17 => IOMMU_DIRTY_PAGES,
        18 => DEVICE_BIND_IOMMUFD,
        19 => DEVICE_ATTACH_IOMMUFD_PT,
        20 => DEVICE_DETACH_IOMMUFD_PT,
        21 => MIG_GET_PRECOPY_INFO,
    }
    // IOMMUFD_CMD_BASE.
    0x80 => {
        0 => IOMMU_DESTROY,
        1 => IOMMU_IOAS_ALLOC,
        4 => IOMMU_IOAS_IOVA_RANGES,
        5 => IOMMU_IOAS_MAP,
        6 => IOMMU_IOAS_UNMAP,
        9 => IOMMU_HWPT_ALLOC,
        10 => IOMMU_GET_HW_INFO,
        11 => IOMMU_HWPT_SET_DIRTY_TRACKING,
        12 => IOMMU_HWPT_GET_DIRTY_BITMAP,
    }
}
