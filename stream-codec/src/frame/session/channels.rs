// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which channels of a session have joined, and which have ended.

use super::super::hello::Role;
use super::super::kind::Kind;
use super::violation::Violation;

/// Most channels of one session, whatever the limits say.
pub const CHANNELS_MAX: u16 = 64;

/// A set of channels per step of their life; bit `n` is channel `n`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Channels {
    count: u16,
    /// The source has said Hello.
    offered: u64,
    /// Both have.
    joined: u64,
    /// The source has said there that the guest is stopped.
    switched: u64,
    /// The source has said its last word there.
    ended_by_source: u64,
    /// The target too.
    ended: u64,
}

impl Channels {
    /// Before the first Hello.
    pub(super) const NONE: Self = Self { count: 0, offered: 0, joined: 0, switched: 0, ended_by_source: 0, ended: 0 };

    /// A session of this many channels, which were compared with the limit.
    pub(super) const fn expect(&mut self, count: u16) {
        self.count = count;
    }

    /// Whether frames of one channel may overtake those of another.
    pub(super) const fn is_many(&self) -> bool {
        self.count > 1
    }

    /// A Hello on a channel; each side says one.
    pub(super) fn join(&mut self, by: Role, channel: u16) -> Result<(), Violation> {
        let kind = Kind::Hello;
        let bit = self.bit(kind, channel)?;
        let (before, joining) = match by {
            Role::Target => (self.offered, &mut self.joined),
            Role::Source | Role::File => (u64::MAX, &mut self.offered),
        };
        if before & bit == 0 || *joining & bit != 0 {
            return Err(Violation::Channel { kind, channel });
        }
        *joining |= bit;
        Ok(())
    }

    pub(super) fn is_all_joined(&self) -> bool {
        self.joined.count_ones() == u32::from(self.count)
    }

    /// A Switchover on a channel: what follows it there was read from stopped devices.
    pub(super) fn switch(&mut self, channel: u16) -> Result<(), Violation> {
        let kind = Kind::Switchover;
        let bit = self.bit(kind, channel)?;
        if self.switched & bit != 0 {
            return Err(Violation::Channel { kind, channel });
        }
        self.switched |= bit;
        Ok(())
    }

    /// A ChannelEnd. The first channel has none: it carries the rest of the conversation.
    pub(super) fn end(&mut self, by: Role, channel: u16) -> Result<(), Violation> {
        let kind = Kind::ChannelEnd;
        let bit = self.bit(kind, channel)?;
        if channel == 0 {
            return Err(Violation::WrongChannel { kind, channel });
        }
        let (before, ending) = match by {
            Role::Target => (self.ended_by_source, &mut self.ended),
            Role::Source | Role::File => (self.joined & self.switched, &mut self.ended_by_source),
        };
        if before & bit == 0 || *ending & bit != 0 {
            return Err(Violation::Channel { kind, channel });
        }
        *ending |= bit;
        Ok(())
    }

    /// Whether the source may still send on a channel.
    pub(super) fn require_open(&self, kind: Kind, channel: u16) -> Result<(), Violation> {
        let bit = self.bit(kind, channel)?;
        if self.ended_by_source & bit == 0 { Ok(()) } else { Err(Violation::Channel { kind, channel }) }
    }

    /// Whether nothing is under way any more but on the first channel.
    pub(super) fn require_all_ended(&self) -> Result<(), Violation> {
        let extra = u32::from(self.count).saturating_sub(1);
        match extra.saturating_sub(self.ended.count_ones()) {
            0 => Ok(()),
            missing => Err(Violation::OpenChannels { missing }),
        }
    }

    fn bit(&self, kind: Kind, channel: u16) -> Result<u64, Violation> {
        let bit = if channel < self.count { 1_u64.checked_shl(channel.into()) } else { None };
        bit.ok_or(Violation::UnknownChannel { kind, channel, count: self.count })
    }
}
