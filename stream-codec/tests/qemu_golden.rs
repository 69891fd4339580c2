// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Bytes of QEMU's streams, written out by hand, and what they mean. Reading and writing must agree with them.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests may panic"
)]

mod qemu_common;

use qemu_common::streams::{cpu_payload, encode, every_item, more, named, page, whole};
use qemu_common::{Options, decode_main, decode_return_path, vmdesc_of};
use stream_codec::decode::{Decoder, Step};
use stream_codec::qemu::{
    Command, Extent, Item, MainDecoder, MainOptions, MultifdDecoder, MultifdItem, MultifdOptions, PciConfigState,
    RamBlock, RamRecord, SectionKind, Value, VfioRecord, VmState, VmStateReader, Vmdesc, VmdescLimits,
};

const NONE: &[u8] = include_bytes!("../testdata/qemu/none.bin");

fn hex(text: &str) -> Vec<u8> {
    let digits = text.bytes().filter(u8::is_ascii_hexdigit).collect::<Vec<_>>();
    let byte = |pair: &[u8]| u8::from_str_radix(core::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// The debug text of every item of a stream.
fn items<D: Decoder>(mut decoder: D, stream: &[u8], show: impl Fn(&D::Event<'_>) -> String) -> Vec<String> {
    let (mut rest, mut shown) = (stream, Vec::new());
    while let Step { consumed, event: Some(event) } = decoder.decode(rest).unwrap() {
        shown.push(show(&event));
        rest = &rest[consumed..];
    }
    decoder.finish().unwrap();
    shown
}

#[test]
fn the_smallest_stream_of_qemu() {
    let timer = &NONE[97..121];
    let state = &NONE[151..255];
    let json = &NONE[266..];
    let written = encode(&[
        Item::FileHeader,
        Item::Configuration { machine: "none" },
        named(SectionKind::Start, 1, "ram", 4),
        Item::Ram(RamRecord::MemSize { total_bytes: 0 }),
        Item::Ram(RamRecord::EndOfSection),
        Item::Footer { id: 1 },
        Item::Command(Command::SwitchoverStart),
        more(SectionKind::End, 1),
        Item::Ram(RamRecord::EndOfSection),
        Item::Footer { id: 1 },
        named(SectionKind::Full, 0, "timer", 2),
        Item::Payload(timer),
        Item::Footer { id: 0 },
        named(SectionKind::Full, 3, "globalstate", 1),
        Item::Payload(state),
        Item::Footer { id: 3 },
        Item::EndOfStream,
        Item::Vmdesc { length: 823 },
        Item::VmdescBytes(whole(json)),
    ]);
    assert!(written == NONE);
    let searched = decode_main(NONE, &Options { use_vmdesc: false, ..Options::default() });
    assert_eq!(
        searched.boundaries(),
        [("ram", 34, 50), ("ram", 65, 73), ("timer", 97, 121), ("globalstate", 151, 255)]
    );
    assert!(searched.full_sections().all(|section| section.extent == Extent::FooterSearch));
}

#[test]
fn the_fields_of_the_smallest_stream() {
    let options = MainOptions { vmdesc: vmdesc_of(NONE), ..MainOptions::default() };
    let fields = items(MainDecoder::new(options), NONE, |event| match event.item {
        Item::VmState(VmState::Field(field)) => {
            format!("{} {} {} {:?}", event.offset, field.name, field.type_name, field.value())
        }
        _ => String::new(),
    });
    let fields = fields.iter().filter(|field| !field.is_empty()).collect::<Vec<_>>();
    assert_eq!(
        fields,
        [
            "97 cpu_ticks_offset int64 Some(Signed(1327435359))",
            "105 unused unused_buffer None",
            "113 cpu_clock_offset int64 Some(Signed(510551959))",
            "151 size uint32 Some(Unsigned(8))",
            "155 runstate buffer None",
            "187 has_vm_was_suspended uint8 Some(Unsigned(1))",
            "188 vm_was_suspended uint8 Some(Unsigned(0))",
            // 66 bytes are more than come whole in any case, but they came in one piece.
            "189 unused buffer None",
        ]
    );
}

/// What a part says about itself.
fn part(part: &VmState<'_>) -> String {
    match part {
        VmState::Field(field) => {
            let value = match field.value() {
                Some(Value::Unsigned(value)) => value.to_string(),
                other => format!("{other:?}"),
            };
            format!("{}:{} ×{} {:?} = {value}", field.path, field.name, field.count, field.index)
        }
        VmState::Subsection { path, name, version_id } => format!("{path}:{name} v{version_id}"),
        other => panic!("{other:?}"),
    }
}

/// Whether the fields are read along with the stream, or of a payload that was kept.
#[test]
fn fields_know_where_they_stand() {
    let vmdesc = Vmdesc::parse(qemu_common::streams::VMDESC.as_bytes(), &VmdescLimits::DEFAULT).unwrap();
    let options = MainOptions { vmdesc: Some(vmdesc.clone()), ..MainOptions::default() };
    let along = items(MainDecoder::new(options), &every_item(true), |event| match event.item {
        Item::VmState(state) => part(&state),
        _ => String::new(),
    });
    let along = along.iter().filter(|part| !part.is_empty()).collect::<Vec<_>>();
    let payload = cpu_payload();
    let mut reader = VmStateReader::new(&vmdesc, "cpu", 1, &payload).unwrap();
    let mut kept = Vec::new();
    while let Some(event) = reader.next_part().unwrap() {
        kept.push(part(&event.item));
    }
    assert_eq!(along, kept.iter().collect::<Vec<_>>());
    assert_eq!(
        kept,
        [
            ":halted ×1 None = 1",
            "lvt[0]:on ×1 None = Some(Bool(true))",
            "lvt[0]:vector ×1 None = 32",
            "lvt[1]:on ×1 None = Some(Bool(false))",
            "lvt[1]:vector ×1 None = 33",
            ":regs ×9 None = None",
            ":cpu/msr v2",
            "cpu/msr:msr ×1 Some(5) = 170",
        ]
    );
    assert_eq!(cpu_payload().len(), 4 + 6 + 72 + 13 + 1);
}

#[test]
fn a_good_return_path_with_two_devices() {
    let stream = hex("0002 0004 00000001 | 0007 0000 | 0007 0000 | 0001 0004 00000000");
    assert_eq!(decode_return_path(&stream), "Pong { value: 1 }\nSwitchoverAck\nSwitchoverAck\nShut { status: 0 }");
    let requests = hex("0003 0013 0000000000001000 00002000 06 70632e72616d  0004 000c 0000000000000000 00001000
         0005 0007 06 70632e72616d  0000000000000008 ff00ff00ff00ff00 0123456789abcdef  0006 0004 00000001");
    let messages = decode_return_path(&requests);
    let messages = messages.lines().filter(|message| !message.starts_with("BitmapBytes")).collect::<Vec<_>>();
    assert_eq!(
        messages,
        [
            "RequestPages { start: 4096, length: 8192, block: Some(\"pc.ram\") }",
            "RequestPages { start: 0, length: 4096, block: None }",
            "RecvBitmap { block: \"pc.ram\" }",
            "BitmapSize { bytes: 8 }",
            "BitmapEnd",
            "ResumeAck { value: 1 }",
        ]
    );
}

#[test]
fn the_sections_of_a_vfio_device() {
    let head = "5145564d 00000003";
    let idstr = "11 303030303a30303a31302e302f7666696f";
    let stream = hex(&format!(
        "{head}
         01 00000025 {idstr} 00000000 00000001 ffffffffef100003 ffffffffef100001 7e 00000025
         02 00000025 ffffffffef100004 0000000000000003 616263 ffffffffef100005 7e 00000025
         02 00000025 ffffffffef100001 7e 00000025
         08 000b 0000
         03 00000025 ffffffffef100004 0000000000000001 64 ffffffffef100001 7e 00000025
         04 00000025 {idstr} 00000000 00000001 ffffffffef100006 7e 00000025
         00 06 00000002 7b7d"
    ));
    let shown = items(MainDecoder::new(MainOptions::default()), &stream, |event| match event.item {
        Item::Section(header) => format!("{} {} {}", header.kind.name(), header.id, header.idstr),
        Item::Vfio(record) => format!("{record:?}"),
        _ => String::new(),
    });
    let shown = shown.iter().filter(|item| !item.is_empty()).map(String::as_str).collect::<Vec<_>>();
    assert_eq!(
        shown,
        [
            "START 37 0000:00:10.0/vfio",
            "Setup",
            "EndOfState",
            "PART 37 0000:00:10.0/vfio",
            "Data { length: 3 }",
            "DataBytes(Piece { position: 0, length: 3, bytes: [97, 98, 99] })",
            "InitDataSent",
            "PART 37 0000:00:10.0/vfio",
            "EndOfState",
            "END 37 0000:00:10.0/vfio",
            "Data { length: 1 }",
            "DataBytes(Piece { position: 0, length: 1, bytes: [100] })",
            "EndOfState",
            "FULL 37 0000:00:10.0/vfio",
            "ConfigLoadReady",
        ]
    );
    assert_eq!(decode_main(&stream, &Options::default()).result, Ok(()));
}

#[test]
fn a_config_state_may_hold_what_ends_one() {
    let mut space = [0u8; 256];
    // A flag alone, and a flag with the footer of another section.
    space[8..16].copy_from_slice(&hex("ffffffffef100001"));
    space[64..77].copy_from_slice(&hex("ffffffffef100001 7e00000024"));
    let state = PciConfigState {
        version_id: 2,
        config_space: &space,
        irq_state: [0; 4],
        msix_table: &[0xff; 48],
        msix_pending: &[7],
        subsections: &[],
    };
    let stream = encode(&[
        Item::FileHeader,
        named(SectionKind::Full, 0x25, "vfio", 1),
        Item::Vfio(VfioRecord::Config),
        Item::Vfio(VfioRecord::ConfigState(stream_codec::qemu::ConfigState::Pci(state))),
        Item::Vfio(VfioRecord::EndOfState),
        Item::Footer { id: 0x25 },
        Item::EndOfStream,
        Item::Vmdesc { length: 2 },
        Item::VmdescBytes(whole(b"{}")),
    ]);
    let main = decode_main(&stream, &Options { use_vmdesc: false, piece_bytes: 7, ..Options::default() });
    assert_eq!(main.result, Ok(()));
    assert_eq!(main.config.len(), 4 + 256 + 16 + 48 + 1);
}

#[test]
fn the_records_of_ram() {
    let records = encode(&[
        Item::Ram(RamRecord::ZeroPage { page: page("pc.ram", 0x3000, false), fill: 0 }),
        Item::Ram(RamRecord::ZeroPage { page: page("pc.ram", 0x4000, true), fill: 0 }),
        Item::Ram(RamRecord::Page(page("pc.ram", 0x5000, true))),
        Item::Ram(RamRecord::XbzrlePage { page: page("pc.ram", 0x6000, true), length: 0x123 }),
        Item::Ram(RamRecord::MultifdFlush),
        Item::Ram(RamRecord::EndOfSection),
    ]);
    let expected = hex("0000000000003002 06 70632e72616d 00  0000000000004022 00  0000000000005028
         0000000000006060 01 0123  0000000000000200  0000000000000010");
    assert_eq!(records, expected);
}

#[test]
fn a_multifd_channel() {
    let packet = |flags: &str, rest: &str| hex(&format!("11223344 00000001 {flags} {rest}"));
    let idstr = hex("303030303a30303a31302e302f7666696f");
    let mut name = idstr.clone();
    name.resize(256, 0);
    let mut stream = hex("11223344 00000001 000102030405060708090a0b0c0d0e0f 03");
    stream.resize(64, 0);
    stream.extend(packet("00000001", "00000000 00000000 00000000 0000000000000001"));
    stream.resize(64 + 1344, 0);
    stream.extend(
        [packet("00000040", ""), name.clone(), hex("00000000 0000000e 00000000 00000000 00000000 6162")].concat(),
    );
    let config = hex("ffffffffef100002 99 ffffffffef100001");
    stream.extend([packet("00000040", ""), name, hex("00000000 0000001d 00000000 00000001 00000001"), config].concat());
    let decoder = MultifdDecoder::new(MultifdOptions::default());
    let shown = items(decoder, &stream, |event| match event.item {
        MultifdItem::Ram(packet) => format!("{} {}", packet.is_sync, packet.packet_number),
        item => format!("{item:?}"),
    });
    assert_eq!(
        shown,
        [
            "Initial(InitialPacket { uuid: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15], channel_id: 3 })",
            "true 1",
            "DeviceState(DeviceStateHeader { idstr: \"0000:00:10.0/vfio\", instance_id: 0, payload_bytes: 14 })",
            "VfioPacket(VfioPacketHeader { index: 0, is_config: false })",
            "DeviceBytes(Piece { position: 0, length: 2, bytes: [97, 98] })",
            "DeviceState(DeviceStateHeader { idstr: \"0000:00:10.0/vfio\", instance_id: 0, payload_bytes: 29 })",
            "VfioPacket(VfioPacketHeader { index: 1, is_config: true })",
            "Config",
            "ConfigState(Other([153]))",
            "EndOfState",
        ]
    );
    let channel = qemu_common::decode_multifd(&stream);
    assert_eq!((channel.id, channel.syncs, channel.device_payload_bytes), (3, 1, 14 + 29));
}

#[test]
fn a_page_may_be_in_the_block_of_the_section_before() {
    let block = RamBlock { name: "a", used_bytes: 8192, page_bytes: None, address: None };
    let stream = encode(&[
        Item::FileHeader,
        named(SectionKind::Start, 1, "ram", 4),
        Item::Ram(RamRecord::MemSize { total_bytes: 8192 }),
        Item::Ram(RamRecord::Block(block)),
        Item::Ram(RamRecord::ZeroPage { page: page("a", 0, false), fill: 0 }),
        Item::Ram(RamRecord::EndOfSection),
        Item::Footer { id: 1 },
        more(SectionKind::End, 1),
        Item::Ram(RamRecord::ZeroPage { page: page("a", 4096, true), fill: 0 }),
        Item::Ram(RamRecord::EndOfSection),
        Item::Footer { id: 1 },
        Item::EndOfStream,
    ]);
    let pages = items(MainDecoder::new(MainOptions::default()), &stream, |event| match event.item {
        Item::Ram(RamRecord::ZeroPage { page, .. }) => format!("{} {}", page.block, page.offset),
        _ => String::new(),
    });
    assert_eq!(pages.into_iter().filter(|page| !page.is_empty()).collect::<Vec<_>>(), ["a 0", "a 4096"]);
}

#[test]
fn sections_of_one_name_have_their_descriptions_in_order() {
    let device = |bytes: u8| {
        format!(
            r#"{{"name": "i8259", "instance_id": 0, "fields": [{{"name": "r", "type": "uint8", "array_len": {bytes}, "size": 1}}]}}"#
        )
    };
    let json = format!(r#"{{"devices": [{}, {}]}}"#, device(2), device(3));
    let full = named(SectionKind::Full, 4, "i8259", 1);
    let stream = encode(&[
        Item::FileHeader,
        full,
        Item::Payload(&[1, 2]),
        Item::Footer { id: 4 },
        full,
        Item::Payload(&[1, 2, 3]),
        Item::Footer { id: 4 },
        Item::EndOfStream,
        Item::Vmdesc { length: json.len() as u32 },
        Item::VmdescBytes(whole(json.as_bytes())),
    ]);
    let main = decode_main(&stream, &Options::default());
    assert_eq!((main.result, main.field_bytes), (Ok(()), 5));
}

#[test]
fn parts_of_a_whole_payload_are_encoded_as_they_stood() {
    let json = br#"{"devices": [{"name": "rtc", "instance_id": 0, "vmsd_name": "rtc", "version": 1,
        "fields": [{"name": "index", "type": "uint8", "size": 1}],
        "subsections": [{"vmsd_name": "rtc/irq", "version": 3,
            "fields": [{"name": "count", "type": "uint16", "size": 2}]}]}]}"#;
    let vmdesc = Vmdesc::parse(json, &VmdescLimits::DEFAULT).unwrap();
    let payload = b"\x09\x05\x07rtc/irq\0\0\0\x03\x12\x34";
    let mut reader = VmStateReader::new(&vmdesc, "rtc", 0, payload).unwrap();
    let (mut encoded, mut parts) = (Vec::new(), Vec::new());
    while let Some(event) = reader.next_part().unwrap() {
        event.item.encode(&mut encoded).unwrap();
        parts.push(match event.item {
            VmState::Field(field) => format!("{} {}/{}", event.offset, field.path, field.name),
            VmState::Subsection { name, version_id, .. } => format!("{} {name} v{version_id}", event.offset),
            _ => panic!("{event:?}"),
        });
    }
    assert_eq!(parts, ["0 /index", "1 rtc/irq v3", "14 rtc/irq/count"]);
    assert_eq!(encoded, payload);
}
