// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The scheduler at the wheel: its steps become tasks of the devices' threads, and what comes of them its events.

use core::time::Duration;
use std::string::{String, ToString};
use std::time::Instant;
use std::vec;
use std::vec::Vec;

use stream_codec::frame::{InitialDone, Message};

use super::course::Course;
use super::set::Offer;
use crate::engine::board::Event;
use crate::engine::helm::out_of_place;
use crate::engine::lane::Outgoing;
use crate::engine::pace::Written;
use crate::engine::task::{Done, Task};
use crate::error::Cause;
use crate::hooks::{Hooks, Phase};
use crate::link::{self, Incoming};
use crate::sched::{self, Config, Decision, Kind, Logged, Profile, Record, SaveScheduler, SectionId, Step, Sum};

/// A scheduler and what it is told beside events.
pub(super) struct Drive {
    scheduler: SaveScheduler,
    started: Instant,
    /// Time never runs backwards, although a read is told of when its bytes are sent.
    last: Duration,
    /// Frames that each device has had.
    frames: Vec<u64>,
    finished: usize,
    /// For each device the generation of initial bytes that the target has been asked for and has not acknowledged.
    unanswered: Vec<Option<u32>>,
    /// Whether there is a pre-copy phase to speak of.
    has_precopy: bool,
    /// Why the scheduler gave up, if it did.
    gave_up: Option<String>,
    paused_in: Option<Duration>,
    /// What the VMM has not been told yet of what the scheduler was told and asked.
    records: Vec<Record>,
}

impl Drive {
    pub(super) fn new(config: Config, has_precopy: bool) -> Self {
        let frames = vec![0; config.sections.len()];
        let unanswered = vec![None; config.sections.len()];
        let scheduler = SaveScheduler::new(config);
        Self {
            scheduler,
            started: Instant::now(),
            last: Duration::ZERO,
            frames,
            finished: 0,
            unanswered,
            has_precopy,
            gave_up: None,
            paused_in: None,
            records: Vec::new(),
        }
    }

    fn now(&mut self) -> Duration {
        self.last = self.last.max(self.started.elapsed());
        self.last
    }

    /// What this migration taught of each device, by its identity.
    pub(super) fn learned<'o>(&self, offers: &'o [Offer]) -> impl Iterator<Item = (&'o str, Profile)> {
        let devices = offers.iter().enumerate().filter(|(_, offer)| offer.kind == Kind::Device);
        devices.filter_map(|(index, offer)| {
            self.scheduler.learned(SectionId::new(index)).map(|profile| (offer.identity.as_str(), profile))
        })
    }

    /// What the channels carried, if that was seen.
    pub(super) fn measured_bytes_per_s(&self) -> Option<u64> {
        self.scheduler.measured_bytes_per_s()
    }

    /// From being asked to pause the vCPUs until they stood.
    pub(super) const fn paused_in(&self) -> Option<Duration> {
        self.paused_in
    }

    fn handle(&mut self, event: sched::Event) {
        let now = self.now();
        self.handle_at(now, event);
    }

    fn handle_at(&mut self, at: Duration, event: sched::Event) {
        self.records.push(Record::Event { at, event });
        self.scheduler.handle(at, event);
    }

    /// What the target has written, as of the last credit if nothing has happened since.
    fn credited(&mut self, section: SectionId, written: &Written) {
        let Some(came) = written.at else { return };
        let at = came.saturating_duration_since(self.started).max(self.last);
        self.last = at;
        let with_busy =
            [(written.busy_bytes, Some(written.busy)), (written.bytes.saturating_sub(written.busy_bytes), None)];
        for (bytes, busy) in with_busy.into_iter().filter(|(bytes, _)| *bytes > 0) {
            self.handle_at(at, sched::Event::Credited { section, bytes, busy });
        }
    }

    fn poll(&mut self) -> Step {
        let at = self.now();
        let step = self.scheduler.poll(at);
        self.records.push(Record::Poll { at, step });
        step
    }
}

impl<H: Hooks + ?Sized> Course<'_, '_, '_, '_, H> {
    /// From the first pre-copy state to the last acknowledgement.
    pub(super) fn drive(&mut self, drive: &mut Drive) -> Result<(), Cause> {
        self.vmm.hooks.scheduled(Logged::Config(drive.scheduler.config()));
        let driven = self.follow(drive);
        self.tell_records(drive);
        driven
    }

    fn follow(&mut self, drive: &mut Drive) -> Result<(), Cause> {
        loop {
            let step = drive.poll();
            self.announce_decisions(drive);
            self.tell_records(drive);
            self.announce_phase(drive)?;
            match step {
                Step::Transition { section, to } => self.task(section, Task::Transition(to))?,
                Step::Query { section } => self.task(section, Task::Query)?,
                Step::Read { section, bytes_max, .. } => self.task(section, Task::Read { bytes_max })?,
                Step::Announce { section, generation } => self.announce_initial(drive, section, generation)?,
                Step::Finish { section, .. } => self.finish_device(drive, section)?,
                Step::PauseGuest => self.pause_guest(drive)?,
                Step::Wait { until } => self.wait(drive, until)?,
                Step::Ready => return Ok(()),
                _ => return Err(given_up(drive)),
            }
            if self.is_file() && drive.finished == drive.frames.len() && self.vmm.phase == Phase::Load {
                return Ok(());
            }
        }
    }

    fn task(&self, section: SectionId, task: Task) -> Result<(), Cause> {
        self.helm.wire.passage(section.index())?.mailbox.put(task);
        Ok(())
    }

    /// Tells the VMM of the phases that the scheduler walks.
    fn announce_phase(&mut self, drive: &Drive) -> Result<(), Cause> {
        let phase = match drive.scheduler.phase() {
            sched::Phase::Setup | sched::Phase::Precopy if drive.has_precopy => Phase::PreCopy,
            sched::Phase::Quiescing => Phase::Switchover,
            sched::Phase::Quiet if self.vmm.phase < Phase::Switchover => Phase::Switchover,
            _ => return Ok(()),
        };
        if self.vmm.phase == phase { Ok(()) } else { self.vmm.enter(phase) }
    }

    fn announce_decisions(&mut self, drive: &mut Drive) {
        while let Some((at, decision)) = drive.scheduler.take_decision() {
            drive.records.push(Record::Decision { at, decision });
            self.vmm.trace.decision(at, &decision);
            if let Decision::Pause(estimate) = decision {
                self.vmm.predicted = Some(estimate.downtime);
            }
            if let Decision::GiveUp(cause) = decision {
                drive.gave_up = Some(cause.to_string());
            }
        }
    }

    fn tell_records(&mut self, drive: &mut Drive) {
        for record in drive.records.drain(..) {
            self.vmm.hooks.scheduled(Logged::Record(&record));
        }
    }

    /// Everything that can is quiet: the last moment to say so while the guest runs.
    fn pause_guest(&mut self, drive: &mut Drive) -> Result<(), Cause> {
        let wire = self.helm.wire;
        for channel in 0..wire.channel_count() {
            wire.post(channel, Outgoing::Plain(Message::Switchover))?;
        }
        self.vmm.enter(Phase::StopCopy)?;
        // The switchover may come without the last acknowledgements.
        drive.unanswered.fill(None);
        wire.board.owe_answer(false);
        self.vmm.pause_guest()?;
        drive.handle(sched::Event::GuestPaused);
        drive.paused_in = drive.scheduler.stopped_at().map(|asked_at| drive.last.saturating_sub(asked_at));
        if drive.frames.is_empty() { self.end_channels() } else { Ok(()) }
    }

    /// The initial bytes of a device are sent. A target that has no word for having written them is taken to have.
    fn announce_initial(&mut self, drive: &mut Drive, section: SectionId, generation: u32) -> Result<(), Cause> {
        let wire = self.helm.wire;
        if !wire.acknowledges_initial() {
            drive.handle(sched::Event::Acknowledged { section, generation });
            return Ok(());
        }
        let index = section.index();
        let frames = drive.frames.get(index).copied().unwrap_or(0);
        let done = InitialDone { device: link::number(index), generation, frames };
        wire.post(0, Outgoing::Plain(Message::InitialDone(done)))?;
        self.note_answer(drive, index, Some(generation));
        Ok(())
    }

    /// What the target owes an answer to, for a device.
    fn note_answer(&self, drive: &mut Drive, index: usize, owed: Option<u32>) {
        if let Some(slot) = drive.unanswered.get_mut(index) {
            *slot = owed;
        }
        self.helm.wire.board.owe_answer(drive.unanswered.iter().any(Option::is_some));
    }

    fn finish_device(&mut self, drive: &mut Drive, section: SectionId) -> Result<(), Cause> {
        let index = section.index();
        let frames = drive.frames.get(index).copied().unwrap_or(0);
        let sum = self.sums.get(index).copied().unwrap_or_default();
        self.helm.wire.post(0, Outgoing::Plain(link::device_end(index, frames, sum, self.helm.wire.proof(index))))?;
        drive.finished = drive.finished.saturating_add(1);
        if drive.finished == drive.frames.len() { self.end_channels() } else { Ok(()) }
    }

    /// Nothing follows but acknowledgements.
    fn end_channels(&mut self) -> Result<(), Cause> {
        let wire = self.helm.wire;
        for channel in 1..wire.channel_count() {
            wire.post(channel, Outgoing::Plain(Message::ChannelEnd))?;
        }
        self.vmm.enter(Phase::Load)
    }

    fn wait(&mut self, drive: &mut Drive, until: Option<Duration>) -> Result<(), Cause> {
        let patience = until.map_or(Duration::MAX, |until| until.saturating_sub(drive.last));
        match self.helm.next_within(self.vmm.hooks, patience)? {
            None => {}
            Some(Event::Done { device, done }) => self.done(drive, device, done)?,
            Some(Event::Control(Incoming::InitialAck { index, generation })) => {
                if drive.unanswered.get(index) == Some(&Some(generation)) {
                    self.note_answer(drive, index, None);
                }
                drive.handle(sched::Event::Acknowledged { section: SectionId::new(index), generation });
            }
            Some(Event::Control(Incoming::Loaded { index, sum })) => {
                let written = self.helm.wire.passage(index)?.credit.take_written();
                drive.credited(SectionId::new(index), &written);
                drive.handle(sched::Event::Loaded {
                    section: SectionId::new(index),
                    sum: Sum::new(sum.bytes, sum.crc64_nvme),
                    took: None,
                });
            }
            Some(other) => return Err(out_of_place(other)),
        }
        Ok(())
    }

    fn done(&mut self, drive: &mut Drive, device: usize, done: Done) -> Result<(), Cause> {
        let section = SectionId::new(device);
        // Said with what a device's thread reports anyway: a word for each credit would wake this one for it.
        let written = self.helm.wire.passage(device)?.credit.take_written();
        if !matches!(done, Done::Read { .. }) {
            drive.credited(section, &written);
        }
        match done {
            Done::Moved => drive.handle(sched::Event::Transitioned { section }),
            Done::Queried(sizes) => drive.handle(sched::Event::Queried { section, sizes }),
            Done::Read { bytes, skipped_bytes, sending, frames } => {
                if let Some(slot) = drive.frames.get_mut(device) {
                    *slot = frames;
                }
                // Bandwidth counts while there is something to send: from when it was read.
                let read_at = drive.started.elapsed().saturating_sub(sending).max(drive.last);
                drive.last = read_at;
                if skipped_bytes > 0 {
                    drive.handle_at(read_at, sched::Event::Skipped { section, bytes: skipped_bytes });
                }
                if !written.held.is_zero() {
                    drive.handle_at(read_at, sched::Event::Held { section, time: written.held });
                }
                drive.handle_at(read_at, sched::Event::Read { section, bytes });
                drive.credited(section, &written);
                drive.handle(sched::Event::Sent { section, bytes });
            }
            Done::Drained => drive.handle(sched::Event::Drained { section }),
            Done::Ended { sum, frames } => {
                if let (Some(slot), Some(known)) = (drive.frames.get_mut(device), self.sums.get_mut(device)) {
                    (*slot, *known) = (frames, sum);
                }
                drive.handle(sched::Event::Ended { section, sum: Sum::new(sum.bytes, sum.crc64_nvme) });
            }
            Done::Described { .. } | Done::Filled(_) => {
                return Err(out_of_place(Event::Done { device, done }));
            }
        }
        Ok(())
    }
}

/// Why the scheduler wants no more.
fn given_up(drive: &mut Drive) -> Cause {
    Cause::GivenUp { reason: drive.gave_up.take().unwrap_or_else(|| "the scheduler gave up".to_string()) }
}
