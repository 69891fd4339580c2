// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The source's phases, led by the caller's thread while the devices' and the channels' threads work.

use std::string::String;
use std::vec::Vec;

use stream_codec::frame::{Channel, Hello, Limits as FrameLimits, Message, Role, Support};
use vfio_mig_fsm::State;

use super::SaveOptions;
use super::set::{Offer, Vmm};
use crate::digest::DigestSum;
use crate::dirty::Region;
use crate::engine::board::Event;
use crate::engine::helm::{Helm, out_of_place};
use crate::engine::lane::Outgoing;
use crate::engine::plan::Plan;
use crate::engine::task::{Done, Task};
use crate::error::Cause;
use crate::hooks::Hooks;
use crate::link::{self, Incoming};
use crate::sched::Kind;

/// The caller's thread on its way.
pub(super) struct Course<'c, 'w, 'a, 'h, H: Hooks + ?Sized> {
    pub(super) helm: Helm<'w, 'a>,
    pub(super) vmm: &'c mut Vmm<'h, H>,
    pub(super) options: &'c SaveOptions,
    /// Of every device that has ended.
    pub(super) sums: Vec<DigestSum>,
}

impl<H: Hooks + ?Sized> Course<'_, '_, '_, '_, H> {
    pub(super) fn is_file(&self) -> bool {
        self.helm.wire.role == Role::File
    }

    pub(super) fn next(&mut self) -> Result<Event, Cause> {
        self.helm.next(self.vmm.hooks)
    }

    /// Says hello on every channel and hears the answers. Prepares for pieces of the size that both sides take.
    pub(super) fn greet(&mut self, devices: usize) -> Result<(), Cause> {
        let wire = self.helm.wire;
        let count = wire.channel_count();
        for index in 0..count {
            let hello = Hello {
                support: wire.support(),
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

    /// Offers every device, and waits until the target has taken each of them into RESUMING. Gives the states they were
    /// found in.
    pub(super) fn open(&mut self, offers: &[Offer], regions: &[Region]) -> Result<Vec<State>, Cause> {
        let described = self.helm.all(self.vmm.hooks, Task::Describe)?;
        let mut homes = Vec::with_capacity(offers.len());
        for (index, (offer, done)) in offers.iter().zip(described).enumerate() {
            let Done::Described { state, stop_copy_bytes } = done else { continue };
            if !matches!(state, State::Running | State::Stop) {
                return Err(Cause::refused(busy(&offer.name, state)));
            }
            homes.push(state);
            if offer.kind == Kind::Memory {
                for region in regions {
                    let region = Outgoing::Region { device: link::number(index), region: region.clone() };
                    self.helm.wire.post(0, region)?;
                }
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
        Ok(homes)
    }

    /// Waits until every channel has said its last word.
    pub(super) fn wait_receivers(&mut self) -> Result<(), Cause> {
        let receivers = self.helm.wire.lanes.len();
        self.helm.wait_receivers(self.vmm.hooks, receivers)
    }
}

fn busy(device: &str, state: State) -> String {
    std::format!(
        "{device} is in {state}, not RUNNING or STOP: something else is migrating it, or left it so; reset it first"
    )
}
