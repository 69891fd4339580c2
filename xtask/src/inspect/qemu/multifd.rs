// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A multifd channel: packets with pages are counted, those with device state are kept for the device.

use serde::Serialize;
use stream_codec::qemu::{
    Compression, DeviceStateHeader, Event, INITIAL_PACKET_BYTES, InitialPacket, MultifdDecoder, MultifdItem,
    MultifdOptions, RamPacket, VfioPacketHeader,
};

use super::packets::Packets;
use super::vfio::{describe, note_config};
use crate::inspect::case::Case;
use crate::inspect::device::Packet;
use crate::inspect::drive::{End, drive};
use crate::inspect::entry::Entry;
use crate::inspect::input::Input;
use crate::inspect::words::{count, shown, size, uuid, wide};

/// What there is to say about a channel as a whole.
#[derive(Clone, Debug, Default, Serialize)]
pub(in crate::inspect) struct ChannelFacts {
    pub(in crate::inspect) file: String,
    pub(in crate::inspect) channel: u8,
    pub(in crate::inspect) uuid: String,
    pub(in crate::inspect) sync_packets: u64,
    pub(in crate::inspect) ram_packets: u64,
    pub(in crate::inspect) normal_pages: u64,
    pub(in crate::inspect) zero_pages: u64,
    pub(in crate::inspect) page_bytes: u64,
    pub(in crate::inspect) device_packets: u64,
    pub(in crate::inspect) device_bytes: u64,
}

/// The number of the channel that starts with these bytes.
pub(in crate::inspect) fn first_packet(head: &[u8]) -> Option<u8> {
    // An initial packet: magic, version, UUID, channel id.
    head.get(..INITIAL_PACKET_BYTES)?.get(24).copied()
}

/// Explains a channel.
///
/// # Errors
/// The file cannot be read.
pub(in crate::inspect) fn explain(file: usize, input: &mut Input, case: &mut Case<'_>) -> Result<(), String> {
    let label = input.label.clone();
    let facts = ChannelFacts { file: label.clone(), ..ChannelFacts::default() };
    let mut reader =
        Reader { file, facts, is_all: case.options.all, row: None, packet: None, packets: Packets::default(), end: 0 };
    // The page size stands in the main stream, which was read before.
    let bits = case.main.as_ref().and_then(|main| main.configuration.get("target-page-bits")?.as_u64());
    let page_bits = bits.and_then(|bits| u32::try_from(bits).ok()).unwrap_or(12);
    let mut decoder = MultifdDecoder::new(MultifdOptions { page_bits, ..MultifdOptions::default() });
    let end = drive(input, &mut decoder, case.progress, |event| {
        reader.event(&event, case);
        case.go_on()
    })?;
    let within = reader.packet.as_ref().map(Open::name).unwrap_or_default();
    reader.close_packet(case);
    reader.close_packets(case);
    reader.close_row(case);
    if let End::Refused(fault) = end {
        case.is_whole = false;
        case.fault(&label, fault.within(within));
    }
    case.channels.push(reader.facts);
    Ok(())
}

/// Packets of one kind that follow each other.
struct Row {
    entry: Entry,
    packets: u64,
    normal_pages: u64,
    zero_pages: u64,
    compression: Compression,
}

/// A packet with device state.
struct Open {
    entry: Entry,
    instance: u32,
    packet: Option<Packet>,
}

impl Open {
    fn name(&self) -> String {
        format!("device state of {}, packet at {:#x}", shown(&self.entry.name), self.entry.offset)
    }
}

struct Reader {
    file: usize,
    facts: ChannelFacts,
    is_all: bool,
    row: Option<Row>,
    packet: Option<Open>,
    packets: Packets,
    end: u64,
}

impl Reader {
    fn event(&mut self, event: &Event<'_, MultifdItem<'_>>, case: &mut Case<'_>) {
        let (offset, bytes) = (event.offset, wide(event.raw.len()));
        match &event.item {
            MultifdItem::Initial(packet) => self.initial(packet, offset, bytes, case),
            MultifdItem::Ram(packet) => self.ram(packet, offset, bytes, case),
            MultifdItem::RamBytes(piece) => {
                self.facts.page_bytes = self.facts.page_bytes.saturating_add(wide(piece.bytes.len()));
                if let Some(row) = &mut self.row {
                    row.entry.reach(offset.saturating_add(bytes));
                }
            }
            MultifdItem::DeviceState(header) => self.device(header, offset, bytes, case),
            MultifdItem::VfioPacket(header) => self.vfio(header, offset.saturating_add(bytes)),
            MultifdItem::DeviceBytes(piece) => {
                self.facts.device_bytes = self.facts.device_bytes.saturating_add(wide(piece.bytes.len()));
                self.grow(wide(piece.bytes.len()));
            }
            MultifdItem::ConfigState(state) => {
                self.grow(bytes);
                let open = self.packet.as_mut();
                if let Some((open, device)) = open.and_then(|open| {
                    let device = case.devices.get(&open.entry.name, open.instance)?;
                    Some((open, device))
                }) {
                    note_config(device, state);
                    open.entry.text.push_str(&format!(": {}", describe(state)));
                }
            }
            _ => {}
        }
        self.end = offset.saturating_add(bytes);
        if let Some(open) = &mut self.packet {
            open.entry.reach(self.end);
        }
    }

    fn initial(&mut self, packet: &InitialPacket, offset: u64, bytes: u64, case: &mut Case<'_>) {
        self.facts.channel = packet.channel_id;
        self.facts.uuid = uuid(&packet.uuid);
        let vm =
            if packet.uuid == [0; 16] { "a VM without UUID".to_owned() } else { format!("VM {}", self.facts.uuid) };
        let id = packet.channel_id;
        let entry = Entry::new("initial", offset, bytes).named("packet").fact("channel", id);
        case.show(&entry.fact("uuid", self.facts.uuid.as_str()).text(format!("channel {id} of {vm}")));
    }

    fn ram(&mut self, packet: &RamPacket<'_>, offset: u64, bytes: u64, case: &mut Case<'_>) {
        self.close_packet(case);
        self.close_packets(case);
        let counts = [
            (&mut self.facts.sync_packets, u64::from(packet.is_sync)),
            (&mut self.facts.ram_packets, u64::from(!packet.is_sync)),
            (&mut self.facts.normal_pages, packet.normal_pages.into()),
            (&mut self.facts.zero_pages, packet.zero_pages.into()),
        ];
        for (count, more) in counts {
            *count = count.saturating_add(more);
        }
        let kind = if packet.is_sync { "SYNC" } else { "RAM" };
        let goes_on = self.row.as_ref().is_some_and(|row| {
            let is_same = (row.entry.kind, row.compression) == (kind, packet.compression);
            is_same && row.entry.name == packet.block && !self.is_all
        });
        if !goes_on {
            self.close_row(case);
        }
        let row = self.row.get_or_insert_with(|| Row {
            entry: Entry::new(kind, offset, bytes)
                .named(packet.block)
                .fact("first_packet_number", packet.packet_number),
            packets: 0,
            normal_pages: 0,
            zero_pages: 0,
            compression: packet.compression,
        });
        row.packets = row.packets.saturating_add(1);
        row.normal_pages = row.normal_pages.saturating_add(packet.normal_pages.into());
        row.zero_pages = row.zero_pages.saturating_add(packet.zero_pages.into());
        row.entry.reach(offset.saturating_add(bytes));
    }

    fn close_row(&mut self, case: &mut Case<'_>) {
        let Some(Row { entry, packets, normal_pages, zero_pages, compression }) = self.row.take() else { return };
        let mut text = if self.is_all { String::new() } else { count(packets, "packet") };
        if entry.kind == "RAM" {
            let comma = if text.is_empty() { "" } else { ", " };
            text.push_str(&format!("{comma}{}, {}", count(normal_pages, "page"), count(zero_pages, "zero page")));
        }
        if compression != Compression::None {
            text.push_str(&format!(", compressed ({compression:?})"));
        }
        let entry = entry.fact("packets", packets).fact("normal_pages", normal_pages).fact("zero_pages", zero_pages);
        case.show(&entry.text(text));
    }

    fn device(&mut self, header: &DeviceStateHeader<'_>, offset: u64, bytes: u64, case: &mut Case<'_>) {
        self.close_packet(case);
        self.close_row(case);
        self.facts.device_packets = self.facts.device_packets.saturating_add(1);
        let entry = Entry::new("DEVICE", offset, bytes).named(header.idstr).fact("instance", header.instance_id);
        let entry = entry.fact("payload_bytes", header.payload_bytes);
        self.packet = Some(Open { entry, instance: header.instance_id, packet: None });
    }

    fn vfio(&mut self, header: &VfioPacketHeader, data_offset: u64) {
        let (file, channel) = (self.file, self.facts.channel);
        if let Some(open) = &mut self.packet {
            let VfioPacketHeader { index, is_config } = *header;
            let offset = open.entry.offset;
            open.packet =
                Some(Packet { index, is_config, channel, file, offset, data_offset, is_stopped: true, bytes: 0 });
            open.entry.facts.insert("index".to_owned(), index.into());
            open.entry.facts.insert("is_config".to_owned(), is_config.into());
        }
    }

    /// The packet has so many bytes more of state.
    fn grow(&mut self, bytes: u64) {
        if let Some(packet) = self.packet.as_mut().and_then(|open| open.packet.as_mut()) {
            packet.bytes = packet.bytes.saturating_add(bytes);
        }
    }

    fn close_packet(&mut self, case: &mut Case<'_>) {
        let Some(Open { mut entry, instance, packet }) = self.packet.take() else { return };
        if let Some(packet) = packet {
            let what = if packet.is_config { "config state" } else { "of state" };
            let bytes = size(packet.bytes);
            entry.text = format!("packet {}, {bytes} {what}{}", packet.index, entry.text);
            if let Some(device) = case.devices.get(&entry.name, instance) {
                device.push_packet(packet);
            }
        }
        let is_data = packet.is_some_and(|packet| !packet.is_config);
        if !is_data || self.is_all || !self.packets.takes(&entry) {
            self.close_packets(case);
        }
        match packet.filter(|_| is_data && !self.is_all) {
            Some(packet) => self.packets.add(entry, &packet),
            None => case.show(&entry),
        }
    }

    /// Shows the packets with state before this.
    fn close_packets(&mut self, case: &mut Case<'_>) {
        self.packets.finish().iter().for_each(|entry| case.show(entry));
    }
}
