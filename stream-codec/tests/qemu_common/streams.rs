// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Small streams with every kind of item, for tests that try every place in them.

use stream_codec::qemu::{
    Capabilities, Command, Compression, ConfigState, ConfigurationSubsection, DeviceStateHeader, Extent, InitialPacket,
    Item, MappedRamHeader, MultifdItem, PageSizes, PciConfigState, Piece, RamBlock, RamDiscard, RamPacket, RamPage,
    RamRecord, ReturnPathItem, SectionHeader, SectionKind, VfioPacketHeader, VfioRecord,
};

pub(crate) const PAGE_BYTES: usize = 1024;

/// Describes what `described` writes.
pub(crate) const VMDESC: &str = r#"{"page_size":1024,"devices":[
{"name":"cpu","instance_id":1,"vmsd_name":"cpu","version":7,"fields":[
 {"name":"halted","type":"uint32","size":4},
 {"name":"lvt","type":"struct","size":3,"array_len":2,"struct":{"vmsd_name":"lvt","version":1,"fields":[
  {"name":"on","type":"bool","size":1},{"name":"vector","type":"uint16","size":2}]}},
 {"name":"regs","type":"uint64","size":8,"array_len":9}],
 "subsections":[{"vmsd_name":"cpu/msr","version":2,"fields":[{"name":"msr","type":"uint8","size":1,"index":5}]}]},
{"name":"00:01.0/vfio","instance_id":0,"fields":[{"name":"data","type":"buffer","size":292}]}]}"#;

pub(crate) fn encode(items: &[Item<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for item in items {
        item.encode(&mut out).unwrap();
    }
    out
}

pub(crate) fn named(kind: SectionKind, id: u32, idstr: &str, version_id: u32) -> Item<'_> {
    let instance_id = u32::from(idstr == "cpu");
    Item::Section(SectionHeader { kind, id, idstr, instance_id, version_id, extent: Extent::Format })
}

pub(crate) fn more(kind: SectionKind, id: u32) -> Item<'static> {
    Item::Section(SectionHeader { kind, id, idstr: "", instance_id: 0, version_id: 0, extent: Extent::Format })
}

pub(crate) const fn whole(bytes: &[u8]) -> Piece<'_> {
    Piece { position: 0, length: bytes.len() as u64, bytes }
}

pub(crate) const fn page(block: &str, offset: u64, same_block: bool) -> RamPage<'_> {
    RamPage { block, offset, same_block }
}

fn block(name: &str, used_bytes: u64) -> RamBlock<'_> {
    RamBlock { name, used_bytes, page_bytes: None, address: None }
}

pub(crate) fn config_space() -> [u8; 256] {
    let mut space = [0x11; 256];
    space[..4].copy_from_slice(&[0x48, 0x43, 0x53, 0x32]);
    space
}

pub(crate) fn pci_state(config_space: &[u8]) -> ConfigState<'_> {
    ConfigState::Pci(PciConfigState {
        version_id: 2,
        config_space,
        irq_state: [0, 1, 0, 0],
        msix_table: &[],
        msix_pending: &[],
        subsections: &[],
    })
}

/// The payload of the section that [`VMDESC`] describes as `cpu`.
pub(crate) fn cpu_payload() -> Vec<u8> {
    let mut payload = vec![0, 0, 0, 1, 1, 0, 32, 0, 0, 33];
    payload.extend((0..72u8).map(|byte| byte ^ 0x80));
    payload.extend_from_slice(b"\x05\x07cpu/msr\0\0\0\x02\xaa");
    payload
}

/// Every kind of item, with pages of 1 KiB. Without footers if asked, and only then readable with [`VMDESC`] alone.
pub(crate) fn every_item(has_footers: bool) -> Vec<u8> {
    let bytes = [0x77; PAGE_BYTES];
    let (space, cpu) = (config_space(), cpu_payload());
    let ranges = [&0u64.to_be_bytes()[..], &4096u64.to_be_bytes()].concat();
    let vfio = "00:01.0/vfio";
    let inner = package(&cpu, has_footers);
    let mut items = vec![
        Item::FileHeader,
        Item::Configuration { machine: "pc" },
        Item::ConfigurationSubsection(ConfigurationSubsection::TargetPageBits(10)),
        Item::ConfigurationSubsection(ConfigurationSubsection::Capabilities(Capabilities {
            encoded: b"\x0fx-ignore-shared",
        })),
        Item::ConfigurationSubsection(ConfigurationSubsection::Uuid([9; 16])),
        Item::Command(Command::OpenReturnPath),
        Item::Command(Command::Ping(1)),
        Item::Command(Command::PostcopyAdvise(Some(PageSizes { host_bytes_mask: 4096, target_bytes: 1024 }))),
        Item::Command(Command::PostcopyAdvise(None)),
        named(SectionKind::Start, 2, "ram", 4),
        Item::Ram(RamRecord::MemSize { total_bytes: 3072 }),
        Item::Ram(RamRecord::Block(RamBlock { address: Some(0), ..block("pc.ram", 2048) })),
        Item::Ram(RamRecord::Block(RamBlock { address: Some(4096), ..block("pc.bios", 1024) })),
        Item::Ram(RamRecord::EndOfSection),
        Item::Footer { id: 2 },
        named(SectionKind::Start, 3, vfio, 1),
        Item::Vfio(VfioRecord::Setup),
        Item::Vfio(VfioRecord::EndOfState),
        Item::Footer { id: 3 },
        more(SectionKind::Part, 2),
        Item::Ram(RamRecord::ZeroPage { page: page("pc.ram", 0, false), fill: 0 }),
        Item::Ram(RamRecord::ZeroPage { page: page("pc.ram", 1024, true), fill: 0 }),
        Item::Ram(RamRecord::Page(page("pc.bios", 0, false))),
        Item::Ram(RamRecord::PageBytes(whole(&bytes))),
        Item::Ram(RamRecord::XbzrlePage { page: page("pc.bios", 0, true), length: 3 }),
        Item::Ram(RamRecord::PageBytes(whole(b"xor"))),
        Item::Ram(RamRecord::MultifdFlush),
        Item::Ram(RamRecord::EndOfSection),
        Item::Footer { id: 2 },
        more(SectionKind::Part, 3),
        Item::Vfio(VfioRecord::Data { length: 5 }),
        Item::Vfio(VfioRecord::DataBytes(whole(b"state"))),
        Item::Vfio(VfioRecord::InitDataSent),
        Item::Footer { id: 3 },
        Item::Command(Command::SwitchoverStart),
        more(SectionKind::End, 3),
        Item::Vfio(VfioRecord::Data { length: 2 }),
        Item::Vfio(VfioRecord::DataBytes(whole(b"on"))),
        Item::Vfio(VfioRecord::Data { length: 0 }),
        Item::Vfio(VfioRecord::EndOfState),
        Item::Footer { id: 3 },
        Item::Command(Command::PostcopyRamDiscard(RamDiscard { block: "pc.ram", encoded: &ranges })),
        Item::Command(Command::RecvBitmap { block: "pc.ram" }),
        Item::Command(Command::PostcopyResume),
        Item::Command(Command::EnableColo),
        Item::Command(Command::Packaged { length: inner.len() as u32 }),
        Item::Payload(&inner),
        named(SectionKind::Full, 3, vfio, 1),
        Item::Vfio(VfioRecord::Config),
        Item::Vfio(VfioRecord::ConfigState(pci_state(&space))),
        Item::Vfio(VfioRecord::EndOfState),
        Item::Footer { id: 3 },
        Item::EndOfStream,
        Item::Vmdesc { length: 3 },
        Item::VmdescBytes(whole(b"{ }")),
    ];
    items.retain(|item| has_footers || !matches!(item, Item::Footer { .. }));
    encode(&items)
}

/// What stands in the package of [`every_item`].
fn package(cpu: &[u8], has_footers: bool) -> Vec<u8> {
    let mut items = vec![
        Item::Command(Command::PostcopyListen),
        named(SectionKind::Full, 9, "cpu", 7),
        Item::Payload(cpu),
        Item::Footer { id: 9 },
        Item::Command(Command::PostcopyRun),
        named(SectionKind::Full, 3, "00:01.0/vfio", 1),
        Item::Vfio(VfioRecord::ConfigLoadReady),
        Item::Footer { id: 3 },
    ];
    items.retain(|item| has_footers || !matches!(item, Item::Footer { .. }));
    encode(&items)
}

/// A RAM section of a file with `mapped-ram`, the bitmap and the pages not where QEMU puts them, but nearer.
pub(crate) fn mapped_ram() -> Vec<u8> {
    let header = |bitmap_offset, pages_offset| MappedRamHeader { page_bytes: 4096, bitmap_offset, pages_offset };
    let mut out = encode(&[
        Item::FileHeader,
        Item::Configuration { machine: "none" },
        Item::ConfigurationSubsection(ConfigurationSubsection::Capabilities(Capabilities {
            encoded: b"\x0amapped-ram",
        })),
        named(SectionKind::Start, 1, "ram", 4),
        Item::Ram(RamRecord::MemSize { total_bytes: 8192 }),
        Item::Ram(RamRecord::Block(block("a", 8192))),
    ]);
    let here = out.len() as u64 + 28;
    for item in [
        Item::Ram(RamRecord::MappedRam(header(here + 2, here + 2 + 8 + 3))),
        Item::Ram(RamRecord::Gap(whole(&[0; 2]))),
        Item::Ram(RamRecord::Bitmap(whole(&[1, 0, 0, 0, 0, 0, 0, 0]))),
        Item::Ram(RamRecord::Gap(whole(&[0; 3]))),
        Item::Ram(RamRecord::Pages(whole(&[0x55; 8192]))),
        Item::Ram(RamRecord::EndOfSection),
        Item::Footer { id: 1 },
        Item::EndOfStream,
    ] {
        item.encode(&mut out).unwrap();
    }
    out
}

pub(crate) fn every_return_path_item() -> Vec<u8> {
    let mut out = Vec::new();
    for item in [
        ReturnPathItem::SwitchoverAck,
        ReturnPathItem::Pong { value: 1 },
        ReturnPathItem::RequestPages { start: 4096, length: 8192, block: Some("pc.ram") },
        ReturnPathItem::RequestPages { start: 0, length: 4096, block: None },
        ReturnPathItem::RecvBitmap { block: "pc.ram" },
        ReturnPathItem::BitmapSize { bytes: 16 },
        ReturnPathItem::BitmapBytes(whole(&[0xff; 16])),
        ReturnPathItem::BitmapEnd,
        ReturnPathItem::ResumeAck { value: 1 },
        ReturnPathItem::Shut { status: 0 },
    ] {
        item.encode(&mut out).unwrap();
    }
    out
}

/// A channel for a target with pages of 64 KiB, which has short packets.
pub(crate) fn every_multifd_item() -> Vec<u8> {
    let mut out = Vec::new();
    let space = config_space();
    let offsets = [&(1u64 << 16).to_be_bytes()[..], &0u64.to_be_bytes(), &(3u64 << 16).to_be_bytes()].concat();
    let packet = RamPacket {
        is_sync: false,
        compression: Compression::Zstd,
        pages_alloc: 8,
        normal_pages: 2,
        zero_pages: 1,
        payload_bytes: 3,
        block: "pc.ram",
        offsets: &offsets,
        ..RamPacket::sync(3, 8)
    };
    for item in [
        MultifdItem::Initial(InitialPacket { uuid: [7; 16], channel_id: 1 }),
        MultifdItem::Ram(RamPacket::sync(2, 8)),
        MultifdItem::Ram(packet),
        MultifdItem::RamBytes(whole(b"zst")),
        MultifdItem::DeviceState(DeviceStateHeader { idstr: "00:01.0/vfio", instance_id: 0, payload_bytes: 12 + 5 }),
        MultifdItem::VfioPacket(VfioPacketHeader { index: 0, is_config: false }),
        MultifdItem::DeviceBytes(whole(b"state")),
        MultifdItem::DeviceState(DeviceStateHeader {
            idstr: "00:01.0/vfio",
            instance_id: 0,
            payload_bytes: 12 + 8 + 276 + 8,
        }),
        MultifdItem::VfioPacket(VfioPacketHeader { index: 1, is_config: true }),
        MultifdItem::Config,
        MultifdItem::ConfigState(pci_state(&space)),
        MultifdItem::EndOfState,
        MultifdItem::DeviceState(DeviceStateHeader { idstr: "other", instance_id: 4, payload_bytes: 2 }),
        MultifdItem::DeviceBytes(whole(b"ab")),
    ] {
        item.encode(&mut out).unwrap();
    }
    out
}
