// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guest memory beside devices: what the source had when it stood is what the target has, whatever happened before.

#![cfg(unix)]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod common;
#[path = "common/guest.rs"]
mod guest;

use core::slice;
use core::time::Duration;
use std::sync::Arc;
use std::thread;

use common::{channels, devices, load_options, ports, save_options};
use guest::{Guest, PAGE, Random, contents, memory, region};
use savevm_core::device::{Device, DeviceError, PrecopyInfo, Read, TransitionError};
use savevm_core::dirty::{Region, Tracking};
use savevm_core::load::{self, LoadOptions, Running};
use savevm_core::ram::{FileMemory, Source};
use savevm_core::save::{self, Committed, SaveOptions};
use savevm_core::sched::Verdict;
use savevm_core::sim::SimPort;
use savevm_core::{Hooks, MigrationError, Phase};
use vfio_mig_fsm::{Capabilities, State};

const DEVICES: [&str; 2] = [
    "model=plain caps=7 initial=64KiB dirty=16KiB stop=300KiB seed=1",
    "model=plain caps=3 initial=0 stop=100KiB seed=2",
];

/// A device that writes to guest memory until it has stopped: the last time just before.
struct Writer {
    port: SimPort,
    guest: Option<Arc<Guest>>,
}

impl Device for Writer {
    fn name(&self) -> &str {
        self.port.name()
    }

    fn identity(&self) -> &str {
        self.port.identity()
    }

    fn capabilities(&self) -> Capabilities {
        self.port.capabilities()
    }

    fn state(&mut self) -> Result<State, DeviceError> {
        self.port.state()
    }

    fn transition(&mut self, to: State) -> Result<(), TransitionError> {
        if let (State::StopCopy, Some(guest)) = (to, &self.guest) {
            thread::sleep(Duration::from_millis(3));
            guest.write(0, 3 * PAGE + 5, b"the last word of a device");
        }
        self.port.transition(to)
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<Read, DeviceError> {
        self.port.read(buffer)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), DeviceError> {
        self.port.write(bytes)
    }

    fn precopy_info(&mut self) -> Result<PrecopyInfo, DeviceError> {
        self.port.precopy_info()
    }

    fn stop_copy_bytes(&mut self) -> Result<u64, DeviceError> {
        self.port.stop_copy_bytes()
    }

    fn reset(&mut self) -> Result<(), DeviceError> {
        self.port.reset()
    }
}

/// The VMM's part: the vCPUs stop and run on.
struct Vcpus<'g> {
    guest: &'g Guest,
    phases: Vec<Phase>,
    progress: Vec<u64>,
}

impl<'g> Vcpus<'g> {
    fn of(guest: &'g Guest) -> Self {
        Self { guest, phases: Vec::new(), progress: vec![0; 8] }
    }
}

impl Hooks for Vcpus<'_> {
    fn phase(&mut self, phase: Phase) {
        self.phases.push(phase);
    }

    fn progress(&mut self, index: usize, bytes: u64) {
        self.progress[index] = bytes;
    }

    fn pause_guest(&mut self) -> Result<(), String> {
        self.guest.pause(true);
        Ok(())
    }

    fn resume_guest(&mut self) {
        self.guest.pause(false);
    }
}

type Outcome = (Result<Committed, MigrationError>, Result<Running, MigrationError>);

struct Attempt<'g> {
    guest: &'g Arc<Guest>,
    devices: &'g [&'g str],
    channels: usize,
    save: SaveOptions,
    load: LoadOptions,
}

impl<'g> Attempt<'g> {
    fn of(guest: &'g Arc<Guest>) -> Self {
        Self { guest, devices: &DEVICES, channels: 1, save: save_options(), load: load_options() }
    }

    /// So much downtime, over a channel of this speed.
    fn downtime(&mut self, milliseconds: u64, bytes_per_s: u64) {
        let rule = self.save.precopy.as_mut().unwrap();
        (rule.downtime_max, rule.bandwidth_bytes_per_s) = (Duration::from_millis(milliseconds), Some(bytes_per_s));
        rule.window = Duration::from_millis(20);
        // A machine that is busy with something else moves nothing for a while, which is no reason to stop the guest here.
        (rule.level, rule.rising) = (Verdict::Wait, Verdict::Wait);
    }

    /// One attempt, while a vCPU writes. The memory of the target is new.
    fn run(&self, tracking: &mut Tracking<'static>, theirs: &FileMemory) -> Outcome {
        let (source, target) = (devices(self.devices), devices(self.devices));
        let writer = |port| Writer { port, guest: Some(Arc::clone(self.guest)) };
        let mut ours: Vec<Writer> = ports(&source).into_iter().map(writer).collect();
        let mut hooks = Vcpus::of(self.guest);
        let (left, right) = channels(self.channels);
        let memory = Source::new(&self.guest.memory, tracking).unwrap();
        let outcome = thread::scope(|scope| {
            let target = scope.spawn(|| {
                let mut waiting = ports(&target);
                load::load_with_memory(&mut waiting, theirs, right, &mut (), &self.load).and_then(load::Loaded::run)
            });
            let source = save::save_with_memory(&mut ours, memory, left, &mut hooks, &self.save);
            (source.and_then(save::Ready::commit), target.join().unwrap())
        });
        if let (Ok(committed), Ok(running)) = &outcome {
            assert_eq!(committed.memory.as_ref().map(|sum| sum.sum), running.memory.as_ref().map(|sum| sum.sum));
            assert_eq!(hooks.progress[self.devices.len()], committed.memory.as_ref().unwrap().sum.bytes);
        }
        outcome
    }

    /// The same, and all of it succeeds.
    fn move_all(&self, tracking: &mut Tracking<'static>, theirs: &FileMemory) -> Committed {
        let (source, target) = self.run(tracking, theirs);
        target.expect("the target succeeds");
        let committed = source.expect("the source succeeds");
        assert!(contents(&self.guest.memory) == contents(theirs), "the target has another memory");
        committed
    }
}

/// With a vCPU that writes meanwhile.
fn while_it_writes<R>(guest: &Arc<Guest>, seed: u64, act: impl FnOnce() -> R) -> R {
    struct End<'g>(&'g Guest);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.end();
        }
    }
    thread::scope(|scope| {
        let _end = End(guest);
        scope.spawn(|| guest.run(seed));
        act()
    })
}

#[test]
fn memory_and_devices_move_while_the_guest_writes() {
    let regions = [region("low", 4096, PAGE), region("high", 12288, PAGE)];
    for channel_count in [1, 3] {
        let guest = Guest::new(&regions);
        guest.fill(7);
        let before = guest.writes();
        let mut attempt = Attempt::of(&guest);
        attempt.channels = channel_count;
        attempt.downtime(300, 40 << 20);
        let theirs = memory(&regions);
        let mut tracking = guest.tracking();
        let committed = while_it_writes(&guest, 3, || attempt.move_all(&mut tracking, &theirs));
        assert!(guest.writes() > before + 50, "the guest wrote meanwhile");
        assert!(contents(&theirs)[0][3 * 4096 + 5..].starts_with(b"the last word of a device"));
        let moved = committed.memory.unwrap();
        let total = 64 << 20;
        assert!(
            moved.precopy_bytes > total / 3,
            "{moved:?}: most of it moves while the guest runs, over {channel_count} channels"
        );
        assert!(moved.sum.bytes < total * 3 / 4, "{moved:?}: half of it is zeros, which do not move");
        assert!(committed.counters.buffer_bytes_peak <= committed.counters.buffer_bytes_bound);
        let used = committed.counters.channels.iter().filter(|channel| channel.bytes > 0).count();
        assert_eq!(used, channel_count);
    }
}

#[test]
fn a_second_attempt_after_a_cancel_loses_nothing() {
    let mut random = Random(99);
    let mut phases = std::collections::BTreeSet::new();
    for seed in 0..24 {
        let regions = [region("ram", 1024, PAGE), region("more", 300, PAGE)];
        let guest = Guest::new(&regions);
        guest.fill(seed + 1);
        let mut tracking = guest.tracking();
        while_it_writes(&guest, seed + 5, || {
            let mut attempt = Attempt::of(&guest);
            attempt.channels = 1 + seed as usize % 2;
            let (cancel, delay) = (attempt.save.cancel.clone(), Duration::from_micros(random.below(25_000)));
            let canceller = thread::spawn(move || {
                thread::sleep(delay);
                cancel.cancel();
            });
            let (source, target) = attempt.run(&mut tracking, &memory(&regions));
            canceller.join().unwrap();
            let Err(error) = source else { return };
            assert!(target.is_err());
            phases.insert(error.phase);
            assert_eq!(tracking.ledger().dirty_bytes(), 1324 * PAGE, "nobody knows what the target still has");
            Attempt { save: save_options(), ..attempt }.move_all(&mut tracking, &memory(&regions));
        });
    }
    assert!(phases.contains(&Phase::PreCopy) && phases.len() > 1, "cancelled in {phases:?}");
}

#[test]
fn any_sizes_in_any_frames() {
    let huge = region("huge", 3, 2 << 20);
    let odd = [region("one", 1, PAGE), region("65", 65, PAGE), huge, region("few", 7, 64 << 10)];
    for (chunk_bytes, channel_count) in [(100, 1), (4096, 2), (5000, 1), (70_001, 3), (1 << 20, 1)] {
        // A hundred bytes at a time would take its time for megabytes.
        let regions: &[Region] = if chunk_bytes < 4096 { &odd[..1] } else { &odd };
        let guest = Guest::new(regions);
        guest.fill(u64::from(chunk_bytes));
        let mut attempt = Attempt::of(&guest);
        attempt.channels = channel_count;
        (attempt.save.limits.chunk_bytes_max, attempt.load.limits.chunk_bytes_max) = (chunk_bytes, chunk_bytes);
        let mut tracking = guest.tracking();
        while_it_writes(&guest, 1, || attempt.move_all(&mut tracking, &memory(regions)));
    }
}

#[test]
fn memory_alone_and_memory_that_nobody_tracks() {
    let regions = [region("ram", 500, PAGE)];
    let guest = Guest::new(&regions);
    guest.fill(4);
    let mut attempt = Attempt::of(&guest);
    attempt.devices = &[];
    attempt.downtime(10, 10 << 20);
    let moved = attempt.move_all(&mut guest.tracking(), &memory(&regions)).memory.unwrap();
    assert!(moved.precopy_bytes > 0 && moved.sum.bytes > 0);
    guest.pause(false);
    let mut untracked = guest.untracked();
    let moved = while_it_writes(&guest, 8, || attempt.move_all(&mut untracked, &memory(&regions))).memory.unwrap();
    assert_eq!(moved.precopy_bytes, 0, "without a tracker all of it moves while the guest stands");
}

#[test]
fn zeros_overwrite_what_was_there() {
    let regions = [region("ram", 64, PAGE)];
    let guest = Guest::new(&regions);
    guest.write(0, 5 * PAGE, b"five");
    let theirs = Guest::new(&regions);
    theirs.fill(9);
    Attempt::of(&guest).move_all(&mut guest.tracking(), &theirs.memory);
}

/// Both sides refuse, and nothing of the target was touched.
fn refused(source: &[Region], target: &[Region]) -> String {
    let guest = Guest::new(source);
    guest.fill(1);
    let theirs = memory(target);
    let mut tracking = guest.tracking();
    let (source, target) = Attempt::of(&guest).run(&mut tracking, &theirs);
    let (source, target) = (source.unwrap_err(), target.unwrap_err());
    assert!(source.phase <= Phase::Open && !source.committed, "{source}");
    assert!(contents(&theirs).iter().flatten().all(|byte| *byte == 0), "the target's memory was written");
    for restored in &target.devices {
        assert!(matches!(restored.outcome, savevm_core::Outcome::Untouched), "{restored}");
    }
    target.to_string()
}

#[test]
fn memory_that_differs_is_refused_before_anything_is_touched() {
    let ram = region("ram", 512, PAGE);
    let has = |reason: String, part: &str| assert!(reason.contains(part), "{reason}");
    has(
        refused(slice::from_ref(&ram), &[region("ram", 511, PAGE)]),
        "ram has 2097152 bytes on the source and 2093056 on the target",
    );
    has(refused(slice::from_ref(&ram), &[region("ram", 1, 2 << 20)]), "ram has pages of 4096 bytes on the source");
    has(refused(slice::from_ref(&ram), &[region("main", 512, PAGE)]), "ram does not exist on the target; main exists");
    let two = [ram.clone(), region("rom", 1, PAGE)];
    has(refused(&two, slice::from_ref(&ram)), "rom does not exist on the target");
    has(refused(&two, &[two[1].clone(), ram]), "region 0 is ram on the source and rom on the target");
}

#[test]
fn a_side_without_memory_is_refused() {
    let regions = [region("ram", 64, PAGE)];
    let guest = Guest::new(&regions);
    let both = |ours: bool| {
        let (source, target) = (devices(&DEVICES), devices(&DEVICES));
        let (mut source, mut target) = (ports(&source), ports(&target));
        let (mut hooks, save_options) = ((), save_options());
        let (left, right) = channels(1);
        let (mut tracking, theirs) = (guest.tracking(), memory(&regions));
        let memory = Source::new(&guest.memory, &mut tracking).unwrap();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let options = load_options();
                match ours {
                    true => load::load(&mut target, right, &mut (), &options).map(drop),
                    false => load::load_with_memory(&mut target, &theirs, right, &mut (), &options).map(drop),
                }
            });
            let saved = match ours {
                true => save::save_with_memory(&mut source, memory, left, &mut hooks, &save_options).map(drop),
                false => save::save(&mut source, left, &mut hooks, &save_options).map(drop),
            };
            [saved.unwrap_err().to_string(), waiting.join().unwrap().unwrap_err().to_string()]
        })
    };
    for texts in [both(true), both(false)] {
        assert!(texts.iter().all(|text| text.contains("guest memory")), "{texts:?}");
    }
}

#[test]
fn an_account_of_other_memory_is_refused() {
    let (guest, other) = (Guest::new(&[region("ram", 64, PAGE)]), Guest::new(&[region("ram", 65, PAGE)]));
    let mut tracking = other.tracking();
    let error = Source::new(&guest.memory, &mut tracking).unwrap_err().to_string();
    assert!(error.contains("ram has 266240 bytes on the source and 262144 on the target"), "{error}");
}
