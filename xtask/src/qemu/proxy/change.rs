// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a relay can change in a stream, so that a peer sees what no right one says.

use stream_codec::qemu::{
    DeviceStateHeader, Item, MultifdItem, Piece, SectionHeader, VFIO_PACKET_HEADER_BYTES, VfioPacketHeader, VfioRecord,
};

use super::super::machine::idstr;
use super::passage::Deed;

/// A lie.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Change {
    /// The first packet with device state on every channel comes after one of 289 bytes, the last of which is all it has, with
    /// the highest index there is: QEMU makes room for all indices below it.
    FarPacket,
    /// The packets of the first device have the indices of those behind them: its first never comes.
    Gap,
    /// The first device's section has this version.
    Version(u32),
    /// The first device's section has the name of a device that is nowhere.
    Stranger,
    /// This byte of every config state is another one.
    Config(usize),
}

/// The highest index a packet may have: one less than the one that stands for none.
const FAR_INDEX: u32 = 0xffff_fffe;
/// No machine of these tests has as many devices.
const STRANGER: usize = 14;

impl Change {
    /// The name of the device that is nowhere.
    pub(crate) fn stranger() -> String {
        idstr(STRANGER)
    }

    /// What becomes of an item of the main stream, in a section of this name.
    pub(super) fn main(self, section: &str, item: &Item<'_>) -> Deed {
        let is_first = section == idstr(0);
        match (self, item) {
            (Self::Version(version_id), Item::Section(header)) if is_first && header.kind.is_named() => {
                instead(&Item::Section(SectionHeader { version_id, ..*header }))
            }
            (Self::Stranger, Item::Section(header)) if is_first && header.kind.is_named() => {
                instead(&Item::Section(SectionHeader { idstr: &Self::stranger(), ..*header }))
            }
            (Self::Config(at), Item::Vfio(VfioRecord::ConfigState(state))) => {
                let mut bytes = Vec::new();
                state.encode(&mut bytes);
                damaged(bytes, at)
            }
            _ => Deed::Pass,
        }
    }

    /// What becomes of an item of a multifd channel, in a packet of this device. `changes` is the channel's own.
    pub(super) fn multifd(self, device: &str, item: &MultifdItem<'_>, changes: &mut u32) -> Deed {
        match (self, item) {
            (Self::FarPacket, MultifdItem::DeviceState(_)) if *changes == 0 => {
                *changes = 1;
                let mut bytes = far_packet(device);
                // A header that was read can be written.
                let _ = item.encode(&mut bytes);
                Deed::Instead(bytes)
            }
            (Self::Gap, MultifdItem::VfioPacket(header)) if device == idstr(0) => {
                let index = header.index.saturating_add(1);
                let mut bytes = Vec::new();
                VfioPacketHeader { index, ..*header }.encode(&mut bytes);
                Deed::Instead(bytes)
            }
            (Self::Config(at), MultifdItem::ConfigState(state)) => {
                let mut bytes = Vec::new();
                state.encode(&mut bytes);
                damaged(bytes, at)
            }
            _ => Deed::Pass,
        }
    }
}

/// A packet with one byte of a device's state, in a place that nothing can be in.
pub(super) fn far_packet(device: &str) -> Vec<u8> {
    let items = [
        MultifdItem::DeviceState(DeviceStateHeader::new(device, 0, VFIO_PACKET_HEADER_BYTES.saturating_add(1))),
        MultifdItem::VfioPacket(VfioPacketHeader { index: FAR_INDEX, is_config: false }),
        MultifdItem::DeviceBytes(Piece { position: 0, length: 1, bytes: b"x" }),
    ];
    let mut bytes = Vec::new();
    for item in items {
        // A name that was read can be written.
        let _ = item.encode(&mut bytes);
    }
    bytes
}

fn instead(item: &Item<'_>) -> Deed {
    let mut bytes = Vec::new();
    match item.encode(&mut bytes) {
        Ok(()) => Deed::Instead(bytes),
        Err(_) => Deed::Pass,
    }
}

fn damaged(mut bytes: Vec<u8>, at: usize) -> Deed {
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 0xff;
    }
    Deed::Instead(bytes)
}
