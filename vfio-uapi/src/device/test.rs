// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use core::cell::Cell;
use std::fs::{self, File};
use std::io::Write as _;

use nix::libc::{EINTR, EINVAL, ENOTTY};

use super::*;
use crate::{RegionFlags, RegionInfo};

fn null() -> Device<File> {
    Device::with_label(File::open("/dev/null").unwrap(), "null")
}

fn is_not_a_device(error: &Error, call: Call) {
    assert_eq!((error.errno(), error.device(), error.call()), (Some(ENOTTY), "null", call), "{error}");
    assert!(error.is_unsupported());
}

#[test]
#[cfg_attr(miri, ignore = "system calls")]
fn an_fd_that_is_no_device_is_an_error_everywhere() {
    let null = null();
    is_not_a_device(&null.migration_flags().unwrap_err(), Call::MigrationFlags);
    is_not_a_device(&null.probe(FeatureOp::DEVICE_STATE).unwrap_err(), Call::Probe);
    is_not_a_device(&null.enable_precopy_info_v2().unwrap_err(), Call::PrecopyInfoV2);
    is_not_a_device(&null.device_state().unwrap_err(), Call::GetDeviceState);
    is_not_a_device(&null.stop_copy_bytes().unwrap_err(), Call::MigDataSize);
    is_not_a_device(&null.reset().unwrap_err(), Call::Reset);
    is_not_a_device(&null.info().unwrap_err(), Call::DeviceInfo);
    is_not_a_device(&null.region_info(0).unwrap_err(), Call::RegionInfo);
    is_not_a_device(&null.irq_info(0).unwrap_err(), Call::IrqInfo);
    is_not_a_device(&null.attach(1).unwrap_err(), Call::AttachPageTable);
    is_not_a_device(&null.detach().unwrap_err(), Call::DetachPageTable);
    is_not_a_device(&null.dma_logging_stop().unwrap_err(), Call::DmaLoggingStop);
    assert_eq!(null.precopy_info_version(), PrecopyInfoVersion::V1);
}

#[test]
#[cfg_attr(miri, ignore = "system calls")]
fn a_failed_request_tells_the_state_or_why_not() {
    let null = null();
    let failed = null.set_device_state(DeviceState::STOP).unwrap_err();
    is_not_a_device(&failed.error, Call::GetDeviceState);
    let failed = null.set_device_state_unguarded(DeviceState::STOP).unwrap_err();
    assert_eq!(failed.target, DeviceState::STOP);
    is_not_a_device(&failed.error, Call::SetDeviceState);
    is_not_a_device(failed.found.as_ref().unwrap_err(), Call::GetDeviceState);
    let text = failed.to_string();
    assert!(text.contains("asked for STOP, and its state cannot be told: null: VFIO_DEVICE_FEATURE GET"), "{text}");
}

#[test]
fn requests_that_harm_the_kernel_are_refused() {
    let refused =
        |found: u32, target: u32| guard(DeviceState::from_raw(found), DeviceState::from_raw(target)).is_some();
    for found in 0..=8 {
        for target in 0..=8 {
            let harmful = found == 0 || (found == 3 && (target == 6 || target == 7));
            assert_eq!(refused(found, target), harmful, "{found} to {target}");
        }
    }
}

#[test]
fn a_negative_errno_is_no_size() {
    for (bytes, errno) in [
        (0, None),
        (1 << 40, None),
        (u64::MAX, Some(1)),
        (u64::MAX - 21, Some(EINVAL)),
        (u64::MAX - 4094, Some(4095)),
        (u64::MAX - 4095, None),
    ] {
        assert_eq!(errno_in_size(bytes), errno, "{bytes:#x}");
    }
}

#[test]
fn interrupted_calls_are_repeated_but_not_for_ever() {
    let calls = Cell::new(0);
    let interrupted = |times: u32| {
        calls.set(0);
        repeat(|| {
            calls.set(calls.get() + 1);
            if calls.get() <= times { Err(EINTR) } else { Ok(()) }
        })
    };
    assert_eq!((interrupted(0), calls.get()), (Ok(()), 1));
    assert_eq!((interrupted(3), calls.get()), (Ok(()), 4));
    assert_eq!((interrupted(u32::MAX), calls.get()), (Err(EINTR), INTERRUPTED_MAX));
    assert_eq!(repeat(|| Err::<(), _>(EINVAL)), Err(EINVAL));
}

/// A file in the place of a device: its region is the second half of 32 bytes counting up from 0.
fn device_with_region() -> (Device<File>, RegionInfo) {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&(0..32).collect::<Vec<u8>>()).unwrap();
    (Device::with_label(file, "file"), RegionInfo { index: 7, flags: RegionFlags::READ, size: 16, offset: 16 })
}

#[test]
#[cfg_attr(miri, ignore = "system calls")]
fn regions_are_accessed_in_their_place() {
    let (device, region) = device_with_region();
    let mut buffer = [0; 4];
    device.region_read(&region, 12, &mut buffer).unwrap();
    assert_eq!(buffer, [28, 29, 30, 31]);
    device.region_write(&region, 1, &[0xaa, 0xbb]).unwrap();
    device.region_read(&region, 0, &mut buffer).unwrap();
    assert_eq!(buffer, [16, 0xaa, 0xbb, 19]);
    device.region_read(&region, 16, &mut []).unwrap();
}

#[test]
#[cfg_attr(miri, ignore = "system calls")]
fn an_access_stays_in_its_region() {
    let (device, region) = device_with_region();
    for (offset, length) in [(16, 1), (13, 4), (u64::MAX, 1), (u64::MAX - 15, 17), (0, 17)] {
        let read = device.region_read(&region, offset, &mut vec![0; length]).unwrap_err();
        let write = device.region_write(&region, offset, &vec![0; length]).unwrap_err();
        for error in [read, write] {
            assert!(
                matches!(error, Error::Refused { reason: Refusal::RegionBounds { index: 7, size: 16, .. }, .. }),
                "{offset:#x} + {length}: {error}"
            );
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "system calls")]
fn a_region_that_ends_early_is_an_error() {
    let (device, mut region) = device_with_region();
    region.size = 20;
    let error = device.region_read(&region, 14, &mut [0; 4]).unwrap_err();
    assert!(matches!(error, Error::Answer { call: Call::RegionRead, .. }), "{error}");
}

#[test]
#[cfg_attr(miri, ignore = "system calls")]
fn a_register_is_read_by_one_call_of_its_width() {
    /// The number of read calls this thread has made so far; looking costs as many each time.
    fn reads() -> Option<u64> {
        let text = fs::read_to_string("/proc/thread-self/io").ok()?;
        text.lines().find_map(|line| line.strip_prefix("syscr:")?.trim().parse().ok())
    }
    let (device, region) = device_with_region();
    if reads().is_none() {
        println!("SKIPPED: the kernel counts no I/O per thread");
        return;
    }
    for width in [1, 2, 4, 8] {
        let mut buffer = vec![0; width];
        let [first, second] = [reads().unwrap(), reads().unwrap()];
        device.region_read(&region, 3, &mut buffer).unwrap();
        let third = reads().unwrap();
        assert_eq!(buffer[0], 19);
        assert_eq!(third - second, second - first + 1, "read calls for {width} bytes");
    }
}
