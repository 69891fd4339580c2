// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whole migrations of a memory whose every write is known, with everything that can go wrong: after the success the
//! target's memory is the source's.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use alloc::{format, vec};
use core::num::NonZeroU64;
use std::sync::Mutex;

use super::super::*;

const PAGE: u64 = 4096;
const HUGE: u64 = 2 << 20;

/// xorshift64*.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 12;
        self.0 ^= self.0 >> 25;
        self.0 ^= self.0 << 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % end
    }

    fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// The log of one writer, as hardware keeps it: granules of its own size, cleared by reading. What happens while it does not run, or
/// outside what it was started over, it does not see.
#[derive(Default)]
struct Log {
    granule: u64,
    ranges: Vec<Range>,
    running: bool,
    can_extend: bool,
    dirty: alloc::collections::BTreeSet<u64>,
    /// What the next calls answer.
    fail_start: bool,
    /// Fails after the bits of so many granules have been cleared.
    fail_read_after: Option<usize>,
}

impl Log {
    fn wrote(&mut self, address: u64) {
        if self.running && self.ranges.iter().any(|range| range.start() <= address && address < range.end()) {
            self.dirty.insert(address / self.granule);
        }
    }
}

struct FakeTracker {
    name: alloc::string::String,
    log: Arc<Mutex<Log>>,
}

impl FakeTracker {
    fn error(&self, doing: Doing) -> TrackError {
        TrackError::new(&self.name, doing, Some(5), "injected")
    }
}

impl DirtyTracker for FakeTracker {
    fn name(&self) -> &str {
        &self.name
    }

    fn start(&mut self, ranges: &[Range]) -> Result<(), TrackError> {
        let mut log = self.log.lock().unwrap();
        if core::mem::take(&mut log.fail_start) {
            return Err(self.error(Doing::Start));
        }
        log.dirty.clear();
        log.ranges = ranges.to_vec();
        log.running = true;
        Ok(())
    }

    fn extend(&mut self, range: Range) -> Result<Extended, TrackError> {
        let mut log = self.log.lock().unwrap();
        if !log.can_extend {
            return Ok(Extended::NeedsRestart);
        }
        log.ranges.push(range);
        Ok(Extended::Tracked)
    }

    fn read(&mut self, range: Range, marks: &mut Marks<'_>) -> Result<(), TrackError> {
        let mut log = self.log.lock().unwrap();
        let (first, last) = (range.start() / log.granule, (range.end() - 1) / log.granule);
        let found: Vec<u64> = log.dirty.range(first..=last).copied().collect();
        let mut words = vec![0; usize::try_from((last - first) / 64 + 1).unwrap()];
        for (index, granule) in found.into_iter().enumerate() {
            if log.fail_read_after.is_some_and(|after| index >= after) {
                log.fail_read_after = None;
                // Whatever the log had cleared by then is gone.
                return Err(self.error(Doing::Read(range)));
            }
            log.dirty.remove(&granule);
            words[usize::try_from((granule - first) / 64).unwrap()] |= 1 << ((granule - first) % 64);
        }
        marks.words(first * log.granule, log.granule, &words).unwrap();
        Ok(())
    }

    fn stop(&mut self) -> Result<(), TrackError> {
        let mut log = self.log.lock().unwrap();
        log.running = false;
        log.dirty.clear();
        Ok(())
    }
}

type Page = (RegionId, u64);

/// The memory of one side: a number for the contents of every page.
type Memory = alloc::collections::BTreeMap<Page, u64>;

struct World {
    dice: Dice,
    tracking: Tracking<'static>,
    logs: Vec<Arc<Mutex<Log>>>,
    mapped: Vec<Slot>,
    source: Memory,
    target: Memory,
    writes: u64,
    /// Both make much of memory dirty, and so hide what else is wrong: not in every migration.
    trackers_fail: bool,
    memory_moves: bool,
    /// Sent, with the contents of that moment.
    on_the_way: Vec<(Owed, Vec<(Page, u64)>)>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let regions = vec![
            Region { name: "ram".into(), bytes: PAGE * (700 + dice.below(900)), page_bytes: PAGE },
            Region { name: "rom".into(), bytes: PAGE * (1 + dice.below(66)), page_bytes: PAGE },
            Region { name: "huge".into(), bytes: HUGE * (1 + dice.below(3)), page_bytes: HUGE },
        ];
        let table = RegionTable::new(regions, 8).unwrap();
        let ledger = Ledger::of(&table, 1 << 16).unwrap();
        let mut source = Memory::new();
        for (id, region) in ledger.regions() {
            source.extend((0..region.pages()).map(|page| ((id, page), page + 1)));
        }
        let mut world = Self {
            dice,
            tracking: Tracking::new(ledger, 64, 8),
            logs: Vec::new(),
            mapped: Vec::new(),
            source,
            target: Memory::new(),
            writes: 1 << 32,
            trackers_fail: seed % 3 == 0,
            memory_moves: seed % 4 == 0,
            on_the_way: Vec::new(),
        };
        world.map_regions();
        for (index, granule) in [PAGE, HUGE, 1024, 8 * PAGE].into_iter().enumerate() {
            let can_extend = world.dice.once_in(2);
            let log = Arc::new(Mutex::new(Log { granule, can_extend, ..Log::default() }));
            world.logs.push(Arc::clone(&log));
            let tracker = FakeTracker { name: format!("writer {index}"), log };
            assert!(world.tracking.add_tracker(Box::new(tracker)).is_ok());
        }
        world
    }

    /// "ram" in two pieces around a hole, the way a PC has it, and the others elsewhere.
    fn map_regions(&mut self) {
        let regions: Vec<(RegionId, u64)> =
            self.tracking.ledger().regions().map(|(id, region)| (id, region.bytes)).collect();
        let [(ram, ram_bytes), (rom, rom_bytes), (huge, huge_bytes)] = regions[..] else { unreachable!() };
        let low = PAGE * (1 + self.dice.below(ram_bytes / PAGE - 1));
        let at = |start, length, region, offset| Slot { range: Range::new(start, length).unwrap(), region, offset };
        self.map(at(0, low, ram, 0));
        self.map(at(1 << 32, ram_bytes - low, ram, low));
        self.map(at(low, rom_bytes, rom, 0));
        self.map(at(1 << 40, huge_bytes, huge, 0));
    }

    fn map(&mut self, slot: Slot) {
        let _ = self.tracking.map(slot).unwrap();
        self.mapped.push(slot);
    }

    /// One of the writers writes a page, or a few.
    fn write(&mut self) {
        let slot = self.mapped[usize::try_from(self.dice.below(u64::try_from(self.mapped.len()).unwrap())).unwrap()];
        let page_bytes = self.tracking.ledger().region(slot.region).unwrap().page_bytes;
        let writer = usize::try_from(self.dice.below(4)).unwrap();
        let begin = self.dice.below(slot.range.length());
        for index in 0..=self.dice.below(3) {
            let into = begin + index * PAGE;
            if into < slot.range.length() {
                self.writes += 1;
                self.source.insert((slot.region, (slot.offset + into) / page_bytes), self.writes);
                self.logs[writer].lock().unwrap().wrote(slot.range.start() + into);
            }
        }
    }

    fn collect(&mut self, guest: Guest) {
        if self.trackers_fail && self.dice.once_in(4) {
            let (log, after) = (self.dice.below(4), self.dice.below(5));
            self.logs[usize::try_from(log).unwrap()].lock().unwrap().fail_read_after =
                Some(usize::try_from(after).unwrap());
        }
        let collected = self.tracking.collect(guest);
        assert_eq!(
            collected.not_running == 0,
            self.tracking.trackers().all(|(_, state)| state == TrackerState::Running)
        );
    }

    /// Some time after a failure.
    fn restart(&mut self) {
        let log = self.dice.below(4);
        let fails = self.dice.once_in(3);
        self.logs[usize::try_from(log).unwrap()].lock().unwrap().fail_start = fails;
        let _ = self.tracking.restart_failed();
    }

    /// Takes a batch and sends it: pages are copied now and arrive some time.
    fn send(&mut self) -> bool {
        let number = |end, dice: &mut Dice| NonZeroU64::new(1 + dice.below(end)).unwrap();
        let portion = Portion::new(number(300, &mut self.dice), number(2000, &mut self.dice));
        let Some(owed) = self.tracking.take(portion).unwrap() else { return false };
        let runs: Vec<Run> = owed.runs(number(50, &mut self.dice)).collect();
        let pages = runs.iter().flat_map(|run| run.first..run.first + run.count);
        let copies: Vec<_> = pages.map(|page| ((owed.region(), page), self.source[&(owed.region(), page)])).collect();
        assert_eq!(owed.pages(), u64::try_from(copies.len()).unwrap());
        assert!(owed.pages() > 0);
        self.on_the_way.push((owed, copies));
        true
    }

    /// One of the batches arrives, in any order. Most are acknowledged.
    fn arrive(&mut self) {
        if self.on_the_way.is_empty() {
            return;
        }
        let index = self.dice.below(u64::try_from(self.on_the_way.len()).unwrap());
        let (owed, copies) = self.on_the_way.swap_remove(usize::try_from(index).unwrap());
        if self.dice.once_in(40) {
            // Never sent: the channel was full.
            return self.tracking.give_back(owed).unwrap();
        }
        self.target.extend(copies);
        self.tracking.acknowledge(owed).unwrap();
    }

    /// Some of what is on the way arrives, whose acknowledgement never does; some does not arrive.
    fn fail(&mut self) {
        let target = if self.dice.once_in(2) { Target::Kept } else { Target::Lost };
        let late: Vec<_> = self.on_the_way.drain(..).collect();
        let mut stale = None;
        for (owed, copies) in late {
            if self.dice.once_in(2) {
                self.target.extend(copies);
            }
            stale = Some(owed);
        }
        self.tracking.give_up(target);
        if let Some(owed) = stale {
            self.tracking.acknowledge(owed).unwrap_err();
        }
        if target == Target::Lost {
            self.target.clear();
        }
    }

    /// Unmaps a piece of memory, with writes that only the unmapping reports, and maps it elsewhere, or never again.
    fn remap(&mut self) {
        (0..10).for_each(|_| self.write());
        let index = usize::try_from(self.dice.below(2)).unwrap();
        let slot = self.mapped.swap_remove(index);
        let page_bytes = self.tracking.ledger().region(slot.region).unwrap().page_bytes;
        let page = self.dice.below(slot.range.length() / page_bytes);
        self.writes += 1;
        self.source.insert((slot.region, slot.offset / page_bytes + page), self.writes);
        let address = slot.range.start() + page * page_bytes;
        let last = |marks: &mut Marks<'_>| marks.words(address, page_bytes, &[1]);
        let _ = self.tracking.unmap(slot.range, last).unwrap();
        if self.dice.once_in(2) {
            return;
        }
        let start = (1 << 50) + (self.writes << 30);
        self.map(Slot { range: Range::new(start, slot.range.length()).unwrap(), ..slot });
    }

    /// An attempt: true if the target has everything.
    fn attempt(&mut self) -> bool {
        let patience = self.dice.below(400);
        for _ in 0..patience {
            match self.dice.below(40) {
                0..=14 => self.write(),
                15..=24 => drop(self.send()),
                25..=36 => self.arrive(),
                37 => self.collect(Guest::Running),
                38 if self.trackers_fail => self.restart(),
                39 if self.memory_moves && self.mapped.len() > 2 => self.remap(),
                _ => {}
            }
        }
        if self.dice.once_in(2) {
            return false;
        }
        // Nothing writes any more.
        self.collect(Guest::Stopped);
        loop {
            let sent = self.send();
            self.arrive();
            if !sent && self.on_the_way.is_empty() && self.tracking.check_complete().is_ok() {
                return true;
            }
            if self.dice.once_in(200) {
                return false;
            }
        }
    }
}

fn run(seed: u64) {
    let mut world = World::new(seed);
    world.tracking.start().unwrap();
    let mut attempts = 0;
    while !world.attempt() {
        world.fail();
        attempts += 1;
        assert!(attempts < 100, "seed {seed} never ends");
    }
    let differ = world.source.iter().filter(|(page, contents)| world.target.get(page) != Some(contents)).count();
    assert_eq!(differ, 0, "seed {seed}: {differ} of {} pages, after {attempts} failed attempts", world.source.len());
}

#[test]
fn the_target_has_the_sources_memory_after_any_failures() {
    (0..150).for_each(run);
}
