// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One whole migration in virtual time: two schedulers, simulated sections between a link, and faults.
//!
//! There is one queue of things that will happen. Each is taken out in order of time, told to the scheduler it concerns, and both
//! schedulers are polled until they wait. [`Check`] looks at every step.

use core::cmp::Reverse;
use core::time::Duration;
use std::collections::BinaryHeap;

use savevm_core::sched::{
    Committed, Event, LoadEvent, LoadScheduler, LoadSection, Outcome, Owner, Record, SaveScheduler, SectionId, Sum,
};

use super::Ns;
use super::check::Check;
use super::fault::{Fault, Faults};
use super::link::Link;
use super::rule::Rule;
use super::scenario::Scenario;
use super::truth::Truth;

/// Who has the guest at the source.
#[derive(Clone, Debug)]
pub(super) enum Source {
    Saving(Box<SaveScheduler>),
    Committed(Box<Committed>),
}

/// Who has the guest at the target.
#[derive(Clone, Debug)]
pub(super) enum Target {
    Loading(Box<LoadScheduler>),
    Owner(Box<Owner>),
}

/// Something that will happen.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    Source(Event),
    /// A transition of the source's section ends in that state.
    Reached(SectionId, vfio_mig_fsm::State),
    /// A chunk leaves the device and queues for the link.
    Queued(SectionId, u64, u64),
    Target(LoadEvent),
    TargetReached(SectionId, vfio_mig_fsm::State),
    /// The target's write of a chunk returns.
    Written(SectionId, u64, u64),
    /// The source's word that the guest is given up arrives.
    Commit,
    /// The target's word that it runs arrives.
    Confirm,
    /// The reader of a fault.
    Strike(Fault),
    /// The end of a window, for a rule that decides instead of the scheduler.
    Window,
    Wake,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    at: Ns,
    number: u64,
    what: What,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ending {
    pub(super) outcome: Option<Outcome>,
    pub(super) events: u64,
}

/// A migration.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) now: Ns,
    number: u64,
    queue: BinaryHeap<Reverse<Entry>>,
    wake_at: Ns,
    pub(super) source: Source,
    pub(super) target: Target,
    pub(super) truths: Vec<Truth>,
    pub(super) link: Link,
    pub(super) faults: Faults,
    pub(super) check: Check,
    pub(super) rule: Rule,
    pub(super) guest_runs: bool,
    pub(super) source_dead: bool,
    pub(super) pause_ns: Ns,
    pub(super) outcome: Option<Outcome>,
    pub(super) sent_bytes: u64,
    pub(super) log: Option<Vec<Record>>,
}

/// More than this is a hang.
const EVENTS_MAX: u64 = 3_000_000;

impl World {
    pub(super) fn new(scenario: Scenario, rule: Rule) -> Self {
        let section = |truth: &super::truth::Shape| {
            let mut section = LoadSection::new(truth.capabilities);
            section.window_bytes = scenario.window_bytes;
            section
        };
        let target = LoadScheduler::new(scenario.shapes.iter().map(section).collect());
        let check = Check::new(&scenario);
        let mut world = Self {
            now: 0,
            number: 0,
            queue: BinaryHeap::with_capacity(64),
            wake_at: Ns::MAX,
            source: Source::Saving(Box::new(SaveScheduler::new(scenario.config.clone()))),
            target: Target::Loading(Box::new(target)),
            guest_runs: scenario.shapes.iter().all(|shape| shape.home == vfio_mig_fsm::State::Running),
            truths: scenario.shapes.into_iter().map(Truth::new).collect(),
            link: Link::new(scenario.link, scenario.link_rng),
            faults: scenario.faults,
            check,
            rule,
            source_dead: false,
            pause_ns: scenario.pause_ns,
            outcome: None,
            sent_bytes: 0,
            log: None,
        };
        if let Some((at, fault)) = world.faults.timed() {
            world.push(at, What::Strike(fault));
        }
        if rule.decides() {
            world.push(super::rule::WINDOW_NS, What::Window);
        }
        world
    }

    pub(super) fn push(&mut self, at: Ns, what: What) {
        self.number += 1;
        self.queue.push(Reverse(Entry { at, number: self.number, what }));
    }

    pub(super) fn time(&self) -> Duration {
        Duration::from_nanos(self.now)
    }

    pub(super) fn record(&mut self, record: Record) {
        if let Some(log) = &mut self.log {
            log.push(record);
        }
    }

    /// Runs until both sides are done.
    pub(super) fn run(&mut self) -> Result<Ending, String> {
        self.run_until(Ns::MAX)
    }

    /// Runs until both sides are done or `end`.
    pub(super) fn run_until(&mut self, end: Ns) -> Result<Ending, String> {
        let mut events = 0_u64;
        if self.number == 0 || self.now == 0 {
            self.settle()?;
        }
        while let Some(Reverse(entry)) = self.queue.peek().copied() {
            if entry.at > end || self.is_over() {
                break;
            }
            let _ = self.queue.pop();
            self.now = entry.at;
            events += 1;
            if events > EVENTS_MAX {
                return Err("it does not end".into());
            }
            self.happen(entry.what)?;
            self.settle()?;
        }
        if end == Ns::MAX {
            self.check_end()?;
        }
        Ok(Ending { outcome: self.outcome, events })
    }

    fn happen(&mut self, what: What) -> Result<(), String> {
        match what {
            What::Source(event) => self.tell_source(event),
            What::Reached(section, to) => {
                self.sync(section);
                self.truths[section.index()].enter(to);
                self.tell_source(Event::Transitioned { section });
            }
            What::Queued(section, sequence, bytes) => {
                self.tell_source(Event::Read { section, bytes });
                let sent_at = self.link.send(self.now, bytes);
                let arrives_at = self.link.arrival(sent_at, true);
                self.push(sent_at, What::Source(Event::Sent { section, bytes }));
                self.push(arrives_at, What::Target(LoadEvent::Arrived { section, sequence, bytes }));
            }
            What::Target(event) => self.tell_target(event),
            What::TargetReached(section, to) => {
                self.truths[section.index()].target = to;
                self.tell_target(LoadEvent::Transitioned { section });
            }
            What::Written(section, sequence, bytes) => {
                let digest = self.truths[section.index()].write(sequence, bytes);
                let digest = digest ^ u64::from(self.faults.corrupts(section));
                self.tell_target(LoadEvent::Written { section, digest });
            }
            What::Commit => self.take_over()?,
            What::Confirm => self.tell_source(Event::Confirmed),
            What::Strike(fault) => self.strike(fault),
            What::Window => self.apply_rule(),
            What::Wake => self.wake_at = Ns::MAX,
        }
        Ok(())
    }

    /// Lets the guest run on in one section up to now.
    pub(super) fn sync(&mut self, section: SectionId) {
        self.truths[section.index()].advance(self.now, self.guest_runs);
    }

    pub(super) fn tell_source(&mut self, event: Event) {
        let now = self.time();
        self.check.on_event(&event, self.now);
        match &event {
            Event::GuestPaused => {
                for truth in &mut self.truths {
                    truth.advance(self.now, self.guest_runs);
                }
                self.guest_runs = false;
            }
            Event::Read { section, bytes } => self.check_starvation(section.index(), *bytes),
            Event::Sent { bytes, .. } => self.sent_bytes = self.sent_bytes.saturating_add(*bytes),
            _ => {}
        }
        self.record(Record::Event { at: now, event });
        match &mut self.source {
            Source::Saving(scheduler) => scheduler.handle(now, event),
            Source::Committed(committed) => committed.handle(now, event),
        }
    }

    fn tell_target(&mut self, event: LoadEvent) {
        let now = self.time();
        match &mut self.target {
            Target::Loading(scheduler) => scheduler.handle(now, event),
            Target::Owner(owner) => owner.handle(now, event),
        }
    }

    fn take_over(&mut self) -> Result<(), String> {
        let Target::Loading(loading) = &self.target else { return Err("committed twice".into()) };
        match loading.clone().take_over() {
            Ok(owner) => self.target = Target::Owner(Box::new(owner)),
            // It failed in the meantime: the source is told, and is in doubt.
            Err(_) if loading.cause().is_some() => {}
            Err(_) => return Err("the source committed before the target had loaded everything".into()),
        }
        Ok(())
    }

    /// Both sides do what is due.
    fn settle(&mut self) -> Result<(), String> {
        loop {
            if let Some(broken) = self.check.broken.take() {
                return Err(broken);
            }
            let source = self.step_source()?;
            let target = self.step_target()?;
            if !source && !target {
                return Ok(());
            }
        }
    }

    pub(super) fn wake(&mut self, until: Option<Duration>) {
        let Some(until) = until else { return };
        let at = u64::try_from(until.as_nanos()).unwrap_or(Ns::MAX).max(self.now + 1);
        if at < self.wake_at {
            self.wake_at = at;
            self.push(at, What::Wake);
        }
    }

    pub(super) fn sum(&self, section: SectionId) -> Sum {
        let truth = &self.truths[section.index()];
        Sum::new(truth.read_bytes, truth.read_digest)
    }

    /// Both sides have come to an end.
    fn is_over(&self) -> bool {
        self.check.source_ended && (self.check.target_ended || self.check.target_silent)
    }
}
