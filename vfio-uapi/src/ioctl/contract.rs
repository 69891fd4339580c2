// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Malformed requests, for the tests of drivers: see [`crate::contract`].

use core::ptr;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::ioctl_readwrite_bad;
use nix::libc::EPERM;
use vfio_bindings::bindings::vfio as sys;

use super::{RawResult, dma_logging, last_errno, raw};

/// 64 bytes, aligned as the kernel's structs are.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Message([u8; 64]);

const MESSAGE_BYTES: u32 = 64;
/// No kernel has so many features; the index has 16 bits.
const NEVER_ASSIGNED: u32 = 0xf000;

ioctl_readwrite_bad!(precopy_info_message, crate::ioctls::MIG_GET_PRECOPY_INFO, Message);

impl Message {
    fn new(argsz: u32, flags: u32, payload: &[u8]) -> Self {
        let mut message = Self([0; 64]);
        let header = argsz.min(MESSAGE_BYTES).to_ne_bytes().into_iter().chain(flags.to_ne_bytes());
        for (to, from) in message.0.iter_mut().zip(header.chain(payload.iter().copied())) {
            *to = from;
        }
        message
    }
}

/// Whether a request with these flags can make the kernel follow an address in the payload.
fn may_follow_address(flags: u32) -> bool {
    // On a container the number is DIRTY_PAGES, and these flags alone make that write through an address.
    if flags == sys::VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP {
        return true;
    }
    let index = flags & sys::VFIO_DEVICE_FEATURE_MASK;
    let payload_is_plain = matches!(index, 0..=5 | 7 | 9 | 10 | 12 | 13 | NEVER_ASSIGNED..);
    let is_probe = flags & sys::VFIO_DEVICE_FEATURE_PROBE != 0;
    !(payload_is_plain || is_probe)
}

pub(crate) fn feature(device: BorrowedFd<'_>, argsz: u32, flags: u32, buffer: &mut [u8; 64]) -> RawResult<()> {
    if may_follow_address(flags) {
        return Err(EPERM);
    }
    let mut message = Message::new(argsz, flags, buffer.get(8..).unwrap_or_default());
    // SAFETY: `message` is borrowed for this call alone and has 64 bytes, of which the kernel reads the 8 of the header
    // and then touches at most `argsz`, which is at most 64; every bit pattern is valid for it. The features that pass
    // the check above have no address in their payload (vfio.h), and with PROBE no payload is read. On a container
    // (DIRTY_PAGES) only the flags of GET_BITMAP alone reach an address, and they do not pass either.
    unsafe { raw::device_feature(device.as_raw_fd(), (&raw mut message).cast()) }.map_err(last_errno)?;
    *buffer = message.0;
    Ok(())
}

pub(crate) fn feature_at_null(device: BorrowedFd<'_>) -> RawResult<()> {
    // SAFETY: the kernel checks the address before it touches it, and no memory of this process is there.
    unsafe { raw::device_feature(device.as_raw_fd(), ptr::null_mut()) }.map_err(last_errno)?;
    Ok(())
}

pub(crate) fn precopy_info(data: BorrowedFd<'_>, argsz: u32, flags: u32) -> RawResult<[u8; 24]> {
    let mut message = Message::new(argsz, flags, &[]);
    // SAFETY: `message` is borrowed for this call alone and has 64 bytes; the kernel reads and writes the 24 of the
    // struct it knows, a later one at most `argsz`, which is at most 64. On a container the number is EEH_PE_OP, which
    // reads fewer bytes. All of it is integers.
    unsafe { precopy_info_message(data.as_raw_fd(), &raw mut message) }.map_err(last_errno)?;
    Ok(*message.0.first_chunk().unwrap_or(&[0; 24]))
}

pub(crate) fn dma_logging_start(device: BorrowedFd<'_>, page_size: u64, ranges: &[[u64; 2]]) -> RawResult<u64> {
    let range = |&[iova, length]: &[u64; 2]| sys::vfio_device_feature_dma_logging_range { iova, length };
    let ranges: Vec<_> = ranges.iter().map(range).collect();
    dma_logging::start(device, page_size, &ranges)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn no_address_reaches_the_kernel() {
        let (get, set, probe) = (1 << 16, 1 << 17, 1 << 18);
        for index in [6, 8, 11, 14, 0xefff] {
            assert!(may_follow_address(index | get) && may_follow_address(index | set), "{index}");
            assert!(may_follow_address(index), "{index}");
            assert!(!may_follow_address(index | get | probe), "{index}");
        }
        // DIRTY_PAGES with GET_BITMAP, should the fd be a container.
        assert!(may_follow_address(4) && !may_follow_address(4 | set));
        for index in [1, 2, 7, 9, 12, 0xfff0] {
            assert!(!may_follow_address(index | get), "{index}");
        }
    }

    #[test]
    fn the_message_is_never_shorter_than_the_kernel_is_told() {
        let message = Message::new(u32::MAX, 7, &[1, 2]);
        assert_eq!(message.0[..10], [64, 0, 0, 0, 7, 0, 0, 0, 1, 2]);
        assert_eq!(size_of::<Message>(), 64);
    }

    #[test]
    fn an_fd_of_another_kind_refuses() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let data = std::os::fd::AsFd::as_fd(&file);
        assert_eq!(feature(data, 8, 1 | (1 << 18), &mut [0; 64]), Err(nix::libc::ENOTTY));
        assert_eq!(feature(data, 64, 8 | (1 << 16), &mut [0; 64]), Err(EPERM));
        assert_eq!(precopy_info(data, 24, 0), Err(nix::libc::ENOTTY));
    }
}
