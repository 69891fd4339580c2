// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! All trackers of a guest, and the account they report to.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::bitmap::BitmapError;
use super::ledger::{Ledger, LedgerError, RegionId, Stale, Unfinished};
use super::marks::Marks;
use super::owed::{Owed, Portion, Target};
use super::range::Range;
use super::region::Region;
use super::slots::{Slot, SlotError, Slots};
use super::tracker::{DirtyTracker, Extended, TrackError};

/// Guest memory, whoever writes to it, and what of it the target lacks: the union of any number of trackers in one [`Ledger`].
///
/// What is not known to be clean is dirty: all memory when the trackers start, a slot when it is mapped, and after the first error of
/// a tracker everything it was to look after, at every reading until it has been [restarted](Self::restart_failed).
pub struct Tracking<'t> {
    ledger: Ledger,
    slots: Slots,
    trackers: Vec<Tracked<'t>>,
    trackers_max: usize,
    guest: Guest,
}

struct Tracked<'t> {
    tracker: Box<dyn DirtyTracker + 't>,
    state: TrackerState,
}

/// How a tracker is doing.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "it is believed when it runs, and only then")]
pub enum TrackerState {
    /// It was not started, or was stopped: all memory counts as dirty at every reading.
    Idle,
    /// It reports.
    Running,
    /// It failed: all memory counts as dirty at every reading.
    Failed,
}

/// Whether anything can write to guest memory.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "it can or it cannot")]
pub enum Guest {
    /// vCPUs or devices run.
    Running,
    /// All vCPUs stand and all devices are in STOP or STOP_COPY.
    Stopped,
}

/// What a reading came to.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[must_use = "trackers that failed make everything dirty, at every reading, until they are restarted"]
#[non_exhaustive]
pub struct Collected {
    /// The trackers that failed in this reading. All memory is dirty if there is one.
    pub errors: Vec<TrackError>,
    /// How many trackers do not run, those that failed just now included. All memory is dirty if there is one.
    pub not_running: usize,
}

/// Memory that cannot be completed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Incomplete {
    /// The last reading was made while the guest could write.
    #[error("the dirty pages were not read since the guest stopped; collect them with Guest::Stopped")]
    NotCollected,
    /// The target lacks pages.
    #[error(transparent)]
    Unfinished(#[from] Unfinished),
}

/// Memory that could not be unmapped.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum UnmapError<E> {
    /// It is not there.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// The unmapping itself failed. All of the range counts as dirty, and as mapped.
    #[error("unmapping failed, and all of the range counts as dirty: {0}")]
    Unmap(E),
}

impl<'t> Tracking<'t> {
    /// No slots and no trackers yet, over the account's regions.
    #[must_use]
    pub const fn new(ledger: Ledger, slots_max: usize, trackers_max: usize) -> Self {
        Self { ledger, slots: Slots::new(slots_max), trackers: Vec::new(), trackers_max, guest: Guest::Running }
    }

    /// The account.
    #[must_use]
    pub const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Takes the next dirty pages to be sent: [`Ledger::take`].
    ///
    /// # Errors
    /// When there is no memory for the batch.
    pub fn take(&mut self, portion: Portion) -> Result<Option<Owed>, BitmapError> {
        self.ledger.take(portion)
    }

    /// The target has these pages: [`Ledger::acknowledge`].
    ///
    /// # Errors
    /// When the batch is of an attempt that is over.
    pub fn acknowledge(&mut self, owed: Owed) -> Result<(), Stale> {
        self.ledger.acknowledge(owed)
    }

    /// These pages were not sent: [`Ledger::give_back`].
    ///
    /// # Errors
    /// When the batch is of an attempt that is over.
    pub fn give_back(&mut self, owed: Owed) -> Result<(), Stale> {
        self.ledger.give_back(owed)
    }

    /// The attempt failed or was cancelled, and the guest runs on here: [`Ledger::give_up`]. The trackers run on too, so that a
    /// second attempt needs no full copy where the target is kept.
    pub fn give_up(&mut self, target: Target) {
        self.guest = Guest::Running;
        self.ledger.give_up(target);
    }

    /// Marks pages of a region dirty, for whoever writes to memory in the VMM's own process: [`Ledger::mark`].
    pub fn mark(&mut self, region: RegionId, first: u64, count: u64) {
        self.ledger.mark(region, first, count);
    }

    /// The trackers' names and how they are doing.
    pub fn trackers(&self) -> impl Iterator<Item = (&str, TrackerState)> + use<'_, 't> {
        self.trackers.iter().map(|tracked| (tracked.tracker.name(), tracked.state))
    }

    /// Takes a tracker in, not started. Gives it back when there are as many as the limit allows.
    ///
    /// # Errors
    /// The tracker, at the limit.
    pub fn add_tracker(&mut self, tracker: Box<dyn DirtyTracker + 't>) -> Result<(), Box<dyn DirtyTracker + 't>> {
        if self.trackers.len() >= self.trackers_max {
            return Err(tracker);
        }
        self.trackers.push(Tracked { tracker, state: TrackerState::Idle });
        Ok(())
    }

    /// Starts every tracker over all slots. All memory is dirty then: what was written before nobody knows. Trackers that
    /// run already are left alone.
    ///
    /// # Errors
    /// The first tracker that would not start. Those this call started are stopped again.
    pub fn start(&mut self) -> Result<(), TrackError> {
        self.guest = Guest::Running;
        let ranges = self.slots.ranges();
        let mut started = Vec::new();
        for tracked in self.trackers.iter_mut().filter(|tracked| tracked.state != TrackerState::Running) {
            if let Err(error) = tracked.tracker.start(&ranges) {
                tracked.state = TrackerState::Failed;
                started.into_iter().for_each(stop_quietly);
                return Err(error);
            }
            tracked.state = TrackerState::Running;
            started.push(tracked);
        }
        self.mark_slots();
        Ok(())
    }

    /// Starts the trackers that do not run anew. Returns those that failed again.
    ///
    /// Memory is dirty as a whole after it: between the failure and now nobody looked.
    pub fn restart_failed(&mut self) -> Vec<TrackError> {
        let ranges = self.slots.ranges();
        let mut errors = Vec::new();
        let mut is_restarted = false;
        for tracked in self.trackers.iter_mut().filter(|tracked| tracked.state != TrackerState::Running) {
            is_restarted = true;
            errors.extend(restart(tracked, &ranges).err());
        }
        if is_restarted {
            self.mark_slots();
        }
        errors
    }

    /// Stops every tracker. What was not collected before is dirty for them: a later [`start`](Self::start) marks all memory.
    pub fn stop(&mut self) -> Vec<TrackError> {
        let mut errors = Vec::new();
        for tracked in self.trackers.iter_mut().filter(|tracked| tracked.state != TrackerState::Idle) {
            match tracked.tracker.stop() {
                Ok(()) => tracked.state = TrackerState::Idle,
                Err(error) => {
                    tracked.state = TrackerState::Failed;
                    errors.push(error);
                }
            }
        }
        errors
    }

    /// Reads what all trackers know into the account. `guest` says whether anything could still write when the call began;
    /// only after a reading of a stopped guest can the memory be [complete](Self::check_complete).
    pub fn collect(&mut self, guest: Guest) -> Collected {
        let slots: Vec<Range> = self.slots.iter().map(|slot| slot.range).collect();
        let collected = self.read(&slots);
        if collected.not_running > 0 {
            self.mark_slots();
        }
        self.guest = guest;
        collected
    }

    /// Whether the target has all of the memory, as the stopped guest left it.
    ///
    /// # Errors
    /// When the last reading was not made with the guest stopped, or pages are dirty or owed.
    pub fn check_complete(&self) -> Result<(), Incomplete> {
        if self.guest == Guest::Running {
            return Err(Incomplete::NotCollected);
        }
        self.ledger.check_finished().map_err(Incomplete::Unfinished)
    }

    /// Takes a region in; all of it is dirty.
    ///
    /// # Errors
    /// As [`Ledger::add`].
    pub fn add_region(&mut self, region: Region) -> Result<RegionId, LedgerError> {
        self.ledger.add(region)
    }

    /// Takes a region out, with its slots. Returns whether there was one.
    pub fn remove_region(&mut self, region: RegionId) -> bool {
        self.slots.remove_region(region);
        self.ledger.remove(region)
    }

    /// Memory appears in the devices' address space. All of it is dirty. Call it when it has been mapped, or before.
    ///
    /// A running tracker that cannot take it in is restarted: then all memory is dirty.
    ///
    /// # Errors
    /// When the slot is unaligned, wraps, overlaps another or does not fit its region; nothing has changed then. Trackers that
    /// failed are in the result.
    pub fn map(&mut self, slot: Slot) -> Result<Collected, SlotError> {
        let range = slot.range;
        let region = self.ledger.region(slot.region).ok_or(SlotError::NoRegion { range })?;
        range.aligned_to(region.page_bytes)?;
        let is_whole = slot.offset.checked_rem(region.page_bytes) == Some(0);
        if !is_whole || slot.offset.checked_add(range.length()).is_none_or(|end| end > region.bytes) {
            return Err(SlotError::Region { range, offset: slot.offset, bytes: region.bytes });
        }
        self.slots.insert(slot)?;
        self.guest = Guest::Running;
        Marks::new(&self.slots, &mut self.ledger).range(range);
        let ranges = self.slots.ranges();
        let mut collected = Collected::default();
        let mut is_restarted = false;
        for tracked in self.trackers.iter_mut().filter(|tracked| tracked.state == TrackerState::Running) {
            let result = match tracked.tracker.extend(range) {
                Ok(Extended::Tracked) => Ok(()),
                Ok(Extended::NeedsRestart) => {
                    is_restarted = true;
                    restart(tracked, &ranges)
                }
                Err(error) => Err(error),
            };
            if let Err(error) = result {
                tracked.state = TrackerState::Failed;
                collected.errors.push(error);
            }
        }
        collected.not_running = self.count_not_running();
        if is_restarted || collected.not_running > 0 {
            self.mark_slots();
        }
        Ok(collected)
    }

    /// Memory disappears from the devices' address space: reads what the trackers know of it, has `unmap` take it away and
    /// hand in the dirty bits that the unmapping itself yields (type1's UNMAP with a bitmap), and forgets the slot. The pages
    /// of its region stay in the account.
    ///
    /// With iommufd, whose UNMAP yields no bits, nothing may write to the range any more when this is called.
    ///
    /// # Errors
    /// When there is no memory in some of the range, or `unmap` fails. All of the range is dirty after the latter.
    pub fn unmap<E>(
        &mut self,
        range: Range,
        unmap: impl FnOnce(&mut Marks<'_>) -> Result<(), E>,
    ) -> Result<Collected, UnmapError<E>> {
        self.slots.check_removable(range)?;
        let pieces: Vec<Range> = self.slots.within(range).filter_map(|slot| slot.range.overlap(range)).collect();
        for slot in self.slots.within(range) {
            let part = slot.range.overlap(range);
            if let (Some(part), Some(page_bytes)) = (part, self.ledger.page_bytes(slot.region)) {
                part.aligned_to(page_bytes).map_err(SlotError::Range)?;
            }
        }
        let collected = self.read(&pieces);
        if collected.not_running > 0 {
            self.mark_slots();
        }
        let mut marks = Marks::new(&self.slots, &mut self.ledger);
        if let Err(error) = unmap(&mut marks) {
            marks.range(range);
            return Err(UnmapError::Unmap(error));
        }
        self.slots.remove(range)?;
        Ok(collected)
    }

    fn read(&mut self, ranges: &[Range]) -> Collected {
        let mut errors = Vec::new();
        for tracked in self.trackers.iter_mut().filter(|tracked| tracked.state == TrackerState::Running) {
            let mut marks = Marks::new(&self.slots, &mut self.ledger);
            let result = ranges.iter().try_for_each(|range| tracked.tracker.read(*range, &mut marks));
            if let Err(error) = result {
                tracked.state = TrackerState::Failed;
                errors.push(error);
            }
        }
        Collected { errors, not_running: self.count_not_running() }
    }

    fn count_not_running(&self) -> usize {
        self.trackers.iter().filter(|tracked| tracked.state != TrackerState::Running).count()
    }

    fn mark_slots(&mut self) {
        let ranges = self.slots.ranges();
        let mut marks = Marks::new(&self.slots, &mut self.ledger);
        ranges.into_iter().for_each(|range| marks.range(range));
    }
}

fn restart(tracked: &mut Tracked<'_>, ranges: &[Range]) -> Result<(), TrackError> {
    // One that failed may not run any more; whether it can start says its start.
    let _ = tracked.tracker.stop();
    tracked.state = TrackerState::Failed;
    tracked.tracker.start(ranges)?;
    tracked.state = TrackerState::Running;
    Ok(())
}

fn stop_quietly(tracked: &mut Tracked<'_>) {
    // The error that is reported is the one of the start; a tracker that runs on harms nobody.
    let _ = tracked.tracker.stop();
    tracked.state = TrackerState::Idle;
}

impl core::fmt::Debug for Tracking<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let trackers: Vec<_> = self.trackers().collect();
        f.debug_struct("Tracking").field("trackers", &trackers).field("guest", &self.guest).finish_non_exhaustive()
    }
}
