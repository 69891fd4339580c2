// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The multifd channels of a source: device state in packets, one thread per device.
//!
//! A device keeps to channels of its own where there are enough, and shares one where there are not.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::vec;
use std::vec::Vec;

use stream_codec::qemu::{
    DEVICE_STATE_PACKET_BYTES, DeviceStateHeader, InitialPacket, MultifdItem, RamPacket, VFIO_DEV_CONFIG_STATE,
    VFIO_END_OF_STATE, VFIO_PACKET_HEADER_BYTES, VfioPacketHeader, packet_pages,
};

use super::set::Progress;
use super::{checked, drained};
use crate::device::{Device, Read};
use crate::error::Cause;
use crate::hooks::Cancel;
use crate::limits::Limits;
use crate::qemu::error::{Connection, StreamError};
use crate::qemu::memory::PAGE_BITS;

/// Bytes in front of the device state in a packet.
const HEADER_BYTES: usize = DEVICE_STATE_PACKET_BYTES + 12;
const _: () = assert!(VFIO_PACKET_HEADER_BYTES == 12);

pub(super) struct Channels<C> {
    all: Vec<Mutex<Channel<C>>>,
    /// Number of the next RAM packet, over all channels.
    packets: AtomicU64,
    /// The channel that begins the next round of pages.
    turn: AtomicUsize,
}

pub(super) struct Channel<C> {
    writer: C,
    pub(super) index: usize,
    offset: u64,
    /// For a packet with pages: kept from one to the next.
    pub(super) buffer: Vec<u8>,
}

impl<C: Write> Channel<C> {
    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<(), Cause> {
        let (connection, offset) = (Connection::Multifd(self.index), self.offset);
        let sent = self.writer.write_all(bytes).and_then(|()| self.writer.flush());
        sent.map_err(|error| StreamError::Io { connection, offset, error })?;
        self.offset = offset.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        Ok(())
    }
}

/// The packets of one device.
struct Packets<'a, C> {
    channels: &'a Channels<C>,
    idstr: &'a str,
    /// Which of the devices it is, of how many.
    device: usize,
    devices: usize,
    next: u32,
}

impl<C: Write + Send> Channels<C> {
    /// Says on every channel which one it is.
    pub(super) fn open(channels: Vec<C>, uuid: [u8; 16]) -> Result<Self, Cause> {
        let mut all = Vec::with_capacity(channels.len());
        for (index, writer) in channels.into_iter().enumerate() {
            let channel_id =
                u8::try_from(index).map_err(|_| Cause::refused("QEMU has at most 255 multifd channels"))?;
            let mut bytes = Vec::new();
            InitialPacket { uuid, channel_id }.encode(&mut bytes);
            let mut channel = Channel { writer, index, offset: 0, buffer: Vec::new() };
            channel.send(&bytes)?;
            all.push(Mutex::new(channel));
        }
        Ok(Self { all, packets: AtomicU64::new(1), turn: AtomicUsize::new(0) })
    }

    pub(super) fn count(&self) -> usize {
        self.all.len()
    }

    /// A number for a RAM packet.
    pub(super) fn number(&self) -> u64 {
        self.packets.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    /// The channel at a place, counted on and on. `None` if there are no channels.
    pub(super) fn lock(&self, place: usize) -> Option<MutexGuard<'_, Channel<C>>> {
        let channel = self.all.get(place.checked_rem(self.all.len())?)?;
        Some(channel.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A synchronisation point on every channel: what follows it comes after what any of them had before.
    pub(super) fn sync(&self) -> Result<(), Cause> {
        for place in 0..self.all.len() {
            let Some(mut channel) = self.lock(place) else { break };
            let (mut bytes, connection) = (Vec::new(), Connection::Multifd(place));
            let packet = MultifdItem::Ram(RamPacket::sync(self.number(), packet_pages(PAGE_BITS)));
            packet.encode(&mut bytes).map_err(|reason| StreamError::Unwritable { connection, reason })?;
            channel.send(&bytes)?;
        }
        Ok(())
    }

    /// Sends all devices to their ends, while `meanwhile` runs here.
    pub(super) fn send_all<D: Device + Send>(
        &self,
        devices: &mut [D],
        progress: &mut [Progress],
        configs: &[Vec<u8>],
        cancel: &Cancel,
        limits: &Limits,
        meanwhile: impl FnOnce() -> Result<(), Cause>,
    ) -> Result<(), Cause> {
        let count = devices.len();
        // One that fails ends the others, which would else wait for the target's other devices.
        let failed = Cancel::new();
        thread::scope(|scope| {
            let mut threads = Vec::with_capacity(count);
            let each = devices.iter_mut().zip(progress.iter_mut()).zip(configs).enumerate();
            for (index, ((device, progress), config)) in each {
                let failed = &failed;
                threads.push(scope.spawn(move || {
                    let idstr = crate::qemu::idstr(device.name());
                    let mut packets = Packets { channels: self, idstr: &idstr, device: index, devices: count, next: 0 };
                    let sent = packets.send_device(device, progress, config, limits, [cancel, failed]);
                    if sent.is_err() {
                        failed.cancel();
                    }
                    sent
                }));
            }
            let mut result = meanwhile();
            if result.is_err() {
                failed.cancel();
            }
            for thread in threads {
                let sent = thread.join().unwrap_or_else(|_| Err(Cause::refused("a thread of a device panicked")));
                // A cancel that another's failure caused says nothing.
                result = match (result, sent) {
                    (Ok(()) | Err(Cause::Cancelled), Err(cause)) => Err(cause),
                    (result, _) => result,
                };
            }
            result
        })
    }
}

impl<C: Write> Packets<'_, C> {
    fn send_device<D: Device>(
        &mut self,
        device: &mut D,
        progress: &mut Progress,
        config: &[u8],
        limits: &Limits,
        cancels: [&Cancel; 2],
    ) -> Result<(), Cause> {
        let mut buffer = vec![0; HEADER_BYTES.saturating_add(limits.chunk_len())];
        loop {
            if cancels.iter().any(|cancel| cancel.is_cancelled()) {
                return Err(Cause::Cancelled);
            }
            let room = buffer.get_mut(HEADER_BYTES..).unwrap_or_default();
            let read = device.read(room)?;
            match checked(device.name(), read, room.len())? {
                Read::Bytes(count) => {
                    progress.digest.update(room.get(..count).unwrap_or_default());
                    self.send(&mut buffer, count, false)?;
                }
                Read::End => break,
                Read::Drained => return Err(drained(device.name())),
            }
        }
        buffer.truncate(HEADER_BYTES);
        buffer.extend_from_slice(&VFIO_DEV_CONFIG_STATE.to_be_bytes());
        buffer.extend_from_slice(config);
        buffer.extend_from_slice(&VFIO_END_OF_STATE.to_be_bytes());
        let count = buffer.len().saturating_sub(HEADER_BYTES);
        self.send(&mut buffer, count, true)
    }

    /// Puts the header in front of the bytes, and sends both with one call.
    fn send(&mut self, buffer: &mut [u8], count: usize, is_config: bool) -> Result<(), Cause> {
        let index = self.channel();
        let connection = Connection::Multifd(index);
        let too_long = |_| Cause::refused("a packet of more than 4 GiB: lower chunk_bytes_max");
        let payload_bytes = u32::try_from(count).map_err(too_long)?.saturating_add(VFIO_PACKET_HEADER_BYTES);
        let mut header = Vec::with_capacity(HEADER_BYTES);
        let state = MultifdItem::DeviceState(DeviceStateHeader::new(self.idstr, 0, payload_bytes));
        let packet = MultifdItem::VfioPacket(VfioPacketHeader { index: self.next, is_config });
        let encoded = state.encode(&mut header).and_then(|()| packet.encode(&mut header));
        encoded.map_err(|reason| StreamError::Unwritable { connection, reason })?;
        self.next = self.next.saturating_add(1);
        let whole = buffer.get_mut(..HEADER_BYTES.saturating_add(count)).unwrap_or_default();
        whole.iter_mut().zip(&header).for_each(|(place, byte)| *place = *byte);
        let Some(channel) = self.channels.all.get(index) else { return Ok(()) };
        channel.lock().unwrap_or_else(PoisonError::into_inner).send(whole)
    }

    /// The channel of the next packet: those that are the device's in turn, or the one it shares.
    fn channel(&self) -> usize {
        let (channels, devices) = (self.channels.all.len().max(1), self.devices.max(1));
        let own = channels.div_euclid(devices).max(1);
        let turn = usize::try_from(self.next).unwrap_or(0).checked_rem(own).unwrap_or(0);
        self.device.saturating_mul(own).saturating_add(turn).checked_rem(channels).unwrap_or(0)
    }
}
