// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the main connection and the multifd channels of a target share: the devices, the machine, who waits for what.

use core::time::Duration;
use std::format;
use std::string::{String, ToString};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::vec;
use std::vec::Vec;

use vfio_mig_fsm::State as DeviceState;

use super::ram::Sink;
use super::reorder::{Breach, Packet, Reorder, Turn};
use super::{LoadOptions, TargetMachine};
use crate::device::Device;
use crate::digest::Digest;
use crate::error::Cause;
use crate::qemu::error::StreamError;
use crate::qemu::input::Pulse;
use crate::qemu::memory::{RamError, TargetMemory};

/// How long a wait lasts before it looks whether the migration goes on.
const LOOK: Duration = Duration::from_millis(20);

/// A device while it is filled.
pub(super) struct Slot<'a, D> {
    pub(super) device: &'a mut D,
    pub(super) name: String,
    pub(super) touched: bool,
    pub(super) digest: Digest,
    pub(super) precopy_bytes: u64,
    /// The config state that came over multifd, until everything has come.
    pub(super) config: Vec<u8>,
}

pub(super) struct Shared<'a, 'm, D, V: ?Sized> {
    pub(super) pulse: Pulse,
    pub(super) slots: Vec<Mutex<Slot<'a, D>>>,
    /// The devices' names, in order.
    pub(super) names: Vec<String>,
    pub(super) machine: Mutex<&'a mut V>,
    /// Guest memory, where it is not the machine's.
    pub(super) ram: Option<Sink<'m>>,
    state: Mutex<State>,
    changed: Condvar,
    state_bytes_max: u64,
    bytes_max: usize,
    ahead_max: u32,
}

struct State {
    reorder: Reorder,
    failure: Option<Cause>,
    channels_open: usize,
    /// What channels wait with: device, packet, length.
    waiting: Vec<(usize, u32, usize)>,
    /// Ids that channels have given themselves.
    channel_ids: Vec<u8>,
    /// How many synchronisation points each channel has passed.
    syncs: Vec<u64>,
    /// Which channels have brought pages since their last synchronisation point.
    has_pages: Vec<bool>,
    /// How many of them all channels have passed, by the main connection's word.
    syncs_released: u64,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a, 'm, D: Device, V: TargetMachine + ?Sized> Shared<'a, 'm, D, V> {
    pub(super) fn new(
        devices: &'a mut [D],
        machine: &'a mut V,
        memory: Option<TargetMemory<'m>>,
        channels: usize,
        options: &LoadOptions,
    ) -> Self {
        let names: Vec<String> = devices.iter().map(|device| device.name().to_string()).collect();
        let reorder = Reorder::new(devices.len(), options.reorder_bytes_max, options.packets_ahead_max);
        let slot = |device: &'a mut D| {
            let name = device.name().to_string();
            Mutex::new(Slot {
                device,
                name,
                touched: false,
                digest: Digest::new(),
                precopy_bytes: 0,
                config: Vec::new(),
            })
        };
        Self {
            pulse: Pulse::new(options.cancel.clone(), options.limits.silence_max),
            slots: devices.iter_mut().map(slot).collect(),
            names,
            machine: Mutex::new(machine),
            ram: memory.map(Sink::new),
            state: Mutex::new(State {
                reorder,
                failure: None,
                channels_open: channels,
                waiting: Vec::new(),
                channel_ids: Vec::new(),
                syncs: vec![0; channels],
                has_pages: vec![false; channels],
                syncs_released: 0,
            }),
            changed: Condvar::new(),
            state_bytes_max: options.limits.state_bytes_max,
            bytes_max: options.reorder_bytes_max,
            ahead_max: options.packets_ahead_max,
        }
    }

    /// Ends everything, for this reason unless there is an earlier one.
    pub(super) fn fail(&self, cause: Cause) {
        lock(&self.state).failure.get_or_insert(cause);
        self.end();
    }

    pub(super) fn end(&self) {
        self.pulse.end();
        self.changed.notify_all();
    }

    pub(super) fn failure(&self) -> Option<Cause> {
        lock(&self.state).failure.take()
    }

    pub(super) fn peak_bytes(&self) -> usize {
        lock(&self.state).reorder.peak_bytes()
    }

    /// The device whose section has this name.
    pub(super) fn find(&self, idstr: &str, instance_id: u32) -> Result<usize, Cause> {
        let found = self.names.iter().position(|name| crate::qemu::idstr(name) == idstr);
        found.filter(|_| instance_id == 0).ok_or_else(|| {
            let here = self.names.join(", ");
            Cause::refused(format!(
                "the source has a device '{idstr}', instance {instance_id}; here there is {}",
                if here.is_empty() { "none" } else { &here }
            ))
        })
    }

    pub(super) fn slot(&self, device: usize) -> Result<MutexGuard<'_, Slot<'a, D>>, Cause> {
        let slot = self.slots.get(device).ok_or_else(|| Cause::refused("a device that was never named"))?;
        Ok(lock(slot))
    }

    /// Writes device state, in the order it was read at the source.
    pub(super) fn write(&self, device: usize, bytes: &[u8], while_running: bool) -> Result<(), Cause> {
        let mut slot = self.slot(device)?;
        slot.digest.update(bytes);
        let total = slot.digest.sum().bytes;
        if total > self.state_bytes_max {
            return Err(Cause::TooLarge { device: slot.name.clone(), limit: self.state_bytes_max });
        }
        if !slot.touched {
            return Err(Cause::refused(format!("{}: device state before its START section", slot.name)));
        }
        slot.device.write(bytes)?;
        if while_running {
            slot.precopy_bytes = total;
        }
        drop(slot);
        lock(&self.machine).progress(device, total);
        self.pulse.beat();
        Ok(())
    }

    /// Opens the device's resuming session.
    pub(super) fn begin(&self, device: usize) -> Result<(), Cause> {
        let mut slot = self.slot(device)?;
        if slot.touched {
            return Err(Cause::refused(format!("{}: a second START section", slot.name)));
        }
        slot.touched = true;
        Ok(slot.device.transition(DeviceState::Resuming)?)
    }

    /// The guest of the source is stopped, and all that came before has been written: packets may be written too.
    pub(super) fn start(&self) -> Result<(), Cause> {
        lock(&self.state).reorder.start();
        self.changed.notify_all();
        (0..self.names.len()).try_for_each(|device| self.write_kept(device))
    }

    /// A channel has received the header of a packet: says what to do with it, once that is clear.
    pub(super) fn enter(&self, device: usize, index: u32, length: usize, is_config: bool) -> Result<Turn, Cause> {
        let mut state = lock(&self.state);
        loop {
            let turn = state.reorder.ask(device, index, length, is_config);
            let turn = turn.map_err(|breach| self.breach(device, index, breach, &state.reorder))?;
            if turn != Turn::Wait {
                return Ok(turn);
            }
            state.waiting.push((device, index, length));
            // One whose turn has come is still among them until it wakes up.
            let may_enter =
                |(device, index, length): &(usize, u32, usize)| state.reorder.may_enter(*device, *index, *length);
            let all_wait = state.waiting.len() >= state.channels_open && !state.waiting.iter().any(may_enter);
            let stuck = all_wait && state.reorder.is_idle();
            let waited = if stuck {
                Err(self.breach(device, index, Breach::TooFar, &state.reorder))
            } else {
                (state, _) = self.changed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner);
                self.pulse.check_silence(|| format!("packet {} of {}", state.reorder.next(device), self.name(device)))
            };
            if let Some(place) = state.waiting.iter().position(|waiting| *waiting == (device, index, length)) {
                state.waiting.swap_remove(place);
            }
            waited?;
        }
    }

    fn name(&self, device: usize) -> &str {
        self.names.get(device).map_or("", String::as_str)
    }

    fn breach(&self, device: usize, index: u32, breach: Breach, reorder: &Reorder) -> Cause {
        let name = self.name(device);
        match breach {
            Breach::Twice => Cause::refused(format!("{name}: packet {index} came twice")),
            Breach::BeyondEnd { end } => {
                Cause::refused(format!("{name}: packet {index} came, but packet {end} said that it is the last"))
            }
            Breach::TooFar => StreamError::Overflow {
                device: name.to_string(),
                index,
                next: reorder.next(device),
                held_bytes: reorder.kept_bytes(),
                bytes_max: self.bytes_max,
                ahead_max: self.ahead_max,
            }
            .into(),
        }
    }

    /// A packet that was to be kept is whole.
    pub(super) fn keep(&self, device: usize, index: u32, packet: Packet) -> Result<(), Cause> {
        lock(&self.state).reorder.keep(device, index, packet);
        self.write_kept(device)
    }

    /// The packet whose turn it was is written.
    pub(super) fn leave(&self, device: usize) -> Result<(), Cause> {
        lock(&self.state).reorder.leave(device, 0);
        self.changed.notify_all();
        self.write_kept(device)
    }

    /// Writes what is kept of a device, as far as it is in order and nobody else does.
    fn write_kept(&self, device: usize) -> Result<(), Cause> {
        loop {
            self.pulse.check()?;
            let Some((packet, charge)) = lock(&self.state).reorder.take(device) else { return Ok(()) };
            if packet.is_config {
                self.slot(device)?.config = packet.bytes;
            } else {
                self.write(device, &packet.bytes, false)?;
                drop(packet);
            }
            lock(&self.state).reorder.leave(device, charge);
            self.changed.notify_all();
        }
    }

    /// Waits until every device has had its last packet.
    pub(super) fn wait_complete(&self) -> Result<(), Cause> {
        let missing = |state: &State| (0..self.names.len()).find(|device| !state.reorder.is_complete(*device));
        let what = |device: usize, state: &State| {
            format!("packet {} of {} on a multifd channel", state.reorder.next(device), self.name(device))
        };
        let mut state = lock(&self.state);
        while let Some(device) = missing(&state) {
            if state.channels_open == 0 {
                return Err(Cause::refused(format!(
                    "all multifd channels have ended, and {} never came; does the source send device state over them \
                     (x-migration-multifd-transfer)?",
                    what(device, &state)
                )));
            }
            self.pulse.check_silence(|| what(device, &state))?;
            (state, _) = self.changed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    /// A channel says which one it is.
    pub(super) fn introduce(&self, id: u8) -> Result<(), Cause> {
        let mut state = lock(&self.state);
        if usize::from(id) >= state.syncs.len() || state.channel_ids.contains(&id) {
            let count = state.syncs.len();
            return Err(Cause::refused(format!(
                "a multifd channel says it is number {id} of {count}, or a second one"
            )));
        }
        state.channel_ids.push(id);
        Ok(())
    }

    /// A channel has met a synchronisation point.
    pub(super) fn sync(&self, channel: usize) {
        let mut state = lock(&self.state);
        if let Some(count) = state.syncs.get_mut(channel) {
            *count = count.saturating_add(1);
        }
        if let Some(has_pages) = state.has_pages.get_mut(channel) {
            *has_pages = false;
        }
        drop(state);
        self.changed.notify_all();
    }

    /// No pages may be left for which the main connection has not waited.
    pub(super) fn check_synchronised(&self) -> Result<(), RamError> {
        let state = lock(&self.state);
        let is_behind = |(syncs, has_pages): (&u64, &bool)| *has_pages || *syncs > state.syncs_released;
        let channel = state.syncs.iter().zip(&state.has_pages).position(is_behind);
        channel.map_or(Ok(()), |channel| Err(RamError::Unsynchronised { channel }))
    }

    /// A channel has a packet with pages: it waits until all channels have passed the points that it has.
    ///
    /// Only pages wait. QEMU's last point is followed by device state, and a channel that kept that waiting could wait
    /// for ever: the source may need the channel to go on before it sends the point on the others.
    pub(super) fn wait_released(&self, channel: usize) -> Result<(), Cause> {
        let mut state = lock(&self.state);
        while state.syncs.get(channel).is_some_and(|count| *count > state.syncs_released) {
            self.pulse.check()?;
            if self.pulse.is_running_out() {
                return Err(RamError::Unsynchronised { channel }.into());
            }
            (state, _) = self.changed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(has_pages) = state.has_pages.get_mut(channel) {
            *has_pages = true;
        }
        Ok(())
    }

    /// The main connection has met the point: it waits for all channels.
    pub(super) fn release(&self) -> Result<(), Cause> {
        let mut state = lock(&self.state);
        if state.syncs.is_empty() {
            let reason = "the source sends pages over multifd channels, and this target has none: switch the capability \
                          multifd off at the source, or give this target its channels";
            return Err(Cause::refused(reason));
        }
        let point = state.syncs_released.saturating_add(1);
        while state.syncs.iter().any(|count| *count < point) {
            self.pulse.check_silence(|| "a synchronisation point on a multifd channel".into())?;
            (state, _) = self.changed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner);
        }
        state.syncs_released = point;
        drop(state);
        self.changed.notify_all();
        Ok(())
    }

    /// Whether there are multifd channels.
    pub(super) fn has_channels(&self) -> bool {
        !lock(&self.state).syncs.is_empty()
    }

    /// A channel has ended.
    pub(super) fn channel_ended(&self) {
        let mut state = lock(&self.state);
        state.channels_open = state.channels_open.saturating_sub(1);
        drop(state);
        self.changed.notify_all();
    }

    /// Whether packets may be written.
    pub(super) fn has_started(&self) -> bool {
        lock(&self.state).reorder.has_started()
    }
}
