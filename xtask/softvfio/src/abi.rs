// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The numbers of the VFIO ioctls, and the byte buffers of their arguments.

use savevm_core::sim::Errno;

/// `VFIO_*` and `IOMMU_*` request numbers: type `';'`, no size.
pub(crate) mod request {
    pub(crate) const GET_API_VERSION: u32 = 0x3b64;
    pub(crate) const CHECK_EXTENSION: u32 = 0x3b65;
    pub(crate) const SET_IOMMU: u32 = 0x3b66;
    pub(crate) const GROUP_GET_STATUS: u32 = 0x3b67;
    pub(crate) const GROUP_SET_CONTAINER: u32 = 0x3b68;
    pub(crate) const GROUP_UNSET_CONTAINER: u32 = 0x3b69;
    pub(crate) const GROUP_GET_DEVICE_FD: u32 = 0x3b6a;
    pub(crate) const DEVICE_GET_INFO: u32 = 0x3b6b;
    pub(crate) const DEVICE_GET_REGION_INFO: u32 = 0x3b6c;
    pub(crate) const DEVICE_GET_IRQ_INFO: u32 = 0x3b6d;
    pub(crate) const DEVICE_SET_IRQS: u32 = 0x3b6e;
    pub(crate) const DEVICE_RESET: u32 = 0x3b6f;
    pub(crate) const IOMMU_GET_INFO: u32 = 0x3b70;
    pub(crate) const IOMMU_MAP_DMA: u32 = 0x3b71;
    pub(crate) const IOMMU_UNMAP_DMA: u32 = 0x3b72;
    /// On a device fd.
    pub(crate) const DEVICE_FEATURE: u32 = 0x3b75;
    /// The same number on a container.
    pub(crate) const IOMMU_DIRTY_PAGES: u32 = 0x3b75;
    pub(crate) const DEVICE_BIND_IOMMUFD: u32 = 0x3b76;
    pub(crate) const DEVICE_ATTACH_IOMMUFD_PT: u32 = 0x3b77;
    pub(crate) const DEVICE_DETACH_IOMMUFD_PT: u32 = 0x3b78;
    pub(crate) const MIG_GET_PRECOPY_INFO: u32 = 0x3b79;
}

/// User memory as the kernel sees it: reachable by copying only, and any copy may fault.
pub(crate) trait UserMemory {
    /// Copies from the user; `EFAULT` when any byte is unreadable.
    fn copy_in(&self, address: u64, to: &mut [u8]) -> Result<(), Errno>;

    /// Copies to the user; `EFAULT` when any byte is unwritable.
    fn copy_out(&self, address: u64, from: &[u8]) -> Result<(), Errno>;

    /// A 32-bit word of the user's.
    fn word(&self, address: u64) -> Result<u32, Errno> {
        let mut bytes = [0; 4];
        self.copy_in(address, &mut bytes)?;
        Ok(u32::from_ne_bytes(bytes))
    }
}

/// An argument structure: `N` bytes with fields in the host's byte order.
#[derive(Clone, Copy)]
pub(crate) struct Argument<const N: usize> {
    bytes: [u8; N],
    /// How many of them the caller has.
    len: usize,
}

impl<const N: usize> Argument<N> {
    /// All zeros.
    pub(crate) fn new() -> Self {
        Self { bytes: [0; N], len: N }
    }

    /// Copies the structure in, then checks that its first field, the size the caller claims, covers it.
    pub(crate) fn read(memory: &dyn UserMemory, address: u64) -> Result<Self, Errno> {
        let argument = Self::read_unchecked(memory, address)?;
        if usize::try_from(argument.u32(0)).unwrap_or(usize::MAX) < N {
            return Err(Errno::EINVAL);
        }
        Ok(argument)
    }

    /// Copies the structure in.
    pub(crate) fn read_unchecked(memory: &dyn UserMemory, address: u64) -> Result<Self, Errno> {
        let mut argument = Self::new();
        memory.copy_in(address, &mut argument.bytes)?;
        Ok(argument)
    }

    /// Copies in the first `len` bytes, no more than the structure has; the rest is zero and is not copied back.
    pub(crate) fn read_part(memory: &dyn UserMemory, address: u64, len: usize) -> Result<Self, Errno> {
        let mut argument = Self::new();
        argument.len = len.min(N);
        memory.copy_in(address, argument.bytes.get_mut(..argument.len).unwrap_or_default())?;
        Ok(argument)
    }

    /// Copies the structure back.
    pub(crate) fn write(&self, memory: &dyn UserMemory, address: u64) -> Result<(), Errno> {
        memory.copy_out(address, self.bytes.get(..self.len).unwrap_or_default())
    }

    pub(crate) fn bytes(&self) -> &[u8; N] {
        &self.bytes
    }

    /// The field of four bytes at `offset`; zero outside.
    pub(crate) fn u32(&self, offset: usize) -> u32 {
        let field = self.bytes.get(offset..).and_then(|bytes| bytes.first_chunk());
        field.copied().map_or(0, u32::from_ne_bytes)
    }

    /// The field of four bytes at `offset`, signed.
    pub(crate) fn i32(&self, offset: usize) -> i32 {
        i32::from_ne_bytes(self.u32(offset).to_ne_bytes())
    }

    /// The field of eight bytes at `offset`; zero outside.
    pub(crate) fn u64(&self, offset: usize) -> u64 {
        let field = self.bytes.get(offset..).and_then(|bytes| bytes.first_chunk());
        field.copied().map_or(0, u64::from_ne_bytes)
    }

    /// Sets the field of four bytes at `offset`.
    pub(crate) fn set_u32(&mut self, offset: usize, value: u32) {
        self.set(offset, &value.to_ne_bytes());
    }

    /// Sets the field of four bytes at `offset`, signed.
    pub(crate) fn set_i32(&mut self, offset: usize, value: i32) {
        self.set(offset, &value.to_ne_bytes());
    }

    /// Sets the field of eight bytes at `offset`.
    pub(crate) fn set_u64(&mut self, offset: usize, value: u64) {
        self.set(offset, &value.to_ne_bytes());
    }

    fn set(&mut self, offset: usize, value: &[u8]) {
        for (to, from) in self.bytes.iter_mut().skip(offset).zip(value) {
            *to = *from;
        }
    }
}

/// The address `offset` bytes into a structure.
pub(crate) fn field(address: u64, offset: u64) -> Result<u64, Errno> {
    address.checked_add(offset).ok_or(Errno::EFAULT)
}
