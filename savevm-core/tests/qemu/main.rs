// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Migrations in QEMU's format between two sides of ours, and against peers that break its rules.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/guest.rs"]
mod guest;
mod hostile;
mod memory;
mod pages;

use core::time::Duration;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread;

use common::{devices, ports};
use savevm_core::qemu::source::{Part, Ready};
use savevm_core::qemu::target::Loaded;
use savevm_core::qemu::{
    Acks, Agreement, DeviceState, LoadOptions, SaveOptions, SourceMachine, StreamError, TargetMachine, load, save,
};
use savevm_core::sim::{SimDevice, SimPort};
use savevm_core::{Cause, Device, Hooks, MigrationError, Outcome};
use stream_codec::qemu::{ConfigState, Extent, Item, MultifdItem, Piece, SectionHeader, SectionKind};
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
        let loading = scope
            .spawn(move || load(theirs, machine, main_there, Some(back), there, &load_options).and_then(Loaded::run));
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
