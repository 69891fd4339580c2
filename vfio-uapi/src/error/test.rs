// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use nix::libc::{EINTR, EINVAL, EMFILE, ENOMSG, ENOTTY, EOPNOTSUPP, EPERM, EXDEV};

use super::*;

fn failed(call: Call, errno: i32) -> Error {
    Error::kernel(&Arc::from("0000:06:00.2"), call, errno)
}

#[test]
fn an_error_reads_as_a_sentence() {
    assert_eq!(
        failed(Call::PrecopyInfo, EINVAL).to_string(),
        "0000:06:00.2: VFIO_MIG_GET_PRECOPY_INFO: the device is not in PRE_COPY or PRE_COPY_P2P, or its position is \
         wrong (EINVAL, errno 22)"
    );
    // 524 is a number of the kernel's own that drivers let escape, and no name is known for it out here.
    let text = failed(Call::Write, 524).to_string();
    assert!(text.ends_with("(errno 524)"), "{text}");
}

#[test]
fn the_same_errno_means_what_the_call_makes_of_it() {
    for (call, errno, part) in [
        (Call::SetDeviceState, EMFILE, "no fd was left"),
        (Call::SetDeviceState, ENOTTY, "does not support migration"),
        (Call::ReadStopCopy, ENOMSG, "the driver announces a temporary end in STOP_COPY"),
        (Call::ReadPreCopy, EINTR, "on xe the bytes of this call are lost"),
        (Call::DmaLoggingReport, EOPNOTSUPP, "CONFIG_IOMMUFD_DRIVER"),
        (Call::SetContainer, EPERM, "not viable"),
        (Call::GetDeviceFd, EINVAL, "the container's IOMMU is not set"),
        (Call::Reset, EXDEV, "Cross-device link"),
    ] {
        let text = failed(call, errno).to_string();
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn every_errno_of_a_report_means_dirty() {
    for errno in 1..134 {
        let meaning = Call::DmaLoggingReport.meaning(errno);
        assert!(meaning.contains("every page as dirty"), "{errno}: {meaning}");
    }
}

#[test]
fn a_failed_request_says_where_the_device_is() {
    let error = SetStateError {
        target: DeviceState::STOP_COPY,
        error: failed(Call::SetDeviceState, EINVAL),
        found: Ok(DeviceState::from_raw(9)),
    };
    let text = error.to_string();
    assert!(text.ends_with("(EINVAL, errno 22); asked for STOP_COPY, found in state 9"), "{text}");
    assert_eq!(error.errno(), Some(EINVAL));
}
