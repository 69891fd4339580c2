// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What holds on each of several channels alone. What holds across them shows when the frames are put in order.

use std::collections::BTreeMap;

use stream_codec::frame::{Channel, Kind, Message};

/// The source's direction of one channel of several.
pub(super) struct ChannelOrder {
    channel: Channel,
    /// The number of each device's last frame.
    last: BTreeMap<u32, u64>,
    is_switched: bool,
    is_over: bool,
}

impl ChannelOrder {
    pub(super) const fn new(channel: Channel) -> Self {
        Self { channel, last: BTreeMap::new(), is_switched: false, is_over: false }
    }

    /// A device's frames may go over several channels, but on each in their order.
    pub(super) fn data(&mut self, device: u32, sequence: u64) -> Result<(), String> {
        self.go_on(Kind::Data)?;
        match self.last.insert(device, sequence) {
            Some(last) if last >= sequence => {
                Err(format!("frame {sequence} of device {device} behind frame {last} on one channel"))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn control(&mut self, message: &Message<'_>) -> Result<(), String> {
        let (kind, is_first) = (message.kind(), self.channel.index == 0);
        self.go_on(kind)?;
        let is_here = match message {
            Message::Hello(_) | Message::Abort(_) | Message::Switchover => true,
            Message::ChannelEnd => !is_first,
            Message::Region(_)
            | Message::DeviceOpen(_)
            | Message::InitialDone(_)
            | Message::DeviceEnd(_)
            | Message::Commit => is_first,
            _ => return Err(format!("a {kind} is not for a source to send")),
        };
        if !is_here {
            return Err(format!("a {kind} on channel {}, where there is none", self.channel.index));
        }
        let needs_switchover = matches!(message, Message::ChannelEnd | Message::DeviceEnd(_) | Message::Commit);
        let is_before = matches!(message, Message::Switchover | Message::InitialDone(_));
        let is_switchover = matches!(message, Message::Switchover);
        if (needs_switchover && !self.is_switched) || (is_before && self.is_switched) {
            return Err(format!("a {kind} out of place on channel {}", self.channel.index));
        }
        self.is_switched |= is_switchover;
        self.is_over = matches!(message, Message::ChannelEnd | Message::Commit | Message::Abort(_));
        Ok(())
    }

    fn go_on(&self, kind: Kind) -> Result<(), String> {
        if self.is_over {
            Err(format!("a {kind} behind the last word on channel {}", self.channel.index))
        } else {
            Ok(())
        }
    }

    /// Whether the channel may end here.
    pub(super) fn finish(&self) -> Result<(), String> {
        let missing = if self.channel.index == 0 { "Commit" } else { "ChannelEnd" };
        if self.is_over { Ok(()) } else { Err(format!("channel {} ends before its {missing}", self.channel.index)) }
    }
}
