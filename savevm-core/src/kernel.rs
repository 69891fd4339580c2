// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Devices of the Linux kernel, through `vfio-uapi`.

use std::format;
use std::os::fd::AsFd;
use std::string::{String, ToString};

use vfio_mig_fsm::{Capabilities, SessionEffect, State, request_session};
use vfio_uapi::{DataFd, DeviceState, LoadFd, MigrationFlags, SaveFd, SavePhase};

use crate::device::{Call, Device, DeviceError, Found, PrecopyInfo, Read, TransitionError};

// vfio-uapi and vfio-mig-fsm do not know each other; here their numbers must agree.
const _: () = {
    assert!(State::Error.raw() == DeviceState::ERROR.raw());
    assert!(State::Stop.raw() == DeviceState::STOP.raw());
    assert!(State::Running.raw() == DeviceState::RUNNING.raw());
    assert!(State::StopCopy.raw() == DeviceState::STOP_COPY.raw());
    assert!(State::Resuming.raw() == DeviceState::RESUMING.raw());
    assert!(State::RunningP2p.raw() == DeviceState::RUNNING_P2P.raw());
    assert!(State::PreCopy.raw() == DeviceState::PRE_COPY.raw());
    assert!(State::PreCopyP2p.raw() == DeviceState::PRE_COPY_P2P.raw());
    assert!(Capabilities::StopCopy.flags() == MigrationFlags::STOP_COPY.bits());
    assert!(Capabilities::P2p.flags() == MigrationFlags::STOP_COPY.bits() | MigrationFlags::P2P.bits());
    assert!(Capabilities::PreCopy.flags() == MigrationFlags::STOP_COPY.bits() | MigrationFlags::PRE_COPY.bits());
};

/// A device of the kernel, with whatever data session it is in.
#[derive(Debug)]
pub struct KernelDevice<F: AsFd> {
    device: vfio_uapi::Device<F>,
    name: String,
    identity: String,
    capabilities: Capabilities,
    session: Option<Session>,
}

#[derive(Debug)]
enum Session {
    /// The phase decides what a read of 0 means. It is kept here because asking the kernel before every read would
    /// wait for whatever the driver is doing.
    Save(SaveFd, SavePhase),
    Load(LoadFd),
}

const fn phase(state: State) -> SavePhase {
    if matches!(state, State::StopCopy) { SavePhase::StopCopy } else { SavePhase::PreCopy }
}

impl<F: AsFd> KernelDevice<F> {
    /// Takes an opened device, asks what it can do and, where the kernel offers it, opts in to the REINIT flag of the
    /// pre-copy estimates.
    ///
    /// `name` is what the other side calls the device too; `identity` is what must fit there ([`crate::identity`]).
    ///
    /// # Errors
    /// When the device cannot migrate, or cannot be asked.
    pub fn new(
        device: vfio_uapi::Device<F>,
        name: impl Into<String>,
        identity: impl Into<String>,
    ) -> Result<Self, DeviceError> {
        let name = name.into();
        let failed = |error: &vfio_uapi::Error| from_uapi(&name, Call::GetState, error);
        let flags = device.migration_flags().map_err(|error| failed(&error))?;
        let capabilities = flags.and_then(|flags| Capabilities::from_flags(flags.bits())).ok_or_else(|| {
            let detail = "its driver offers no migration (VFIO_DEVICE_FEATURE_MIGRATION)";
            DeviceError::contract(&name, Call::GetState, detail)
        })?;
        if capabilities.has_pre_copy() {
            device.enable_precopy_info_v2().map_err(|error| failed(&error))?;
        }
        Ok(Self { device, name, identity: identity.into(), capabilities, session: None })
    }

    /// The device, for what is not migration. Requesting states behind this type's back breaks its sessions.
    #[must_use]
    pub const fn device(&self) -> &vfio_uapi::Device<F> {
        &self.device
    }

    fn error(&self, call: Call, error: &vfio_uapi::Error) -> DeviceError {
        from_uapi(&self.name, call, error)
    }

    fn no_session(&self, call: Call) -> DeviceError {
        DeviceError::contract(&self.name, call, "the device is in no session for that; request the state first")
    }
}

fn from_uapi(name: &str, call: Call, error: &vfio_uapi::Error) -> DeviceError {
    match error.errno() {
        Some(errno) => DeviceError::errno(name, call, errno, error.to_string()),
        None => DeviceError::contract(name, call, error.to_string()),
    }
}

fn known(name: &str, raw: DeviceState) -> Result<State, DeviceError> {
    State::from_raw(raw.raw()).ok_or_else(|| {
        let detail =
            format!("it answers state {}, which does not exist; the driver is newer than this program", raw.raw());
        DeviceError::contract(name, Call::GetState, detail)
    })
}

impl<F: AsFd> Device for KernelDevice<F> {
    fn name(&self) -> &str {
        &self.name
    }

    fn identity(&self) -> &str {
        &self.identity
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn state(&mut self) -> Result<State, DeviceError> {
        let raw = self.device.device_state().map_err(|error| self.error(Call::GetState, &error))?;
        known(&self.name, raw)
    }

    fn transition(&mut self, to: State) -> Result<(), TransitionError> {
        let refuse = |error: DeviceError, found| TransitionError::new(to, found, error);
        let from = self.state().map_err(|error| refuse(error, Found::Unreadable))?;
        // A request the tables refuse never reaches the kernel: old ones hang on STOP_COPY → PRE_COPY.
        let Some(effect) = request_session(self.capabilities, from, to) else {
            let detail = format!("no path leads there from {from}");
            return Err(refuse(DeviceError::contract(&self.name, Call::SetState(to), detail), Found::State(from)));
        };
        let opened = match self.device.set_device_state(DeviceState::from_raw(to.raw())) {
            Ok(opened) => opened,
            Err(failed) => {
                let found = match &failed.found {
                    Ok(raw) => State::from_raw(raw.raw()).map_or(Found::Unknown(raw.raw()), Found::State),
                    Err(_) => Found::Unreadable,
                };
                match (&mut self.session, found) {
                    (Some(Session::Save(_, kept)), Found::State(found)) if found.is_saving() => *kept = phase(found),
                    (Some(Session::Load(_)), Found::State(State::Resuming)) => {}
                    _ => self.session = None,
                }
                return Err(refuse(self.error(Call::SetState(to), &failed.error), found));
            }
        };
        match (effect, opened) {
            (SessionEffect::OpensSaving, Some(DataFd::Save(fd))) => {
                self.session = Some(Session::Save(fd, phase(to)));
            }
            (SessionEffect::OpensResuming, Some(DataFd::Load(fd))) => self.session = Some(Session::Load(fd)),
            (SessionEffect::OpensSaving | SessionEffect::OpensResuming, _) => {
                self.session = None;
                let detail = "the kernel took the transition and gave no data fd for it";
                return Err(refuse(DeviceError::contract(&self.name, Call::SetState(to), detail), Found::State(to)));
            }
            (SessionEffect::Ends, _) => self.session = None,
            _ => {
                if let Some(Session::Save(_, kept)) = &mut self.session {
                    *kept = phase(to);
                }
            }
        }
        Ok(())
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<Read, DeviceError> {
        let Some(Session::Save(fd, phase)) = &self.session else { return Err(self.no_session(Call::Read)) };
        match fd.read(buffer, *phase) {
            Ok(vfio_uapi::Read::Bytes(length)) => Ok(Read::Bytes(length.get())),
            Ok(vfio_uapi::Read::Drained) => Ok(Read::Drained),
            Ok(vfio_uapi::Read::End) => Ok(Read::End),
            Err(error) => Err(self.error(Call::Read, &error)),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), DeviceError> {
        let Some(Session::Load(fd)) = &mut self.session else { return Err(self.no_session(Call::Write)) };
        fd.write_all(bytes).map_err(|error| from_uapi(&self.name, Call::Write, &error))
    }

    fn precopy_info(&mut self) -> Result<PrecopyInfo, DeviceError> {
        let Some(Session::Save(fd, _)) = &self.session else { return Err(self.no_session(Call::PrecopyInfo)) };
        let info = fd.precopy_info().map_err(|error| self.error(Call::PrecopyInfo, &error))?;
        Ok(PrecopyInfo::new(info.initial_bytes, info.dirty_bytes, info.reinit))
    }

    fn stop_copy_bytes(&mut self) -> Result<u64, DeviceError> {
        self.device.stop_copy_bytes().map_err(|error| self.error(Call::StopCopySize, &error))
    }

    fn reset(&mut self) -> Result<(), DeviceError> {
        self.session = None;
        self.device.reset().map_err(|error| self.error(Call::Reset, &error))
    }
}
