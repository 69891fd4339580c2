// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! An engine in virtual time: carries out steps on sections that are numbers, over a link that is a rate.

use core::time::Duration;
use std::vec::Vec;

use vfio_mig_fsm::{Capabilities, State};

use crate::sched::{Config, Decision, Event, Kind, SaveScheduler, Section, SectionId, Sizes, Step, Sum, units};

pub(super) const MS: Duration = Duration::from_millis(1);

/// More polls in one run are a scheduler that does not come to rest.
const POLLS_MAX: usize = 100_000;

/// By then every decision that a test waits for has been made.
const DECIDED_BY: Duration = Duration::from_secs(20);

/// A section that is numbers.
#[derive(Clone, Debug)]
pub(super) struct Fake {
    pub(super) initial_bytes: u64,
    pub(super) dirty_bytes: u64,
    pub(super) stop_bytes: u64,
    /// Always as much again as was read: a guest that is never done.
    pub(super) dirties_for_ever: bool,
    pub(super) reinits_when_quiet: u32,
    pub(super) transition: Duration,
    /// Refuses this state.
    pub(super) refuses: Option<State>,
    /// Where a refusal leaves it, if not where it was.
    pub(super) lands_in: Option<State>,
    state: State,
    pub(super) read_bytes: u64,
    reinit: bool,
    pub(super) queries: Vec<Duration>,
    pub(super) acknowledged_at: Option<Duration>,
}

pub(super) fn fake(initial_bytes: u64, dirty_bytes: u64, stop_bytes: u64) -> Fake {
    Fake {
        initial_bytes,
        dirty_bytes,
        stop_bytes,
        dirties_for_ever: false,
        reinits_when_quiet: 0,
        transition: MS,
        refuses: None,
        lands_in: None,
        state: State::Running,
        read_bytes: 0,
        reinit: false,
        queries: Vec::new(),
        acknowledged_at: None,
    }
}

pub(super) fn device(name: &str) -> Section {
    Section::new(name, Kind::Device, Capabilities::P2pPreCopy)
}

pub(super) fn memory() -> Section {
    Section::new("ram", Kind::Memory, Capabilities::PreCopy)
}

pub(super) struct Rig {
    pub(super) scheduler: SaveScheduler,
    pub(super) now: Duration,
    pub(super) sections: Vec<Fake>,
    queue: Vec<(Duration, Event)>,
    link_bytes_per_s: u64,
    link_free_at: Duration,
    pub(super) steps: Vec<(Duration, Step)>,
    pub(super) decisions: Vec<(Duration, Decision)>,
    /// The target acknowledges initial bytes.
    pub(super) acknowledges: bool,
    /// The target received what was sent.
    pub(super) corrupts: bool,
    pub(super) load: Duration,
    pub(super) inflight_bytes_seen: u64,
    /// Reads whose answer had not come when the guest was to be paused.
    pub(super) reads_at_pause: Option<usize>,
}

impl Rig {
    pub(super) fn new(config: Config, sections: Vec<Fake>, link_bytes_per_s: u64) -> Self {
        Self {
            scheduler: SaveScheduler::new(config),
            now: Duration::ZERO,
            sections,
            queue: Vec::new(),
            link_bytes_per_s,
            link_free_at: Duration::ZERO,
            steps: Vec::new(),
            decisions: Vec::new(),
            acknowledges: true,
            corrupts: false,
            load: 5 * MS,
            inflight_bytes_seen: 0,
            reads_at_pause: None,
        }
    }

    /// Runs until `end`, the commit is possible, or it is over.
    pub(super) fn run(&mut self, end: Duration) -> Step {
        for _ in 0..POLLS_MAX {
            let step = self.scheduler.poll(self.now);
            self.inflight_bytes_seen = self.inflight_bytes_seen.max(self.scheduler.inflight_bytes());
            self.decisions.extend(core::iter::from_fn(|| self.scheduler.take_decision()));
            let until = match step {
                Step::Wait { until } => {
                    assert!(until.is_none_or(|at| at > self.now), "at {:?} it waits until {until:?}", self.now);
                    until
                }
                Step::Ready | Step::Ended => return step,
                _ => {
                    self.steps.push((self.now, step));
                    self.carry_out(step);
                    continue;
                }
            };
            let next = self.queue.iter().map(|(at, _)| *at).chain(until).min();
            match next.filter(|at| *at <= end) {
                None => return step,
                Some(at) => self.now = self.now.max(at),
            }
            // In order of time; what is due at once, in the order it was arranged.
            if let Some(place) = self.queue.iter().position(|(at, _)| Some(*at) == next) {
                let (_, event) = self.queue.remove(place);
                self.happen(event);
            }
        }
        panic!("no end of it at {:?}, the last step was {:?}", self.now, self.steps.last());
    }

    /// Runs, a millisecond at a time, until it has decided so; what it decides never is not waited for for ever.
    pub(super) fn run_until_decided(&mut self, wanted: impl Fn(&Decision) -> bool) {
        while self.decided(&wanted).is_none() {
            assert!(self.now < DECIDED_BY, "undecided at {:?}: {:?}", self.now, self.decisions);
            let end = self.now + MS;
            let _ = self.run(end);
            self.now = end;
        }
    }

    pub(super) fn happen(&mut self, event: Event) {
        match event {
            Event::Read { section, bytes } => {
                let takes = units::time_for(bytes, self.link_bytes_per_s);
                self.link_free_at = self.link_free_at.max(self.now) + takes;
                self.queue.push((self.link_free_at, Event::Sent { section, bytes }));
            }
            Event::Acknowledged { section, .. } => {
                self.sections[section.index()].acknowledged_at.get_or_insert(self.now);
            }
            _ => {}
        }
        self.scheduler.handle(self.now, event);
    }

    fn after(&mut self, delay: Duration, event: Event) {
        self.queue.push((self.now + delay, event));
        self.queue.sort_by_key(|(at, _)| *at);
    }

    fn carry_out(&mut self, step: Step) {
        match step {
            Step::Transition { section, to } => {
                let fake = &mut self.sections[section.index()];
                let takes = fake.transition;
                if fake.refuses == Some(to) {
                    let found = fake.lands_in.or(Some(fake.state));
                    return self.after(takes, Event::TransitionFailed { section, found });
                }
                if to == State::PreCopyP2p && fake.reinits_when_quiet > 0 {
                    fake.reinits_when_quiet -= 1;
                    fake.reinit = true;
                    fake.initial_bytes = 1 << 20;
                }
                fake.state = to;
                self.after(takes, Event::Transitioned { section });
            }
            Step::Read { section, bytes_max, stopped } => self.read(section, bytes_max, stopped),
            Step::Query { section } => {
                let now = self.now;
                let fake = &mut self.sections[section.index()];
                fake.queries.push(now);
                let stop = fake.initial_bytes + fake.dirty_bytes + fake.stop_bytes;
                let sizes = Sizes::new(fake.initial_bytes, fake.dirty_bytes, stop);
                let sizes = if core::mem::take(&mut fake.reinit) { sizes.reinitialised() } else { sizes };
                self.after(MS / 10, Event::Queried { section, sizes });
            }
            Step::Announce { section, generation } if self.acknowledges => {
                self.after(MS, Event::Acknowledged { section, generation });
            }
            Step::Finish { section, sum } => {
                let sum = if self.corrupts { Sum::new(sum.bytes, sum.digest + 1) } else { sum };
                self.after(self.load, Event::Loaded { section, sum, took: None });
            }
            Step::PauseGuest => {
                let is_read = |event: &Event| matches!(event, Event::Read { .. } | Event::Drained { .. });
                self.reads_at_pause = Some(self.queue.iter().filter(|(_, event)| is_read(event)).count());
                self.after(MS, Event::GuestPaused);
            }
            Step::Reset { section } => self.after(MS, Event::Reset { section }),
            _ => {}
        }
    }

    fn read(&mut self, section: SectionId, bytes_max: u64, stopped: bool) {
        let fake = &mut self.sections[section.index()];
        let pools = [&mut fake.initial_bytes, &mut fake.dirty_bytes, &mut fake.stop_bytes];
        let mut taken = 0;
        for pool in pools.into_iter().take(if stopped { 3 } else { 2 }) {
            let part = (bytes_max - taken).min(*pool);
            *pool -= part;
            taken += part;
        }
        if fake.dirties_for_ever && !stopped {
            fake.dirty_bytes += taken;
        }
        fake.read_bytes += taken;
        let event = match taken {
            0 if stopped => Event::Ended { section, sum: Sum::new(fake.read_bytes, 7) },
            0 => Event::Drained { section },
            bytes => Event::Read { section, bytes },
        };
        self.after(MS / 100, event);
    }

    /// The first step that `wanted` recognises.
    pub(super) fn first(&self, wanted: impl Fn(&Step) -> bool) -> Option<Duration> {
        self.steps.iter().find(|(_, step)| wanted(step)).map(|(at, _)| *at)
    }

    pub(super) fn decided(&self, wanted: impl Fn(&Decision) -> bool) -> Option<Duration> {
        self.decisions.iter().find(|(_, decision)| wanted(decision)).map(|(at, _)| *at)
    }

    pub(super) fn requests(&self, to: State) -> usize {
        let is_request = |step: &Step| matches!(step, Step::Transition { to: found, .. } if *found == to);
        self.steps.iter().filter(|(_, step)| is_request(step)).count()
    }
}
