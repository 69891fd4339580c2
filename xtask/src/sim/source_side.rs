// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The source's engine, simulated: carries out each step and arranges for its answer.

use savevm_core::sched::{Event, LoadEvent, Record, SectionId, Step};
use vfio_mig_fsm::State;

use super::Ns;
use super::fault::Fault;
use super::world::{Source, Target, What, World};

/// A call that does next to nothing.
const CALL_NS: Ns = 20_000;

impl World {
    /// Polls once and does what it is told; whether there was anything.
    pub(super) fn step_source(&mut self) -> Result<bool, String> {
        let now = self.time();
        let step = match &mut self.source {
            Source::Saving(scheduler) => scheduler.poll(now),
            Source::Committed(committed) => committed.poll(now),
        };
        self.record(Record::Poll { at: now, step });
        self.check_step(&step)?;
        match step {
            Step::Transition { section, to } => self.request(section, to)?,
            Step::Read { section, bytes_max, stopped } => self.read(section, bytes_max, stopped),
            Step::Query { section } => {
                self.sync(section);
                let failed = self.faults.strikes();
                let truth = &mut self.truths[section.index()];
                let event = match failed {
                    true => Event::Failed { section },
                    false => Event::Queried { section, sizes: truth.sizes() },
                };
                let at = self.now + truth.shape.query_ns;
                self.push(at, What::Source(event));
            }
            Step::Announce { section, generation } => {
                let chunks = self.truths[section.index()].chunks;
                self.message(LoadEvent::InitialComplete { section, generation, chunks });
            }
            Step::Finish { section, sum } => {
                let chunks = self.truths[section.index()].chunks;
                self.message(LoadEvent::SectionEnd { section, chunks, sum });
            }
            Step::PauseGuest => {
                let event = if self.faults.strikes() { Event::GuestFailed } else { Event::GuestPaused };
                self.push(self.now + self.pause_ns, What::Source(event));
            }
            Step::ResumeGuest => {
                for truth in &mut self.truths {
                    truth.advance(self.now, false);
                }
                self.guest_runs = true;
            }
            Step::TellAbort => self.message(LoadEvent::PeerFailed),
            Step::TellCommit => {
                let at = self.link.arrival(self.now, false);
                self.push(at, What::Commit);
            }
            Step::Reset { section } => {
                let failed = self.faults.strikes();
                let truth = &mut self.truths[section.index()];
                let event = match failed {
                    true => Event::ResetFailed { section },
                    false => {
                        truth.state = State::Running;
                        Event::Reset { section }
                    }
                };
                self.push(self.now + CALL_NS, What::Source(event));
            }
            Step::Wait { until } => {
                self.wake(until);
                return Ok(false);
            }
            Step::Ready => return self.commit(),
            Step::Ended => {
                self.end_source();
                return Ok(false);
            }
            other => return Err(format!("a step the simulator does not know: {other:?}")),
        }
        Ok(true)
    }

    fn message(&mut self, event: LoadEvent) {
        let at = self.link.arrival(self.now, false);
        self.push(at, What::Target(event));
    }

    fn request(&mut self, section: SectionId, to: State) -> Result<(), String> {
        self.sync(section);
        let failed = self.faults.strikes();
        let truth = &mut self.truths[section.index()];
        let path = vfio_mig_fsm::path(truth.shape.capabilities, truth.state, to);
        let path = path.ok_or_else(|| format!("{section}: {} to {to} is no legal request", truth.state))?;
        let shape = &truth.shape;
        let takes = match to {
            State::PreCopy => shape.start_ns,
            State::RunningP2p | State::PreCopyP2p => shape.quiesce_ns,
            State::StopCopy => shape.stop_ns,
            _ => CALL_NS,
        };
        let at = self.now + takes;
        if failed {
            let (state, found) = self.faults.found(path.steps(), truth.state);
            truth.state = state;
            self.push(at, What::Source(Event::TransitionFailed { section, found }));
        } else {
            self.push(at, What::Reached(section, to));
        }
        Ok(())
    }

    fn read(&mut self, section: SectionId, bytes_max: u64, stopped: bool) {
        self.sync(section);
        if self.faults.strikes() {
            return self.push(self.now + CALL_NS, What::Source(Event::Failed { section }));
        }
        let truth = &mut self.truths[section.index()];
        // Drivers give less than they are asked for when they like.
        let bytes_max = if truth.chunks % 7 == 3 { bytes_max.div_ceil(2) } else { bytes_max };
        let sequence = truth.chunks;
        let bytes = truth.read(bytes_max);
        if bytes > 0 {
            let takes = CALL_NS + (bytes as f64 / truth.shape.read_bytes_per_s as f64 * 1e9) as Ns;
            return self.push(self.now + takes, What::Queued(section, sequence, bytes));
        }
        let event = match stopped {
            true => Event::Ended { section, sum: self.sum(section) },
            false => Event::Drained { section },
        };
        self.push(self.now + CALL_NS, What::Source(event));
    }

    /// The point of no return.
    fn commit(&mut self) -> Result<bool, String> {
        let now = self.time();
        let Source::Saving(scheduler) = &self.source else { return Err("ready after the commit".into()) };
        let committed = scheduler.clone().commit(now).map_err(|_| "Ready, and the commit is refused")?;
        self.record(Record::Commit { at: now });
        self.source = Source::Committed(Box::new(committed));
        self.source_dead = true;
        Ok(true)
    }

    fn end_source(&mut self) {
        if self.check.source_ended {
            return;
        }
        self.check.source_ended = true;
        self.outcome = match &self.source {
            Source::Saving(scheduler) => scheduler.outcome(),
            Source::Committed(committed) => committed.outcome(),
        };
        let mut records = Vec::new();
        loop {
            let decision = match &mut self.source {
                Source::Saving(scheduler) => scheduler.take_decision(),
                Source::Committed(committed) => committed.take_decision(),
            };
            let Some((at, decision)) = decision else { break };
            self.check.on_decision(&decision);
            records.push(Record::Decision { at, decision });
        }
        if let Some(log) = &mut self.log {
            log.extend(records);
        }
    }

    pub(super) fn strike(&mut self, fault: Fault) {
        match fault {
            Fault::LinkLost => {
                self.check.target_silent = matches!(self.target, Target::Owner(_));
                self.tell_source(Event::LinkFailed);
                self.push(self.now, What::Target(LoadEvent::LinkFailed));
                self.check.link_lost = true;
            }
            Fault::ChannelLost => self.link.intact = 0.5,
            Fault::SourceCancels => self.tell_source(Event::Cancel),
            Fault::TargetCancels => self.push(self.now, What::Target(LoadEvent::Cancel)),
            Fault::StrayEvents => {
                let section = SectionId::new(0);
                self.check.strays = true;
                for event in [
                    Event::Acknowledged { section, generation: 77 },
                    Event::Reset { section: SectionId::new(1000) },
                    Event::Sent { section, bytes: u64::MAX },
                    Event::Loaded { section: SectionId::new(1000), sum: self.sum(section), took: None },
                    Event::Resume,
                ] {
                    self.tell_source(event);
                }
            }
        }
    }
}
