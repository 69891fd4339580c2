// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The buffers as the kernel sees them: by address and `argsz`, with nothing known of their types. No system calls, so
//! that Miri runs all of it.

use core::ptr::with_exposed_provenance_mut;
use core::slice;

use super::dma_logging::report_message;
use super::hwpt::{DirtyRequest, dirty_message};
use super::*;

/// Does to a message what the kernel does: reads the header, then reads and writes the payload bytes `argsz` announces.
fn kernel(message: *mut c_void, answer: impl FnOnce(u32, u32, &mut [u8])) {
    // SAFETY: every message starts with its 8-byte header, two u32, aligned for them.
    let [argsz, flags] = unsafe { message.cast::<[u32; 2]>().read() };
    let length = usize::try_from(argsz).unwrap().checked_sub(8).unwrap();
    // SAFETY: the message is `argsz` bytes long; that is what the test is about, and Miri objects if it is not.
    let data = unsafe { message.byte_add(8) };
    // SAFETY: as above, and nothing else refers to the message meanwhile.
    let payload = unsafe { slice::from_raw_parts_mut(data.cast::<u8>(), length) };
    answer(argsz, flags, payload);
}

#[test]
fn migration_flags_come_back() {
    let mut message = Feature::new(Op::Get, sys::vfio_device_feature_migration::default());
    kernel(message.as_mut_ptr(), |argsz, flags, payload| {
        assert_eq!((argsz, flags), (16, 0x1_0001));
        payload.copy_from_slice(&7_u64.to_ne_bytes());
    });
    assert_eq!(message.payload.flags, 7);
}

#[test]
fn a_state_goes_out_and_an_fd_comes_back() {
    let request = sys::vfio_device_feature_mig_state { device_state: 6, data_fd: -1 };
    let mut message = Feature::new(Op::Set, request);
    kernel(message.as_mut_ptr(), |argsz, flags, payload| {
        assert_eq!((argsz, flags), (16, 0x2_0002));
        assert_eq!(payload[..4], 6_u32.to_ne_bytes());
        assert_eq!(payload[4..], (-1_i32).to_ne_bytes());
        payload[4..].copy_from_slice(&9_i32.to_ne_bytes());
    });
    assert_eq!((message.payload.device_state, message.payload.data_fd), (6, 9));
}

#[test]
fn sizes_come_back() {
    let mut message = Feature::new(Op::Get, sys::vfio_device_feature_mig_data_size::default());
    kernel(message.as_mut_ptr(), |argsz, flags, payload| {
        assert_eq!((argsz, flags), (16, 0x1_0009));
        payload.copy_from_slice(&0x1_2345_6789_u64.to_ne_bytes());
    });
    assert_eq!(message.payload.stop_copy_length, 0x1_2345_6789);
}

#[test]
fn features_without_payload_are_a_header() {
    let mut message = Feature::new(Op::Set, PrecopyInfoV2);
    kernel(message.as_mut_ptr(), |argsz, flags, payload| {
        assert_eq!((argsz, flags, payload.len()), (8, 0x2_000c, 0));
    });
}

#[test]
fn ranges_are_reachable_through_the_payload() {
    let ranges = [(0x1000, 0x2000), (0x8000, 0x1000)]
        .map(|(iova, length)| sys::vfio_device_feature_dma_logging_range { iova, length });
    let control = sys::vfio_device_feature_dma_logging_control {
        page_size: 0x1000,
        num_ranges: 2,
        __reserved: 0,
        ranges: address(ranges.as_ptr()),
    };
    let mut message = Feature::new(Op::Set, control);
    kernel(message.as_mut_ptr(), |argsz, flags, payload| {
        assert_eq!((argsz, flags), (32, 0x2_0006));
        let pointer = u64::from_ne_bytes(payload[16..24].try_into().unwrap());
        let words = with_exposed_provenance_mut::<u64>(pointer.try_into().unwrap());
        // SAFETY: the address is that of the two ranges, four words, which live to the end of the test.
        let words = unsafe { slice::from_raw_parts(words, 4) };
        assert_eq!(words, [0x1000, 0x2000, 0x8000, 0x1000]);
        payload[..8].copy_from_slice(&0x2000_u64.to_ne_bytes());
    });
    assert_eq!(message.payload.page_size, 0x2000);
}

#[test]
fn a_report_writes_into_the_bitmap() {
    let mut bitmap = [0_u64; 2];
    let mut message = report_message(0x10_0000, 70 << 12, 1 << 12, &mut bitmap).unwrap();
    kernel((&raw mut message).cast(), |argsz, flags, payload| {
        assert_eq!((argsz, flags), (40, 0x1_0008));
        let field = |at: usize| u64::from_ne_bytes(payload[at..at + 8].try_into().unwrap());
        assert_eq!([field(0), field(8), field(16)], [0x10_0000, 70 << 12, 1 << 12]);
        let words = with_exposed_provenance_mut::<u64>(field(24).try_into().unwrap());
        // SAFETY: the address is that of `bitmap`, two words, which nothing else refers to meanwhile.
        let words = unsafe { slice::from_raw_parts_mut(words, 2) };
        words[0] |= 1 << 63;
        words[1] |= 1 << 5;
    });
    assert_eq!(bitmap, [1 << 63, 1 << 5]);
}

#[test]
fn a_bitmap_too_small_for_its_range_has_no_message() {
    let mut bitmap = [0_u64; 2];
    assert!(report_message(0, 128 << 12, 1 << 12, &mut bitmap).is_some());
    assert!(report_message(0, 129 << 12, 1 << 12, &mut bitmap).is_none());
    assert!(report_message(0, (128 << 12) + 1, 1 << 12, &mut bitmap).is_none());
    assert!(report_message(0, u64::MAX, 1, &mut bitmap).is_none());
    assert!(report_message(0, 1 << 12, 0, &mut bitmap).is_none());
}

#[test]
fn dirty_bits_and_a_container_s_pages_find_their_bitmap() {
    let mut bitmap = [0_u64; 2];
    let request = |length, page_size| DirtyRequest { hwpt_id: 7, flags: 1, iova: 0, length, page_size };
    let message = dirty_message(request(70 << 12, 1 << 12), &mut bitmap).unwrap();
    let words = with_exposed_provenance_mut::<u64>(message.data.try_into().unwrap());
    // SAFETY: the address is that of `bitmap`, two words, which nothing else refers to meanwhile.
    let words = unsafe { slice::from_raw_parts_mut(words, 2) };
    words[1] |= 1 << 5;
    assert_eq!(bitmap, [0, 1 << 5]);
    let described = type1::describe(128 << 12, 1 << 12, &mut bitmap).unwrap();
    assert_eq!((described.pgsize, described.size), (4096, 16));
    for (length, page_size) in [(129 << 12, 1 << 12), ((128 << 12) + 1, 1 << 12), (u64::MAX, 1), (1 << 12, 0)] {
        assert!(dirty_message(request(length, page_size), &mut bitmap).is_none(), "{length:#x} {page_size}");
        assert!(type1::describe(length, page_size, &mut bitmap).is_none(), "{length:#x} {page_size}");
    }
}
