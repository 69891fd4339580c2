// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the libraries make of the device: the kernel's answers as `vfio-uapi` and `savevm-core` hand them on.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use savevm_core::Device as _;
use savevm_core::device::Read as CoreRead;
use savevm_core::kernel::KernelDevice;
use vfio_mig_fsm::State;
use vfio_uapi::{Device, DeviceState, LoadFd, Read, SaveFd, SavePhase};

use super::check::{Checked, ensure, expect, failed, must, skipped};
use super::context::Ctx;
use super::profile::Incomplete;
use super::{Need, Test, stream, test};
use crate::hw_test::event::Group;

/// Bytes read in PRE_COPY before a device counts as one that makes data as fast as it is read.
const DRAIN_BYTES_MAX: usize = 256 << 20;

pub(super) const TESTS: &[Test] = &[
    test(Group::Library, "SaveFd: drained in PRE_COPY, the end in STOP_COPY", &[Need::PreCopy], drained_then_end),
    test(Group::Library, "SaveFd: estimates in PRE_COPY only", &[Need::PreCopy], estimates),
    test(Group::Library, "LoadFd: the first refused write is final", &[Need::Header], first_error_is_final),
    test(Group::Library, "a failed request tells where the device is", &[], failed_request),
    test(Group::Library, "STOP_COPY -> PRE_COPY never reaches the kernel", &[Need::PreCopy], way_back),
    test(Group::Library, "KernelDevice: one session from PRE_COPY to STOP_COPY", &[Need::PreCopy], session),
    test(Group::Library, "KernelDevice: a reset ends RESUMING", &[], reset_ends_resuming),
];

fn save(device: &Device<OwnedFd>, to: DeviceState) -> Checked<SaveFd> {
    let data = must("SET of a saving state", device.set_device_state(to))?;
    data.and_then(vfio_uapi::DataFd::save).ok_or_else(|| failed("SET of a saving state gave no saving fd"))
}

fn load(device: &Device<OwnedFd>) -> Checked<LoadFd> {
    let data = must("SET RESUMING", device.set_device_state(DeviceState::RESUMING))?;
    data.and_then(vfio_uapi::DataFd::load).ok_or_else(|| failed("SET RESUMING gave no resuming fd"))
}

/// Reads until something else than bytes comes.
fn read_on(data: &SaveFd, phase: SavePhase) -> Checked<Read> {
    let mut buffer = vec![0; stream::CHUNK_BYTES];
    let mut total = 0_usize;
    while total < DRAIN_BYTES_MAX {
        match must("read", data.read(&mut buffer, phase))? {
            Read::Bytes(bytes) => total = total.saturating_add(bytes.get()),
            other => return Ok(other),
        }
    }
    Err(skipped(format!("the device makes data as fast as it is read, {DRAIN_BYTES_MAX} bytes by now")))
}

fn drained_then_end(ctx: &mut Ctx) -> Checked {
    let device = ctx.first.device()?;
    let data = save(device, DeviceState::PRE_COPY)?;
    expect("a read with nothing left in PRE_COPY", read_on(&data, SavePhase::PreCopy)?, Read::Drained)?;
    let more = must("SET STOP_COPY", device.set_device_state(DeviceState::STOP_COPY))?;
    ensure(more.is_none(), || "SET STOP_COPY gave a second data fd".into())?;
    expect("a read with nothing left in STOP_COPY", read_on(&data, SavePhase::StopCopy)?, Read::End)
}

fn estimates(ctx: &mut Ctx) -> Checked {
    let device = ctx.first.device()?;
    let data = save(device, DeviceState::PRE_COPY)?;
    let info = must("estimates in PRE_COPY", data.precopy_info())?;
    ensure(info.initial_bytes > 0, || "initial_bytes must begin above 0".into())?;
    expect("REINIT without the opt-in", info.reinit, None)?;
    must("SET STOP_COPY", device.set_device_state(DeviceState::STOP_COPY))?;
    match data.precopy_info() {
        Ok(info) => Err(failed(format!("estimates in STOP_COPY: {info:?}"))),
        Err(error) => expect("estimates in STOP_COPY", error.errno(), Some(nix::libc::EINVAL)),
    }
}

fn first_error_is_final(ctx: &mut Ctx) -> Checked {
    super::damage::compare_again(ctx)?;
    let dut = &ctx.first;
    let header = dut.profile.header.ok_or_else(|| failed("no header is known"))?;
    let mut data = load(dut.device()?)?;
    // No driver's magic, and no size that any driver takes.
    let refused = data.write_all(&vec![0xff; header.bytes]);
    let error = refused.err().ok_or_else(|| failed("a header of ones was taken"))?;
    expect("a header of ones", error.errno().map(Errno::from_raw), Some(header.errno))?;
    let again = data.write_all(&[0]);
    ensure(again.is_err(), || "a write after a refused one reached the kernel, which takes it".into())?;
    drop(data);
    dut.reset()
}

fn failed_request(ctx: &mut Ctx) -> Checked {
    let dut = &ctx.first;
    match dut.profile.incomplete {
        Incomplete::Refused => {}
        Incomplete::Accepted => return Err(skipped("this driver refuses no state, not even one that never came")),
        Incomplete::Unknown => return Err(skipped("it is not known how this driver takes a state that never came")),
    }
    let device = dut.device()?;
    let data = load(device)?;
    match device.set_device_state(DeviceState::STOP) {
        Ok(_) => return Err(failed("an empty state was loaded")),
        Err(error) => {
            let found = must("GET after the failed SET", error.found.clone())?;
            expect("where the device is said to be", found, DeviceState::RESUMING)?;
        }
    }
    drop(data);
    dut.reset()
}

fn way_back(ctx: &mut Ctx) -> Checked {
    let dut = &ctx.first;
    let device = dut.device()?;
    let _data = save(device, DeviceState::STOP_COPY)?;
    match device.set_device_state(DeviceState::PRE_COPY) {
        Ok(_) => Err(failed("STOP_COPY -> PRE_COPY was taken")),
        Err(refused) => {
            // No errno: the kernel was not asked.
            expect("the errno of the refusal", refused.error.errno(), None)?;
            dut.expect_state("after the refusal", State::StopCopy)
        }
    }
}

/// The device as the engine sees it, on a second number for the same fd.
fn engine(ctx: &Ctx) -> Checked<KernelDevice<OwnedFd>> {
    let fd = must("a second number for the device fd", ctx.first.device()?.as_fd().try_clone_to_owned())?;
    must("KernelDevice", KernelDevice::new(Device::with_label(fd, &ctx.first.name), "dut", "any"))
}

fn session(ctx: &mut Ctx) -> Checked {
    let mut device = engine(ctx)?;
    let mut buffer = vec![0; stream::CHUNK_BYTES];
    must("to PRE_COPY", device.transition(State::PreCopy))?;
    let mut total = 0_usize;
    loop {
        match must("read in PRE_COPY", device.read(&mut buffer))? {
            CoreRead::Bytes(bytes) => total = total.saturating_add(bytes),
            CoreRead::Drained => break,
            CoreRead::End => return Err(failed(format!("the end in PRE_COPY, after {total} bytes"))),
        }
        if total > DRAIN_BYTES_MAX {
            return Err(skipped("the device makes data as fast as it is read"));
        }
    }
    must("to STOP_COPY", device.transition(State::StopCopy))?;
    loop {
        match must("read in STOP_COPY", device.read(&mut buffer))? {
            CoreRead::Bytes(_) => {}
            CoreRead::Drained => return Err(failed("drained in STOP_COPY, where nothing can change")),
            CoreRead::End => break,
        }
    }
    must("back to RUNNING", device.transition(State::Running))?;
    let after = device.read(&mut buffer);
    ensure(after.is_err(), || format!("a read after the session: {after:?}"))
}

fn reset_ends_resuming(ctx: &mut Ctx) -> Checked {
    let mut device = engine(ctx)?;
    must("to RESUMING", device.transition(State::Resuming))?;
    must("reset", device.reset())?;
    expect("state after the reset", must("GET", device.state())?, State::Running)?;
    let after = device.write(&[0]);
    ensure(after.is_err(), || "a write after the reset was taken".into())
}
