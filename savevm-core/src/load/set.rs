// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The target's devices as one set: paired with the offer, filled, and run together.

use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

use vfio_mig_fsm::State;

use crate::device::{Call, Device, DeviceError};
use crate::digest::{Digest, DigestSum};
use crate::error::Cause;
use crate::hooks::{Cancel, Hooks, Phase};
use crate::identity::{self, Question};
use crate::restore::{self, Restored};
use crate::tap::{Side, Subject, Taps, Watched};

/// What is known of one local device while it is filled.
#[derive(Debug, Default)]
pub(super) struct Progress {
    touched: bool,
    watched: Watched,
    pub(super) digest: Digest,
    pub(super) precopy_bytes: u64,
}

/// The devices, which of the offered ones each of them is, and how to undo it.
pub(super) struct TargetSet<'a, D: Device, H: Hooks + ?Sized> {
    pub(super) devices: &'a mut [D],
    pub(super) progress: Vec<Progress>,
    pub(super) hooks: &'a mut H,
    pub(super) phase: Phase,
    /// For each device of the offer, the local one of that name.
    local: Vec<usize>,
    cancel: Cancel,
    taps: Taps,
    armed: bool,
}

impl<'a, D: Device, H: Hooks + ?Sized> TargetSet<'a, D, H> {
    pub(super) fn new(devices: &'a mut [D], hooks: &'a mut H, cancel: Cancel, taps: Taps) -> Self {
        let progress = devices.iter().map(|_| Progress::default()).collect();
        Self { devices, progress, hooks, phase: Phase::Hello, local: Vec::new(), cancel, taps, armed: true }
    }

    pub(super) fn enter(&mut self, phase: Phase) -> Result<(), Cause> {
        self.phase = phase;
        self.hooks.phase(phase);
        self.check_cancel()
    }

    pub(super) fn check_cancel(&self) -> Result<(), Cause> {
        if self.cancel.is_cancelled() { Err(Cause::Cancelled) } else { Ok(()) }
    }

    /// Finds the local device for the next one of the offer. A reason to refuse leaves a gap that is never used.
    pub(super) fn pair(&mut self, index: usize, name: &str, identity: &str) -> Result<(), String> {
        debug_assert_eq!(index, self.local.len(), "the link numbers the offer from 0");
        let found = self.devices.iter().position(|device| device.name() == name);
        self.local.push(found.unwrap_or(usize::MAX));
        let Some(device) = found.and_then(|found| self.devices.get(found)) else {
            let here: Vec<&str> = self.devices.iter().map(Device::name).collect();
            return Err(format!("the source offers device '{name}', here there is {}", here.join(", ")));
        };
        let verdict = identity::compatible_texts(identity, device.identity(), Question::Instance);
        if !verdict.is_compatible() {
            return Err(format!(
                "device '{name}' of source and target: they do not read each other's state, because {verdict}"
            ));
        }
        let (own, capabilities) = (device.identity(), device.capabilities());
        let subject = Subject { side: Side::Target, name, stream_identity: identity, identity: own, capabilities };
        if let Some(progress) = found.and_then(|found| self.progress.get_mut(found)) {
            progress.watched = self.taps.watch(&subject);
        }
        Ok(())
    }

    /// A reason for every local device the offer left out.
    pub(super) fn unpaired(&self) -> Vec<String> {
        let missing = |(index, device): (usize, &D)| {
            let paired = self.local.contains(&index);
            (!paired).then(|| format!("device '{}' waits here, and the source does not offer it", device.name()))
        };
        self.devices.iter().enumerate().filter_map(missing).collect()
    }

    /// A reason for every local device that something else is already doing something with.
    pub(super) fn busy(&mut self) -> Result<Vec<String>, Cause> {
        let mut reasons = Vec::new();
        for device in self.devices.iter_mut() {
            match device.state()? {
                State::Running | State::Stop => {}
                other => reasons.push(format!("device '{}' is in {other} here; reset it first", device.name())),
            }
        }
        Ok(reasons)
    }

    fn at(&mut self, index: usize) -> Result<(usize, &mut D, &mut Progress), Cause> {
        let local = self.local.get(index).copied().unwrap_or(usize::MAX);
        match (self.devices.get_mut(local), self.progress.get_mut(local)) {
            (Some(device), Some(progress)) => Ok((local, device, progress)),
            _ => Err(Cause::refused(format!("the stream speaks of device {index}, which was never offered"))),
        }
    }

    /// Opens the resuming session of a device.
    pub(super) fn begin(&mut self, index: usize) -> Result<(), Cause> {
        let (_, device, progress) = self.at(index)?;
        progress.touched = true;
        Ok(device.transition(State::Resuming)?)
    }

    pub(super) fn write(&mut self, index: usize, bytes: &[u8], limit: u64) -> Result<(), Cause> {
        let phase = self.phase;
        let (local, device, progress) = self.at(index)?;
        progress.digest.update(bytes);
        let total = progress.digest.sum().bytes;
        if total > limit {
            return Err(Cause::TooLarge { device: device.name().to_string(), limit });
        }
        let passed = progress.watched.data(phase, bytes).map_err(Cause::tap(device.name()))?;
        if !passed.is_empty() {
            device.write(passed)?;
        }
        if phase < Phase::StopCopy {
            progress.precopy_bytes = total;
        }
        self.hooks.progress(local, total);
        Ok(())
    }

    /// Compares what arrived with what was sent, asks whoever looks at the stream, and only then has the device load it.
    ///
    /// mlx5, virtio and pds load a truncated state without complaint (`spec/kernel/uapi.md` section 3.4), so the
    /// comparison is the proof and the driver's answer is not.
    pub(super) fn finish(&mut self, index: usize, sent: DigestSum) -> Result<DigestSum, Cause> {
        let (_, device, progress) = self.at(index)?;
        let received = progress.digest.sum();
        if received != sent {
            return Err(Cause::Digest { device: device.name().to_string(), sent, received });
        }
        let held = progress.watched.end().map_err(Cause::tap(device.name()))?;
        if !held.is_empty() {
            device.write(&held)?;
        }
        device.transition(State::Stop)?;
        match device.state()? {
            State::Stop => Ok(received),
            other => {
                let detail = format!("it says it stopped, and is in {other}");
                Err(DeviceError::contract(device.name(), Call::SetState(State::Stop), detail).into())
            }
        }
    }

    pub(super) fn disarm(&mut self) {
        self.armed = false;
    }

    pub(super) fn is_armed(&self) -> bool {
        self.armed
    }

    /// Resets everything that was touched, once.
    pub(super) fn restore(&mut self) -> Vec<Restored> {
        if !self.armed {
            return Vec::new();
        }
        self.armed = false;
        let touched: Vec<bool> = self.progress.iter().map(|progress| progress.touched).collect();
        restore::reset_all(self.devices, &touched)
    }
}
