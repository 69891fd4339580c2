// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A device under test: opened, and brought to any state by requests that are legal.

use std::fs::File;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use vfio_mig_fsm::{Capabilities, State};
use vfio_uapi::open::{Bus, VfioDevice};
use vfio_uapi::{DataFd, Device, DeviceState};

use super::check::{Checked, ensure, expect, failed, must, name, refuse_io};
use super::opening::{Access, Opening};
use super::profile::Profile;

/// One device and what is known about it.
pub(crate) struct Dut {
    /// PCI address or mdev UUID.
    pub name: String,
    /// From its MIGRATION feature.
    pub caps: Capabilities,
    /// What its driver does where the uAPI leaves room.
    pub profile: Profile,
    found: VfioDevice,
    access: Access,
    opening: Option<Opening>,
    device: Option<Device<OwnedFd>>,
}

impl Dut {
    /// Opens `found` with `open`; `about` says what it is.
    pub(crate) fn new(
        found: VfioDevice,
        (opening, device): (Opening, Device<OwnedFd>),
        about: (Capabilities, Profile),
    ) -> Self {
        let (name, access) = (found.name.clone(), opening.access());
        let (caps, profile) = about;
        Self { name, caps, profile, found, access, opening: Some(opening), device: Some(device) }
    }

    /// The open device.
    pub(crate) fn device(&self) -> Checked<&Device<OwnedFd>> {
        self.device.as_ref().ok_or_else(|| failed("the device is closed"))
    }

    /// A further fd of the same device, if this way of opening gives one.
    pub(crate) fn another(&self) -> Checked<Device<OwnedFd>> {
        self.opening.as_ref().ok_or_else(|| failed("the device is left to others"))?.device()
    }

    /// How the tests open it.
    pub(crate) fn access(&self) -> Access {
        self.access
    }

    /// What discovery knows of it.
    pub(crate) fn found(&self) -> &VfioDevice {
        &self.found
    }

    /// The bus it is on.
    pub(crate) fn bus(&self) -> Bus {
        self.found.bus
    }

    /// Whether the device can be opened twice: by group yes, by cdev no.
    pub(crate) fn opens_twice(&self) -> bool {
        self.access == Access::Group
    }

    /// Closes the device; its group or iommufd stays open.
    pub(crate) fn close(&mut self) {
        self.device = None;
    }

    /// Closes everything, so that another process can open the device.
    pub(crate) fn leave(&mut self) {
        self.device = None;
        self.opening = None;
    }

    /// Opens the device again after [`close`](Self::close) or [`leave`](Self::leave).
    pub(crate) fn open(&mut self) -> Checked {
        if self.opening.is_some() {
            self.device = Some(self.another()?);
        } else {
            let (opening, device) = Opening::open(&self.found, Some(self.access))?;
            (self.opening, self.device) = (Some(opening), Some(device));
        }
        Ok(())
    }

    /// GET.
    pub(crate) fn state(&self) -> Checked<State> {
        let found = must("GET of the device state", self.device()?.device_state())?;
        State::from_raw(found.raw())
            .ok_or_else(|| failed(format!("GET of the device state: unknown state {}", found.raw())))
    }

    /// GET must say `expected`.
    pub(crate) fn expect_state(&self, when: &str, expected: State) -> Checked {
        let found = self.state()?;
        ensure(found == expected, || format!("state {when}: expected {expected}, found {found}"))
    }

    /// SET of any number; the error is the errno.
    pub(crate) fn request(&self, to: u32) -> Checked<Result<Option<File>, i32>> {
        let answer = self.device()?.set_device_state_unguarded(DeviceState::from_raw(to));
        match answer {
            Ok(data) => Ok(Ok(data.map(into_file))),
            Err(refused) => match refused.error.errno() {
                Some(errno) => Ok(Err(errno)),
                None => Err(failed(refused.to_string())),
            },
        }
    }

    /// SET that must succeed.
    pub(crate) fn set(&self, to: State) -> Checked<Option<File>> {
        let found = self.request(to.raw())?;
        found.map_err(|errno| failed(format!("SET {to} on {}: {}", self.name, name(Errno::from_raw(errno)))))
    }

    /// SET that must succeed and open a session.
    pub(crate) fn open_session(&self, to: State) -> Checked<File> {
        self.set(to)?.ok_or_else(|| failed(format!("SET {to} on {} gave no data fd", self.name)))
    }

    /// SET that must succeed and open none.
    pub(crate) fn set_quietly(&self, to: State) -> Checked {
        let data = self.set(to)?;
        ensure(data.is_none(), || format!("SET {to} on {} gave a data fd where none begins", self.name))
    }

    /// RESET, and the state is RUNNING.
    pub(crate) fn reset(&self) -> Checked {
        must(&format!("RESET of {}", self.name), self.device()?.reset())?;
        self.expect_state("after RESET", State::Running)
    }

    /// From RESET to `state` by one request. The data fd is that of the session the state has.
    pub(crate) fn enter(&self, state: State) -> Checked<Option<File>> {
        self.reset()?;
        let data = self.set(state)?;
        let has_session = state.is_saving() || state == State::Resuming;
        expect(&format!("a data fd comes with {state}"), data.is_some(), has_session)?;
        self.expect_state(&format!("after SET {state}"), state)?;
        Ok(data)
    }

    /// As [`enter`](Self::enter), for states with a session.
    pub(crate) fn enter_session(&self, state: State) -> Checked<File> {
        self.enter(state)?.ok_or_else(|| failed(format!("{state} has no session")))
    }

    /// The states this device can be in.
    pub(crate) fn states(&self) -> impl Iterator<Item = State> + use<> {
        let caps = self.caps;
        State::ALL.into_iter().filter(move |state| caps.supports(*state))
    }
}

/// The fd itself: contract tests look at single system calls.
pub(crate) fn into_file(data: DataFd) -> File {
    File::from(OwnedFd::from(data))
}

/// The session of `data` must have ended: ENODEV.
pub(crate) fn expect_dead(what: &str, data: &mut File, profile: &Profile, resuming: bool) -> Checked {
    use std::io::{Read, Write};
    if !resuming {
        refuse_io(&format!("read from {what}"), data.read(&mut [0; 16]), &[Errno::ENODEV])?;
    } else if profile.dead_write_is_harmless {
        refuse_io(&format!("write to {what}"), data.write(&[0; 1]), &[Errno::ENODEV])?;
    }
    Ok(())
}
