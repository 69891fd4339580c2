// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The ioctls this crate issues, as a table for seccomp filters.

/// One ioctl of the crate: what a filter has to let pass.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Ioctl {
    /// The kernel's name, for instance `VFIO_DEVICE_FEATURE`.
    pub name: &'static str,
    /// The request number: the second argument of `ioctl`.
    pub number: u32,
    /// The kind of fd it is issued on. The same number means something else on another kind.
    pub fd: FdKind,
}

/// The kinds of fd VFIO hands out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum FdKind {
    /// A device, from a group or from `/dev/vfio/devices`.
    Device,
    /// The data fd of a saving session.
    SavingData,
    /// `/dev/vfio/vfio`.
    Container,
    /// `/dev/vfio/N`.
    Group,
    /// `/dev/iommu`.
    Iommufd,
}

macro_rules! ioctls {
    ($($fd:ident { $($konst:ident = $number:literal, $name:literal;)* })*) => {
        $($(pub(crate) const $konst: u32 = $number;)*)*

        /// Every ioctl this crate can issue, by fd and then by number.
        ///
        /// Beside `ioctl`, the crate calls `read` and `write` on data fds, `pread64` and `pwrite64` on device fds
        /// and `close` on what it owns. Opening by path and discovery add `openat`, `statx`, `getdents64` and
        /// `readlink`: in a sandbox, hand in fds instead.
        pub const IOCTLS: &[Ioctl] = &[
            $($(Ioctl { name: $name, number: $konst, fd: FdKind::$fd },)*)*
        ];
    };
}

ioctls! {
    Device {
        DEVICE_GET_INFO = 0x3b6b, "VFIO_DEVICE_GET_INFO";
        DEVICE_GET_REGION_INFO = 0x3b6c, "VFIO_DEVICE_GET_REGION_INFO";
        DEVICE_GET_IRQ_INFO = 0x3b6d, "VFIO_DEVICE_GET_IRQ_INFO";
        DEVICE_RESET = 0x3b6f, "VFIO_DEVICE_RESET";
        DEVICE_FEATURE = 0x3b75, "VFIO_DEVICE_FEATURE";
        DEVICE_BIND_IOMMUFD = 0x3b76, "VFIO_DEVICE_BIND_IOMMUFD";
        DEVICE_ATTACH_IOMMUFD_PT = 0x3b77, "VFIO_DEVICE_ATTACH_IOMMUFD_PT";
        DEVICE_DETACH_IOMMUFD_PT = 0x3b78, "VFIO_DEVICE_DETACH_IOMMUFD_PT";
    }
    SavingData {
        MIG_GET_PRECOPY_INFO = 0x3b79, "VFIO_MIG_GET_PRECOPY_INFO";
    }
    Container {
        GET_API_VERSION = 0x3b64, "VFIO_GET_API_VERSION";
        CHECK_EXTENSION = 0x3b65, "VFIO_CHECK_EXTENSION";
        SET_IOMMU = 0x3b66, "VFIO_SET_IOMMU";
        IOMMU_GET_INFO = 0x3b70, "VFIO_IOMMU_GET_INFO";
        IOMMU_MAP_DMA = 0x3b71, "VFIO_IOMMU_MAP_DMA";
        IOMMU_UNMAP_DMA = 0x3b72, "VFIO_IOMMU_UNMAP_DMA";
        IOMMU_DIRTY_PAGES = 0x3b75, "VFIO_IOMMU_DIRTY_PAGES";
    }
    Group {
        GROUP_GET_STATUS = 0x3b67, "VFIO_GROUP_GET_STATUS";
        GROUP_SET_CONTAINER = 0x3b68, "VFIO_GROUP_SET_CONTAINER";
        GROUP_UNSET_CONTAINER = 0x3b69, "VFIO_GROUP_UNSET_CONTAINER";
        GROUP_GET_DEVICE_FD = 0x3b6a, "VFIO_GROUP_GET_DEVICE_FD";
    }
    Iommufd {
        IOMMU_DESTROY = 0x3b80, "IOMMU_DESTROY";
        IOMMU_IOAS_ALLOC = 0x3b81, "IOMMU_IOAS_ALLOC";
        IOMMU_IOAS_IOVA_RANGES = 0x3b84, "IOMMU_IOAS_IOVA_RANGES";
        IOMMU_IOAS_MAP = 0x3b85, "IOMMU_IOAS_MAP";
        IOMMU_IOAS_UNMAP = 0x3b86, "IOMMU_IOAS_UNMAP";
        IOMMU_HWPT_ALLOC = 0x3b89, "IOMMU_HWPT_ALLOC";
        IOMMU_GET_HW_INFO = 0x3b8a, "IOMMU_GET_HW_INFO";
        IOMMU_HWPT_SET_DIRTY_TRACKING = 0x3b8b, "IOMMU_HWPT_SET_DIRTY_TRACKING";
        IOMMU_HWPT_GET_DIRTY_BITMAP = 0x3b8c, "IOMMU_HWPT_GET_DIRTY_BITMAP";
    }
}
