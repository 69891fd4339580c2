// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The kernel calls an error can come from, and what each errno means for each of them.

use core::fmt;

use nix::errno::Errno;

mod iommu;

/// A kernel call of this crate, as errors name it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Call {
    /// `VFIO_DEVICE_FEATURE` with PROBE.
    Probe,
    /// `VFIO_DEVICE_FEATURE` GET `MIGRATION`.
    MigrationFlags,
    /// `VFIO_DEVICE_FEATURE` GET `MIG_DEVICE_STATE`.
    GetDeviceState,
    /// `VFIO_DEVICE_FEATURE` SET `MIG_DEVICE_STATE`.
    SetDeviceState,
    /// `VFIO_DEVICE_FEATURE` GET `MIG_DATA_SIZE`.
    MigDataSize,
    /// `VFIO_DEVICE_FEATURE` SET `MIG_PRECOPY_INFOv2`.
    PrecopyInfoV2,
    /// `VFIO_DEVICE_FEATURE` SET `DMA_LOGGING_START`.
    DmaLoggingStart,
    /// `VFIO_DEVICE_FEATURE` SET `DMA_LOGGING_STOP`.
    DmaLoggingStop,
    /// `VFIO_DEVICE_FEATURE` GET `DMA_LOGGING_REPORT`.
    DmaLoggingReport,
    /// `VFIO_MIG_GET_PRECOPY_INFO` on the saving fd.
    PrecopyInfo,
    /// `read` of the saving fd in a PRE_COPY state.
    ReadPreCopy,
    /// `read` of the saving fd in STOP_COPY.
    ReadStopCopy,
    /// `write` to the resuming fd.
    Write,
    /// `VFIO_DEVICE_RESET`.
    Reset,
    /// `VFIO_DEVICE_GET_INFO`.
    DeviceInfo,
    /// `VFIO_DEVICE_GET_REGION_INFO`.
    RegionInfo,
    /// `VFIO_DEVICE_GET_IRQ_INFO`.
    IrqInfo,
    /// `pread` of a region.
    RegionRead,
    /// `pwrite` to a region.
    RegionWrite,
    /// `VFIO_DEVICE_BIND_IOMMUFD`.
    BindIommufd,
    /// `VFIO_DEVICE_ATTACH_IOMMUFD_PT`.
    AttachPageTable,
    /// `VFIO_DEVICE_DETACH_IOMMUFD_PT`.
    DetachPageTable,
    /// `VFIO_GET_API_VERSION`.
    ApiVersion,
    /// `VFIO_CHECK_EXTENSION`.
    CheckExtension,
    /// `VFIO_SET_IOMMU`.
    SetIommu,
    /// `VFIO_IOMMU_MAP_DMA`.
    MapDma,
    /// `VFIO_IOMMU_UNMAP_DMA`.
    UnmapDma,
    /// `VFIO_IOMMU_GET_INFO`.
    IommuInfo,
    /// `VFIO_IOMMU_DIRTY_PAGES` with START.
    DirtyPagesStart,
    /// `VFIO_IOMMU_DIRTY_PAGES` with STOP.
    DirtyPagesStop,
    /// `VFIO_IOMMU_DIRTY_PAGES` with GET_BITMAP.
    DirtyPages,
    /// `VFIO_IOMMU_UNMAP_DMA` with GET_DIRTY_BITMAP.
    UnmapDmaDirty,
    /// `VFIO_GROUP_GET_STATUS`.
    GroupStatus,
    /// `VFIO_GROUP_SET_CONTAINER`.
    SetContainer,
    /// `VFIO_GROUP_UNSET_CONTAINER`.
    UnsetContainer,
    /// `VFIO_GROUP_GET_DEVICE_FD`.
    GetDeviceFd,
    /// `IOMMU_IOAS_ALLOC`.
    IoasAlloc,
    /// `IOMMU_IOAS_IOVA_RANGES`.
    IoasIovaRanges,
    /// `IOMMU_IOAS_MAP`.
    IoasMap,
    /// `IOMMU_IOAS_UNMAP`.
    IoasUnmap,
    /// `IOMMU_GET_HW_INFO`.
    HwInfo,
    /// `IOMMU_HWPT_ALLOC`.
    HwptAlloc,
    /// `IOMMU_HWPT_SET_DIRTY_TRACKING`.
    SetDirtyTracking,
    /// `IOMMU_HWPT_GET_DIRTY_BITMAP`.
    GetDirtyBitmap,
    /// `IOMMU_DESTROY`.
    Destroy,
    /// `open` of a device node.
    Open,
    /// Reading sysfs during discovery.
    Sysfs,
    /// `recvmsg` of fds on a unix socket.
    ReceiveFds,
}

impl Call {
    /// The kernel's name of the call.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Probe => "VFIO_DEVICE_FEATURE PROBE",
            Self::MigrationFlags => "VFIO_DEVICE_FEATURE GET MIGRATION",
            Self::GetDeviceState => "VFIO_DEVICE_FEATURE GET MIG_DEVICE_STATE",
            Self::SetDeviceState => "VFIO_DEVICE_FEATURE SET MIG_DEVICE_STATE",
            Self::MigDataSize => "VFIO_DEVICE_FEATURE GET MIG_DATA_SIZE",
            Self::PrecopyInfoV2 => "VFIO_DEVICE_FEATURE SET MIG_PRECOPY_INFOv2",
            Self::DmaLoggingStart => "VFIO_DEVICE_FEATURE SET DMA_LOGGING_START",
            Self::DmaLoggingStop => "VFIO_DEVICE_FEATURE SET DMA_LOGGING_STOP",
            Self::DmaLoggingReport => "VFIO_DEVICE_FEATURE GET DMA_LOGGING_REPORT",
            Self::PrecopyInfo => "VFIO_MIG_GET_PRECOPY_INFO",
            Self::ReadPreCopy => "read of the saving fd in PRE_COPY",
            Self::ReadStopCopy => "read of the saving fd in STOP_COPY",
            Self::Write => "write to the resuming fd",
            Self::Reset => "VFIO_DEVICE_RESET",
            Self::DeviceInfo => "VFIO_DEVICE_GET_INFO",
            Self::RegionInfo => "VFIO_DEVICE_GET_REGION_INFO",
            Self::IrqInfo => "VFIO_DEVICE_GET_IRQ_INFO",
            Self::RegionRead => "pread of a region",
            Self::RegionWrite => "pwrite to a region",
            Self::BindIommufd => "VFIO_DEVICE_BIND_IOMMUFD",
            Self::AttachPageTable => "VFIO_DEVICE_ATTACH_IOMMUFD_PT",
            Self::DetachPageTable => "VFIO_DEVICE_DETACH_IOMMUFD_PT",
            Self::ApiVersion => "VFIO_GET_API_VERSION",
            Self::CheckExtension => "VFIO_CHECK_EXTENSION",
            Self::SetIommu => "VFIO_SET_IOMMU",
            Self::MapDma => "VFIO_IOMMU_MAP_DMA",
            Self::UnmapDma => "VFIO_IOMMU_UNMAP_DMA",
            Self::IommuInfo => "VFIO_IOMMU_GET_INFO",
            Self::DirtyPagesStart => "VFIO_IOMMU_DIRTY_PAGES START",
            Self::DirtyPagesStop => "VFIO_IOMMU_DIRTY_PAGES STOP",
            Self::DirtyPages => "VFIO_IOMMU_DIRTY_PAGES GET_BITMAP",
            Self::UnmapDmaDirty => "VFIO_IOMMU_UNMAP_DMA GET_DIRTY_BITMAP",
            Self::GroupStatus => "VFIO_GROUP_GET_STATUS",
            Self::SetContainer => "VFIO_GROUP_SET_CONTAINER",
            Self::UnsetContainer => "VFIO_GROUP_UNSET_CONTAINER",
            Self::GetDeviceFd => "VFIO_GROUP_GET_DEVICE_FD",
            Self::IoasAlloc => "IOMMU_IOAS_ALLOC",
            Self::IoasIovaRanges => "IOMMU_IOAS_IOVA_RANGES",
            Self::IoasMap => "IOMMU_IOAS_MAP",
            Self::IoasUnmap => "IOMMU_IOAS_UNMAP",
            Self::HwInfo => "IOMMU_GET_HW_INFO",
            Self::HwptAlloc => "IOMMU_HWPT_ALLOC",
            Self::SetDirtyTracking => "IOMMU_HWPT_SET_DIRTY_TRACKING",
            Self::GetDirtyBitmap => "IOMMU_HWPT_GET_DIRTY_BITMAP",
            Self::Destroy => "IOMMU_DESTROY",
            Self::Open => "open",
            Self::Sysfs => "reading sysfs",
            Self::ReceiveFds => "recvmsg of fds",
        }
    }

    /// What `errno` means when this call fails with it, and what to do.
    ///
    /// Falls back to the general meaning of the errno where the call gives it none of its own.
    #[must_use]
    pub fn meaning(self, errno: i32) -> &'static str {
        let errno = Errno::from_raw(errno);
        match self {
            Self::Probe | Self::MigrationFlags | Self::MigDataSize | Self::PrecopyInfoV2 => feature(self, errno),
            Self::GetDeviceState | Self::SetDeviceState => device_state(self, errno),
            Self::DmaLoggingStart => dma_logging_start(errno),
            Self::DmaLoggingStop => dma_logging_stop(errno),
            Self::DmaLoggingReport => dma_logging_report(errno),
            Self::PrecopyInfo => precopy_info(errno),
            Self::ReadPreCopy | Self::ReadStopCopy => read(self, errno),
            Self::Write => write(errno),
            Self::Reset => reset(errno),
            Self::DeviceInfo | Self::RegionInfo | Self::IrqInfo => info(errno),
            Self::RegionRead | Self::RegionWrite => region(errno),
            Self::BindIommufd => bind(errno),
            Self::AttachPageTable | Self::DetachPageTable => page_table(self, errno),
            Self::ApiVersion
            | Self::CheckExtension
            | Self::SetIommu
            | Self::MapDma
            | Self::UnmapDma
            | Self::IommuInfo => iommu::container(self, errno),
            Self::DirtyPagesStart | Self::DirtyPagesStop | Self::DirtyPages | Self::UnmapDmaDirty => {
                iommu::dirty_pages(self, errno)
            }
            Self::GroupStatus | Self::SetContainer | Self::UnsetContainer | Self::GetDeviceFd => group(self, errno),
            Self::IoasAlloc | Self::IoasIovaRanges | Self::IoasMap | Self::IoasUnmap | Self::Destroy => {
                iommu::iommufd(self, errno)
            }
            Self::HwInfo | Self::HwptAlloc | Self::SetDirtyTracking | Self::GetDirtyBitmap => iommu::hwpt(self, errno),
            Self::Open => open(errno),
            Self::Sysfs => None,
            Self::ReceiveFds => receive_fds(errno),
        }
        .or_else(|| on_any_device_call(self, errno))
        .unwrap_or_else(|| errno.desc())
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

type Meaning = Option<&'static str>;

/// What holds for every call that reaches a device's driver.
fn on_any_device_call(call: Call, errno: Errno) -> Meaning {
    if matches!(call, Call::Open | Call::Sysfs | Call::ReceiveFds) {
        return None;
    }
    Some(match errno {
        Errno::ENOTCONN => "the physical function behind the device is gone",
        Errno::EIO => "the device could not be woken from runtime suspend, its firmware failed, or it is in ERROR",
        Errno::EINTR => "a signal interrupted the call",
        _ => return None,
    })
}

fn feature(call: Call, errno: Errno) -> Meaning {
    Some(match (call, errno) {
        (Call::MigDataSize, Errno::ENOTTY) => "the kernel (before 6.2) or the device has no size estimate",
        (Call::PrecopyInfoV2, Errno::ENOTTY) => "the kernel (before 7.1) has no second version of the precopy info",
        (Call::PrecopyInfoV2, Errno::EINVAL) => "the device has no PRE_COPY, or is not bound to an iommufd yet",
        (_, Errno::ENOTTY) => "the device does not offer the feature, or this is no device fd",
        (_, Errno::EINVAL) => {
            "the feature lacks this operation, the fd is a device not bound to an iommufd yet, or it is a container"
        }
        _ => return None,
    })
}

fn device_state(call: Call, errno: Errno) -> Meaning {
    Some(match (call, errno) {
        (_, Errno::ENOTTY) => "the device does not support migration",
        (Call::GetDeviceState, Errno::EINVAL) => "the device is not bound to an iommufd yet",
        (_, Errno::EINVAL) => {
            "the transition does not exist from the current state, or the driver rejected the data it was to load"
        }
        (_, Errno::EMFILE | Errno::ENFILE) => {
            "the device has changed its state but no fd was left for the data; set STOP or RUNNING, or reset it"
        }
        (_, Errno::EFAULT) => "the result could not be written back; the state may have changed",
        (_, Errno::EBUSY) => "the hardware is busy with an error or interrupt of its own",
        (_, Errno::ETIMEDOUT) => "the device or its firmware did not answer in time",
        (_, Errno::ENODEV) => "the migration session failed earlier; only a reset leads out",
        (_, Errno::ENOMEM) => "the kernel lacks memory for the migration session",
        _ => return None,
    })
}

fn dma_logging_start(errno: Errno) -> Meaning {
    Some(match errno {
        Errno::ENOTTY => "the device cannot log its DMA",
        Errno::EINVAL => "logging runs already, or a range is unaligned or overlaps another",
        Errno::E2BIG => "more ranges than fit one page (256 with pages of 4 KiB)",
        Errno::EOVERFLOW => "a range ends beyond the last address but one page",
        Errno::EOPNOTSUPP => "the ranges span more than the device's firmware can track",
        Errno::EEXIST => "the firmware tracks already",
        _ => return None,
    })
}

fn dma_logging_stop(errno: Errno) -> Meaning {
    (errno == Errno::ENOTTY).then_some("the device cannot log its DMA")
}

fn dma_logging_report(errno: Errno) -> Meaning {
    Some(match errno {
        Errno::ENOTTY => "the device cannot log its DMA; treat every page as dirty",
        Errno::EINVAL => "logging does not run, or the range is not inside a logged one; treat every page as dirty",
        Errno::EOPNOTSUPP => {
            "the kernel lacks CONFIG_IOMMUFD_DRIVER although probing succeeds; treat every page as dirty"
        }
        Errno::EOVERFLOW => "the range ends beyond the last address but one page; treat every page as dirty",
        Errno::ENOTCONN => "the physical function behind the device is gone; treat every page as dirty",
        _ => "the device's log failed; treat every page as dirty and restart the logging or the migration",
    })
}

fn precopy_info(errno: Errno) -> Meaning {
    Some(match errno {
        Errno::ENOTTY => "the driver has no PRE_COPY, or this is not a saving fd",
        Errno::EINVAL => "the device is not in PRE_COPY or PRE_COPY_P2P, or its position is wrong",
        Errno::ENODEV => "the saving session has ended",
        _ => return None,
    })
}

fn read(call: Call, errno: Errno) -> Meaning {
    Some(match (call, errno) {
        (Call::ReadStopCopy, Errno::ENOMSG) => {
            "the driver announces a temporary end in STOP_COPY, which the uAPI forbids; its stream cannot be trusted"
        }
        (_, Errno::ENODEV) => "the saving session has ended: the device left the saving states, was reset or closed",
        (_, Errno::EINTR) => {
            "a signal interrupted the read; on xe the bytes of this call are lost and the stream must be given up"
        }
        (_, Errno::EAGAIN) => "the fd was made non-blocking and nothing is ready",
        (_, Errno::EINVAL) => "the driver lost its position in the stream; the session is beyond repair",
        (_, Errno::EBADF) => "this is not a saving fd",
        _ => return None,
    })
}

fn write(errno: Errno) -> Meaning {
    Some(match errno {
        Errno::ENOMEM => "longer than the driver accepts",
        Errno::EFAULT => "the driver rejected the header of the stream",
        Errno::EINVAL => "the driver rejected the data",
        Errno::EOPNOTSUPP => "the stream has a mandatory record this driver does not know",
        Errno::ENODEV => "the resuming session has ended, or an earlier write failed",
        Errno::EOVERFLOW => "beyond the size the stream declared",
        Errno::ETIMEDOUT => "the device's firmware did not answer in time",
        Errno::EINTR => "a signal interrupted the write and what was taken of it is unknown",
        Errno::EBADF => "this is not a resuming fd",
        _ => return None,
    })
}

fn reset(errno: Errno) -> Meaning {
    Some(match errno {
        Errno::ENOTTY => "the driver offers no reset, or this is no device fd",
        Errno::EINVAL => "the function cannot be reset, or the device is not bound to an iommufd yet",
        Errno::EAGAIN => "another user holds the device's lock; try again",
        _ => return None,
    })
}

fn info(errno: Errno) -> Meaning {
    Some(match errno {
        Errno::ENOTTY => "this is no VFIO device fd",
        Errno::EINVAL => "no such index, or the device is not bound to an iommufd yet",
        _ => return None,
    })
}

fn region(errno: Errno) -> Meaning {
    Some(match errno {
        Errno::EINVAL => "the region does not allow this access, or the device is not bound to an iommufd yet",
        Errno::EFAULT => "the access faulted on the device",
        _ => return None,
    })
}

fn bind(errno: Errno) -> Meaning {
    Some(match errno {
        Errno::EINVAL => {
            "bound already, open elsewhere, a device fd that came from a group, or a VF token that does not apply"
        }
        Errno::EBUSY => "the device's group is open, or another owner has its DMA",
        Errno::EACCES => "the VF token is missing or wrong",
        Errno::EBADF => "the iommufd is not open",
        Errno::EBADFD => "the fd handed in as iommufd is none",
        Errno::E2BIG => "the kernel is too old for a VF token",
        Errno::ENOTTY => "this is no VFIO character device",
        _ => return None,
    })
}

fn page_table(call: Call, errno: Errno) -> Meaning {
    Some(match (call, errno) {
        (_, Errno::ENOTTY) => "the device fd came from a group",
        (Call::AttachPageTable, Errno::ENOENT) => "no such object in the iommufd",
        (Call::AttachPageTable, Errno::EINVAL) => {
            "the object is of the wrong type or does not suit the device, its IOMMU cannot track dirty pages as the \
             object demands, the device is not bound, or the kernel (before 6.15) has no PASIDs"
        }
        (_, Errno::EOPNOTSUPP) => "the device's driver has no PASIDs",
        (Call::DetachPageTable, Errno::EINVAL) => "the device is not bound",
        (_, Errno::EBUSY) => "a device of the group is being reset, or another owner has the DMA",
        _ => return None,
    })
}

fn group(call: Call, errno: Errno) -> Meaning {
    Some(match (call, errno) {
        (Call::SetContainer, Errno::EBADF) => "the container's fd is not open",
        (Call::SetContainer, Errno::EBADFD) => "the fd is neither a container nor an iommufd",
        (Call::SetContainer, Errno::EINVAL) => "the group is in a container already",
        (Call::SetContainer, Errno::EPERM) => "the group is not viable: bind all its devices to vfio drivers",
        (Call::SetContainer, Errno::EBUSY) => "a device of the group belongs to another driver or owner",
        (Call::UnsetContainer, Errno::EINVAL) => "the group is in no container",
        (Call::UnsetContainer, Errno::EBUSY) => "a device of the group is open",
        (Call::GetDeviceFd, Errno::ENODEV) => "the group has no device of that name",
        (Call::GetDeviceFd, Errno::EINVAL) => "the group is in no container, or the container's IOMMU is not set",
        (Call::GetDeviceFd, Errno::EACCES) => "the VF token is missing or wrong",
        (Call::GetDeviceFd, Errno::EBUSY) => "the device is in use through its character device",
        (_, Errno::ENOTTY) => "this is no VFIO group",
        _ => return None,
    })
}

fn open(errno: Errno) -> Meaning {
    Some(match errno {
        Errno::EBUSY => "the group is open elsewhere, or a device of it is in use through its character device",
        Errno::EPERM | Errno::EACCES => "no permission for the node; change its owner or hand in an open fd",
        Errno::ENOENT => {
            "no such node: the device is not bound to a vfio driver, or the kernel lacks this way of opening"
        }
        _ => return None,
    })
}

fn receive_fds(errno: Errno) -> Meaning {
    Some(match errno {
        Errno::EAGAIN => "nothing came in the time the socket waits",
        Errno::ECONNRESET => "the peer has closed the connection with bytes of ours unread",
        _ => return None,
    })
}
