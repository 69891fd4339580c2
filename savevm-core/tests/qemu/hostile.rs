// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Peers that break the rules.

use core::time::Duration;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;

use savevm_core::qemu::target::Loaded;
use savevm_core::qemu::{Acks, Agreement, DeviceState, LoadOptions, StreamError, idstr, load, save};
use savevm_core::{Cause, MigrationError};
use stream_codec::qemu::{
    Command, DeviceStateHeader, Extent, InitialPacket, Item, MultifdItem, Piece, RamPacket, RamRecord, ReturnPathItem,
    SectionHeader, SectionKind, VfioPacketHeader, VfioRecord,
};
use vfio_mig_fsm::State;

use super::{Machine, PLAIN, Taken, load_options, pair, save_options, sets, states};

/// A source that says what it is told to: `script` writes the main stream and the channels.
fn against(
    options: &LoadOptions,
    channels: usize,
    script: impl FnOnce(&mut UnixStream, &mut [UnixStream]) + Send,
) -> (Taken, Vec<u8>, Machine) {
    let (_, mut theirs) = sets(&["model=plain caps=7 initial=1KiB stop=1KiB"]);
    let mut machine = Machine::default();
    let (mut main, main_there) = pair();
    let back = main_there.try_clone().unwrap();
    let (mut here, there): (Vec<_>, Vec<_>) = (0..channels).map(|_| pair()).unzip();
    let (taken, heard) = thread::scope(|scope| {
        let machine = &mut machine;
        let loading = scope.spawn(move || {
            let taken = load(&mut theirs, machine, main_there, Some(back), there, options).and_then(Loaded::run);
            assert_eq!(states(&mut theirs), [State::Running], "reset");
            taken
        });
        for (index, channel) in here.iter_mut().enumerate() {
            let mut bytes = Vec::new();
            InitialPacket { uuid: [0; 16], channel_id: index as u8 }.encode(&mut bytes);
            channel.write_all(&bytes).unwrap();
        }
        script(&mut main, &mut here);
        let taken = loading.join().unwrap();
        let mut heard = Vec::new();
        let mut buffer = [0; 512];
        while let Ok(count @ 1..) = main.read(&mut buffer) {
            heard.extend_from_slice(&buffer[..count]);
        }
        (taken, heard)
    });
    (taken, heard, machine)
}

fn put(stream: &mut UnixStream, items: &[Item<'_>]) {
    let mut bytes = Vec::new();
    items.iter().for_each(|item| item.encode(&mut bytes).unwrap());
    // A target that has given up has hung up.
    let _ = stream.write_all(&bytes);
}

fn header(idstr: &str) -> SectionHeader<'_> {
    SectionHeader { kind: SectionKind::Full, id: 9, idstr, instance_id: 0, version_id: 1, extent: Extent::Format }
}

fn section(kind: SectionKind, idstr: &str) -> Item<'_> {
    Item::Section(SectionHeader { kind, ..header(idstr) })
}

fn start(stream: &mut UnixStream) {
    let name = idstr("d0");
    put(
        stream,
        &[
            Item::FileHeader,
            Item::Configuration { machine: "none" },
            Item::Command(Command::OpenReturnPath),
            Item::Command(Command::Ping(1)),
            section(SectionKind::Start, &name),
            Item::Vfio(VfioRecord::Setup),
            Item::Vfio(VfioRecord::EndOfState),
            Item::Footer { id: 9 },
        ],
    );
}

fn packet(channel: &mut UnixStream, index: u32, bytes: &[u8]) {
    let name = idstr("d0");
    let items = [
        MultifdItem::DeviceState(DeviceStateHeader::new(&name, 0, 12 + bytes.len() as u32)),
        MultifdItem::VfioPacket(VfioPacketHeader { index, is_config: false }),
        MultifdItem::DeviceBytes(Piece { position: 0, length: bytes.len() as u64, bytes }),
    ];
    let mut encoded = Vec::new();
    items.iter().for_each(|item| item.encode(&mut encoded).unwrap());
    let _ = channel.write_all(&encoded);
}

fn heard(items: &[ReturnPathItem<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    items.iter().for_each(|item| item.encode(&mut bytes).unwrap());
    bytes
}

#[test]
fn a_packet_far_ahead_is_refused_and_costs_nothing() {
    let options = load_options(Agreement::new(Acks::Off, DeviceState::Multifd));
    let (taken, said, _) = against(&options, 1, |main, channels| {
        start(main);
        put(main, &[Item::Command(Command::SwitchoverStart)]);
        // Without an open return path there would be nobody to tell.
        thread::sleep(Duration::from_millis(200));
        packet(&mut channels[0], 0xffff_fffe, b"x");
    });
    let error = taken.unwrap_err();
    let Cause::Qemu(StreamError::Overflow { index, next, held_bytes, .. }) = error.cause else { panic!("{error}") };
    assert_eq!((index, next, held_bytes), (0xffff_fffe, 0, 0));
    assert_eq!(said, heard(&[ReturnPathItem::Pong { value: 1 }, ReturnPathItem::Shut { status: 1 }]));
}

#[test]
fn packets_that_never_become_next_do_not_fill_the_memory() {
    let mut options = load_options(Agreement::new(Acks::Off, DeviceState::Multifd));
    options.reorder_bytes_max = 100 << 10;
    let (taken, _, _) = against(&options, 2, |main, channels| {
        start(main);
        put(main, &[Item::Command(Command::SwitchoverStart)]);
        for index in 1..60 {
            packet(&mut channels[index as usize % 2], index, &[7; 10 << 10]);
        }
    });
    let error = taken.unwrap_err();
    let Cause::Qemu(StreamError::Overflow { next: 0, held_bytes, bytes_max, .. }) = error.cause else {
        panic!("{error}")
    };
    assert!(held_bytes <= bytes_max && bytes_max == 100 << 10, "{held_bytes}");
    assert!(error.to_string().contains("packet 0 is missing"), "{error}");
}

#[test]
fn packets_wait_for_what_comes_before_on_the_main_connection() {
    let options = load_options(Agreement::new(Acks::Off, DeviceState::Multifd));
    let (taken, _, _) = against(&options, 1, |main, channels| {
        packet(&mut channels[0], 0, b"late");
        thread::sleep(Duration::from_millis(50));
        start(main);
        put(main, &[section(SectionKind::Part, ""), Item::Vfio(VfioRecord::Data { length: 5 })]);
        let _ = main.write_all(b"early");
        put(main, &[Item::Vfio(VfioRecord::EndOfState), Item::Footer { id: 9 }]);
        put(main, &[Item::Command(Command::SwitchoverStart), Item::EndOfStream]);
        put(main, &[Item::Vmdesc { length: 0 }]);
    });
    // The model refuses the bytes, which shows that they came: and "early" came before, for nothing had been written until then.
    let error = taken.unwrap_err();
    assert!(error.to_string().contains("END section"), "{error}");
}

#[test]
fn what_a_target_does_not_have_or_cannot_do_is_refused() {
    let options = load_options(Agreement::new(Acks::Once, DeviceState::Main));
    let other = idstr("0000:00:1f.0");
    let data = [Item::Vfio(VfioRecord::Data { length: 1 })];
    let cases: [(&[Item<'_>], &str); 5] = [
        (&[Item::Section(SectionHeader { id: 10, ..header(&other) })], "the source has a device '0000:00:1f.0/vfio'"),
        (&[Item::Command(Command::PostcopyAdvise(None))], "switch postcopy-ram off"),
        (&[section(SectionKind::End, ""), data[0], Item::EndOfStream], "END"),
        (&[Item::EndOfStream, Item::Vmdesc { length: 0 }], "no END section of d0"),
        (&[section(SectionKind::Part, ""), Item::Vfio(VfioRecord::Config)], "Config in a section of kind PART"),
    ];
    for (items, reason) in cases {
        let (taken, said, _) = against(&options, 0, |main, _| {
            start(main);
            put(main, items);
            main.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let error = taken.unwrap_err();
        assert!(error.to_string().contains(reason) || reason == "END", "{reason}: {error}");
        assert!(said.ends_with(&heard(&[ReturnPathItem::Shut { status: 1 }])), "{reason}: {said:02x?}");
    }
}

#[test]
fn one_acknowledgement_too_many_is_noticed() {
    let (mut ours, _) = sets(&[PLAIN]);
    let agreement = Agreement::new(Acks::PerRequest, DeviceState::Main);
    let (main, mut there) = pair();
    let error = thread::scope(|scope| {
        scope.spawn(move || {
            let said =
                [ReturnPathItem::Pong { value: 1 }, ReturnPathItem::SwitchoverAck, ReturnPathItem::SwitchoverAck];
            there.write_all(&heard(&said)).unwrap();
            let mut sink = [0; 4096];
            while !matches!(there.read(&mut sink), Ok(0)) {}
        });
        let (answers, none) = (main.try_clone().unwrap(), Vec::<UnixStream>::new());
        save(&mut ours, &mut Machine::default(), main, Some(answers), none, &save_options(agreement)).map(drop)
    });
    let error = error.unwrap_err();
    assert!(error.to_string().contains("has acknowledged 2 times"), "{error}");
    assert_eq!(states(&mut ours), [State::Running]);
}

/// A source whose target answers everything, and ends with `last` once it has the end of the stream.
fn to_the_end(last: &[ReturnPathItem<'_>]) -> (MigrationError, State) {
    let (mut ours, _) = sets(&[PLAIN]);
    let (main, mut there) = pair();
    let error = thread::scope(|scope| {
        scope.spawn(move || {
            there.write_all(&heard(&[ReturnPathItem::Pong { value: 1 }, ReturnPathItem::Pong { value: 2 }])).unwrap();
            let (mut sink, mut received) = ([0; 4096], Vec::new());
            while !received.ends_with(b"\x06\0\0\0\x02{}") {
                match there.read(&mut sink) {
                    Ok(0) => panic!("the source hung up before the end"),
                    Ok(count) => received.extend_from_slice(&sink[..count]),
                    Err(_) => {}
                }
            }
            there.write_all(&heard(last)).unwrap();
        });
        let (answers, none) = (main.try_clone().unwrap(), Vec::<UnixStream>::new());
        let mut machine = Machine::default();
        let saved = save(&mut ours, &mut machine, main, Some(answers), none, &save_options(Agreement::default()));
        saved.unwrap().commit().unwrap_err()
    });
    (error, states(&mut ours)[0])
}

#[test]
fn a_source_whose_target_falls_silent_at_the_end_stays_stopped() {
    let (error, state) = to_the_end(&[]);
    assert!(error.committed && error.to_string().contains("ask the target"), "{error}");
    assert_eq!(state, State::Stop);
}

#[test]
fn a_source_whose_target_fails_at_the_end_runs_on() {
    let (error, state) = to_the_end(&[ReturnPathItem::Shut { status: 1 }]);
    assert!(!error.committed && matches!(error.cause, Cause::Qemu(StreamError::Refused { status: 1 })), "{error}");
    assert_eq!(state, State::Running);
}

#[test]
fn pages_wait_for_their_synchronisation_point_and_device_state_does_not() {
    let options = load_options(Agreement::new(Acks::Off, DeviceState::Multifd));
    let (taken, _, machine) = against(&options, 2, |main, channels| {
        let sync = MultifdItem::Ram(RamPacket::sync(1, 128));
        let pages =
            MultifdItem::Ram(RamPacket { is_sync: false, zero_pages: 1, pages_alloc: 1, ..RamPacket::sync(2, 128) });
        let mut bytes = Vec::new();
        sync.encode(&mut bytes).unwrap();
        pages.encode(&mut bytes).unwrap();
        channels[0].write_all(&bytes).unwrap();
        start(main);
        thread::sleep(Duration::from_millis(50));
        let header = SectionHeader {
            kind: SectionKind::Start,
            id: 2,
            idstr: "ram",
            instance_id: 0,
            version_id: 4,
            extent: Extent::Format,
        };
        put(main, &[Item::Section(header), Item::Ram(RamRecord::MemSize { total_bytes: 0 })]);
        put(main, &[Item::Ram(RamRecord::MultifdFlush), Item::Ram(RamRecord::EndOfSection), Item::Footer { id: 2 }]);
        thread::sleep(Duration::from_millis(50));
        let mut second = Vec::new();
        sync.encode(&mut second).unwrap();
        channels[1].write_all(&second).unwrap();
        thread::sleep(Duration::from_millis(100));
        main.shutdown(std::net::Shutdown::Write).unwrap();
    });
    taken.unwrap_err();
    let given = machine.given.lock().unwrap();
    let position =
        |what: &str| given.iter().position(|text| text.contains(what)).unwrap_or_else(|| panic!("{given:?}"));
    assert!(position("MemSize") < position("packet 2 on 0"), "{given:?}");
}
