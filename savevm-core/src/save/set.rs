// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The source's devices as one set, because "quiet together", "everything stopped" and "all put back" are properties of the set.

use std::string::ToString;
use std::time::Instant;
use std::vec::Vec;

use vfio_mig_fsm::State;

use crate::device::Device;
use crate::digest::Digest;
use crate::error::Cause;
use crate::hooks::{Cancel, Hooks, Phase};
use crate::restore::{self, Restored};
use crate::tap::{Side, Subject, Taps, Watched};

/// What is known of one device while it is read.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The state it was found in, once this migration has touched it.
    home: Option<State>,
    /// Over everything read so far.
    pub(super) digest: Digest,
    /// The next data frame's number.
    pub(super) sequence: u64,
    /// Bytes read while the guest ran.
    pub(super) precopy_bytes: u64,
    pub(super) watched: Watched,
}

/// The devices, where they are, and how to undo it.
pub(super) struct SourceSet<'a, D: Device, H: Hooks + ?Sized> {
    pub(super) devices: &'a mut [D],
    pub(super) progress: Vec<Progress>,
    pub(super) hooks: &'a mut H,
    pub(super) phase: Phase,
    cancel: Cancel,
    guest_paused: bool,
    pub(super) stopped_at: Option<Instant>,
    armed: bool,
}

impl<'a, D: Device, H: Hooks + ?Sized> SourceSet<'a, D, H> {
    pub(super) fn new(devices: &'a mut [D], hooks: &'a mut H, cancel: Cancel, taps: &Taps) -> Self {
        let progress = |device: &D| {
            let (name, identity, capabilities) = (device.name(), device.identity(), device.capabilities());
            let subject = Subject { side: Side::Source, name, stream_identity: identity, identity, capabilities };
            Progress { watched: taps.watch(&subject), ..Progress::default() }
        };
        let progress = devices.iter().map(progress).collect();
        Self {
            devices,
            progress,
            hooks,
            phase: Phase::Hello,
            cancel,
            guest_paused: false,
            stopped_at: None,
            armed: true,
        }
    }

    /// Begins a phase, unless somebody asked to stop.
    pub(super) fn enter(&mut self, phase: Phase) -> Result<(), Cause> {
        self.phase = phase;
        self.hooks.phase(phase);
        self.check_cancel()
    }

    pub(super) fn check_cancel(&self) -> Result<(), Cause> {
        if self.cancel.is_cancelled() { Err(Cause::Cancelled) } else { Ok(()) }
    }

    /// Refuses devices that something else is already doing something with.
    pub(super) fn check_states(&mut self) -> Result<(), Cause> {
        for device in self.devices.iter_mut() {
            match device.state()? {
                State::Running | State::Stop => {}
                other => {
                    return Err(Cause::refused(std::format!(
                        "{} is in {other}, not RUNNING or STOP: something else is migrating it, or left it so; reset it first",
                        device.name()
                    )));
                }
            }
        }
        Ok(())
    }

    /// Takes one device to `to`, and remembers where it came from.
    fn transition(&mut self, index: usize, to: State) -> Result<(), Cause> {
        let (Some(device), Some(progress)) = (self.devices.get_mut(index), self.progress.get_mut(index)) else {
            return Ok(());
        };
        if progress.home.is_none() {
            progress.home = Some(device.state()?);
        }
        Ok(device.transition(to)?)
    }

    /// Takes every device for which `to` names a state there, one after the other.
    fn transition_all(&mut self, to: impl Fn(&D, State) -> Option<State>) -> Result<(), Cause> {
        for index in 0..self.devices.len() {
            self.check_cancel()?;
            let Some(device) = self.devices.get_mut(index) else { continue };
            let now = device.state()?;
            let wanted = to(device, now);
            if let Some(wanted) = wanted {
                self.transition(index, wanted)?;
            }
        }
        Ok(())
    }

    /// Starts tracking on every running device that can be read while it runs. Says whether there is any.
    pub(super) fn begin_precopy(&mut self) -> Result<bool, Cause> {
        self.transition_all(|device, now| match now {
            State::Running | State::PreCopyP2p if device.capabilities().has_pre_copy() => Some(State::PreCopy),
            // Waiting behind the barrier for a set that goes back to pre-copy.
            State::RunningP2p => Some(State::Running),
            _ => None,
        })?;
        Ok(self.is_precopying())
    }

    fn is_precopying(&mut self) -> bool {
        self.devices.iter_mut().any(|device| matches!(device.state(), Ok(State::PreCopy)))
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
        self.hooks.pause_guest().map_err(|reason| Cause::Guest { reason })?;
        self.guest_paused = true;
        self.transition_all(|_, _| Some(State::StopCopy))
    }

    /// Ends the data sessions of devices that were given up.
    pub(super) fn retire(&mut self) -> Result<(), Cause> {
        for device in self.devices.iter_mut() {
            device.transition(State::Stop)?;
        }
        Ok(())
    }

    /// From here on nothing is put back.
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
            self.hooks.resume_guest();
        }
        restored
    }

    pub(super) fn name(&self, index: usize) -> std::string::String {
        self.devices.get(index).map(|device| device.name().to_string()).unwrap_or_default()
    }
}
