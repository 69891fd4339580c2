// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The target's engine, simulated.

use savevm_core::sched::{Event, LoadEvent, LoadStep, SectionId};
use vfio_mig_fsm::State;

use super::Ns;
use super::world::{Target, What, World};

const CALL_NS: Ns = 20_000;

impl World {
    /// Polls once and does what it is told; whether there was anything.
    pub(super) fn step_target(&mut self) -> Result<bool, String> {
        let now = self.time();
        let step = match &mut self.target {
            Target::Loading(scheduler) => scheduler.poll(now),
            Target::Owner(owner) => owner.poll(now),
        };
        self.check_target_step(&step)?;
        match step {
            LoadStep::Transition { section, to } => self.request_target(section, to)?,
            LoadStep::Write { section, sequence, bytes } => {
                let failed = self.faults.strikes();
                let speed = self.truths[section.index()].shape.write_bytes_per_s;
                let at = self.now + CALL_NS + (bytes as f64 / speed as f64 * 1e9) as Ns;
                match failed {
                    true => self.push(at, What::Target(LoadEvent::Failed { section })),
                    false => self.push(at, What::Written(section, sequence, bytes)),
                }
            }
            LoadStep::Accept { .. } => {}
            LoadStep::Grant { section, bytes, busy } => {
                self.answer(Event::Credited { section, bytes, busy: Some(busy) });
            }
            LoadStep::AcknowledgeInitial { section, generation } => {
                self.answer(Event::Acknowledged { section, generation });
            }
            LoadStep::Acknowledge { section, sum, took } => {
                self.answer(Event::Loaded { section, sum, took: Some(took) });
            }
            LoadStep::Confirm => {
                let at = self.link.arrival(self.now, false);
                if !self.check.link_lost {
                    self.push(at, What::Confirm);
                }
            }
            LoadStep::TellAbort => self.answer(Event::PeerFailed { section: None }),
            LoadStep::Reset { section } => {
                let event = match self.faults.strikes() {
                    true => LoadEvent::ResetFailed { section },
                    false => {
                        self.truths[section.index()].target = State::Running;
                        LoadEvent::Reset { section }
                    }
                };
                self.push(self.now + CALL_NS, What::Target(event));
            }
            LoadStep::Wait | LoadStep::Loaded => return Ok(false),
            LoadStep::Ended => {
                self.check.target_ended = true;
                return Ok(false);
            }
            other => return Err(format!("a step the simulator does not know: {other:?}")),
        }
        Ok(true)
    }

    fn answer(&mut self, event: Event) {
        let at = self.link.arrival(self.now, false);
        if !self.check.link_lost {
            self.push(at, What::Source(event));
        }
    }

    fn request_target(&mut self, section: SectionId, to: State) -> Result<(), String> {
        let failed = self.faults.strikes();
        let truth = &self.truths[section.index()];
        if vfio_mig_fsm::path(truth.shape.capabilities, truth.target, to).is_none() {
            return Err(format!("target's {section}: {} to {to} is no legal request", truth.target));
        }
        // Leaving RESUMING loads what was written.
        let takes = if to == State::Stop { truth.shape.load_ns } else { CALL_NS };
        let at = self.now + takes;
        match failed {
            true => self.push(at, What::Target(LoadEvent::TransitionFailed { section })),
            false => self.push(at, What::TargetReached(section, to)),
        }
        Ok(())
    }
}
