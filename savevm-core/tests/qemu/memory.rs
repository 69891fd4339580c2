// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guest memory on QEMU's wire, between two sides of ours.

use core::num::NonZeroU64;
use core::time::Duration;
use std::os::unix::fs::FileExt;
use std::thread;

use savevm_core::dirty::{Portion, Region, TrackerState, Tracking};
use savevm_core::qemu::source::{Part, Ready};
use savevm_core::qemu::target::Loaded;
use savevm_core::qemu::{
    Acks, Agreement, DeviceState, RamError, SaveOptions, SourceMachine, SourceMemory, StreamError, TargetMemory,
    load_with_memory, save_with_memory,
};
use savevm_core::ram::{FileMemory, Source};
use savevm_core::sim::SimPort;
use savevm_core::{Cancel, Cause, Hooks, Phase};
use stream_codec::qemu::Item;

use super::guest::{Guest, PAGE, contents, memory, region};
use super::{Machine, PLAIN, Saved, Taken, load_options, pair, save_options, sets, states};

fn regions() -> [Region; 3] {
    [region("pc.ram", 700, PAGE), region("huge", 5, 16 * PAGE), region("/rom@etc/acpi/tables", 1, PAGE)]
}

const PAGES: u64 = 700 + 5 * 16 + 1;

/// The VMM around a guest that runs.
struct Vmm<'g> {
    machine: Machine,
    guest: &'g Guest,
    /// Cancels when this phase begins.
    cancels: Option<(Phase, Cancel)>,
    progress: u64,
    rounds: u32,
    /// The rounds before which the guest writes.
    rounds_written: u32,
}

impl<'g> Vmm<'g> {
    fn of(guest: &'g Guest) -> Self {
        Self { machine: Machine::default(), guest, cancels: None, progress: 0, rounds: 0, rounds_written: u32::MAX }
    }
}

impl Hooks for Vmm<'_> {
    fn phase(&mut self, phase: Phase) {
        if let Some((_, cancel)) = self.cancels.as_ref().filter(|(when, _)| *when == phase) {
            cancel.cancel();
        }
    }

    fn progress(&mut self, index: usize, bytes: u64) {
        if index == 1 {
            self.progress = bytes;
        }
    }

    fn pause_guest(&mut self) -> Result<(), String> {
        self.guest.pause(true);
        // What is written last, just before nothing is.
        self.guest.write(0, 5 * PAGE + 7, b"the last word");
        Ok(())
    }

    fn resume_guest(&mut self) {
        self.guest.pause(false);
    }
}

impl SourceMachine for Vmm<'_> {
    fn write(&mut self, part: Part, put: &mut dyn FnMut(&Item<'_>) -> Result<(), String>) -> Result<(), String> {
        if part == Part::Round {
            self.rounds += 1;
        }
        if part == Part::Round && self.rounds <= self.rounds_written {
            // The guest always finds time to write between two rounds.
            self.guest.write(1, 3 * PAGE, &self.guest.writes().to_le_bytes());
            thread::sleep(Duration::from_millis(1));
        }
        self.machine.write(part, put)
    }

    fn config(&mut self, index: usize) -> Result<Vec<u8>, String> {
        self.machine.config(index)
    }
}

/// How a migration is set up.
#[derive(Clone, Copy, Debug)]
struct Setup {
    channels: usize,
    agreement: Agreement,
}

fn setups() -> Vec<Setup> {
    let mut flushing = Agreement::new(Acks::Off, DeviceState::Multifd);
    flushing.flush_each_section = true;
    vec![
        Setup { channels: 0, agreement: Agreement::new(Acks::Once, DeviceState::Main) },
        Setup { channels: 1, agreement: Agreement::new(Acks::Off, DeviceState::Multifd) },
        Setup { channels: 3, agreement: Agreement::new(Acks::PerRequest, DeviceState::Multifd) },
        Setup { channels: 2, agreement: Agreement::new(Acks::Off, DeviceState::Main) },
        Setup { channels: 2, agreement: flushing },
    ]
}

/// Two sides of ours; the target's memory has other names.
fn migrate(
    (ours, theirs): (&mut [SimPort], &mut [SimPort]),
    (vmm, tracking): (&mut Vmm<'_>, &mut Tracking<'_>),
    (machine, there): (&mut Machine, &FileMemory),
    setup: Setup,
    options: &SaveOptions,
) -> (Saved, Taken) {
    let (main, main_there) = pair();
    let back = main_there.try_clone().unwrap();
    let (here, channels): (Vec<_>, Vec<_>) = (0..setup.channels).map(|_| pair()).unzip();
    let names = regions().map(|region| region.name).to_vec();
    thread::scope(|scope| {
        let loading = scope.spawn(move || {
            let (options, memory) = (load_options(setup.agreement), TargetMemory::with_blocks(there, names).unwrap());
            load_with_memory(theirs, machine, memory, main_there, Some(back), channels, &options).and_then(Loaded::run)
        });
        let answers = main.try_clone().unwrap();
        let memory = SourceMemory::new(Source::new(&vmm.guest.memory, tracking).unwrap()).unwrap();
        let saved = save_with_memory(ours, vmm, memory, main, Some(answers), here, options).and_then(Ready::commit);
        (saved, loading.join().unwrap())
    })
}

fn target_memory() -> FileMemory {
    let mut regions = regions();
    regions.iter_mut().zip(["low", "high", "rom"]).for_each(|(region, name)| region.name = name.into());
    let memory = memory(&regions);
    // What was there before must go, also where the guest has zeros.
    for (index, region) in regions.iter().enumerate() {
        let file = memory.file(index).unwrap();
        file.write_all_at(&vec![0xee; region.bytes as usize], 0).unwrap();
    }
    memory
}

fn options(setup: Setup) -> SaveOptions {
    let mut options = save_options(setup.agreement);
    let rule = options.precopy.as_mut().unwrap();
    // The guest writes all the time: never content, and done after some rounds.
    (rule.dirty_bytes_max, rule.level_rounds_max) = (0, 6);
    options
}

#[test]
fn memory_arrives_as_the_guest_left_it_over_any_connections() {
    for setup in setups() {
        let (guest, there) = (Guest::new(&regions()), target_memory());
        guest.fill(11);
        let (mut ours, mut theirs) = sets(&[PLAIN]);
        let (mut tracking, mut machine) = (guest.tracking(), Machine::default());
        let mut vmm = Vmm::of(&guest);
        let (saved, taken) = thread::scope(|scope| {
            scope.spawn(|| guest.run(7));
            let sides = (&mut ours[..], &mut theirs[..]);
            let moved = migrate(sides, (&mut vmm, &mut tracking), (&mut machine, &there), setup, &options(setup));
            guest.end();
            moved
        });
        let (saved, taken) = (saved.unwrap(), taken.unwrap());
        assert!(contents(&guest.memory) == contents(&there), "{setup:?}");
        assert_eq!(saved.ram, taken.ram, "{setup:?}");
        let (normal, zero) = (saved.ram.normal_pages, saved.ram.zero_pages);
        assert!(normal > 0 && zero > 0 && normal + zero > PAGES, "{:?}: nothing went twice", saved.ram);
        assert_eq!(vmm.progress, normal * PAGE);
        assert_eq!(saved.devices[0].sum, taken.devices[0].sum);
        assert_eq!(tracking.ledger().dirty_bytes(), 0);
        assert_eq!(*machine.given.lock().unwrap(), ["none", "timer", "tick"], "RAM is not the machine's");
    }
}

#[test]
fn memory_that_nobody_tracks_moves_while_the_guest_stands() {
    for setup in setups() {
        let (guest, there) = (Guest::new(&regions()), target_memory());
        guest.fill(12);
        let (mut tracking, mut vmm) = (guest.untracked(), Vmm::of(&guest));
        let mut machine = Machine::default();
        let mut setup = setup;
        setup.agreement.acks = Acks::Off;
        let none: (&mut [SimPort], &mut [SimPort]) = (&mut [], &mut []);
        let (saved, _) = migrate(none, (&mut vmm, &mut tracking), (&mut machine, &there), setup, &options(setup));
        saved.unwrap();
        // Nobody saw this, and the next target has nothing of what the first one got.
        guest.write(0, 9 * PAGE, b"between two migrations");
        let there = target_memory();
        let none: (&mut [SimPort], &mut [SimPort]) = (&mut [], &mut []);
        let (saved, taken) = migrate(none, (&mut vmm, &mut tracking), (&mut machine, &there), setup, &options(setup));
        let (saved, taken) = (saved.unwrap(), taken.unwrap());
        assert!(contents(&guest.memory) == contents(&there), "{setup:?}");
        assert_eq!((saved.ram.normal_pages + saved.ram.zero_pages, saved.ram), (PAGES, taken.ram));
    }
}

#[test]
fn the_guest_runs_until_little_of_its_memory_is_dirty() {
    for setup in setups() {
        let (guest, there) = (Guest::new(&regions()), target_memory());
        guest.fill(15);
        let (mut tracking, mut vmm) = (guest.tracking(), Vmm::of(&guest));
        vmm.rounds_written = 10;
        let mut setup = setup;
        setup.agreement.acks = Acks::Off;
        let mut options = options(setup);
        options.precopy.as_mut().unwrap().level_rounds_max = 1000;
        let none: (&mut [SimPort], &mut [SimPort]) = (&mut [], &mut []);
        let (saved, _) = migrate(none, (&mut vmm, &mut tracking), (&mut Machine::default(), &there), setup, &options);
        let ram = saved.unwrap().ram;
        // Before each of ten rounds one page of 64 KiB was written, and one of 4 KiB when the guest stopped.
        assert_eq!((vmm.rounds, ram.normal_pages + ram.zero_pages), (11, PAGES + 10 * 16 + 1), "{setup:?}");
        assert!(contents(&guest.memory) == contents(&there), "{setup:?}");
    }
}

#[test]
fn memory_that_somebody_else_owes_is_not_complete() {
    for setup in setups() {
        let (guest, there) = (Guest::new(&regions()), target_memory());
        let (mut tracking, mut vmm) = (guest.tracking(), Vmm::of(&guest));
        let one = NonZeroU64::MIN;
        assert_eq!(tracking.take(Portion::new(one, one)).unwrap().unwrap().pages(), 1);
        let mut setup = setup;
        setup.agreement.acks = Acks::Off;
        let none: (&mut [SimPort], &mut [SimPort]) = (&mut [], &mut []);
        let (saved, _) =
            migrate(none, (&mut vmm, &mut tracking), (&mut Machine::default(), &there), setup, &options(setup));
        let error = saved.unwrap_err();
        assert!(!error.committed && error.to_string().contains("does not have all of the memory"), "{error}");
    }
}

#[test]
fn an_attempt_that_fails_gives_every_page_back_and_the_next_one_moves_all() {
    for (index, setup) in setups().into_iter().enumerate() {
        for phase in [None, Some([Phase::PreCopy, Phase::Switchover, Phase::Load][index % 3])] {
            let guest = Guest::new(&regions());
            guest.fill(13);
            let (mut ours, mut theirs) = sets(&[PLAIN]);
            let (mut tracking, mut vmm, there) = (guest.tracking(), Vmm::of(&guest), target_memory());
            let mut first = options(setup);
            vmm.cancels = phase.map(|phase| (phase, first.cancel.clone()));
            let mut refusing = Machine { refuses_config: phase.is_none(), ..Machine::default() };
            let sides = (&mut ours[..], &mut theirs[..]);
            let (saved, taken) = migrate(sides, (&mut vmm, &mut tracking), (&mut refusing, &there), setup, &first);
            let (saved, _) = (saved.unwrap_err(), taken.unwrap_err());
            assert!(!saved.committed, "{saved}");
            let all: u64 = regions().iter().map(|region| region.bytes).sum();
            assert_eq!((tracking.ledger().dirty_bytes(), tracking.ledger().owed_pages()), (all, 0), "{phase:?}");
            assert!(tracking.trackers().all(|(_, state)| state == TrackerState::Idle));

            (first.cancel, vmm.cancels) = (Cancel::new(), None);
            guest.write(0, 9 * PAGE, b"between the attempts");
            let (another, mut machine) = (target_memory(), Machine::default());
            let sides = (&mut ours[..], &mut theirs[..]);
            let (saved, taken) = migrate(sides, (&mut vmm, &mut tracking), (&mut machine, &another), setup, &first);
            assert_eq!(saved.unwrap().ram, taken.unwrap().ram);
            assert!(contents(&guest.memory) == contents(&another), "{setup:?} {phase:?}");
            assert_eq!(states(&mut theirs), [vfio_mig_fsm::State::Running]);
        }
    }
}

#[test]
fn sides_that_synchronise_differently_say_so() {
    let plain = Setup { channels: 2, agreement: Agreement::new(Acks::Off, DeviceState::Main) };
    let guest = Guest::new(&regions());
    guest.fill(14);
    let (mut tracking, mut vmm, there) = (guest.tracking(), Vmm::of(&guest), target_memory());
    let mut options = options(plain);
    options.agreement.flush_each_section = true;
    let none: (&mut [SimPort], &mut [SimPort]) = (&mut [], &mut []);
    let (saved, taken) = migrate(none, (&mut vmm, &mut tracking), (&mut Machine::default(), &there), plain, &options);
    let (saved, taken) = (saved.unwrap_err(), taken.unwrap_err());
    assert!(!saved.committed, "{saved}");
    assert!(taken.to_string().contains("multifd-flush-after-each-section"), "{taken}");
    assert!(matches!(taken.cause, Cause::Qemu(StreamError::Ram(RamError::Unsynchronised { .. }))), "{taken}");
}

#[test]
fn regions_without_a_block_are_no_memory() {
    let there = target_memory();
    let names = |names: &[&str]| TargetMemory::with_blocks(&there, names.iter().map(|it| (*it).into()).collect());
    assert!(matches!(names(&["a", "b"]), Err(RamError::Names { regions: 3, names: 2 })));
    let long = "x".repeat(256);
    for name in ["a", "", "nul\0", &long] {
        assert!(matches!(names(&["a", "b", name]), Err(RamError::Name { block }) if block == name));
    }
    let guest = Guest::new(&regions());
    let mut tracking = guest.tracking();
    let source = Source::new(&guest.memory, &mut tracking).unwrap();
    assert!(matches!(SourceMemory::with_blocks(source, vec![]), Err(RamError::Names { regions: 3, names: 0 })));
}
