// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A whole multifd channel.

use arbitrary::Arbitrary;
use stream_codec::qemu::{
    Compression, ConfigState, DeviceStateHeader, InitialPacket, MultifdItem, RamPacket, VFIO_PACKET_HEADER_BYTES,
    VfioPacketHeader, packet_pages,
};

use super::{Written, name};
use crate::check::describe_multifd;
use crate::parts::{PciParts, whole};

/// Of the target that reads it: its packets have 8 offsets.
pub const PAGE_BITS: u32 = 16;

#[derive(Arbitrary, Debug)]
pub struct Multifd<'a> {
    uuid: [u8; 16],
    channel_id: u8,
    packets: Vec<Packet<'a>>,
}

#[derive(Arbitrary, Debug)]
enum Packet<'a> {
    Sync(u64),
    Ram { compression: u8, normal: u8, zero: u8, number: u64, block: &'a str, offsets: [u64; 8], payload: &'a [u8] },
    Vfio { path: &'a str, index: u32, bytes: &'a [u8] },
    VfioConfig { path: &'a str, index: u32, config: PciParts },
    Other { name: &'a str, instance_id: u32, bytes: &'a [u8] },
}

const COMPRESSIONS: [Compression; 6] =
    [Compression::None, Compression::Zlib, Compression::Zstd, Compression::Qpl, Compression::Uadk, Compression::Qatzip];

impl Multifd<'_> {
    pub fn write(&self) -> Written {
        let mut written = Written::default();
        put(&mut written, MultifdItem::Initial(InitialPacket { uuid: self.uuid, channel_id: self.channel_id }));
        self.packets.iter().for_each(|packet| packet.write(&mut written));
        written
    }
}

fn put(written: &mut Written, item: MultifdItem<'_>) {
    written.push(describe_multifd(&item).0, |out| item.encode(out));
}

impl Packet<'_> {
    fn write(&self, written: &mut Written) {
        match self {
            Self::Sync(number) => ram(written, &RamPacket { offsets: &[0; 64], ..RamPacket::sync(*number, 8) }, &[]),
            Self::Ram { compression, normal, zero, number, block, offsets, payload } => {
                let (block, offsets) = (name(block), offsets.map(u64::to_be_bytes));
                let normal_pages = u32::from(*normal % 9);
                let packet = RamPacket {
                    compression: COMPRESSIONS[usize::from(*compression) % COMPRESSIONS.len()],
                    pages_alloc: 8,
                    normal_pages,
                    zero_pages: u32::from(*zero) % (9 - normal_pages),
                    payload_bytes: payload.len() as u32,
                    block: &block,
                    offsets: offsets.as_flattened(),
                    is_sync: false,
                    ..RamPacket::sync(*number, packet_pages(PAGE_BITS))
                };
                ram(written, &packet, payload);
            }
            Self::Vfio { path, index, bytes } => {
                vfio(written, path, bytes.len(), VfioPacketHeader { index: index >> 1, is_config: false });
                if !bytes.is_empty() {
                    put(written, MultifdItem::DeviceBytes(whole(bytes)));
                }
            }
            Self::VfioConfig { path, index, config } => {
                config.with(|state| {
                    let mut encoded = Vec::new();
                    state.encode(&mut encoded);
                    vfio(written, path, encoded.len() + 16, VfioPacketHeader { index: index >> 1, is_config: true });
                    put(written, MultifdItem::Config);
                    put(written, MultifdItem::ConfigState(ConfigState::Pci(state)));
                    put(written, MultifdItem::EndOfState);
                });
            }
            // There is no packet without payload.
            Self::Other { bytes: [], .. } => {}
            Self::Other { name: text, instance_id, bytes } => {
                let idstr = format!("{}.", name(text));
                let header = DeviceStateHeader::new(&idstr, *instance_id, bytes.len() as u32);
                put(written, MultifdItem::DeviceState(header));
                put(written, MultifdItem::DeviceBytes(whole(bytes)));
            }
        }
    }
}

fn ram(written: &mut Written, packet: &RamPacket<'_>, payload: &[u8]) {
    put(written, MultifdItem::Ram(*packet));
    if !payload.is_empty() {
        put(written, MultifdItem::RamBytes(whole(payload)));
    }
}

fn vfio(written: &mut Written, path: &str, payload_bytes: usize, header: VfioPacketHeader) {
    let idstr = format!("{}/vfio", name(path));
    let payload_bytes = VFIO_PACKET_HEADER_BYTES + payload_bytes as u32;
    put(written, MultifdItem::DeviceState(DeviceStateHeader::new(&idstr, 0, payload_bytes)));
    put(written, MultifdItem::VfioPacket(header));
}
