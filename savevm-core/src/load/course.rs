// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The target's phases, led by the caller's thread while the devices' and the channels' threads work.

use std::format;
use std::string::String;
use std::time::Instant;
use std::vec::Vec;

use stream_codec::frame::{Hello, Message, Role, Support};

use super::crew::Crew;
use super::set::{Pairing, Vmm};
use crate::device::Device;
use crate::digest::DigestSum;
use crate::engine::board::Event;
use crate::engine::helm::{Helm, out_of_place};
use crate::engine::lane::Outgoing;
use crate::engine::plan::Plan;
use crate::engine::task::{Done, Task};
use crate::engine::wire::at;
use crate::error::Cause;
use crate::hooks::{Hooks, Phase};
use crate::link::{self, Incoming};
use crate::sched::{self, LoadEvent, LoadScheduler, LoadSection, LoadStep, SectionId, Sum};
use crate::tap::Taps;

/// The caller's thread on its way.
pub(super) struct Course<'c, 'w, 'a, 'h, H: Hooks + ?Sized> {
    pub(super) helm: Helm<'w, 'a>,
    pub(super) vmm: &'c mut Vmm<'h, H>,
    pub(super) one_way: bool,
}

impl<H: Hooks + ?Sized> Course<'_, '_, '_, '_, H> {
    fn next(&mut self) -> Result<Event, Cause> {
        self.helm.next(self.vmm.hooks)
    }

    /// Hears hello on every connection and, unless the stream is a file, answers. Gives the number of devices on offer.
    pub(super) fn greet(&mut self) -> Result<usize, Cause> {
        let wire = self.helm.wire;
        let count = wire.lanes.len();
        let mut hellos: Vec<(usize, Hello)> = Vec::with_capacity(count);
        while hellos.len() < count {
            match self.next()? {
                Event::Hello { position, hello } => {
                    self.check_role(&hello)?;
                    if usize::from(hello.channel.count) != count {
                        let theirs = hello.channel.count;
                        return Err(Cause::refused(format!(
                            "the source uses {theirs} channels, and {count} are open here"
                        )));
                    }
                    hellos.push((position, hello));
                }
                other => return Err(out_of_place(other)),
            }
        }
        hellos.sort_unstable_by_key(|(_, hello)| hello.channel.index);
        wire.set_positions(hellos.iter().map(|(position, _)| *position).collect());
        for (_, hello) in &hellos {
            let channel = hello.channel.index;
            wire.session().received_on(channel, &Message::Hello(*hello)).map_err(|error| at(channel, error))?;
        }
        let devices = hellos.first().map_or(0, |(_, hello)| link::index(hello.device_count));
        let plan = Plan::target(&wire.limits, devices, count)?;
        wire.prepare(&plan, devices);
        for (_, hello) in &hellos {
            if !self.one_way {
                let reply = hello.reply(wire.support(), plan.chunk_bytes);
                wire.post(hello.channel.index, Outgoing::Plain(Message::Hello(reply)))?;
            }
        }
        wire.gate.open();
        Ok(devices)
    }

    fn check_role(&self, hello: &Hello) -> Result<(), Cause> {
        match (hello.role, self.one_way) {
            (Role::File, true) => Ok(()),
            (Role::Source, false) if hello.support.offered & Support::CREDIT == 0 => {
                Err(Cause::refused("the source stays inside no credit, so what is under way has no bound"))
            }
            (Role::Source, false) => Ok(()),
            (Role::Source, true) => {
                Err(Cause::refused("this is one half of a conversation between two processes, not a file"))
            }
            (Role::File, false) => {
                Err(Cause::refused("the peer sends a file, which cannot be acknowledged; load it as a file"))
            }
            _ => Err(Cause::refused("the peer is a target itself")),
        }
    }

    /// Receives the offer, and compares all of it with what is here. What fits is watched from here on.
    pub(super) fn compare<D: Device>(
        &mut self,
        offered: usize,
        mut pairing: Pairing,
        crew: &Crew<'_, '_, '_, D>,
        taps: &Taps,
    ) -> Result<(), Cause> {
        let mut reasons: Vec<String> = Vec::new();
        let mut opened = 0_usize;
        while opened < offered {
            match self.next()? {
                Event::Control(Incoming::Region(region)) => pairing.add_region(region),
                Event::Control(Incoming::Open { index, .. }) if self.is_memory(index) => {
                    opened = opened.saturating_add(1);
                    reasons.extend(pairing.pair_memory(index).err());
                }
                Event::Control(Incoming::Open { index, name, identity }) => {
                    opened = opened.saturating_add(1);
                    match pairing.pair(index, &name, &identity) {
                        Ok(local) => {
                            self.vmm.trace.offered(&name, Ok(()));
                            crew.watch(local, taps, &identity);
                        }
                        Err(reason) => {
                            self.vmm.trace.offered(&name, Err(&reason));
                            reasons.push(reason);
                        }
                    }
                }
                other => return Err(out_of_place(other)),
            }
        }
        reasons.extend(pairing.unpaired());
        reasons.extend(crew.busy()?);
        if !reasons.is_empty() {
            return Err(Cause::refused(reasons.join("; ")));
        }
        let local = pairing.into_local();
        self.helm.local.clone_from(&local);
        let _ = crew.local.set(local);
        Ok(())
    }

    fn is_memory(&self, index: usize) -> bool {
        self.helm.wire.session().memory_device() == Some(link::number(index))
    }

    /// Follows the source through its phases, and has every section go where the scheduler says. Whatever fails ends it:
    /// putting back is the set's matter.
    pub(super) fn follow(&mut self, sections: Vec<(String, LoadSection)>) -> Result<(), Cause> {
        let (names, sections): (Vec<String>, Vec<LoadSection>) = sections.into_iter().unzip();
        let mut load = Load::new(LoadScheduler::new(sections), names);
        loop {
            if load.accepted == load.names.len() && self.vmm.phase < Phase::PreCopy {
                self.vmm.enter(Phase::PreCopy)?;
            }
            match load.poll() {
                LoadStep::Transition { section, to } => {
                    self.helm.wire.passage(section.index())?.mailbox.put(Task::Transition(to));
                }
                LoadStep::Accept { section } => {
                    load.accepted = load.accepted.saturating_add(1);
                    self.accept(section)?;
                }
                LoadStep::Acknowledge { section, sum, .. } => {
                    let sum = DigestSum::new(sum.bytes, sum.digest);
                    let proof = self.helm.wire.proof(section.index());
                    let loaded = Outgoing::Plain(link::loaded(section.index(), sum, proof));
                    load.acknowledged = load.acknowledged.saturating_add(1);
                    if load.acknowledged == load.names.len() {
                        load.last_word = Some(loaded);
                    } else {
                        self.acknowledge(loaded)?;
                    }
                }
                LoadStep::Loaded if self.vmm.phase >= Phase::StopCopy => return self.let_go(load.last_word),
                LoadStep::Loaded | LoadStep::Wait => self.wait(&mut load)?,
                _ => return Err(load.failure()),
            }
        }
    }

    /// The section takes data from here on.
    fn accept(&self, section: SectionId) -> Result<(), Cause> {
        if self.one_way {
            return Ok(());
        }
        let (wire, device) = (self.helm.wire, link::number(section.index()));
        wire.post(0, Outgoing::Plain(Message::DeviceAccept { device }))?;
        let passage = wire.passage(section.index())?;
        let is_memory = self.is_memory(section.index());
        let frames = if is_memory { passage.scattered.first_grant() } else { passage.window.first_grant() };
        wire.post(0, Outgoing::Plain(Message::Credit { device, frames }))
    }

    fn wait(&mut self, load: &mut Load) -> Result<(), Cause> {
        match self.next()? {
            Event::Control(Incoming::Switchover) => {
                // A file does not wait until its devices are ready.
                if self.vmm.phase < Phase::PreCopy {
                    self.vmm.enter(Phase::PreCopy)?;
                }
                self.vmm.enter(Phase::Switchover)?;
                self.vmm.enter(Phase::StopCopy)?;
                if load.names.is_empty() { self.vmm.enter(Phase::Load) } else { Ok(()) }
            }
            Event::Control(Incoming::End { index, frames, sum }) => {
                let (section, sum) = (SectionId::new(index), Sum::new(sum.bytes, sum.crc64_nvme));
                load.handle(LoadEvent::SectionEnd { section, chunks: frames, sum });
                load.ended = load.ended.saturating_add(1);
                if load.ended == load.names.len() { self.vmm.enter(Phase::Load) } else { Ok(()) }
            }
            Event::Done { device, done: Done::Moved } => {
                load.handle(LoadEvent::Transitioned { section: SectionId::new(device) });
                Ok(())
            }
            Event::Done { device, done: Done::Filled(sum) } => {
                let (section, sum) = (SectionId::new(device), Sum::new(sum.bytes, sum.crc64_nvme));
                load.handle(LoadEvent::Filled { section, sum });
                Ok(())
            }
            other => Err(out_of_place(other)),
        }
    }

    /// The last acknowledgement lets the source commit at any time, so whatever can still fail comes before it, and
    /// nothing after it but the source's word ends the migration here.
    fn let_go(&mut self, last: Option<Outgoing>) -> Result<(), Cause> {
        let receivers = self.helm.wire.lanes.len();
        self.helm.wait_receivers(self.vmm.hooks, receivers)?;
        self.vmm.check_cancel()?;
        self.helm.is_cancellable = false;
        last.map_or(Ok(()), |last| self.acknowledge(last))
    }

    fn acknowledge(&self, loaded: Outgoing) -> Result<(), Cause> {
        if self.one_way { Ok(()) } else { self.helm.wire.post(0, loaded) }
    }
}

/// The scheduler and what is counted beside it.
struct Load {
    scheduler: LoadScheduler,
    started: Instant,
    names: Vec<String>,
    accepted: usize,
    ended: usize,
    acknowledged: usize,
    /// The acknowledgement that lets the source commit.
    last_word: Option<Outgoing>,
}

impl Load {
    fn new(scheduler: LoadScheduler, names: Vec<String>) -> Self {
        Self { scheduler, started: Instant::now(), names, accepted: 0, ended: 0, acknowledged: 0, last_word: None }
    }

    fn poll(&mut self) -> LoadStep {
        self.scheduler.poll(self.started.elapsed())
    }

    fn handle(&mut self, event: LoadEvent) {
        self.scheduler.handle(self.started.elapsed(), event);
    }

    /// Why the scheduler wants no more.
    fn failure(&self) -> Cause {
        match self.scheduler.cause() {
            Some(sched::Cause::Mismatch { section, sent, received }) => {
                let device = self.names.get(section.index()).cloned().unwrap_or_default();
                let sum = |sum: Sum| DigestSum::new(sum.bytes, sum.digest);
                Cause::Digest { device, sent: sum(sent), received: sum(received) }
            }
            Some(cause) => Cause::refused(format!("{cause}: a fault of this program")),
            None => Cause::Cancelled,
        }
    }
}
