// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Small streams with everything in them.

use device_hisi::{Match, State, Version};
use device_mlx5::Encoder;
use savevm_core::digest::Digest as Running;
use stream_codec::frame::{
    Channel, DeviceEnd, DeviceOpen, Digest, Hello, Loaded, Message, Role, Support, data_header, encode_control,
    encode_prologue,
};
use stream_codec::qemu::{
    Command, ConfigState, DeviceStateHeader, InitialPacket, Item, MultifdItem, PciConfigState, Piece, RamBlock,
    RamPacket, RamPage, RamRecord, ReturnPathItem, SectionKind, VfioPacketHeader, VfioRecord,
};

/// A device of the QEMU samples.
pub(super) const VFIO: &str = "0000:00:01.0/vfio";

/// An mtty with one port, "HELLO" in its FIFO.
pub(super) fn mtty() -> Vec<u8> {
    let mut state = 0x7e9d_0989_8c3e_2c4e_u64.to_le_bytes().to_vec();
    [1_u32, 0, 1, 0].iter().for_each(|word| state.extend(word.to_le_bytes()));
    state.extend([0, 5, 0, 3, 0x1b, 0, 0, 0x5a]);
    state.extend(b"HELLO\0\0\0\0\0\0\0\0\0\0\0");
    state.extend([5, 0, 5, 0, 0, 0, 0x0c, 1, 7, 16, 1, 0]);
    state
}

/// A complete state of a ZIP VF.
pub(super) fn hisi() -> Vec<u8> {
    let head = Match {
        version: Version::CURRENT,
        qp_num: 64,
        dev_id: 0xa251,
        que_iso_cfg: 0,
        qp_base: 64,
        vf_qm_state: 0,
        qm_rsv_state: [0; 2],
    };
    let mut bytes = [0; 176];
    bytes[..40].copy_from_slice(&head.encode());
    // Context words 1 and 2 are a queue's address: both queues, then the two tables.
    for (context, address) in [(64, 144), (92, 152)] {
        bytes[context + 4..context + 12].copy_from_slice(&0x1_0000_2000_u64.to_le_bytes());
        bytes[address..address + 8].copy_from_slice(&0x1_0000_2000_u64.to_le_bytes());
    }
    bytes[160..168].copy_from_slice(&0x3000_u64.to_le_bytes());
    bytes[168..176].copy_from_slice(&0x4000_u64.to_le_bytes());
    assert_eq!(State::decode(&bytes).unwrap().encode(), bytes);
    bytes.to_vec()
}

/// Two images of a ConnectX VF.
pub(super) fn mlx5() -> Vec<u8> {
    let mut encoder = Encoder::new();
    let mut stream = encoder.stop_copy_size(8192).unwrap().to_vec();
    for image in [&b"the initial image"[..], b"the rest"] {
        stream.extend_from_slice(&encoder.image(image.len() as u64).unwrap());
        encoder.payload(image.len() as u64).unwrap();
        stream.extend_from_slice(image);
    }
    encoder.finish().unwrap();
    stream
}

/// The config state of a PCI function without MSI-X.
fn config(vendor: u16, device: u16, space: &mut [u8; 256]) -> PciConfigState<'_> {
    space[..2].copy_from_slice(&vendor.to_le_bytes());
    space[2..4].copy_from_slice(&device.to_le_bytes());
    PciConfigState {
        version_id: 2,
        config_space: space,
        irq_state: [0; 4],
        msix_table: &[],
        msix_pending: &[],
        subsections: &[],
    }
}

/// Puts items of a main stream together.
pub(super) struct Main(pub(super) Vec<u8>);

impl Main {
    pub(super) fn new() -> Self {
        let mut main = Self(Vec::new());
        main.item(&Item::FileHeader);
        main.item(&Item::Configuration { machine: "pc-q35-10.0" });
        main
    }

    pub(super) fn item(&mut self, item: &Item<'_>) {
        item.encode(&mut self.0).unwrap();
    }

    pub(super) fn section(&mut self, kind: SectionKind, id: u32, idstr: &str, version: u32, parts: &[Item<'_>]) {
        let mut header = vec![kind.raw()];
        header.extend(id.to_be_bytes());
        if kind.is_named() {
            header.push(idstr.len() as u8);
            header.extend(idstr.as_bytes());
            header.extend([0; 4]);
            header.extend(version.to_be_bytes());
        }
        self.0.extend(header);
        parts.iter().for_each(|part| self.item(part));
        self.item(&Item::Footer { id });
    }

    pub(super) fn data(bytes: &[u8]) -> [Item<'_>; 2] {
        let length = bytes.len() as u64;
        let piece = Piece { position: 0, length, bytes };
        [Item::Vfio(VfioRecord::Data { length }), Item::Vfio(VfioRecord::DataBytes(piece))]
    }

    /// A section of a device whose vmdesc is in [`VMDESC`], and the end.
    pub(super) fn finish(mut self, vmdesc: &str) -> Vec<u8> {
        self.section(SectionKind::Full, 9, "port92", 1, &[Item::Payload(&[0x0c])]);
        self.item(&Item::EndOfStream);
        self.item(&Item::Vmdesc { length: vmdesc.len() as u32 });
        self.0.extend(vmdesc.as_bytes());
        self.0
    }
}

/// Describes the one FULL section with a VMState.
pub(super) const VMDESC: &str = r#"{"page_size": 4096, "devices": [{"name": "port92", "instance_id": 0,
    "vmsd_name": "port92", "version": 1, "fields": [{"name": "outport\u202e", "type": "uint8", "size": 1}]}]}"#;

/// RAM of three pages in a block.
fn ram(main: &mut Main) {
    let end = Item::Ram(RamRecord::EndOfSection);
    let block = RamBlock { name: "pc.ram", used_bytes: 0x4000, page_bytes: None, address: None };
    let list = [Item::Ram(RamRecord::MemSize { total_bytes: 0x4000 }), Item::Ram(RamRecord::Block(block)), end];
    main.section(SectionKind::Start, 1, "ram", 4, &list);
    let page = |offset, same_block| RamPage { block: "pc.ram", offset, same_block };
    let bytes = [7; 4096];
    let records = [
        Item::Ram(RamRecord::ZeroPage { page: page(0, false), fill: 0 }),
        Item::Ram(RamRecord::Page(page(0x1000, true))),
        Item::Ram(RamRecord::PageBytes(Piece { position: 0, length: 4096, bytes: &bytes })),
        Item::Ram(RamRecord::ZeroPage { page: page(0x2000, true), fill: 0 }),
        end,
    ];
    main.section(SectionKind::Part, 1, "", 0, &records);
}

/// A main stream with one VFIO device, whose state before and after the switchover is given; over multifd if there is
/// none after.
pub(super) fn main(before: &[u8], after: Option<&[u8]>, ids: (u16, u16)) -> Vec<u8> {
    let mut main = Main::new();
    main.item(&Item::Command(Command::OpenReturnPath));
    main.item(&Item::Command(Command::Ping(1)));
    ram(&mut main);
    let end = Item::Vfio(VfioRecord::EndOfState);
    main.section(SectionKind::Start, 2, VFIO, 1, &[Item::Vfio(VfioRecord::Setup), end]);
    if !before.is_empty() {
        let [data, bytes] = Main::data(before);
        main.section(SectionKind::Part, 2, "", 0, &[data, bytes, Item::Vfio(VfioRecord::InitDataSent)]);
    }
    main.item(&Item::Command(Command::SwitchoverStart));
    main.section(SectionKind::End, 1, "", 0, &[Item::Ram(RamRecord::EndOfSection)]);
    let mut space = [0; 256];
    match after {
        Some(after) => {
            let (one, other) = after.split_at(after.len() / 2);
            let [data, bytes] = Main::data(one);
            let [data2, bytes2] = Main::data(other);
            main.section(SectionKind::End, 2, "", 0, &[data, bytes, data2, bytes2, end]);
            let state = ConfigState::Pci(config(ids.0, ids.1, &mut space));
            let full = [Item::Vfio(VfioRecord::Config), Item::Vfio(VfioRecord::ConfigState(state)), end];
            main.section(SectionKind::Full, 2, VFIO, 1, &full);
        }
        None => {
            main.section(SectionKind::End, 2, "", 0, &[end]);
            main.section(SectionKind::Full, 2, VFIO, 1, &[end]);
        }
    }
    main.finish(VMDESC)
}

/// A multifd channel: a SYNC, a packet with a page, and these packets of device state; without bytes it is the config.
pub(super) fn channel(id: u8, packets: &[(u32, &[u8])]) -> Vec<u8> {
    let mut stream = Vec::new();
    let mut item = |item: &MultifdItem<'_>| item.encode(&mut stream).unwrap();
    item(&MultifdItem::Initial(InitialPacket { uuid: [0; 16], channel_id: id }));
    item(&MultifdItem::Ram(RamPacket::sync(1, 128)));
    let offsets = 0x1000_u64.to_be_bytes();
    let mut packet = RamPacket::sync(2, 128);
    packet.is_sync = false;
    (packet.pages_alloc, packet.normal_pages, packet.payload_bytes) = (128, 1, 4096);
    (packet.block, packet.offsets) = ("pc.ram", &offsets);
    item(&MultifdItem::Ram(packet));
    item(&MultifdItem::RamBytes(Piece { position: 0, length: 4096, bytes: &[7; 4096] }));
    for (index, bytes) in packets {
        let is_config = bytes.is_empty();
        let mut space = [0; 256];
        let state = ConfigState::Pci(config(0x4348, 0x3253, &mut space));
        let payload_bytes = if is_config { 12 + 8 + 276 + 8 } else { 12 + bytes.len() as u32 };
        item(&MultifdItem::DeviceState(DeviceStateHeader::new(VFIO, 0, payload_bytes)));
        item(&MultifdItem::VfioPacket(VfioPacketHeader { index: *index, is_config }));
        if is_config {
            item(&MultifdItem::Config);
            item(&MultifdItem::ConfigState(state));
            item(&MultifdItem::EndOfState);
        } else {
            item(&MultifdItem::DeviceBytes(Piece { position: 0, length: bytes.len() as u64, bytes }));
        }
    }
    stream
}

/// What a target answers, and says at its end.
pub(super) fn return_path(status: u32) -> Vec<u8> {
    let mut stream = Vec::new();
    for item in [ReturnPathItem::Pong { value: 1 }, ReturnPathItem::SwitchoverAck, ReturnPathItem::Shut { status }] {
        item.encode(&mut stream).unwrap();
    }
    stream
}

/// A file of ours with these devices: name, identity, and two pieces of state.
pub(super) fn native(devices: &[(&str, &str, &[u8], &[u8])]) -> Vec<u8> {
    let mut stream = encode_prologue().to_vec();
    let control = |message: &Message<'_>, stream: &mut Vec<u8>| encode_control(message, stream).unwrap();
    let hello = Hello {
        support: Support::CURRENT,
        role: Role::File,
        nonce: [7; 16],
        channel: Channel::ONLY,
        device_count: devices.len() as u32,
        data_bytes_max: 0,
    };
    control(&Message::Hello(hello), &mut stream);
    for ((name, identity, ..), device) in devices.iter().zip(0..) {
        let open = DeviceOpen { device, name, identity, migration_flags: 7, stop_copy_bytes: 96 };
        control(&Message::DeviceOpen(open), &mut stream);
    }
    let data = |device, sequence, bytes: &[u8], stream: &mut Vec<u8>| {
        stream.extend(data_header(device, sequence, bytes).unwrap());
        stream.extend(bytes);
    };
    for ((.., before, _), device) in devices.iter().zip(0..) {
        data(device, 0, before, &mut stream);
    }
    control(&Message::Switchover, &mut stream);
    for ((.., before, after), device) in devices.iter().zip(0..) {
        data(device, 1, after, &mut stream);
        let mut running = Running::new();
        running.update(before);
        running.update(after);
        let digest = Digest::crc64_nvme(running.sum().crc64_nvme);
        let end = DeviceEnd { device, frames: 2, bytes: (before.len() + after.len()) as u64, digest };
        control(&Message::DeviceEnd(end), &mut stream);
    }
    control(&Message::Commit, &mut stream);
    stream
}

/// What a target answers to a source with the session of [`native`]: its one device loaded, with this digest.
pub(super) fn native_answers(bytes: u64, crc: u64) -> Vec<u8> {
    let mut stream = encode_prologue().to_vec();
    let hello = Hello {
        support: Support::CURRENT,
        role: Role::Target,
        nonce: [7; 16],
        channel: Channel::ONLY,
        device_count: 1,
        data_bytes_max: 1 << 20,
    };
    let loaded = Loaded { device: 0, bytes, digest: Digest::crc64_nvme(crc) };
    for message in
        [Message::Hello(hello), Message::DeviceAccept { device: 0 }, Message::Loaded(loaded), Message::Complete]
    {
        encode_control(&message, &mut stream).unwrap();
    }
    stream
}
