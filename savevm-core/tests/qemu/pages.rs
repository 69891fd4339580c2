// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Sources that send guest memory which does not fit, or in ways that were not agreed on; and memory that cannot be read.

use core::time::Duration;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::thread;

use savevm_core::dirty::RegionTable;
use savevm_core::qemu::target::Loaded;
use savevm_core::qemu::{
    Acks, Agreement, BlockDifference, DeviceState, RamError, SourceMemory, StreamError, TargetMemory, load_with_memory,
    save_with_memory,
};
use savevm_core::ram::{Access, FileMemory, GuestMemory, MemoryError, Source};
use savevm_core::sim::SimPort;
use savevm_core::{Cause, MigrationError};
use stream_codec::qemu::{
    Capabilities, Compression, ConfigurationSubsection, Extent, InitialPacket, Item, MappedRamHeader, MultifdItem,
    Piece, RamBlock, RamPacket, RamPage, RamRecord, SectionHeader, SectionKind,
};

use super::guest::{Guest, PAGE, contents, memory, region};
use super::{Machine, Taken, load_options, pair, save_options};

/// Two blocks of four pages, with something in every byte.
fn filled() -> FileMemory {
    let regions = [region("one", 4, PAGE), region("two", 2, 2 * PAGE)];
    let memory = memory(&regions);
    for (index, region) in regions.iter().enumerate() {
        memory.file(index).unwrap().write_all_at(&vec![7; region.bytes as usize], 0).unwrap();
    }
    memory
}

/// What a source says on one channel and on the main connection, with pauses there, and why that is refused.
fn against(main_says: &[&[u8]], channel_says: &[u8]) -> (MigrationError, Vec<Vec<u8>>) {
    let (taken, memory) = listen(main_says, channel_says);
    (taken.map(drop).unwrap_err(), memory)
}

/// The same, and what becomes of it.
fn listen(main_says: &[&[u8]], channel_says: &[u8]) -> (Taken, Vec<Vec<u8>>) {
    let there = filled();
    let (mut main, main_there) = pair();
    let (mut channel, channel_there) = pair();
    let taken = thread::scope(|scope| {
        let there = &there;
        let loading = scope.spawn(move || {
            let agreement = Agreement::new(Acks::Off, DeviceState::Main);
            let (none, mut machine): (&mut [SimPort], _) = (&mut [], Machine::default());
            let (options, memory) = (load_options(agreement), TargetMemory::new(there).unwrap());
            let (back, channels) = (None::<UnixStream>, vec![channel_there]);
            load_with_memory(none, &mut machine, memory, main_there, back, channels, &options).and_then(Loaded::run)
        });
        let mut bytes = Vec::new();
        InitialPacket { uuid: [0; 16], channel_id: 0 }.encode(&mut bytes);
        bytes.extend_from_slice(channel_says);
        // A target that has given up has hung up.
        let _ = channel.write_all(&bytes);
        for (index, said) in main_says.iter().enumerate() {
            thread::sleep(Duration::from_millis(if index == 0 { 0 } else { 300 }));
            let _ = main.write_all(said);
        }
        let _ = main.shutdown(std::net::Shutdown::Write);
        loading.join().unwrap()
    });
    (taken, contents(&there))
}

fn bytes(items: &[Item<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    items.iter().for_each(|item| item.encode(&mut bytes).unwrap());
    bytes
}

fn packets(items: &[MultifdItem<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    items.iter().for_each(|item| item.encode(&mut bytes).unwrap());
    bytes
}

fn open(kind: SectionKind) -> Item<'static> {
    let (idstr, instance_id, version_id, extent) = ("ram", 0, 4, Extent::Format);
    Item::Section(SectionHeader { kind, id: 2, idstr, instance_id, version_id, extent })
}

fn block(name: &str, used_bytes: u64) -> Item<'_> {
    Item::Ram(RamRecord::Block(RamBlock { name, used_bytes, page_bytes: None, address: None }))
}

const END: [Item<'static>; 2] = [Item::Ram(RamRecord::EndOfSection), Item::Footer { id: 2 }];
const FLUSH: Item<'static> = Item::Ram(RamRecord::MultifdFlush);
const ALL: u64 = 4 * PAGE;

/// A START section with this list.
fn list(total_bytes: u64, blocks: &[(&str, u64)]) -> Vec<u8> {
    let mut said = bytes(&[Item::FileHeader, Item::Configuration { machine: "none" }, open(SectionKind::Start)]);
    said.extend(bytes(&[Item::Ram(RamRecord::MemSize { total_bytes })]));
    blocks.iter().for_each(|(name, used_bytes)| said.extend(bytes(&[block(name, *used_bytes)])));
    said.extend(bytes(&END));
    said
}

fn whole_list() -> Vec<u8> {
    list(2 * ALL, &[("two", ALL), ("one", ALL)])
}

fn ram_error(error: &MigrationError) -> &RamError {
    match &error.cause {
        Cause::Qemu(StreamError::Ram(error)) => error,
        _ => panic!("{error}"),
    }
}

#[test]
fn blocks_that_differ_are_all_named_before_anything_is_written() {
    let name = |name: &str| name.to_owned();
    let too_much = |source_bytes| BlockDifference::TooMuch { source_bytes, target_bytes: 2 * ALL };
    let missing = |block| BlockDifference::Missing { block: name(block) };
    let cases: [(Vec<u8>, Vec<BlockDifference>); 6] = [
        (
            list(3 * ALL, &[("one", ALL), ("two", ALL), ("three", ALL)]),
            vec![too_much(3 * ALL), BlockDifference::Unknown { block: name("three") }],
        ),
        (
            list(2 * ALL, &[("one", ALL), ("other", ALL)]),
            vec![BlockDifference::Unknown { block: name("other") }, missing("two")],
        ),
        (
            list(2 * ALL + PAGE, &[("one", ALL + PAGE), ("two", ALL)]),
            vec![
                too_much(2 * ALL + PAGE),
                BlockDifference::Size { block: name("one"), source_bytes: ALL + PAGE, target_bytes: ALL },
            ],
        ),
        (
            list(2 * ALL, &[("one", ALL), ("one", ALL)]),
            vec![BlockDifference::Twice { block: name("one") }, missing("two")],
        ),
        (list(ALL, &[("one", ALL)]), vec![missing("two")]),
        (list(0, &[]), vec![missing("one"), missing("two")]),
    ];
    for (said, differences) in cases {
        let (error, memory) = against(&[&said], &[]);
        assert_eq!(*ram_error(&error), RamError::Differ(differences.clone()));
        differences.iter().for_each(|it| assert!(error.to_string().contains(&it.to_string()), "{error}"));
        assert_eq!(memory, [vec![7; 4 * PAGE as usize], vec![7; 4 * PAGE as usize]]);
    }
}

#[test]
fn what_was_not_agreed_on_is_refused_in_a_sentence() {
    let after_list = |items: &[Item<'_>]| [whole_list(), bytes(items)].concat();
    let part = open(SectionKind::Part);
    let page = |block, offset| RamPage { block, offset, same_block: false };
    let page_bits = [
        Item::FileHeader,
        Item::Configuration { machine: "none" },
        Item::ConfigurationSubsection(ConfigurationSubsection::TargetPageBits(14)),
        open(SectionKind::Start),
    ];
    let with_capability = |encoded, block: RamRecord<'_>, more: &[Item<'_>]| {
        let capabilities = ConfigurationSubsection::Capabilities(Capabilities { encoded });
        let start =
            [Item::FileHeader, Item::Configuration { machine: "none" }, Item::ConfigurationSubsection(capabilities)];
        let list = [open(SectionKind::Start), Item::Ram(RamRecord::MemSize { total_bytes: 2 * ALL }), Item::Ram(block)];
        [bytes(&start), bytes(&list), bytes(more)].concat()
    };
    let entry = |address| RamRecord::Block(RamBlock { name: "one", used_bytes: ALL, page_bytes: None, address });
    let header = MappedRamHeader { page_bytes: PAGE, bitmap_offset: 1 << 16, pages_offset: 1 << 20 };
    let cases: [(Vec<u8>, RamError, &str); 8] = [
        (
            with_capability(b"\x0fx-ignore-shared", entry(Some(0)), &[]),
            RamError::IgnoreShared,
            "switch the capability x-ignore-shared off",
        ),
        (
            with_capability(b"\x0amapped-ram", entry(None), &[Item::Ram(RamRecord::MappedRam(header))]),
            RamError::MappedRam,
            "switch the capability mapped-ram off",
        ),
        (bytes(&page_bits), RamError::PageSize { page_bits: 14 }, "pages of 2^14 bytes"),
        (
            after_list(&[part, Item::Ram(RamRecord::MemSize { total_bytes: 0 })]),
            RamError::ListTwice,
            "lists its RAM blocks twice",
        ),
        (
            after_list(&[part, Item::Ram(RamRecord::ZeroPage { page: page("two", PAGE), fill: 3 })]),
            RamError::Fill { block: "two".into(), offset: PAGE, fill: 3 },
            "full of 0x03",
        ),
        (
            after_list(&[part, Item::Ram(RamRecord::XbzrlePage { page: page("one", 0), length: 1 })]),
            RamError::Xbzrle,
            "switch the capability xbzrle off",
        ),
        (
            [whole_list(), bytes(&[Item::EndOfStream, Item::Vmdesc { length: 0 }])].concat(),
            RamError::NoSection { what: "END" },
            "no END section of ram",
        ),
        (
            bytes(&[
                Item::FileHeader,
                Item::Configuration { machine: "none" },
                Item::EndOfStream,
                Item::Vmdesc { length: 0 },
            ]),
            RamError::NoSection { what: "START" },
            "no START section of ram",
        ),
    ];
    for (said, expected, reason) in cases {
        let (error, memory) = against(&[&said], &[]);
        assert_eq!(*ram_error(&error), expected);
        assert!(error.to_string().contains(reason), "{error}");
        assert_eq!(memory, [vec![7; 4 * PAGE as usize], vec![7; 4 * PAGE as usize]]);
    }
}

/// A packet of these pages, and as much behind it.
fn packet(block: &str, normal: &[u64], zero: &[u64], change: impl FnOnce(&mut RamPacket<'_>)) -> Vec<u8> {
    let offsets: Vec<u8> = normal.iter().chain(zero).flat_map(|at| at.to_be_bytes()).collect();
    let payload = vec![1; normal.len() * PAGE as usize];
    let mut packet = RamPacket {
        is_sync: false,
        pages_alloc: 128,
        normal_pages: normal.len() as u32,
        zero_pages: zero.len() as u32,
        payload_bytes: payload.len() as u32,
        block,
        offsets: &offsets,
        ..RamPacket::sync(1, 128)
    };
    change(&mut packet);
    let rest = MultifdItem::RamBytes(Piece { position: 0, length: payload.len() as u64, bytes: &payload });
    packets(&[MultifdItem::Ram(packet), rest])
}

fn sync() -> Vec<u8> {
    packets(&[MultifdItem::Ram(RamPacket::sync(0, 128))])
}

/// The list, with a synchronisation point, then an END section with another.
fn main_with_points() -> Vec<u8> {
    let mut said = whole_list();
    let end: Vec<u8> = bytes(&END);
    said.truncate(said.len() - end.len());
    said.extend(bytes(&[FLUSH]));
    said.extend(end);
    said.extend(bytes(&[open(SectionKind::End), FLUSH]));
    said.extend(bytes(&END));
    said
}

#[test]
fn pages_on_channels_that_do_not_fit_are_refused_and_none_of_the_packet_is_written() {
    let no_page = |block: &str, offset| RamError::NoPage { block: block.into(), offset };
    let cases: [(Vec<u8>, RamError); 7] = [
        (packet("three", &[0], &[], |_| ()), no_page("three", 0)),
        (packet("one", &[0, 4 * PAGE], &[], |_| ()), no_page("one", 4 * PAGE)),
        (packet("one", &[0], &[u64::MAX - 4095], |_| ()), no_page("one", u64::MAX - 4095)),
        (packet("one", &[0, PAGE + 1], &[], |_| ()), no_page("one", PAGE + 1)),
        (packet("one", &[0], &[3 * PAGE + 512], |_| ()), no_page("one", 3 * PAGE + 512)),
        (
            packet("one", &[0, PAGE], &[], |packet| packet.normal_pages = 1),
            RamError::Payload { pages: 1, payload_bytes: 8192 },
        ),
        (
            packet("one", &[0], &[], |packet| packet.compression = Compression::Zstd),
            RamError::Compressed { compression: Compression::Zstd },
        ),
    ];
    for (said, expected) in cases {
        let (error, memory) = against(&[&main_with_points()], &[sync(), said].concat());
        assert_eq!(*ram_error(&error), expected);
        assert_eq!(memory, [vec![7; 4 * PAGE as usize], vec![7; 4 * PAGE as usize]]);
    }
}

#[test]
fn pages_that_come_before_the_list_or_after_the_last_point_are_refused() {
    let early = packet("one", &[0], &[], |_| ());
    let (error, memory) = against(&[&bytes(&[Item::FileHeader]), &[]], &early);
    assert_eq!(*ram_error(&error), RamError::NoList);
    assert_eq!(memory[0], vec![7; 4 * PAGE as usize]);

    let late = [sync(), packet("one", &[0], &[2 * PAGE], |_| ()), sync(), early].concat();
    let end = bytes(&[Item::EndOfStream, Item::Vmdesc { length: 0 }]);
    let (error, memory) = against(&[&main_with_points(), &end], &late);
    assert_eq!(*ram_error(&error), RamError::Unsynchronised { channel: 0 });
    let page = |byte| vec![byte; PAGE as usize];
    assert_eq!(memory[0], [page(1), page(7), page(0), page(7)].concat());
}

#[test]
fn a_synchronisation_point_may_have_pages_that_come_before_it() {
    let first = packet("one", &[0, PAGE], &[3 * PAGE], |_| ());
    let last = packet("two", &[3 * PAGE, 0], &[], |packet| packet.is_sync = true);
    let end = bytes(&[Item::EndOfStream, Item::Vmdesc { length: 0 }]);
    let (taken, memory) = listen(&[&main_with_points(), &end], &[sync(), first, last].concat());
    let ram = taken.unwrap().ram;
    assert_eq!((ram.normal_pages, ram.zero_pages), (4, 1));
    let page = |byte| vec![byte; PAGE as usize];
    assert_eq!(memory[0], [page(1), page(1), page(7), page(0)].concat());
    assert_eq!(memory[1], [page(1), page(7), page(7), page(1)].concat());
}

/// Memory of which one page cannot be read.
struct Broken(FileMemory);

impl GuestMemory for Broken {
    fn regions(&self) -> &RegionTable {
        self.0.regions()
    }

    fn read(&self, region: usize, offset: u64, buffer: &mut [u8]) -> Result<(), MemoryError> {
        if offset <= 2 * PAGE && 2 * PAGE < offset + buffer.len() as u64 {
            return Err(MemoryError::new("one", Access::Read, (2 * PAGE, PAGE), Some(5), "the page is poisoned"));
        }
        self.0.read(region, offset, buffer)
    }

    fn write(&self, region: usize, offset: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        self.0.write(region, offset, bytes)
    }
}

#[test]
fn memory_that_cannot_be_read_ends_the_attempt_and_is_dirty_again() {
    for channels in [0, 2] {
        let broken = Broken(filled());
        let guest = Guest::new(broken.regions().regions());
        let mut tracking = guest.tracking();
        let (main, _main_there) = pair();
        let (channels, _there): (Vec<_>, Vec<_>) = (0..channels).map(|_| pair()).unzip();
        let memory = SourceMemory::new(Source::new(&broken, &mut tracking).unwrap()).unwrap();
        let (none, mut machine): (&mut [SimPort], _) = (&mut [], Machine::default());
        let options = save_options(Agreement::default());
        let back = None::<UnixStream>;
        let saved = save_with_memory(none, &mut machine, memory, main, back, channels, &options).map(drop);
        let error = saved.unwrap_err();
        assert!(error.to_string().contains("the page is poisoned"), "{error}");
        assert_eq!(tracking.ledger().dirty_bytes(), 2 * ALL);
    }
}
