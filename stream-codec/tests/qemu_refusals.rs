// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Hostile and broken streams of QEMU's: what is said about them, where, and whose fault it is. None costs memory.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests may panic"
)]

mod qemu_common;

use qemu_common::streams::{VMDESC, cpu_payload, encode, every_item, more, named, page};
use stream_codec::decode::{Blame, Decoder, Fault, Step};
use stream_codec::qemu::{
    Command, Error, Footers, Item, Limits, MainDecoder, MainOptions, MultifdDecoder, MultifdOptions, RamBlock,
    RamRecord, Reason, ReturnPathDecoder, SectionKind, VfioRecord, Vmdesc, VmdescLimits,
};

const LIMITS: Limits = Limits { sections: 2, ram_blocks: 2, section_bytes: 64, config_bytes: 300, command_bytes: 32 };

/// The error of a stream, which must not have made the decoder hold more than the limits allow.
fn refusal<D: Decoder<Error = Error>>(mut decoder: D, stream: &[u8], bytes_max: usize) -> Error {
    let mut rest = stream;
    loop {
        match decoder.decode(rest) {
            Ok(Step { event: None, .. }) => break,
            Ok(Step { consumed, event: Some(_) }) => rest = &rest[consumed..],
            Err(_) => break,
        }
    }
    assert!(decoder.buffered_bytes() <= bytes_max, "{} bytes held", decoder.buffered_bytes());
    decoder.finish().unwrap_err()
}

fn main_with(options: MainOptions, items: &[Item<'_>]) -> Error {
    let bytes_max = options.limits.main_bytes();
    refusal(MainDecoder::new(options), &encode(items), bytes_max)
}

/// Offset and text of what is said of a file header and these bytes, and whose fault it is.
fn said(bytes: &[u8]) -> (u64, String, Fault) {
    let stream = [b"QEVM\0\0\0\x03", bytes].concat();
    let options = MainOptions { limits: LIMITS, ..MainOptions::default() };
    let error = refusal(MainDecoder::new(options), &stream, LIMITS.main_bytes());
    (error.offset, error.reason.to_string(), error.fault())
}

fn check(bytes: &[u8], offset: u64, text: &str, fault: Fault) {
    assert_eq!(said(bytes), (offset, text.to_owned(), fault), "{bytes:02x?}");
}

#[test]
fn another_kind_of_stream() {
    let refused = |bytes: &[u8]| refusal(MainDecoder::new(MainOptions::default()), bytes, 1 << 10);
    let error = refused(b"SAVEVM\0\0");
    assert_eq!(error.to_string(), "at stream offset 0: not a QEMU migration stream: it starts with 0x53415645");
    assert_eq!(error.fault(), Fault::Sender);
    assert_eq!(refused(b"QEVM\0\0\0\x02").reason, Reason::Version { what: "file version", found: 2, known: 3 });
    assert_eq!(refused(b"QEVM\0\0").reason, Reason::Truncated { what: "file version", have: 6 });
}

#[test]
fn items_that_cannot_be() {
    check(b"\x09", 8, "unknown type of an item 0x9", Fault::Versions);
    check(b"\x02\0\0\0\x05", 8, "section 5 goes on, but no section with this id was started", Fault::Sender);
    check(b"\x04\0\0\0\x05\0", 8, "the idstr is empty", Fault::Sender);
    check(b"\x04\0\0\0\x05\x02a\x1b", 8, "the idstr holds the control character '\\u{1b}'", Fault::Sender);
    check(b"\0\x09", 9, "bytes follow the end of the stream", Fault::Sender);
    check(b"\0\x06\0\0\0\x02{}\0", 16, "bytes follow the end of the stream", Fault::Sender);
    check(b"\0\x06\0\0\0\x02{", 15, "the stream ends 0 bytes into this, before the end of vmdesc", Fault::Transport);
    check(b"\x08\0\x0c\0\0", 8, "unknown command 0xc", Fault::Versions);
    check(b"\x08\0\x02\0\x03abc", 8, "length of a command is 0x3, must be the length this command has", Fault::Sender);
    check(b"\x08\0\x06\0\x28", 8, "data of a command: 40 wanted, the limit is 32", Fault::Limits);
    check(
        b"\x08\0\x0a\0\x03\x05ab",
        8,
        "difference of a command's length and its fields is 0x3, must be zero",
        Fault::Sender,
    );
    check(
        b"\x01\0\0\0\x01\x03ram\0\0\0\0\0\0\0\x03",
        8,
        "version of a RAM section 3; this reader knows 4",
        Fault::Versions,
    );
    check(
        b"\x07\xff\xff\xff\xff",
        8,
        &format!("the machine type has {} bytes, the limit is 1024", u32::MAX),
        Fault::Sender,
    );
    check(
        b"\x07\0\0\0\x01x\x05\x01c\0\0\0\x01",
        14,
        "unknown configuration subsection, length of its name 0x1",
        Fault::Versions,
    );
}

#[test]
fn section_ids_are_not_shared() {
    let start = |id, name| [named(SectionKind::Start, id, name, 1), Item::Vfio(VfioRecord::InitDataSent)];
    let [a, a_end] = start(1, "a/vfio");
    let [b, _] = start(1, "b/vfio");
    let error = main_with(MainOptions::default(), &[Item::FileHeader, a, a_end, Item::Footer { id: 1 }, b]);
    assert_eq!(error.reason, Reason::IdReused { id: 1 });

    let limits = Limits { sections: 1, ..LIMITS };
    let [c, _] = start(2, "c/vfio");
    let options = MainOptions { limits, ..MainOptions::default() };
    let error = main_with(options, &[Item::FileHeader, a, a_end, Item::Footer { id: 1 }, c]);
    assert_eq!(
        (error.reason, error.fault()),
        (Reason::Limit { what: "started sections", value: 2, limit: 1 }, Fault::Limits)
    );
}

#[test]
fn footers_must_fit() {
    let ram = [named(SectionKind::Start, 1, "ram", 4), Item::Ram(RamRecord::EndOfSection)];
    let error = main_with(MainOptions::default(), &[Item::FileHeader, ram[0], ram[1], Item::Footer { id: 2 }]);
    assert_eq!(error.reason, Reason::Footer { id: 1, found: [0x7e, 0, 0, 0, 2] });
    // The first section shows whether there are footers; after that they must be there.
    let footer = Item::Footer { id: 1 };
    let error = main_with(
        MainOptions::default(),
        &[
            Item::FileHeader,
            ram[0],
            ram[1],
            footer,
            more(SectionKind::Part, 1),
            ram[1],
            Item::Command(Command::SwitchoverStart),
        ],
    );
    assert_eq!(error.reason, Reason::Footer { id: 1, found: [8, 0, 11, 0, 0] });
}

#[test]
fn an_end_that_cannot_be_found() {
    let full = [Item::FileHeader, named(SectionKind::Full, 9, "cpu", 7)];
    let options = MainOptions { footers: Footers::Absent, ..MainOptions::default() };
    let error = main_with(options, &full);
    assert_eq!((error.reason, error.fault()), (Reason::NoExtent { id: 9 }, Fault::Caller));
    let options = MainOptions { limits: LIMITS, ..MainOptions::default() };
    let error = main_with(options, &[full[0], full[1], Item::Payload(&[0; 100])]);
    assert_eq!(error.reason, Reason::Limit { what: "bytes of a section of unknown length", value: 65, limit: 64 });
}

#[test]
fn the_vmdesc_of_another_stream() {
    let vmdesc = Vmdesc::parse(VMDESC.as_bytes(), &VmdescLimits::DEFAULT).unwrap();
    let options = MainOptions { vmdesc: Some(vmdesc), footers: Footers::Present, ..MainOptions::default() };
    let mut cpu = cpu_payload();
    let section = |cpu: &[u8]| {
        let head =
            [Item::FileHeader, named(SectionKind::Full, 9, "cpu", 7), Item::Payload(cpu), Item::Footer { id: 9 }];
        main_with(options.clone(), &head)
    };
    let end = section(&cpu);
    assert_eq!(end.reason, Reason::Truncated { what: "type of the next item", have: 0 });
    cpu[82] = 0x7e;
    let error = section(&cpu);
    assert_eq!((error.reason, error.fault()), (Reason::Description, Fault::Caller));
    let shorter = section(&cpu_payload()[..cpu.len() - 1]);
    assert!(matches!(shorter.reason, Reason::Truncated { what: "footer", have: 4 }), "{shorter}");
}

#[test]
fn a_package_is_a_world_of_its_own() {
    let package = |length, items: &[Item<'_>]| {
        let head = [Item::FileHeader, Item::Command(Command::Packaged { length })];
        let tail = [Item::Command(Command::SwitchoverStart), Item::Command(Command::SwitchoverStart)];
        main_with(MainOptions::default(), &[&head[..], items, &tail].concat()).reason
    };
    let listen = Item::Command(Command::PostcopyListen);
    assert_eq!(package(5, &[listen]), Reason::Truncated { what: "type of the next item", have: 0 });
    assert_eq!(package(7, &[listen]), Reason::PackageCut { what: "command number" });
    assert_eq!(package(6, &[Item::EndOfStream, listen]), Reason::Trailing);
    let inner = Item::Command(Command::Packaged { length: 5 });
    assert!(matches!(package(50, &[inner, listen]), Reason::Value { what: "length of a package in a package", .. }));
    // A length that reaches beyond all there is costs nothing.
    assert_eq!(package(u32::MAX, &[listen]), Reason::Truncated { what: "type of the next item", have: 0 });
}

/// What is said of a RAM section with these records.
fn ram(records: &[RamRecord<'_>]) -> Reason {
    let mut items = vec![Item::FileHeader, named(SectionKind::Start, 1, "ram", 4)];
    items.extend(records.iter().map(|record| Item::Ram(*record)));
    main_with(MainOptions { limits: LIMITS, ..MainOptions::default() }, &items).reason
}

fn block(name: &str, used_bytes: u64) -> RamRecord<'_> {
    RamRecord::Block(RamBlock { name, used_bytes, page_bytes: None, address: None })
}

#[test]
fn ram_that_cannot_be() {
    let list = RamRecord::MemSize { total_bytes: 8192 };
    assert_eq!(ram(&[RamRecord::Page(page("a", 0, false))]), Reason::UnknownBlock);
    assert_eq!(ram(&[RamRecord::Page(page("a", 0, true))]), Reason::UnknownBlock);
    assert_eq!(ram(&[list, block("a", 8192), RamRecord::Page(page("b", 0, false))]), Reason::UnknownBlock);
    assert_eq!(
        ram(&[list, block("a", 8192), RamRecord::Page(page("a", 8192, false))]),
        Reason::Value { what: "offset of a page", value: 8192, expected: "below the length of its block" }
    );
    assert!(matches!(ram(&[list, block("a", 8193)]), Reason::Value { what: "length of a RAM block", .. }));
    assert_eq!(
        ram(&[list, block("a", 0), block("b", 0), block("c", 0)]),
        Reason::Limit { what: "RAM blocks", value: 3, limit: 2 }
    );
    for flags in [0x80, 0x100, 0x400, 0x0a, 0x20] {
        let record = RamRecord::MemSize { total_bytes: flags ^ 4 };
        assert_eq!(ram(&[record]), Reason::Unknown { what: "flags of a RAM record", value: flags | 4 }, "{flags:#x}");
    }
    let xbzrle = RamRecord::XbzrlePage { page: page("a", 0, false), length: 4097 };
    assert!(matches!(ram(&[list, block("a", 8192), xbzrle]), Reason::Value { what: "length of an XBZRLE page", .. }));
}

#[test]
fn vfio_that_cannot_be() {
    let start = named(SectionKind::Start, 1, "vfio", 1);
    let said = |records: &[VfioRecord<'_>]| {
        let mut items = vec![Item::FileHeader, start];
        items.extend(records.iter().map(|record| Item::Vfio(*record)));
        main_with(MainOptions { limits: LIMITS, ..MainOptions::default() }, &items).reason
    };
    assert!(matches!(said(&[VfioRecord::Setup, VfioRecord::Setup]), Reason::Value { what: "end of a VFIO state", .. }));
    assert_eq!(said(&[VfioRecord::Data { length: u64::MAX }]), Reason::Truncated { what: "device state", have: 0 });
    let endless = Item::Payload(&[0; 400]);
    let items = [Item::FileHeader, start, Item::Vfio(VfioRecord::Config), endless];
    let error = main_with(MainOptions { limits: LIMITS, ..MainOptions::default() }, &items);
    assert!(matches!(error.reason, Reason::Limit { limit: 300, .. }), "{error}");
    let unknown = [Item::FileHeader, start, Item::Payload(&0xffff_ffff_ef10_0007u64.to_be_bytes())];
    let error = main_with(MainOptions::default(), &unknown);
    assert_eq!(error.to_string(), "at stream offset 26: unknown VFIO record 0xffffffffef100007");
    assert_eq!(error.fault(), Fault::Versions);
}

#[test]
fn the_return_path_is_checked() {
    let said = |bytes: &[u8]| refusal(ReturnPathDecoder::new(), bytes, 2048).reason;
    assert_eq!(said(b"\0\x08\0\0"), Reason::Unknown { what: "return path message", value: 8 });
    for bytes in [&b"\0\x01\0\x05"[..], b"\0\x07\0\x01", b"\0\x03\0\x0d", b"\0\x05\x02\x01", b"\0\x05\0\x03\x01"] {
        assert!(matches!(said(bytes), Reason::Value { what: "length of a return path message", .. }), "{bytes:02x?}");
    }
    let bitmap = [&b"\0\x05\0\x02\x01a"[..], &0u64.to_be_bytes(), &1u64.to_be_bytes()].concat();
    assert!(matches!(said(&bitmap), Reason::Value { what: "end of a bitmap", value: 1, .. }));
    let huge = [&b"\0\x05\0\x02\x01a"[..], &u64::MAX.to_be_bytes(), &[0; 9]].concat();
    assert_eq!(said(&huge), Reason::Truncated { what: "bitmap", have: 0 });
}

#[test]
fn multifd_packets_are_checked() {
    let initial = [&0x1122_3344_0000_0001u64.to_be_bytes()[..], &[0; 56]].concat();
    let options = MultifdOptions { limits: LIMITS, page_bits: 16 };
    let said = |packet: &[u8]| {
        let stream = [&initial[..], packet].concat();
        refusal(MultifdDecoder::new(options), &stream, LIMITS.buffer_bytes()).reason
    };
    let head = |flags: u32| [&0x1122_3344_0000_0001u64.to_be_bytes()[..], &flags.to_be_bytes()].concat();
    assert!(matches!(said(&[0; 12]), Reason::Magic { what: "multifd packet", found: 0 }));
    for flags in [0x80, 0x06, 0x3e] {
        assert_eq!(said(&head(flags)), Reason::Unknown { what: "flags of a packet", value: flags.into() });
    }
    assert!(matches!(said(&head(0x41)), Reason::Value { what: "flags of a packet with device state", .. }));
    let pages = |alloc: u32, normal: u32, zero: u32| {
        let fields = [alloc, normal, 0, 0, 0, zero].map(u32::to_be_bytes).concat();
        said(&[head(0), fields].concat())
    };
    for (alloc, normal, zero) in [(9, 0, 0), (u32::MAX, 0, 0), (8, 5, 4), (8, u32::MAX, u32::MAX)] {
        assert!(matches!(pages(alloc, normal, zero), Reason::Value { what: "pages in a packet", .. }));
    }
    let device = |name: &[u8], fields: &[u32]| {
        let fields = fields.iter().flat_map(|field| field.to_be_bytes()).collect::<Vec<_>>();
        let mut name = name.to_vec();
        name.resize(256, 0);
        said(&[head(0x40), name, fields].concat())
    };
    assert!(matches!(device(&[b'a'; 256], &[0, 1]), Reason::Value { expected: "ended by a NUL", .. }));
    assert!(matches!(device(b"a\0b", &[0, 1]), Reason::Value { expected: "zero after its NUL", .. }));
    assert!(matches!(device(b"", &[0, 1]), Reason::Text { .. }));
    assert!(matches!(device(b"vfio", &[0, 11]), Reason::Value { what: "length of device state", .. }));
    assert!(matches!(device(b"other", &[0, 0]), Reason::Value { what: "length of device state", .. }));
    // 4 GiB claimed, and the highest index there is: nothing is allocated.
    let most = u32::MAX;
    assert_eq!(device(b"vfio", &[0, most, 0, most - 1, 0]), Reason::Truncated { what: "device state", have: 0 });
    assert!(matches!(device(b"vfio", &[0, 12, 0, most, 0]), Reason::Value { what: "index of a VFIO packet", .. }));
    assert!(matches!(device(b"vfio", &[0, 12, 1, 0, 0]), Reason::Version { what: "version of a VFIO packet", .. }));
    assert!(matches!(device(b"vfio", &[0, 12, 0, 0, 2]), Reason::Unknown { what: "flags of a VFIO packet", .. }));
    assert!(matches!(device(b"vfio", &[0, 27, 0, 0, 1]), Reason::Value { what: "length of a config packet", .. }));
    assert_eq!(
        device(b"vfio", &[0, most, 0, 0, 1]),
        Reason::Limit { what: "bytes of config state", value: u64::from(most) - 28, limit: 300 }
    );
}

#[test]
fn every_cut_is_noticed() {
    let stream = every_item(true);
    let vmdesc = Vmdesc::parse(VMDESC.as_bytes(), &VmdescLimits::DEFAULT).unwrap();
    let options = MainOptions { vmdesc: Some(vmdesc), ..MainOptions::default() };
    let ends = (0..stream.len()).filter(|&end| {
        let mut decoder = MainDecoder::new(options.clone());
        let mut rest = &stream[..end];
        while let Step { consumed, event: Some(_) } = decoder.decode(rest).unwrap() {
            rest = &rest[consumed..];
        }
        decoder.finish().is_ok()
    });
    // Only the end of the stream itself is an end: after it the vmdesc may be missing.
    assert_eq!(ends.collect::<Vec<_>>(), [stream.len() - 5 - 3]);
}
