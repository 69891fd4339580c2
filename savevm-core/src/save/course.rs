// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The source's phases, led by the caller's thread while the devices' and the channels' threads work.

use std::string::String;
use std::vec::Vec;

use stream_codec::frame::{Channel, Hello, Limits as FrameLimits, Message, Role, Support};
use vfio_mig_fsm::State;

use super::SaveOptions;
use super::set::{Offer, Vmm};
use crate::engine::board::Event;
use crate::engine::helm::{Helm, out_of_place};
use crate::engine::lane::Outgoing;
use crate::engine::plan::Plan;
use crate::engine::task::{Done, Task};
use crate::error::Cause;
use crate::hooks::{Hooks, Phase};
use crate::link::{self, Incoming};

/// How often a device may begin anew while it is made quiet, before the switchover goes on regardless.
const REINIT_MAX: u32 = 8;

/// The caller's thread on its way.
pub(super) struct Course<'c, 'w, 'a, 'h, H: Hooks + ?Sized> {
    pub(super) helm: Helm<'w, 'a>,
    pub(super) vmm: &'c mut Vmm<'h, H>,
    pub(super) options: &'c SaveOptions,
}

impl<H: Hooks + ?Sized> Course<'_, '_, '_, '_, H> {
    fn is_file(&self) -> bool {
        self.helm.wire.role == Role::File
    }

    pub(super) fn next(&mut self) -> Result<Event, Cause> {
        self.helm.next(self.vmm.hooks)
    }

    pub(super) fn all(&mut self, task: Task) -> Result<Vec<Done>, Cause> {
        self.helm.all(self.vmm.hooks, task)
    }

    /// Says hello on every channel and hears the answers. Prepares for pieces of the size that both sides take.
    pub(super) fn greet(&mut self, devices: usize) -> Result<(), Cause> {
        let wire = self.helm.wire;
        let count = wire.channel_count();
        for index in 0..count {
            let hello = Hello {
                support: link::support(&wire.limits, wire.role),
                role: wire.role,
                nonce: self.options.nonce,
                channel: Channel { index, count },
                device_count: link::number(devices),
                data_bytes_max: 0,
            };
            wire.post(index, Outgoing::Plain(Message::Hello(hello)))?;
        }
        let mut chunk_bytes = wire.limits.chunk_bytes_max.max(1);
        let expected = if self.is_file() { 0 } else { count };
        for _ in 0..expected {
            match self.next()? {
                Event::Control(Incoming::Hello(peer)) if peer.data_bytes_max > 0 => {
                    chunk_bytes = chunk_bytes.min(peer.data_bytes_max);
                }
                Event::Control(Incoming::Hello(_)) => {
                    return Err(Cause::refused("the peer takes no data: it is a source itself"));
                }
                other => return Err(out_of_place(other)),
            }
        }
        let features = wire.session().agreement().map_or(0, |agreement| agreement.features);
        if !self.is_file() && features & Support::CREDIT == 0 {
            return Err(Cause::refused("the peer grants no credit, which bounds what is under way"));
        }
        let is_unchecked = !wire.limits.payload_checksums && (self.is_file() || features & Support::UNCHECKED != 0);
        for lane in &wire.lanes {
            lane.with_writer(|writer| {
                writer.set_limits(FrameLimits { data_bytes: chunk_bytes, ..*writer.limits() });
                writer.set_unchecked(is_unchecked);
            });
        }
        wire.prepare(&Plan::source(&wire.limits, chunk_bytes, devices, wire.lanes.len()), devices);
        Ok(())
    }

    /// Offers every device, and waits until the target has taken each of them into RESUMING.
    pub(super) fn open(&mut self, offers: &[Offer]) -> Result<(), Cause> {
        let described = self.all(Task::Describe)?;
        for (index, (offer, done)) in offers.iter().zip(described).enumerate() {
            let Done::Described { state, stop_copy_bytes } = done else { continue };
            if !matches!(state, State::Running | State::Stop) {
                return Err(Cause::refused(busy(&offer.name, state)));
            }
            let open = Outgoing::Open {
                device: link::number(index),
                name: offer.name.clone(),
                identity: offer.identity.clone(),
                migration_flags: offer.capabilities.flags(),
                stop_copy_bytes,
            };
            self.helm.wire.post(0, open)?;
        }
        let expected = if self.is_file() { 0 } else { offers.len() };
        for _ in 0..expected {
            match self.next()? {
                Event::Control(Incoming::Accept) => {}
                other => return Err(out_of_place(other)),
            }
        }
        Ok(())
    }

    /// Pre-copy where there is any, then the P2P barrier.
    pub(super) fn read_while_running(&mut self) -> Result<(), Cause> {
        let rule = self.options.precopy;
        for _ in 0..REINIT_MAX {
            if let Some(rule) = &rule {
                self.vmm.enter(Phase::PreCopy)?;
                let members = self.begin_precopy()?;
                if !members.is_empty() {
                    self.precopy(&members, rule)?;
                }
            }
            self.vmm.enter(Phase::Switchover)?;
            self.quiesce()?;
            // vfio.h, VFIO_PRECOPY_INFO_REINIT: readiness must be judged anew.
            if rule.is_none() || !self.is_reinitialised()? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Starts tracking on every running device that can be read while it runs. Gives those that are.
    fn begin_precopy(&mut self) -> Result<Vec<usize>, Cause> {
        let done = self.all(Task::Follow(|capabilities, now| match now {
            State::Running | State::PreCopyP2p if capabilities.has_pre_copy() => Some(State::PreCopy),
            // Waiting behind the barrier for a set that goes back to pre-copy.
            State::RunningP2p => Some(State::Running),
            _ => None,
        }))?;
        let is_member = |(index, done)| matches!(done, Done::Followed(State::PreCopy)).then_some(index);
        Ok(done.into_iter().enumerate().filter_map(is_member).collect())
    }

    /// The P2P barrier: no device is stopped before all that can are quiet towards each other.
    fn quiesce(&mut self) -> Result<(), Cause> {
        self.all(Task::Follow(|capabilities, now| match now {
            State::Running if capabilities.has_p2p() => Some(State::RunningP2p),
            State::PreCopy if capabilities.has_p2p() => Some(State::PreCopyP2p),
            _ => None,
        }))?;
        Ok(())
    }

    /// Whether a device began a new initial phase while it was being made quiet. Leaving pre-copy now would move
    /// its whole new initial state inside the downtime.
    fn is_reinitialised(&mut self) -> Result<bool, Cause> {
        let infos = self.all(Task::Info)?;
        Ok(infos.iter().any(|done| matches!(done, Done::Info(Some(info)) if info.reinit == Some(true))))
    }

    /// Stops the guest, then every device, behind the barrier, and reads them all to their end.
    pub(super) fn stop_and_drain(&mut self) -> Result<(), Cause> {
        let wire = self.helm.wire;
        wire.post(0, Outgoing::Plain(Message::Switchover))?;
        self.vmm.enter(Phase::StopCopy)?;
        self.vmm.pause_guest()?;
        self.all(Task::Follow(|_, _| Some(State::StopCopy)))?;
        self.all(Task::Drain)?;
        for index in 1..wire.channel_count() {
            wire.post(index, Outgoing::Plain(Message::ChannelEnd))?;
        }
        Ok(())
    }

    /// Waits for the target's acknowledgement of every device. The session has compared counts and digests.
    pub(super) fn collect_acknowledgements(&mut self, devices: usize) -> Result<(), Cause> {
        self.helm.wait_loaded(self.vmm.hooks, devices)?;
        let receivers = self.helm.wire.lanes.len();
        self.helm.wait_receivers(self.vmm.hooks, receivers)
    }
}

fn busy(device: &str, state: State) -> String {
    std::format!(
        "{device} is in {state}, not RUNNING or STOP: something else is migrating it, or left it so; reset it first"
    )
}
