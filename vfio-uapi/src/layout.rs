// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Every size, offset, number and flag the crate relies on, as literals of the uAPI, checked by the compiler.
//!
//! A change in `vfio-bindings` or in a struct of our own that would alter what reaches the kernel does not compile. The
//! same list is compared with the machine's kernel headers by the tests.

use core::mem::{align_of, offset_of, size_of};

use nix::request_code_none;
use vfio_bindings::bindings::vfio as sys;

use crate::ioctl::iommufd::{self, Destroy, IoasAlloc, IoasMap, IoasUnmap};
use crate::ioctl::{Feature, PrecopyInfoV2, cdev};
use crate::open::{DmaAccess, GroupStatus};
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
        13 => IOMMU_MAP_DMA,
        14 => IOMMU_UNMAP_DMA,
        17 => DEVICE_FEATURE,
        18 => DEVICE_BIND_IOMMUFD,
        19 => DEVICE_ATTACH_IOMMUFD_PT,
        20 => DEVICE_DETACH_IOMMUFD_PT,
        21 => MIG_GET_PRECOPY_INFO,
    }
    // IOMMUFD_CMD_BASE.
    0x80 => {
        0 => IOMMU_DESTROY,
        1 => IOMMU_IOAS_ALLOC,
        5 => IOMMU_IOAS_MAP,
        6 => IOMMU_IOAS_UNMAP,
    }
}
