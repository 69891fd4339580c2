// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A simulated device as the engine sees one, without a kernel in between.

use std::format;
use std::string::{String, ToString};

use vfio_mig_fsm::{Capabilities, SessionEffect, State, request_session};

use super::{Errno, SimDevice, SimSession};
use crate::device::{Call, Device, DeviceError, Found, PrecopyInfo, Read, TransitionError};

/// One open of a [`SimDevice`], with whatever data session it is in. Dropping it closes the device.
pub struct SimPort {
    device: SimDevice,
    name: String,
    identity: String,
    capabilities: Capabilities,
    session: Option<SimSession>,
    /// What a read of 0 means (`spec/kernel/uapi.md` section 3.1).
    stopped: bool,
    /// The errno of the first write that failed: final for the session.
    refused: Option<Errno>,
}

impl SimPort {
    /// Opens `device` under `name`, with the identity `sim/DRIVER/VENDOR:DEVICE`.
    ///
    /// # Errors
    /// When the device cannot be opened, or cannot migrate.
    pub fn open(device: &SimDevice, name: impl Into<String>) -> Result<Self, DeviceError> {
        let name = name.into();
        let failed =
            |errno: Errno| DeviceError::errno(&name, Call::GetState, errno.raw(), format!("{errno} at the open"));
        device.open().map_err(failed)?;
        let Some(capabilities) = device.migration_flags().and_then(Capabilities::from_flags) else {
            device.close();
            return Err(DeviceError::contract(&name, Call::GetState, "the device has no migration"));
        };
        if capabilities.has_pre_copy() {
            // A device of an older kernel does not know the feature; its flags then mean nothing.
            let _ = device.enable_precopy_info_v2();
        }
        let facts = device.facts();
        let identity = format!("sim/{}/{:04x}:{:04x}", facts.driver, facts.vendor_id, facts.device_id);
        let device = device.clone();
        Ok(Self { device, name, identity, capabilities, session: None, stopped: false, refused: None })
    }

    /// The same with another identity: that of the device it stands for.
    #[must_use]
    pub fn with_identity(mut self, identity: impl Into<String>) -> Self {
        self.identity = identity.into();
        self
    }

    /// The device behind, to look at or to break.
    #[must_use]
    pub const fn device(&self) -> &SimDevice {
        &self.device
    }

    fn error(&self, call: Call, errno: Errno) -> DeviceError {
        DeviceError::errno(&self.name, call, errno.raw(), errno.to_string())
    }

    fn session(&self, call: Call) -> Result<&SimSession, DeviceError> {
        let none = || DeviceError::contract(&self.name, call, "the device is in no session for that");
        self.session.as_ref().ok_or_else(none)
    }

    fn found(&self) -> Found {
        match self.device.get_state() {
            Ok(raw) => State::from_raw(raw).map_or(Found::Unknown(raw), Found::State),
            Err(_) => Found::Unreadable,
        }
    }
}

impl Drop for SimPort {
    fn drop(&mut self) {
        self.device.close();
    }
}

impl Device for SimPort {
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
        let raw = self.device.get_state().map_err(|errno| self.error(Call::GetState, errno))?;
        let unknown = || {
            DeviceError::contract(&self.name, Call::GetState, format!("it answers state {raw}, which does not exist"))
        };
        State::from_raw(raw).ok_or_else(unknown)
    }

    fn transition(&mut self, to: State) -> Result<(), TransitionError> {
        let from = self.state().map_err(|error| TransitionError::new(to, Found::Unreadable, error))?;
        let Some(effect) = request_session(self.capabilities, from, to) else {
            let error =
                DeviceError::contract(&self.name, Call::SetState(to), format!("no path leads there from {from}"));
            return Err(TransitionError::new(to, Found::State(from), error));
        };
        let opened = match self.device.set_state(to.raw()) {
            Ok(opened) => opened,
            Err(errno) => {
                let found = self.found();
                self.stopped = found == Found::State(State::StopCopy);
                return Err(TransitionError::new(to, found, self.error(Call::SetState(to), errno)));
            }
        };
        self.stopped = to == State::StopCopy;
        match effect {
            SessionEffect::OpensSaving | SessionEffect::OpensResuming => {
                self.refused = None;
                self.session = opened;
            }
            SessionEffect::Ends => self.session = None,
            _ => {}
        }
        Ok(())
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<Read, DeviceError> {
        match (self.session(Call::Read)?.read(buffer), self.stopped) {
            (Ok(0), true) => Ok(Read::End),
            (Ok(0) | Err(Errno::ENOMSG), false) => Ok(Read::Drained),
            (Ok(length), _) => Ok(Read::Bytes(length)),
            (Err(errno), _) => Err(self.error(Call::Read, errno)),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), DeviceError> {
        if let Some(errno) = self.refused {
            return Err(self.error(Call::Write, errno));
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let taken = self.session(Call::Write)?.write(rest);
            let taken = taken.and_then(|taken| if taken == 0 { Err(Errno::EIO) } else { Ok(taken) });
            match taken {
                Ok(taken) => rest = rest.get(taken..).unwrap_or_default(),
                Err(errno) => {
                    self.refused = Some(errno);
                    return Err(self.error(Call::Write, errno));
                }
            }
        }
        Ok(())
    }

    fn precopy_info(&mut self) -> Result<PrecopyInfo, DeviceError> {
        let info = self.session(Call::PrecopyInfo)?.precopy_info();
        let info = info.map_err(|errno| self.error(Call::PrecopyInfo, errno))?;
        Ok(PrecopyInfo::new(info.initial_bytes, info.dirty_bytes, info.flags.map(|flags| flags & 1 != 0)))
    }

    fn stop_copy_bytes(&mut self) -> Result<u64, DeviceError> {
        self.device.mig_data_size().map_err(|errno| self.error(Call::StopCopySize, errno))
    }

    fn reset(&mut self) -> Result<(), DeviceError> {
        self.session = None;
        self.stopped = false;
        self.refused = None;
        self.device.reset().map_err(|errno| self.error(Call::Reset, errno))
    }
}
