// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Parts of a multifd channel.

use arbitrary::Arbitrary;
use stream_codec::qemu::{
    Compression, DeviceStateHeader, InitialPacket, MultifdItem, RamPacket, VFIO_PACKET_HEADER_BYTES, VfioPacketHeader,
};

use super::{Block, Config, Name, clipped};

/// Something on a multifd channel.
#[derive(Arbitrary, Debug)]
pub enum MultifdPart<'a> {
    /// Bytes as they are.
    Raw(&'a [u8]),
    Initial {
        uuid: [u8; 16],
        channel_id: u8,
    },
    Ram(RamPacketPart<'a>),
    /// Device state of whatever device, with its length or another.
    Device {
        name: Name<'a>,
        instance_id: u8,
        lie: Option<u32>,
        bytes: &'a [u8],
    },
    /// Device state of a VFIO device.
    Vfio {
        lie: Option<u32>,
        index: u32,
        bytes: &'a [u8],
    },
    /// The config state of a VFIO device.
    VfioConfig {
        lie: i8,
        index: u32,
        config: Config<'a>,
    },
    /// Flags and what follows, as they are.
    Packet {
        flags: u8,
        bytes: &'a [u8],
    },
}

#[derive(Arbitrary, Debug)]
pub struct RamPacketPart<'a> {
    pub is_sync: bool,
    pub compression: u8,
    pub pages_alloc: u8,
    pub normal_pages: u8,
    pub zero_pages: u8,
    pub packet_number: u64,
    pub block: Block<'a>,
    pub offsets: Vec<u64>,
    /// The length of the payload, if it is not its own.
    pub lie: Option<u32>,
    pub payload: &'a [u8],
}

impl RamPacketPart<'_> {
    fn append(&self, offset_count: u32, out: &mut Vec<u8>) {
        let compressions = [
            Compression::None,
            Compression::Zlib,
            Compression::Zstd,
            Compression::Qpl,
            Compression::Uadk,
            Compression::Qatzip,
        ];
        let offsets: Vec<u8> =
            self.offsets.iter().take(offset_count as usize).flat_map(|offset| offset.to_be_bytes()).collect();
        let packet = RamPacket {
            is_sync: self.is_sync,
            compression: compressions[usize::from(self.compression) % compressions.len()],
            pages_alloc: self.pages_alloc.into(),
            normal_pages: self.normal_pages.into(),
            zero_pages: self.zero_pages.into(),
            payload_bytes: self.lie.unwrap_or(self.payload.len() as u32),
            packet_number: self.packet_number,
            block: clipped(self.block.text(), 255),
            offset_count,
            offsets: &offsets,
        };
        packet.encode(out).expect("no name is too long, and no more offsets are given than there is room for");
        out.extend_from_slice(self.payload);
    }
}

impl MultifdPart<'_> {
    /// Writes the part, for a target whose packets have `offset_count` offsets.
    pub fn append(&self, offset_count: u32, out: &mut Vec<u8>) {
        match self {
            Self::Raw(bytes) => out.extend_from_slice(bytes),
            Self::Initial { uuid, channel_id } => {
                InitialPacket { uuid: *uuid, channel_id: *channel_id }.encode(out);
            }
            Self::Ram(packet) => packet.append(offset_count, out),
            Self::Device { name, instance_id, lie, bytes } => {
                let payload_bytes = lie.unwrap_or(bytes.len() as u32);
                device(name.text(), (*instance_id).into(), payload_bytes, out);
                out.extend_from_slice(bytes);
            }
            Self::Vfio { lie, index, bytes } => {
                let payload_bytes = lie.unwrap_or(bytes.len() as u32 + VFIO_PACKET_HEADER_BYTES);
                device("00:01.0/vfio", 0, payload_bytes, out);
                VfioPacketHeader { index: *index, is_config: false }.encode(out);
                out.extend_from_slice(bytes);
            }
            Self::VfioConfig { lie, index, config } => {
                let mut state = Vec::new();
                config.append(&mut state);
                let payload_bytes =
                    (state.len() as u32 + 16 + VFIO_PACKET_HEADER_BYTES).saturating_add_signed((*lie).into());
                device("00:01.0/vfio", 0, payload_bytes, out);
                VfioPacketHeader { index: *index, is_config: true }.encode(out);
                let _ = MultifdItem::Config.encode(out);
                out.extend_from_slice(&state);
                let _ = MultifdItem::EndOfState.encode(out);
            }
            Self::Packet { flags, bytes } => {
                for value in [stream_codec::qemu::MULTIFD_MAGIC, 1, (*flags).into()] {
                    out.extend_from_slice(&value.to_be_bytes());
                }
                out.extend_from_slice(bytes);
            }
        }
    }
}

fn device(idstr: &str, instance_id: u32, payload_bytes: u32, out: &mut Vec<u8>) {
    let header = DeviceStateHeader { idstr, instance_id, payload_bytes };
    MultifdItem::DeviceState(header).encode(out).expect("no name is too long");
}
