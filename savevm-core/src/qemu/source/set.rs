// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The source's devices as one set, and the machine around them.

use std::format;
use std::string::{String, ToString};
use std::time::Instant;
use std::vec::Vec;

use vfio_mig_fsm::State;

use super::{SaveOptions, SourceMachine, checked};
use crate::device::{Device, PrecopyInfo, Read};
use crate::digest::Digest;
use crate::engine::threads::in_parallel;
use crate::error::Cause;
use crate::hooks::{Cancel, Phase};
use crate::qemu::Acks;
use crate::restore::{self, Restored};
use crate::save::DeviceSum;

/// What is known of one device while it is read.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The state it was found in, once this migration has touched it.
    home: Option<State>,
    pub(super) digest: Digest,
    pub(super) precopy_bytes: u64,
    info: PrecopyInfo,
    /// Initial bytes that are out, or never were, have been told the target.
    told: bool,
    /// It has initial bytes of which the target has not been told the end.
    is_fresh: bool,
}

pub(super) struct Set<'a, D, V: ?Sized> {
    pub(super) devices: &'a mut [D],
    pub(super) progress: Vec<Progress>,
    pub(super) machine: &'a mut V,
    pub(super) phase: Phase,
    pub(super) cancel: Cancel,
    pub(super) stopped_at: Option<Instant>,
    guest_paused: bool,
    armed: bool,
}

impl<'a, D: Device + Send, V: SourceMachine + ?Sized> Set<'a, D, V> {
    pub(super) fn new(devices: &'a mut [D], machine: &'a mut V, options: &SaveOptions) -> Self {
        let progress = devices.iter().map(|_| Progress::default()).collect();
        let (phase, cancel) = (Phase::Hello, options.cancel.clone());
        Self { devices, progress, machine, phase, cancel, stopped_at: None, guest_paused: false, armed: true }
    }

    pub(super) fn enter(&mut self, phase: Phase) -> Result<(), Cause> {
        self.phase = phase;
        self.machine.phase(phase);
        self.check_cancel()
    }

    pub(super) fn check_cancel(&self) -> Result<(), Cause> {
        if self.cancel.is_cancelled() { Err(Cause::Cancelled) } else { Ok(()) }
    }

    pub(super) fn name(&self, index: usize) -> String {
        self.devices.get(index).map(|device| device.name().to_string()).unwrap_or_default()
    }

    /// Refuses devices that something else is already doing something with.
    pub(super) fn check_states(&mut self) -> Result<(), Cause> {
        for device in self.devices.iter_mut() {
            match device.state()? {
                State::Running | State::Stop => {}
                other => {
                    let name = device.name();
                    return Err(Cause::refused(format!("{name} is in {other}, not RUNNING or STOP; reset it first")));
                }
            }
        }
        Ok(())
    }

    /// Takes every device for which `to` names a state there, one after the other.
    fn transition_all(&mut self, to: impl Fn(&D, State) -> Option<State>) -> Result<(), Cause> {
        for (device, progress) in self.devices.iter_mut().zip(&mut self.progress) {
            if self.cancel.is_cancelled() {
                return Err(Cause::Cancelled);
            }
            let now = device.state()?;
            if let Some(wanted) = to(device, now) {
                progress.home.get_or_insert(now);
                device.transition(wanted)?;
            }
        }
        Ok(())
    }

    /// Starts tracking on every running device that can be read while it runs.
    pub(super) fn begin_precopy(&mut self) -> Result<(), Cause> {
        self.transition_all(|device, now| match now {
            State::Running | State::PreCopyP2p if device.capabilities().has_pre_copy() => Some(State::PreCopy),
            // Waiting behind the barrier for a set that goes back to pre-copy.
            State::RunningP2p => Some(State::Running),
            _ => None,
        })
    }

    /// The P2P barrier: no device is stopped before all that can are quiet towards each other.
    pub(super) fn quiesce(&mut self) -> Result<(), Cause> {
        self.transition_all(|device, now| match now {
            State::Running if device.capabilities().has_p2p() => Some(State::RunningP2p),
            State::PreCopy if device.capabilities().has_p2p() => Some(State::PreCopyP2p),
            _ => None,
        })
    }

    /// Stops the guest, then every device, behind the barrier.
    pub(super) fn stop(&mut self) -> Result<(), Cause> {
        self.stopped_at = Some(Instant::now());
        self.machine.pause_guest().map_err(|reason| Cause::Guest { reason })?;
        self.guest_paused = true;
        self.transition_all(|_, _| Some(State::StopCopy))
    }

    pub(super) fn precopying(&mut self) -> Result<Vec<usize>, Cause> {
        let mut members = Vec::with_capacity(self.devices.len());
        for (index, device) in self.devices.iter_mut().enumerate() {
            if device.state()? == State::PreCopy {
                members.push(index);
            }
        }
        Ok(members)
    }

    /// Reads a chunk, and counts it.
    pub(super) fn read(&mut self, index: usize, buffer: &mut [u8]) -> Result<Read, Cause> {
        let (Some(device), Some(progress)) = (self.devices.get_mut(index), self.progress.get_mut(index)) else {
            return Ok(Read::End);
        };
        let read = device.read(buffer)?;
        let read = checked(device.name(), read, buffer.len())?;
        if let Read::Bytes(count) = read {
            progress.digest.update(buffer.get(..count).unwrap_or_default());
            let total = progress.digest.sum().bytes;
            if self.stopped_at.is_none() {
                progress.precopy_bytes = total;
            }
            self.machine.progress(index, total);
        }
        Ok(read)
    }

    /// Asks a device what it has left.
    pub(super) fn ask(&mut self, index: usize) -> Result<PrecopyInfo, Cause> {
        let (Some(device), Some(progress)) = (self.devices.get_mut(index), self.progress.get_mut(index)) else {
            return Ok(PrecopyInfo::default());
        };
        progress.info = device.precopy_info()?;
        progress.is_fresh |= progress.info.initial_bytes > 0;
        Ok(progress.info)
    }

    /// Whether the target must now be told that a device's initial bytes are out; it counts as told from here on.
    ///
    /// vfio-section.md: in the old scheme every device says so once, whatever it has later; in the new one each time that it had any.
    pub(super) fn must_tell(&mut self, index: usize, acks: Acks) -> bool {
        let Some(progress) = self.progress.get_mut(index) else { return false };
        let is_due = match acks {
            Acks::Off => false,
            Acks::Once => !progress.told,
            Acks::PerRequest => progress.is_fresh,
        };
        if progress.info.initial_bytes > 0 || !is_due {
            return false;
        }
        progress.told = true;
        progress.is_fresh = false;
        true
    }

    /// Whether a device has initial bytes of which the target has not been told the end.
    pub(super) fn has_untold(&mut self, acks: Acks) -> Result<bool, Cause> {
        let members = self.precopying()?;
        let untold = |progress: &Progress| match acks {
            Acks::Off => false,
            Acks::Once => !progress.told,
            Acks::PerRequest => progress.is_fresh,
        };
        Ok(members.into_iter().any(|index| self.progress.get(index).is_some_and(untold)))
    }

    /// Whether a device began a new initial phase while it was being made quiet.
    pub(super) fn is_reinitialised(&mut self) -> Result<bool, Cause> {
        for device in self.devices.iter_mut() {
            // Only states that answer: PRECOPY_INFO elsewhere is EINVAL.
            if matches!(device.state()?, State::PreCopy | State::PreCopyP2p)
                && device.precopy_info()?.reinit == Some(true)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn config(&mut self, index: usize) -> Result<Vec<u8>, Cause> {
        let name = self.name(index);
        let config = self.machine.config(index);
        config.map_err(|reason| Cause::refused(format!("{name}: no config state: {reason}")))
    }

    pub(super) fn sums(&self) -> Vec<DeviceSum> {
        let sum = |(device, progress): (&D, &Progress)| DeviceSum {
            device: device.name().to_string(),
            sum: progress.digest.sum(),
            precopy_bytes: progress.precopy_bytes,
        };
        self.devices.iter().zip(&self.progress).map(sum).collect()
    }

    /// Ends the data sessions of devices that were given up.
    pub(super) fn retire(&mut self) -> Result<(), Cause> {
        let retired = in_parallel(self.devices, |_, device| device.transition(State::Stop));
        retired.into_iter().try_for_each(|retired| Ok(retired?))
    }

    pub(super) fn disarm(&mut self) {
        self.armed = false;
    }

    pub(super) fn is_armed(&self) -> bool {
        self.armed
    }

    /// Puts everything back, once.
    pub(super) fn restore(&mut self) -> Vec<Restored> {
        if !self.armed {
            return Vec::new();
        }
        self.armed = false;
        let homes: Vec<Option<State>> = self.progress.iter().map(|progress| progress.home).collect();
        let restored = restore::return_to(self.devices, &homes);
        if self.guest_paused {
            self.guest_paused = false;
            self.machine.resume_guest();
        }
        restored
    }
}
