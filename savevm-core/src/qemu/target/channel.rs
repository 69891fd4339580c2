// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One multifd channel of a target.

use std::format;
use std::io::Read;
use std::vec;
use std::vec::Vec;

use stream_codec::qemu::{
    Event, InitialPacket, MultifdDecoder, MultifdItem, MultifdOptions, VFIO_PACKET_HEADER_BYTES, VfioPacketHeader,
};

use super::ram::Places;
use super::reorder::{Packet, Turn};
use super::shared::{Shared, lock};
use super::{LoadOptions, TargetMachine};
use crate::device::Device;
use crate::error::Cause;
use crate::qemu::DeviceState;
use crate::qemu::error::Connection;
use crate::qemu::input::{Flow, Input};

/// A channel, and the packet that is coming over it.
struct Channel<'s, 'a, 'm, D, V: ?Sized> {
    shared: &'s Shared<'a, 'm, D, V>,
    index: usize,
    options: &'s LoadOptions,
    device: usize,
    payload_bytes: u32,
    packet: VfioPacketHeader,
    turn: Turn,
    bytes: Vec<u8>,
    /// Where the pages go whose bytes are coming.
    places: Places,
    /// A synchronisation point is behind those bytes.
    syncs_after: bool,
}

/// Reads the channel until the migration is over or the source closes it.
pub(super) fn run<D: Device, V: TargetMachine + ?Sized, R: Read>(
    shared: &Shared<'_, '_, D, V>,
    index: usize,
    reader: R,
    options: &LoadOptions,
) -> Result<(), Cause> {
    let mut decoder = MultifdDecoder::new(MultifdOptions { limits: options.stream, ..MultifdOptions::default() });
    let mut buffer = vec![0; options.limits.chunk_len()];
    let mut channel = Channel {
        shared,
        index,
        options,
        device: usize::MAX,
        payload_bytes: 0,
        packet: VfioPacketHeader { index: 0, is_config: false },
        turn: Turn::Wait,
        bytes: Vec::new(),
        places: Places::default(),
        syncs_after: false,
    };
    let mut input = Input { reader, connection: Connection::Multifd(index), pulse: &shared.pulse, must_speak: false };
    input.drive(&mut decoder, &mut buffer, |event| channel.handle(event)).map(drop)
}

impl<D: Device, V: TargetMachine + ?Sized> Channel<'_, '_, '_, D, V> {
    fn handle(&mut self, event: Event<'_, MultifdItem<'_>>) -> Result<Flow, Cause> {
        match event.item {
            MultifdItem::Initial(packet) => self.introduce(&packet)?,
            MultifdItem::Ram(packet) if packet.is_sync && packet.normal_pages == 0 && packet.zero_pages == 0 => {
                self.shared.sync(self.index);
            }
            MultifdItem::Ram(packet) => {
                self.shared.wait_released(self.index)?;
                self.pages(&event.item)?;
                // multifd.md: sources older than 9.0 have pages in these. The point comes after them.
                self.syncs_after = packet.is_sync;
                self.end_pages(packet.payload_bytes == 0);
            }
            MultifdItem::RamBytes(piece) => {
                self.pages(&event.item)?;
                self.end_pages(piece.is_last());
            }
            MultifdItem::DeviceState(header) => {
                if self.options.agreement.device_state == DeviceState::Main {
                    return Err(Cause::refused(format!(
                        "the source sends the state of {} over multifd channels, and this target was told that it comes \
                         over the main connection: set x-migration-multifd-transfer alike on both sides",
                        header.idstr
                    )));
                }
                self.device = self.shared.find(header.idstr, header.instance_id)?;
                self.payload_bytes = header.payload_bytes;
            }
            MultifdItem::VfioPacket(header) => self.begin(header)?,
            MultifdItem::DeviceBytes(piece) => {
                self.bytes(piece.bytes)?;
                if piece.is_last() {
                    self.end()?;
                }
            }
            MultifdItem::ConfigState(state) => state.encode(&mut self.bytes),
            MultifdItem::EndOfState => self.end()?,
            _ => {}
        }
        Ok(Flow::More)
    }

    fn introduce(&self, packet: &InitialPacket) -> Result<(), Cause> {
        if packet.uuid != self.options.agreement.uuid {
            let (theirs, ours) = (packet.uuid, self.options.agreement.uuid);
            return Err(Cause::refused(format!("the source's UUID is {theirs:02x?}, expected {ours:02x?} (-uuid)")));
        }
        self.shared.introduce(packet.channel_id)
    }

    fn pages(&mut self, item: &MultifdItem<'_>) -> Result<(), Cause> {
        match (&self.shared.ram, item) {
            (Some(ram), MultifdItem::Ram(packet)) => self.places = ram.packet(packet)?,
            (Some(ram), MultifdItem::RamBytes(piece)) => ram.payload(&self.places, piece)?,
            _ => lock(&self.shared.machine).pages(self.index, item).map_err(Cause::refused)?,
        }
        Ok(())
    }

    fn end_pages(&mut self, is_whole: bool) {
        if is_whole && core::mem::take(&mut self.syncs_after) {
            self.shared.sync(self.index);
        }
    }

    /// A packet of a VFIO device begins.
    fn begin(&mut self, header: VfioPacketHeader) -> Result<(), Cause> {
        let length = self.payload_bytes.saturating_sub(VFIO_PACKET_HEADER_BYTES);
        if !header.is_config && length > self.options.limits.chunk_bytes_max {
            return Err(Cause::refused(format!(
                "packet {} of {} has {length} bytes, the limit is {}; raise it if the source is to be trusted",
                header.index,
                self.shared.names.get(self.device).map_or("", |name| name),
                self.options.limits.chunk_bytes_max
            )));
        }
        let room = usize::try_from(length).unwrap_or(usize::MAX);
        self.packet = header;
        self.turn = self.shared.enter(self.device, header.index, room, header.is_config)?;
        self.bytes = Vec::new();
        if self.turn == Turn::Keep || header.is_config {
            let refused = |_| Cause::refused(format!("no memory for a packet of {length} bytes"));
            self.bytes.try_reserve_exact(room).map_err(refused)?;
        }
        if length == 0 { self.end() } else { Ok(()) }
    }

    /// Bytes of a packet with device state.
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), Cause> {
        match self.turn {
            Turn::Now => self.shared.write(self.device, bytes, false),
            _ => {
                self.bytes.extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    /// The packet is whole.
    fn end(&mut self) -> Result<(), Cause> {
        let bytes = core::mem::take(&mut self.bytes);
        match (self.turn, self.packet.is_config) {
            (Turn::Now, is_config) => {
                if is_config {
                    self.shared.slot(self.device)?.config = bytes;
                }
                self.shared.leave(self.device)
            }
            (_, is_config) => self.shared.keep(self.device, self.packet.index, Packet { bytes, is_config }),
        }
    }
}
