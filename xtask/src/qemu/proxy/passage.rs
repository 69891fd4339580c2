// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a relay does to what it passes on, where it is told to: stop at a point of the stream, or change something in it.
//!
//! The stream is read with the product's decoders, item by item, so that a point is one of the protocol and not of time.
//! What is not understood is passed on as it is.

use core::mem;

use stream_codec::decode::{Decoder, Step};
use stream_codec::qemu::{
    ChannelKind, Command, Item, MainDecoder, MainOptions, MultifdDecoder, MultifdItem, MultifdOptions,
    ReturnPathDecoder, ReturnPathItem, SectionKind,
};

use super::super::machine::idstr;
use super::change::Change;

/// A place in a migration. Nothing that comes behind it on its connection is passed on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Point {
    /// The start of the main stream.
    Opening,
    /// The first section of a device.
    Setup,
    /// The first state of a device while the guest runs.
    PreCopy,
    /// The word that the guest stands still (SWITCHOVER_START).
    Switchover,
    /// The end of the stream, behind all sections.
    End,
    /// The target's answer to a PING.
    Pong(u32),
    /// The target's word that it has all (SHUT).
    LastWord,
}

/// What a relay has been told.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Orders {
    /// Where to stop.
    pub(crate) hold: Option<Point>,
    /// What to change.
    pub(crate) change: Option<Change>,
}

/// What an item calls for.
pub(super) enum Deed {
    /// Nothing.
    Pass,
    /// It is where to stop.
    Hold,
    /// These bytes go instead.
    Instead(Vec<u8>),
}

/// One direction of a connection.
pub(super) struct Passage {
    orders: Orders,
    speech: Speech,
    /// What has been read and belongs to an item that is not whole.
    unsaid: Vec<u8>,
    /// What goes on once the relay does.
    held: Vec<u8>,
    /// The device whose section or packet this is.
    device: String,
    /// Packets of a channel that have been changed.
    changes: u32,
}

/// What is being read.
enum Speech {
    /// Forward, before the first four bytes.
    Unknown,
    Main(Box<MainDecoder>),
    Multifd(Box<MultifdDecoder>),
    Back(Box<ReturnPathDecoder>),
    /// Whatever it is.
    Noise,
}

impl Passage {
    /// `None` where the orders do not concern the direction.
    pub(super) fn new(orders: Orders, is_forward: bool) -> Option<Self> {
        let concerns_back = matches!(orders.hold, Some(Point::Pong(_) | Point::LastWord));
        let concerns_forward = orders.change.is_some() || (orders.hold.is_some() && !concerns_back);
        let speech = match is_forward {
            true if concerns_forward => Speech::Unknown,
            false if concerns_back => Speech::Back(Box::default()),
            _ => return None,
        };
        let (unsaid, held, device) = (Vec::new(), Vec::new(), String::new());
        Some(Self { orders, speech, unsaid, held, device, changes: 0 })
    }

    /// Takes from `input` what goes out now. True where the relay is to stop; what is left of `input` is for afterwards.
    pub(super) fn pass(&mut self, input: &mut &[u8], out: &mut Vec<u8>) -> bool {
        out.append(&mut self.held);
        loop {
            if matches!(self.speech, Speech::Unknown) {
                self.recognise(input);
            }
            let (consumed, raw_bytes, deed) = match self.step(input) {
                Ok(step) => step,
                Err(()) => {
                    self.speech = Speech::Noise;
                    out.append(&mut self.unsaid);
                    out.extend_from_slice(mem::take(input));
                    return false;
                }
            };
            let (said, rest) = input.split_at_checked(consumed).unwrap_or_default();
            self.unsaid.extend_from_slice(said);
            *input = rest;
            let Some(deed) = deed else { return false };
            let item: Vec<u8> = self.unsaid.drain(..raw_bytes.min(self.unsaid.len())).collect();
            match deed {
                Deed::Pass => out.extend(item),
                Deed::Instead(bytes) => out.extend(bytes),
                Deed::Hold => {
                    self.orders.hold = None;
                    self.held = item;
                    return true;
                }
            }
        }
    }

    /// What is left when the speaker has ended.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.held);
        out.append(&mut self.unsaid);
    }

    /// The first four bytes say what a connection is.
    fn recognise(&mut self, input: &mut &[u8]) {
        let wanted = 4usize.saturating_sub(self.unsaid.len()).min(input.len());
        let (first, rest) = input.split_at_checked(wanted).unwrap_or_default();
        let mut start = mem::take(&mut self.unsaid);
        start.extend_from_slice(first);
        let Ok(magic) = <[u8; 4]>::try_from(start.as_slice()) else {
            (self.unsaid, *input) = (start, rest);
            return;
        };
        self.speech = match ChannelKind::from_first_bytes(magic) {
            Some(ChannelKind::Main) => Speech::Main(Box::new(MainDecoder::new(MainOptions::default()))),
            Some(ChannelKind::Multifd) => Speech::Multifd(Box::new(MultifdDecoder::new(MultifdOptions::default()))),
            _ => Speech::Noise,
        };
        // No item is as short as its magic.
        if !matches!(self.step(&start), Ok((_, _, None))) {
            self.speech = Speech::Noise;
        }
        (self.unsaid, *input) = (start, rest);
    }

    /// Decodes one item: how much of the input that took, how long the item is, and what to do with it.
    fn step(&mut self, input: &[u8]) -> Result<(usize, usize, Option<Deed>), ()> {
        let (orders, device, changes) = (self.orders, &mut self.device, &mut self.changes);
        match &mut self.speech {
            Speech::Main(decoder) => {
                let Step { consumed, event } = decoder.decode(input).map_err(drop)?;
                let Some(event) = event else { return Ok((consumed, 0, None)) };
                if let Item::Section(header) = &event.item {
                    header.idstr.clone_into(device);
                }
                let deed = if orders.hold.is_some_and(|point| point.is_in_main(&event.item)) {
                    Deed::Hold
                } else {
                    orders.change.map_or(Deed::Pass, |change| change.main(device, &event.item))
                };
                Ok((consumed, event.raw.len(), Some(deed)))
            }
            Speech::Multifd(decoder) => {
                let Step { consumed, event } = decoder.decode(input).map_err(drop)?;
                let Some(event) = event else { return Ok((consumed, 0, None)) };
                if let MultifdItem::DeviceState(header) = &event.item {
                    header.idstr.clone_into(device);
                }
                let deed = orders.change.map_or(Deed::Pass, |change| change.multifd(device, &event.item, changes));
                Ok((consumed, event.raw.len(), Some(deed)))
            }
            Speech::Back(decoder) => {
                let Step { consumed, event } = decoder.decode(input).map_err(drop)?;
                let Some(event) = event else { return Ok((consumed, 0, None)) };
                let deed = if orders.hold.is_some_and(|point| point.is_in_back(&event.item)) {
                    Deed::Hold
                } else {
                    Deed::Pass
                };
                Ok((consumed, event.raw.len(), Some(deed)))
            }
            Speech::Unknown => Ok((0, 0, None)),
            Speech::Noise => Err(()),
        }
    }
}

impl Point {
    fn is_in_main(self, item: &Item<'_>) -> bool {
        match (self, item) {
            (Self::Opening, Item::FileHeader)
            | (Self::Switchover, Item::Command(Command::SwitchoverStart))
            | (Self::End, Item::EndOfStream) => true,
            (Self::Setup, Item::Section(header)) => header.idstr.ends_with("/vfio"),
            (Self::PreCopy, Item::Section(header)) => header.kind == SectionKind::Part && header.idstr == idstr(0),
            _ => false,
        }
    }

    fn is_in_back(self, item: &ReturnPathItem<'_>) -> bool {
        match (self, item) {
            (Self::Pong(wanted), ReturnPathItem::Pong { value }) => wanted == *value,
            (Self::LastWord, ReturnPathItem::Shut { .. }) => true,
            _ => false,
        }
    }
}

#[cfg(test)]
#[path = "passage_test.rs"]
mod test;
