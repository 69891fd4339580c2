// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The target's phases, led by the caller's thread while the devices' and the channels' threads work.

use std::format;
use std::string::String;
use std::vec::Vec;

use stream_codec::frame::{Hello, Message, Role, Support};

use super::crew::Crew;
use super::set::{Pairing, Vmm};
use crate::device::Device;
use crate::engine::board::Event;
use crate::engine::helm::{Helm, out_of_place};
use crate::engine::lane::Outgoing;
use crate::engine::plan::Plan;
use crate::engine::task::Done;
use crate::engine::wire::at;
use crate::error::Cause;
use crate::hooks::{Hooks, Phase};
use crate::link::{self, Incoming};
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

    /// Follows the source through its phases, and acknowledges each device.
    pub(super) fn follow(&mut self, offered: usize) -> Result<(), Cause> {
        self.vmm.enter(Phase::PreCopy)?;
        let (mut ended, mut loaded) = (0_usize, 0_usize);
        let mut last = None;
        while loaded < offered || self.vmm.phase < Phase::StopCopy {
            match self.next()? {
                Event::Control(Incoming::Switchover) => {
                    self.vmm.enter(Phase::Switchover)?;
                    self.vmm.enter(Phase::StopCopy)?;
                    if offered == 0 {
                        self.vmm.enter(Phase::Load)?;
                    }
                }
                Event::Control(Incoming::End { .. }) => {
                    ended = ended.saturating_add(1);
                    if ended == offered {
                        self.vmm.enter(Phase::Load)?;
                    }
                }
                Event::Done { device, done: Done::Loaded(sum) } => {
                    loaded = loaded.saturating_add(1);
                    if loaded < offered {
                        self.acknowledge(Outgoing::Plain(link::loaded(device, sum)))?;
                    } else {
                        last = Some(Outgoing::Plain(link::loaded(device, sum)));
                    }
                }
                other => return Err(out_of_place(other)),
            }
        }
        self.let_go(last)
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
