// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whether the frames of one direction come in an order in which they may, and whether the totals and digests in them
//! are those of the data.
//!
//! Only one half of the conversation is in a file. The other half is taken to have answered as a target does that
//! agrees with everything, at once.

use std::collections::BTreeMap;

use savevm_core::digest::Digest as Running;
use stream_codec::decode::Blame;
use stream_codec::frame::{
    CREDIT_FRAMES_MAX, Digest, DigestAlgorithm, Limits, Loaded, Message, Phase, Role, Session, SessionError, Support,
};

use super::channel::ChannelOrder;
use super::digest;
use crate::inspect::fault::Fault;

/// Everything that a source may ask for.
const SUPPORT: Support = Support {
    offered: Support::CREDIT | Support::UNCHECKED | Support::MEMORY | Support::INITIAL_ACK | Support::MEMORY_UNDIGESTED,
    ..Support::CURRENT
};

pub(super) struct Order {
    session: Session,
    limits: Limits,
    role: Option<Role>,
    /// The data of each device so far.
    devices: Vec<(u32, Running)>,
    /// What is wrong has been said; nothing follows from what comes after.
    is_broken: bool,
    /// The source's direction of one channel of several, which no session judges alone.
    channel: Option<ChannelOrder>,
    /// The target's own messages, which no session judges.
    target: Target,
}

/// What a target has said.
#[derive(Default)]
struct Target {
    accepted: Vec<u32>,
    /// The first frame of each device that it has no room for.
    granted: BTreeMap<u32, u64>,
    /// The last generation of each device's initial bytes that it acknowledged.
    initial: BTreeMap<u32, u32>,
    loaded: Vec<u32>,
    channel: u16,
    /// The channel, which is not the first, has ended.
    has_ended: bool,
    is_complete: bool,
    is_aborted: bool,
}

impl Order {
    pub(super) fn new(limits: Limits) -> Self {
        let session = Session::new(Role::Target, SUPPORT, limits);
        Self {
            session,
            limits,
            role: None,
            devices: Vec::new(),
            is_broken: false,
            channel: None,
            target: Target::default(),
        }
    }

    /// Bytes of a device.
    pub(super) fn update(&mut self, device: u32, bytes: &[u8]) {
        match self.devices.iter_mut().find(|(number, _)| *number == device) {
            Some((_, running)) => running.update(bytes),
            None => {
                let mut running = Running::new();
                running.update(bytes);
                self.devices.push((device, running));
            }
        }
    }

    pub(super) fn data(&mut self, device: u32, sequence: u64, length: u32, offset: u64) -> Option<Fault> {
        if self.is_broken {
            return None;
        }
        if let Some(channel) = &mut self.channel {
            let result = channel.data(device, sequence);
            return self.judge_channel(result, offset);
        }
        self.grant(device, sequence);
        let result = self.session.received_data(device, sequence, length);
        self.judge(result, offset)
    }

    /// Gives room in time: how much the target really gave is in the other direction.
    fn grant(&mut self, device: u32, sequence: u64) {
        if let (Some(credit), Some(next)) = (self.session.credit(device), self.session.next_sequence(device)) {
            if credit <= sequence {
                let frames = next.saturating_add(CREDIT_FRAMES_MAX);
                // Refused where there is something wrong with the data, of which more can be said.
                let _ = self.session.sent(&Message::Credit { device, frames });
            }
        }
    }

    pub(super) fn control(&mut self, message: &Message<'_>, offset: u64) -> Option<Fault> {
        if self.is_broken {
            return None;
        }
        if let Message::Hello(hello) = message {
            self.role.get_or_insert(hello.role);
            if hello.channel.count > 1 && hello.role == Role::Source {
                self.channel.get_or_insert_with(|| ChannelOrder::new(hello.channel));
            }
            self.target.channel = hello.channel.index;
        }
        if self.role == Some(Role::Target) {
            return self.target_says(message, offset);
        }
        if let Some(channel) = &mut self.channel {
            let result = channel.control(message);
            return self.judge_channel(result, offset);
        }
        let received = self.session.received(message).and_then(|()| self.answer(message));
        self.judge(received, offset).or_else(|| self.compare(message, offset))
    }

    /// Answers as a target that agrees.
    fn answer(&mut self, message: &Message<'_>) -> Result<(), SessionError> {
        if self.session.is_file() {
            return Ok(());
        }
        match message {
            Message::Hello(hello) => {
                let reply = hello.reply(SUPPORT, self.limits.data_bytes);
                self.session.sent(&Message::Hello(reply))
            }
            Message::DeviceOpen(open) => self.session.sent(&Message::DeviceAccept { device: open.device }),
            Message::InitialDone(done) => {
                self.session.sent(&Message::InitialAck { device: done.device, generation: done.generation })
            }
            Message::DeviceEnd(end) => {
                let loaded = Loaded { device: end.device, bytes: end.bytes, digest: end.digest };
                self.session.sent(&Message::Loaded(loaded))
            }
            Message::Commit => self.session.sent(&Message::Complete),
            _ => Ok(()),
        }
    }

    /// The digest at the end of a device against that of its bytes.
    fn compare(&mut self, message: &Message<'_>, offset: u64) -> Option<Fault> {
        let Message::DeviceEnd(end) = message else { return None };
        if end.digest.algorithm() != DigestAlgorithm::CRC64_NVME {
            return None;
        }
        let running = self.devices.iter().find(|(number, _)| *number == end.device);
        let sum = running.map_or_else(|| Running::new().sum(), |(_, running)| running.sum());
        let found = Digest::crc64_nvme(sum.crc64_nvme);
        if found == end.digest {
            return None;
        }
        let meaning = format!(
            "the bytes of device {} give {}, the stream says {}",
            end.device,
            digest(&found),
            digest(&end.digest)
        );
        Some(Fault::new(
            offset,
            meaning,
            "do not use the data; check the connection or the file, then repeat the transfer",
        ))
    }

    fn judge(&mut self, result: Result<(), SessionError>, offset: u64) -> Option<Fault> {
        let error = result.err()?;
        self.is_broken = true;
        let fault = error.fault();
        Some(Fault::new(offset, format_args!("{error} ({fault})"), fault.advice()))
    }

    fn judge_channel(&mut self, result: Result<(), String>, offset: u64) -> Option<Fault> {
        let meaning = result.err()?;
        self.is_broken = true;
        Some(Fault::new(offset, meaning, "do not use the data; report the error to whoever maintains the sender"))
    }

    /// What a target may say, as far as that can be told without the other direction.
    fn target_says(&mut self, message: &Message<'_>, offset: u64) -> Option<Fault> {
        let target = &mut self.target;
        let wrong = match message {
            _ if target.is_aborted || target.is_complete || target.has_ended => {
                Some("this follows the target's last word".to_owned())
            }
            Message::Hello(_) => None,
            Message::ChannelEnd if target.channel > 0 => {
                target.has_ended = true;
                None
            }
            Message::DeviceAccept { device } => {
                let is_new = !target.accepted.contains(device);
                target.accepted.push(*device);
                (!is_new).then(|| format!("device {device} was accepted before"))
            }
            Message::Credit { device, frames } => {
                let granted = target.granted.entry(*device).or_default();
                let is_more = *frames > *granted && target.accepted.contains(device);
                *granted = *frames;
                (!is_more).then(|| format!("device {device} was not accepted, or had as much credit before"))
            }
            Message::InitialAck { device, generation } => {
                let last = target.initial.entry(*device).or_default();
                let is_new = *generation > *last && target.accepted.contains(device) && !target.loaded.contains(device);
                *last = *generation;
                (!is_new).then(|| {
                    format!("device {device} was not accepted, or was loaded or as far with its initial bytes before")
                })
            }
            Message::Loaded(Loaded { device, .. }) => {
                let is_new = target.accepted.contains(device) && !target.loaded.contains(device);
                target.loaded.push(*device);
                (!is_new).then(|| format!("device {device} was not accepted, or was loaded before"))
            }
            Message::Complete => {
                target.is_complete = true;
                let missing = target.accepted.len().saturating_sub(target.loaded.len());
                (missing > 0).then(|| format!("the target took over while {missing} devices were not loaded"))
            }
            Message::Abort(_) => {
                target.is_aborted = true;
                None
            }
            _ => Some(format!("a {} is not for a target to send", message.kind())),
        };
        let meaning = wrong?;
        self.is_broken = true;
        Some(Fault::new(offset, meaning, "do not use the data; report the error to whoever maintains the sender"))
    }

    /// Whether the stream may end.
    pub(super) fn finish(&self) -> Option<Fault> {
        if self.is_broken {
            return None;
        }
        let advice = "the connection or the program that wrote this ended early; repeat the migration";
        if self.role == Some(Role::Target) {
            let is_over = self.target.is_complete || self.target.is_aborted || self.target.has_ended;
            let meaning = "the target's direction ends before it took over or gave up";
            return (!is_over).then(|| Fault::new(0, meaning, advice));
        }
        if let Some(channel) = &self.channel {
            return channel.finish().err().map(|meaning| Fault::new(0, meaning, advice));
        }
        let may_end = match self.session.phase() {
            Phase::Greeting | Phase::PreCopy | Phase::StopCopy => false,
            Phase::Committed | Phase::Complete | Phase::Aborted { .. } => true,
            _ => true,
        };
        let phase = self.session.phase();
        (!may_end).then(|| Fault::new(0, format!("the stream ends in the {phase} phase, before its Commit"), advice))
    }
}
