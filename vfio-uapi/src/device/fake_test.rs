// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The device's calls against a scripted kernel.

use std::fs::File;
use std::os::fd::{IntoRawFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::libc::{EFAULT, EINTR, EINVAL, EIO, EMFILE, ENOTTY};

use super::*;
use crate::ioctl::fake::{Answer, Ask, done, script};
use crate::ioctls::{DEVICE_GET_INFO, DEVICE_RESET, MIG_GET_PRECOPY_INFO};
use crate::{DirtyBitmap, DmaRange};

const GET_FLAGS: Ask = Ask::Feature(0x1_0001);
const GET_STATE: Ask = Ask::Feature(0x1_0002);
const SET_STATE: Ask = Ask::Feature(0x2_0002);
const GET_SIZE: Ask = Ask::Feature(0x1_0009);
const SET_V2: Ask = Ask::Feature(0x2_000c);
const START: Ask = Ask::Feature(0x2_0006);
const REPORT: Ask = Ask::Feature(0x1_0008);
const GET_INFO: Ask = Ask::Plain(DEVICE_GET_INFO);
const PRECOPY_INFO: Ask = Ask::Plain(MIG_GET_PRECOPY_INFO);
const RESET: Ask = Ask::Plain(DEVICE_RESET);

fn device() -> Device<File> {
    Device::with_label(File::open("/dev/null").unwrap(), "vf1")
}

fn fails(errno: i32) -> Answer {
    Box::new(move |_| Err(errno))
}

fn ok() -> Answer {
    Box::new(|_| Ok(0))
}

/// The answer to a GET of the state.
fn state(state: DeviceState) -> Answer {
    Box::new(move |message| {
        assert_eq!(message.len(), 16);
        message[8..12].copy_from_slice(&state.raw().to_ne_bytes());
        message[12..].copy_from_slice(&(-1_i32).to_ne_bytes());
        Ok(0)
    })
}

/// The answer to a SET of `target`, with this data fd in the buffer and this result.
fn set(target: DeviceState, data_fd: RawFd, result: Result<i32, i32>) -> Answer {
    Box::new(move |message| {
        assert_eq!(message.len(), 16);
        assert_eq!(message[8..12], target.raw().to_ne_bytes());
        message[12..].copy_from_slice(&data_fd.to_ne_bytes());
        result
    })
}

fn number(value: u64) -> Answer {
    Box::new(move |message| {
        message[8..].copy_from_slice(&value.to_ne_bytes());
        Ok(0)
    })
}

/// The answer to PRECOPY_INFO: 24 initial bytes, 5 dirty ones, and these flags.
fn precopy(flags: u32) -> Answer {
    Box::new(move |message| {
        assert_eq!(message[4..8], [0; 4], "an old kernel would echo this");
        message[4..8].copy_from_slice(&flags.to_ne_bytes());
        message[8..16].copy_from_slice(&24_u64.to_ne_bytes());
        message[16..].copy_from_slice(&5_u64.to_ne_bytes());
        Ok(0)
    })
}

/// An fd as a driver would return it, and the driver's end.
fn data_fd() -> (RawFd, UnixStream) {
    let (driver, fd) = UnixStream::pair().unwrap();
    driver.set_nonblocking(true).unwrap();
    (fd.into_raw_fd(), driver)
}

fn is_open(fd: RawFd) -> bool {
    std::fs::exists(format!("/proc/self/fd/{fd}")).unwrap()
}

#[test]
fn flags_come_back_with_those_unknown() {
    script([(GET_FLAGS, fails(EINTR)), (GET_FLAGS, number(0x8000_0007))]);
    let flags = device().migration_flags().unwrap().unwrap();
    assert_eq!(flags.bits(), 0x8000_0007);
    assert!(flags.contains(MigrationFlags::STOP_COPY | MigrationFlags::P2P | MigrationFlags::PRE_COPY));
    done();
}

#[test]
fn a_device_without_the_feature_still_answers_for_its_info() {
    for (errno, support) in [(ENOTTY, Support::NotOffered), (EINVAL, Support::Refused)] {
        script([(GET_FLAGS, fails(errno)), (GET_INFO, ok())]);
        assert_eq!(device().migration_flags(), Ok(None));
        script([(Ask::Feature(0x7_0002), fails(errno)), (GET_INFO, ok())]);
        assert_eq!(device().probe(FeatureOp::DEVICE_STATE), Ok(support));
        script([(SET_V2, fails(errno)), (GET_INFO, ok())]);
        assert_eq!(device().enable_precopy_info_v2(), Ok(false));
        // Not bound to an iommufd: everything says EINVAL. No device at all: ENOTTY.
        script([(GET_FLAGS, fails(errno)), (GET_INFO, fails(errno))]);
        assert_eq!(device().migration_flags().unwrap_err().errno(), Some(errno));
    }
    script([(GET_FLAGS, fails(EIO))]);
    assert_eq!(device().migration_flags().unwrap_err().errno(), Some(EIO));
    done();
}

#[test]
fn a_transition_returns_the_fd_it_opened() {
    let (fd, _driver) = data_fd();
    let device = device();
    script([
        (GET_STATE, state(DeviceState::RUNNING)),
        (SET_STATE, set(DeviceState::PRE_COPY, fd, Ok(0))),
        (GET_STATE, state(DeviceState::PRE_COPY)),
        (SET_STATE, set(DeviceState::STOP_COPY, -1, Ok(0))),
    ]);
    let save = device.set_device_state(DeviceState::PRE_COPY).unwrap().unwrap();
    assert_eq!(save.as_fd().as_raw_fd(), fd);
    assert!(device.set_device_state(DeviceState::STOP_COPY).unwrap().is_none());
    let DataFd::Save(save) = save else { panic!("{save:?}") };
    drop(save);
    assert!(!is_open(fd));
    done();
}

#[test]
fn no_fd_is_taken_from_a_failed_request() {
    let (fd, driver) = data_fd();
    script([
        (GET_STATE, state(DeviceState::RUNNING)),
        (SET_STATE, set(DeviceState::PRE_COPY, fd, Err(EMFILE))),
        (GET_STATE, state(DeviceState::PRE_COPY)),
    ]);
    let failed = device().set_device_state(DeviceState::PRE_COPY).unwrap_err();
    assert_eq!((failed.errno(), failed.found), (Some(EMFILE), Ok(DeviceState::PRE_COPY)));
    assert!(is_open(fd), "the fd in the buffer is not ours to close");
    drop(driver);
    done();
}

#[test]
fn a_request_is_never_repeated() {
    script([
        (GET_STATE, state(DeviceState::RUNNING)),
        (SET_STATE, fails(EINTR)),
        (GET_STATE, fails(EINTR)),
        (GET_STATE, state(DeviceState::RUNNING_P2P)),
    ]);
    let failed = device().set_device_state(DeviceState::STOP).unwrap_err();
    assert_eq!((failed.errno(), failed.found), (Some(EINTR), Ok(DeviceState::RUNNING_P2P)));
    done();
}

#[test]
fn harmful_requests_do_not_reach_the_kernel() {
    script([(GET_STATE, state(DeviceState::ERROR)), (GET_STATE, state(DeviceState::STOP_COPY))]);
    let failed = device().set_device_state(DeviceState::RUNNING).unwrap_err();
    assert!(matches!(failed.error, Error::Refused { reason: Refusal::InError, .. }), "{failed}");
    let failed = device().set_device_state(DeviceState::PRE_COPY).unwrap_err();
    assert!(matches!(failed.error, Error::Refused { reason: Refusal::NoWayBack { .. }, .. }), "{failed}");
    assert_eq!(failed.found, Ok(DeviceState::STOP_COPY));
    done();
}

#[test]
fn an_fd_with_a_state_that_has_none_is_closed_and_an_error() {
    let (fd, _driver) = data_fd();
    script([
        (GET_STATE, state(DeviceState::RUNNING)),
        (SET_STATE, set(DeviceState::STOP, fd, Ok(0))),
        (GET_STATE, state(DeviceState::STOP)),
    ]);
    let failed = device().set_device_state(DeviceState::STOP).unwrap_err();
    assert!(matches!(failed.error, Error::Answer { .. }), "{failed}");
    assert!(!is_open(fd));
    done();
}

/// A device in RESUMING with its fd and the driver's end of it.
fn resuming() -> (Device<File>, LoadFd, UnixStream) {
    let (fd, driver) = data_fd();
    let device = device();
    script([(GET_STATE, state(DeviceState::RUNNING)), (SET_STATE, set(DeviceState::RESUMING, fd, Ok(0)))]);
    let load = device.set_device_state(DeviceState::RESUMING).unwrap().unwrap().load().unwrap();
    (device, load, driver)
}

#[test]
fn the_resuming_fd_lives_as_long_as_its_session() {
    let (device, mut load, _driver) = resuming();
    load.write_all(b"a").unwrap();
    // The same state again is no new session, and leaving without enough data fails and stays.
    script([
        (GET_STATE, state(DeviceState::RESUMING)),
        (SET_STATE, set(DeviceState::RESUMING, -1, Ok(0))),
        (GET_STATE, state(DeviceState::RESUMING)),
        (SET_STATE, set(DeviceState::STOP, -1, Err(EINVAL))),
        (GET_STATE, state(DeviceState::RESUMING)),
    ]);
    assert!(device.set_device_state(DeviceState::RESUMING).unwrap().is_none());
    load.write_all(b"b").unwrap();
    device.set_device_state(DeviceState::STOP).unwrap_err();
    load.write_all(b"c").unwrap();

    script([(GET_STATE, state(DeviceState::RESUMING)), (SET_STATE, set(DeviceState::STOP, -1, Ok(0)))]);
    device.set_device_state(DeviceState::STOP).unwrap();
    let error = load.write_all(b"d").unwrap_err();
    assert!(matches!(error, Error::Refused { reason: Refusal::SessionEnded, .. }), "{error}");
    done();
}

#[test]
fn a_reset_and_a_failure_that_left_resuming_end_the_session() {
    let (device, mut load, _driver) = resuming();
    script([(RESET, ok())]);
    device.reset().unwrap();
    load.write_all(b"a").unwrap_err();

    for found in [state(DeviceState::STOP), fails(EIO)] {
        let (device, mut load, _driver) = resuming();
        script([
            (GET_STATE, state(DeviceState::RESUMING)),
            (SET_STATE, set(DeviceState::RUNNING, -1, Err(EIO))),
            (GET_STATE, found),
        ]);
        device.set_device_state(DeviceState::RUNNING).unwrap_err();
        load.write_all(b"a").unwrap_err();
    }
    done();
}

#[test]
fn a_reset_that_failed_is_reported_and_not_repeated() {
    let (device, mut load, _driver) = resuming();
    script([(RESET, fails(EFAULT))]);
    assert_eq!(device.reset().unwrap_err().errno(), Some(EFAULT));
    load.write_all(b"a").unwrap();
    done();
}

#[test]
fn an_errno_in_a_size_is_an_error() {
    script([(GET_SIZE, number(4096)), (GET_SIZE, number(-5_i64 as u64))]);
    assert_eq!(device().stop_copy_bytes(), Ok(4096));
    assert_eq!(device().stop_copy_bytes().unwrap_err().errno(), Some(EIO));
    done();
}

#[test]
fn reinit_is_believed_after_the_opt_in_only() {
    let device = device();
    let saving = || {
        let (fd, driver) = data_fd();
        script([(GET_STATE, state(DeviceState::RUNNING)), (SET_STATE, set(DeviceState::PRE_COPY, fd, Ok(0)))]);
        (device.set_device_state(DeviceState::PRE_COPY).unwrap().unwrap().save().unwrap(), driver)
    };
    let (before, _driver) = saving();
    script([(SET_V2, ok())]);
    assert_eq!(device.enable_precopy_info_v2(), Ok(true));
    let (after, _driver) = saving();
    for (save, flags, reinit) in
        [(&before, 1, None), (&after, 1, Some(true)), (&after, 0, Some(false)), (&after, 2, Some(false))]
    {
        script([(PRECOPY_INFO, fails(EINTR)), (PRECOPY_INFO, precopy(flags))]);
        let info = save.precopy_info().unwrap();
        assert_eq!((info.initial_bytes, info.dirty_bytes, info.reinit), (24, 5, reinit));
    }
    done();
}

#[test]
fn logging_returns_the_page_size_the_device_chose() {
    let answer = |message: &mut [u8]| {
        assert_eq!(message[8..16], 4096_u64.to_ne_bytes());
        let counts = [2_u32, 0].map(u32::to_ne_bytes).concat();
        assert_eq!(message[16..24], counts, "two ranges and nothing reserved");
        message[8..16].copy_from_slice(&65536_u64.to_ne_bytes());
        Ok(0)
    };
    script([(START, Box::new(answer))]);
    let ranges = [DmaRange { iova: 0, length: 4096 }, DmaRange { iova: 8192, length: 4096 }];
    assert_eq!(device().dma_logging_start(4096, &ranges), Ok(65536));
    done();
}

#[test]
fn each_report_stands_alone() {
    let mut bitmap = DirtyBitmap::new(DmaRange { iova: 1 << 20, length: 3 << 12 }, 4096).unwrap();
    script([(REPORT, fails(EIO)), (REPORT, ok())]);
    device().dma_logging_report(&mut bitmap).unwrap_err();
    assert_eq!(bitmap.dirty_pages(), 3);
    device().dma_logging_report(&mut bitmap).unwrap();
    assert_eq!(bitmap.dirty_pages(), 0);
    done();
}
