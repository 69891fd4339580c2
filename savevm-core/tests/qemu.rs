// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Migrations in QEMU's format between two sides of ours, and against peers that break its rules.

#![allow(clippy::arithmetic_side_effects, clippy::as_conversions, clippy::expect_used, clippy::unwrap_used)]

mod common;

use core::time::Duration;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread;

use common::{devices, ports};
use savevm_core::qemu::source::{Part, Ready};
use savevm_core::qemu::target::Loaded;
use savevm_core::qemu::{
    Acks, Agreement, DeviceState, LoadOptions, SaveOptions, SourceMachine, StreamError, TargetMachine, idstr, load, save,
};
use savevm_core::sim::{SimDevice, SimPort};
use savevm_core::{Cause, Device, Hooks, MigrationError, Outcome};
use stream_codec::qemu::{
    Command, ConfigState, DeviceStateHeader, Extent, InitialPacket, Item, MultifdItem, Piece, RamPacket, RamRecord,
    ReturnPathItem, SectionHeader, SectionKind, VfioPacketHeader, VfioRecord,
};
use vfio_mig_fsm::State;

const CONFIG: &[u8] = b"what a VMM knows of a device";

/// A machine with nothing but a name, that notes what it is given.
#[derive(Default)]
struct Machine {
    given: Arc<Mutex<Vec<String>>>,
    refuses_config: bool,
    configs: usize,
}

impl Hooks for Machine {}

impl SourceMachine for Machine {
    fn write(&mut self, part: Part, put: &mut dyn FnMut(&Item<'_>) -> Result<(), String>) -> Result<(), String> {
        match part {
            Part::Configuration => put(&Item::Configuration { machine: "none" }),
            Part::Full => {
                let (kind, extent) = (SectionKind::Full, Extent::FooterSearch);
                let header = SectionHeader { kind, id: 7, idstr: "timer", instance_id: 0, version_id: 2, extent };
                put(&Item::Section(header))?;
                put(&Item::Payload(b"tick"))?;
                put(&Item::Footer { id: 7 })
            }
            Part::Description => {
                put(&Item::Vmdesc { length: 2 })?;
                put(&Item::VmdescBytes(Piece { position: 0, length: 2, bytes: b"{}" }))
            }
            _ => Ok(()),
        }
    }

    fn config(&mut self, _: usize) -> Result<Vec<u8>, String> {
        Ok(CONFIG.to_vec())
    }
}

impl TargetMachine for Machine {
    fn item(&mut self, item: &Item<'_>) -> Result<(), String> {
        let text = match item {
            Item::Configuration { machine } => (*machine).to_owned(),
            Item::Section(header) => header.idstr.to_owned(),
            Item::Payload(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Item::Ram(record) => format!("{record:?}"),
            _ => return Ok(()),
        };
        self.given.lock().unwrap().push(text);
        Ok(())
    }

    fn pages(&mut self, channel: usize, item: &MultifdItem<'_>) -> Result<(), String> {
        if let MultifdItem::Ram(packet) = item {
            self.given.lock().unwrap().push(format!("packet {} on {channel}", packet.packet_number));
        }
        Ok(())
    }

    fn config(&mut self, _: usize, state: &ConfigState<'_>) -> Result<(), String> {
        if self.refuses_config {
            return Err("byte 8 differs".into());
        }
        assert_eq!(*state, ConfigState::parse(CONFIG));
        self.configs += 1;
        Ok(())
    }
}

fn pair() -> (UnixStream, UnixStream) {
    let (left, right) = UnixStream::pair().unwrap();
    for end in [&left, &right] {
        end.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        end.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
    }
    (left, right)
}

fn save_options(agreement: Agreement) -> SaveOptions {
    let mut options = SaveOptions::new(agreement);
    options.limits.chunk_bytes_max = 64 << 10;
    options.limits.silence_max = Duration::from_secs(3);
    options
}

fn load_options(agreement: Agreement) -> LoadOptions {
    let mut options = LoadOptions::new(agreement);
    options.limits.chunk_bytes_max = 64 << 10;
    options.limits.silence_max = Duration::from_millis(800);
    options
}

type Saved = Result<savevm_core::qemu::source::Report, MigrationError>;
type Taken = Result<savevm_core::qemu::target::Report, MigrationError>;

/// A migration between two sides that are configured as given.
fn migrate(
    (ours, theirs): (&mut [SimPort], &mut [SimPort]),
    (save_options, load_options): (SaveOptions, LoadOptions),
    channels: usize,
    machine: &mut Machine,
) -> (Saved, Taken) {
    let (main, main_there) = pair();
    let back = main_there.try_clone().unwrap();
    let (here, there): (Vec<_>, Vec<_>) = (0..channels).map(|_| pair()).unzip();
    thread::scope(|scope| {
        let loading = scope.spawn(move || {
            load(theirs, machine, main_there, Some(back), there, &load_options).and_then(Loaded::run)
        });
        let answers = main.try_clone().unwrap();
        let mut around = Machine::default();
        let saved = save(ours, &mut around, main, Some(answers), here, &save_options);
        let saved = saved.and_then(Ready::commit);
        (saved, loading.join().unwrap())
    })
}

const PLAIN: &str = "model=plain caps=7 initial=100KiB dirty=20KiB stop=1MiB";

fn sets(configs: &[&str]) -> (Vec<SimPort>, Vec<SimPort>) {
    let seeded = |first: usize| -> Vec<SimDevice> {
        let texts: Vec<String> =
            configs.iter().enumerate().map(|(index, config)| format!("{config} seed={}", first + index)).collect();
        devices(&texts.iter().map(String::as_str).collect::<Vec<_>>())
    };
    (ports(&seeded(1)), ports(&seeded(101)))
}

fn states(ports: &mut [SimPort]) -> Vec<State> {
    ports.iter_mut().map(|port| port.state().unwrap()).collect()
}

#[test]
fn everything_arrives_over_any_connections() {
    for (device_state, channels) in [(DeviceState::Main, 0), (DeviceState::Multifd, 1), (DeviceState::Multifd, 3)] {
        for acks in [Acks::Off, Acks::Once, Acks::PerRequest] {
            let configs = [PLAIN, "model=plain caps=3 stop=300KiB", "model=mtty ports=1"];
            let configs = if channels == 1 { &configs[..1] } else { &configs[..2] };
            let (mut ours, mut theirs) = sets(configs);
            let mut machine = Machine::default();
            let agreement = Agreement::new(acks, device_state);
            let options = (save_options(agreement), load_options(agreement));
            let (saved, taken) = migrate((&mut ours, &mut theirs), options, channels, &mut machine);
            let (saved, taken) = (saved.unwrap(), taken.unwrap());
            assert_eq!(saved.devices.len(), configs.len());
            for (sent, received) in saved.devices.iter().zip(&taken.devices) {
                assert_eq!((sent.sum, sent.precopy_bytes), (received.sum, received.precopy_bytes));
            }
            assert!(saved.devices[0].precopy_bytes >= 100 << 10);
            let expected = u32::from(acks != Acks::Off);
            assert_eq!((saved.acks_received, taken.acks_sent), (expected, expected), "{acks:?}");
            assert!(saved.confirmed && taken.source_told);
            assert_eq!(states(&mut ours), vec![State::Stop; configs.len()]);
            assert_eq!(states(&mut theirs), vec![State::Running; configs.len()]);
            assert_eq!(*machine.given.lock().unwrap(), ["none", "timer", "tick"]);
            assert_eq!(machine.configs, configs.len());
        }
    }
}

#[test]
fn a_device_that_starts_anew_is_acknowledged_again() {
    // Four chunks, asked for before and after each: it starts anew just when the target has been told of the end.
    let (mut ours, mut theirs) = sets(&["model=plain caps=7 initial=200KiB dirty=20KiB stop=1MiB reinit-after=9"]);
    let agreement = Agreement::new(Acks::PerRequest, DeviceState::Main);
    let options = (save_options(agreement), load_options(agreement));
    let (saved, taken) = migrate((&mut ours, &mut theirs), options, 0, &mut Machine::default());
    assert_eq!((saved.unwrap().acks_received, taken.unwrap().acks_sent), (2, 2));
}

#[test]
fn a_target_that_refuses_leaves_the_source_running() {
    for device_state in [DeviceState::Main, DeviceState::Multifd] {
        let (mut ours, mut theirs) = sets(&[PLAIN]);
        let mut machine = Machine { refuses_config: true, ..Machine::default() };
        let agreement = Agreement::new(Acks::Once, device_state);
        let options = (save_options(agreement), load_options(agreement));
        let channels = usize::from(device_state == DeviceState::Multifd);
        let (saved, taken) = migrate((&mut ours, &mut theirs), options, channels, &mut machine);
        let (saved, taken) = (saved.unwrap_err(), taken.unwrap_err());
        assert!(taken.to_string().contains("byte 8 differs"), "{taken}");
        assert!(matches!(saved.cause, Cause::Qemu(StreamError::Refused { status: 1 })), "{saved}");
        assert!(!saved.committed && matches!(saved.devices[0].outcome, Outcome::Returned(State::Running)));
        assert!(matches!(taken.devices[0].outcome, Outcome::Reset { .. }));
        assert_eq!((states(&mut ours), states(&mut theirs)), (vec![State::Running], vec![State::Running]));
    }
}

#[test]
fn sides_that_do_not_agree_say_on_what() {
    let main = |acks| Agreement::new(acks, DeviceState::Main);
    let multifd = Agreement::new(Acks::Off, DeviceState::Multifd);
    for (source, target, channels, reason) in [
        (main(Acks::PerRequest), main(Acks::Off), 0, "switch switchover-ack on here"),
        (multifd, main(Acks::Off), 2, "x-migration-multifd-transfer alike"),
        (main(Acks::Off), multifd, 2, "x-migration-multifd-transfer alike"),
    ] {
        let (mut ours, mut theirs) = sets(&[PLAIN]);
        let options = (save_options(source), load_options(target));
        let (saved, taken) = migrate((&mut ours, &mut theirs), options, channels, &mut Machine::default());
        let (saved, taken) = (saved.unwrap_err(), taken.unwrap_err());
        assert!(taken.to_string().contains(reason), "{taken}");
        assert!(!saved.committed, "{saved}");
        assert_eq!(states(&mut ours), [State::Running]);
    }
}

#[test]
fn one_that_is_dropped_at_the_end_is_aborted() {
    let (mut ours, mut theirs) = sets(&[PLAIN]);
    let agreement = Agreement::default();
    let (main, main_there) = pair();
    let back = main_there.try_clone().unwrap();
    let taken = thread::scope(|scope| {
        let theirs = &mut theirs;
        let loading = scope.spawn(move || {
            let options = load_options(agreement);
            let none: Vec<UnixStream> = Vec::new();
            load(theirs, &mut Machine::default(), main_there, Some(back), none, &options).and_then(Loaded::run)
        });
        let answers = main.try_clone().unwrap();
        let none: Vec<UnixStream> = Vec::new();
        let mut machine = Machine::default();
        let ready = save(&mut ours, &mut machine, main, Some(answers), none, &save_options(agreement)).unwrap();
        assert_eq!(ready.report().devices.len(), 1);
        drop(ready);
        loading.join().unwrap()
    });
    assert!(matches!(taken.unwrap_err().cause, Cause::Qemu(StreamError::Closed { .. })));
    assert_eq!((states(&mut ours), states(&mut theirs)), (vec![State::Running], vec![State::Running]));
}

#[test]
fn through_a_file_and_back() {
    let (mut ours, mut theirs) = sets(&[PLAIN, "model=plain caps=3 stop=5KiB"]);
    let (mut file, none) = (Vec::new(), Vec::<std::io::Sink>::new());
    let options = save_options(Agreement::default());
    let mut machine = Machine::default();
    let saved = save(&mut ours, &mut machine, &mut file, None::<std::io::Empty>, none, &options);
    let saved = saved.and_then(Ready::commit).unwrap();
    assert!(!saved.confirmed, "a file confirms nothing");
    let (options, none) = (load_options(Agreement::default()), Vec::<std::io::Empty>::new());
    for end in [0, 1, 20, 100, file.len() / 2, file.len() - 1] {
        let mut machine = Machine::default();
        let cut = load(&mut theirs, &mut machine, &file[..end], None::<std::io::Sink>, none.clone(), &options);
        let error = cut.map(drop).unwrap_err();
        assert!(matches!(error.cause, Cause::Qemu(StreamError::Closed { .. })), "cut at {end}: {error}");
        assert_eq!(states(&mut theirs), [State::Running; 2]);
    }
    let taken = load(&mut theirs, &mut machine, file.as_slice(), None::<std::io::Sink>, none, &options);
    let taken = taken.and_then(Loaded::run).unwrap();
    assert_eq!(saved.devices, taken.devices);
    assert!(!taken.source_told);
}

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
            let said = [ReturnPathItem::Pong { value: 1 }, ReturnPathItem::SwitchoverAck, ReturnPathItem::SwitchoverAck];
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

#[test]
fn a_source_whose_target_falls_silent_at_the_end_stays_stopped() {
    let (mut ours, _) = sets(&[PLAIN]);
    let (main, mut there) = pair();
    let error = thread::scope(|scope| {
        scope.spawn(move || {
            there.write_all(&heard(&[ReturnPathItem::Pong { value: 1 }, ReturnPathItem::Pong { value: 2 }])).unwrap();
            let (mut sink, mut last) = ([0; 4096], Vec::new());
            while !last.ends_with(b"\x06\0\0\0\x02{}") {
                match there.read(&mut sink) {
                    Ok(0) => panic!("the source hung up before the end"),
                    Ok(count) => last.extend_from_slice(&sink[..count]),
                    Err(_) => {}
                }
            }
        });
        let (answers, none) = (main.try_clone().unwrap(), Vec::<UnixStream>::new());
        let mut machine = Machine::default();
        let saved = save(&mut ours, &mut machine, main, Some(answers), none, &save_options(Agreement::default()));
        saved.unwrap().commit().unwrap_err()
    });
    assert!(error.committed && error.to_string().contains("ask the target"), "{error}");
    assert_eq!(states(&mut ours), [State::Stop]);
}

#[test]
fn pages_wait_for_their_synchronisation_point_and_device_state_does_not() {
    let options = load_options(Agreement::new(Acks::Off, DeviceState::Multifd));
    let (taken, _, machine) = against(&options, 2, |main, channels| {
        let sync = MultifdItem::Ram(RamPacket::sync(1, 128));
        let pages = MultifdItem::Ram(RamPacket { is_sync: false, zero_pages: 1, pages_alloc: 1, ..RamPacket::sync(2, 128) });
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
    let position = |what: &str| given.iter().position(|text| text.contains(what)).unwrap_or_else(|| panic!("{given:?}"));
    assert!(position("MemSize") < position("packet 2 on 0"), "{given:?}");
}
