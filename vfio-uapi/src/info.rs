// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a device says of itself, and access to its regions.

use std::os::fd::AsFd;

use nix::libc::{EOVERFLOW, off_t};

use crate::device::repeat;
use crate::{Call, Device, Error, Refusal, Result, ioctl};

bitflags::bitflags! {
    /// The flags of `VFIO_DEVICE_GET_INFO`. Bits this crate does not know are kept.
    #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
    pub struct DeviceFlags: u32 {
        /// The device says it can be reset. mtty can and does not say so.
        const RESET = 1;
        /// A PCI device, real or mediated.
        const PCI = 2;
        /// A platform device.
        const PLATFORM = 4;
        const _ = !0;
    }

    /// The flags of `VFIO_DEVICE_GET_REGION_INFO`. Bits this crate does not know are kept.
    #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
    pub struct RegionFlags: u32 {
        /// The region can be read.
        const READ = 1;
        /// The region can be written.
        const WRITE = 2;
        /// The region can be mapped.
        const MMAP = 4;
        /// The region has capabilities, which this crate does not fetch.
        const CAPS = 8;
        const _ = !0;
    }

    /// The flags of `VFIO_DEVICE_GET_IRQ_INFO`. Bits this crate does not know are kept.
    #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
    pub struct IrqFlags: u32 {
        /// Signalled through an eventfd.
        const EVENTFD = 1;
        /// Can be masked.
        const MASKABLE = 2;
        /// Masks itself when it fires.
        const AUTOMASKED = 4;
        /// The number of vectors in use cannot grow while they are.
        const NORESIZE = 8;
        const _ = !0;
    }
}

/// What `VFIO_DEVICE_GET_INFO` says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct DeviceInfo {
    /// The kind of device.
    pub flags: DeviceFlags,
    /// The number of region indices, some of them of size 0.
    pub num_regions: u32,
    /// The number of interrupt indices.
    pub num_irqs: u32,
}

/// What `VFIO_DEVICE_GET_REGION_INFO` says of one region.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct RegionInfo {
    /// The region's index.
    pub index: u32,
    /// What can be done with it.
    pub flags: RegionFlags,
    /// Its size in bytes; 0 if the device lacks it.
    pub size: u64,
    /// Where it starts in the device fd, in bytes.
    pub offset: u64,
}

impl RegionInfo {
    /// The first BAR of a PCI device; the others follow up to index 5.
    pub const PCI_BAR0: u32 = 0;
    /// The expansion ROM of a PCI device.
    pub const PCI_ROM: u32 = 6;
    /// The configuration space of a PCI device.
    pub const PCI_CONFIG: u32 = 7;
    /// The VGA region of a PCI device.
    pub const PCI_VGA: u32 = 8;
}

/// What `VFIO_DEVICE_GET_IRQ_INFO` says of one interrupt.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct IrqInfo {
    /// The interrupt's index.
    pub index: u32,
    /// What can be done with it.
    pub flags: IrqFlags,
    /// The number of vectors.
    pub count: u32,
}

impl<F: AsFd> Device<F> {
    /// The kind of device, and how many regions and interrupts it has.
    ///
    /// # Errors
    ///
    /// ENOTTY if this is no VFIO device; EINVAL if it is not bound to an iommufd yet.
    pub fn info(&self) -> Result<DeviceInfo> {
        let info = repeat(|| ioctl::device_info(self.as_fd())).map_err(|errno| self.error(Call::DeviceInfo, errno))?;
        Ok(DeviceInfo {
            flags: DeviceFlags::from_bits_retain(info.flags),
            num_regions: info.num_regions,
            num_irqs: info.num_irqs,
        })
    }

    /// Where region `index` is and what can be done with it.
    ///
    /// # Errors
    ///
    /// EINVAL for an index the device does not have.
    pub fn region_info(&self, index: u32) -> Result<RegionInfo> {
        let info =
            repeat(|| ioctl::region_info(self.as_fd(), index)).map_err(|errno| self.error(Call::RegionInfo, errno))?;
        Ok(RegionInfo { index, flags: RegionFlags::from_bits_retain(info.flags), size: info.size, offset: info.offset })
    }

    /// How many vectors interrupt `index` has and what can be done with them.
    ///
    /// # Errors
    ///
    /// EINVAL for an index the device does not have.
    pub fn irq_info(&self, index: u32) -> Result<IrqInfo> {
        let info = repeat(|| ioctl::irq_info(self.as_fd(), index)).map_err(|errno| self.error(Call::IrqInfo, errno))?;
        Ok(IrqInfo { index, flags: IrqFlags::from_bits_retain(info.flags), count: info.count })
    }

    /// Fills `buffer` from `offset` of a region.
    ///
    /// The length of the buffer is the width of the access: a register wants exactly its own. A driver that takes only
    /// part of it is asked for the rest.
    ///
    /// # Errors
    ///
    /// An access beyond the region is refused. Registers can change when they are read, so an interrupted access is not
    /// repeated.
    pub fn region_read(&self, region: &RegionInfo, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let call = Call::RegionRead;
        let mut at = self.region_position(call, region, offset, buffer.len())?;
        let mut rest = buffer;
        while !rest.is_empty() {
            let position = self.file_offset(call, at)?;
            let read = nix::sys::uio::pread(self.as_fd(), rest, position)
                .map_err(ioctl::last_errno)
                .map_err(|errno| self.error(call, errno))?;
            if read == 0 {
                return Err(Error::answer(self.shared_label(), call, "ended inside the region"));
            }
            at = advance(at, read);
            rest = rest.get_mut(read..).unwrap_or_default();
        }
        Ok(())
    }

    /// Writes `data` to `offset` of a region.
    ///
    /// The length of the data is the width of the access, as with [`region_read`](Self::region_read).
    ///
    /// # Errors
    ///
    /// As [`region_read`](Self::region_read).
    pub fn region_write(&self, region: &RegionInfo, offset: u64, data: &[u8]) -> Result<()> {
        let call = Call::RegionWrite;
        let mut at = self.region_position(call, region, offset, data.len())?;
        let mut rest = data;
        while !rest.is_empty() {
            let position = self.file_offset(call, at)?;
            let written = nix::sys::uio::pwrite(self.as_fd(), rest, position)
                .map_err(ioctl::last_errno)
                .map_err(|errno| self.error(call, errno))?;
            if written == 0 {
                return Err(Error::answer(self.shared_label(), call, "ended inside the region"));
            }
            at = advance(at, written);
            rest = rest.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    /// The position in the device fd of an access that lies within `region`.
    fn region_position(&self, call: Call, region: &RegionInfo, offset: u64, length: usize) -> Result<u64> {
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        offset
            .checked_add(length)
            .filter(|&end| end <= region.size)
            .and_then(|end| region.offset.checked_add(end)?.checked_sub(length))
            .ok_or_else(|| {
                let RegionInfo { index, size, .. } = *region;
                Error::refused(self.shared_label(), call, Refusal::RegionBounds { index, offset, length, size })
            })
    }

    /// The position as this host's `pread` has it. Hosts with a 32-bit `off_t` reach no region but the first.
    fn file_offset(&self, call: Call, position: u64) -> Result<off_t> {
        off_t::try_from(position).map_err(|_| self.error(call, EOVERFLOW))
    }
}

/// The position after `bytes`. Stays in range: the end of the access was checked.
fn advance(position: u64, bytes: usize) -> u64 {
    position.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX))
}
