// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Device state on a multifd channel.
//!
//! After the 12 bytes every packet starts with, of which the flags are 0x40:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 12 | 256 | idstr of the device's section, NUL-padded |
//! | 268 | 4 | instance id |
//! | 272 | 4 | length of the payload, not 0 |
//!
//! The payload of a VFIO device is a packet of its own:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | version, 0 |
//! | 4 | 4 | index: 0, 1, 2, … over all channels, in the order the device was read |
//! | 8 | 4 | flags: bit 0 config state |
//! | 12 | | device state, or: u64 DEV_CONFIG_STATE, [config state](super::PciConfigState), u64 END_OF_STATE |
//!
//! The config packet is a device's last: its index is the number of packets with device state before it. Packets of one
//! device arrive on any channel in any order, and there is no other sign that a device is complete.

use alloc::vec::Vec;
use core::ops::Range;

use super::engine::{Stop, some_bytes};
use super::error::Reason;
use super::event::Progress;
use super::limits::Limits;
use super::multifd::MultifdItem;
use super::section::Content;
use super::text;
use super::vfio::{ConfigState, VFIO_DEV_CONFIG_STATE, read_end_of_state};
use crate::cursor::Cursor;
use crate::frame::TextFault;

/// Length of the header behind the first 12 bytes of a packet.
pub(super) const DEVICE_STATE_BYTES: usize = 256 + 4 + 4;

/// Length of the header of a VFIO packet.
pub const VFIO_PACKET_HEADER_BYTES: u32 = 12;

/// The one flag of a VFIO packet.
const CONFIG_STATE: u32 = 1;

/// The length of the flags around a config state.
const CONFIG_FLAGS_BYTES: u64 = 16;

/// Says which device a packet is of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DeviceStateHeader<'a> {
    /// The device's idstr, as in its section on the main stream.
    pub idstr: &'a str,
    /// The device's instance id.
    pub instance_id: u32,
    /// Length of the payload in bytes.
    pub payload_bytes: u32,
}

impl<'a> DeviceStateHeader<'a> {
    /// The header of a packet.
    #[must_use]
    pub const fn new(idstr: &'a str, instance_id: u32, payload_bytes: u32) -> Self {
        Self { idstr, instance_id, payload_bytes }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), Reason> {
        text::put_padded(out, self.idstr, "idstr")?;
        out.extend_from_slice(&self.instance_id.to_be_bytes());
        out.extend_from_slice(&self.payload_bytes.to_be_bytes());
        Ok(())
    }
}

/// The start of the payload of a VFIO device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct VfioPacketHeader {
    /// Number of the packet within its device. Nothing bounds it: do not allocate by it.
    pub index: u32,
    /// Whether it holds the config state, and so is the device's last packet.
    pub is_config: bool,
}

impl VfioPacketHeader {
    /// Appends the header.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let flags = if self.is_config { CONFIG_STATE } else { 0 };
        for value in [0, self.index, flags] {
            out.extend_from_slice(&value.to_be_bytes());
        }
    }
}

/// What comes next of a packet with device state.
#[derive(Clone, Copy, Debug)]
pub(super) enum State {
    VfioPacket { payload_bytes: u32 },
    Bytes(Progress),
    Config { config_bytes: u64 },
    ConfigBytes { config_bytes: u64 },
    End,
}

#[derive(Clone, Debug)]
pub(super) enum Token {
    Header { idstr: Range<usize>, instance_id: u32, payload_bytes: u32 },
    VfioPacket(VfioPacketHeader),
    Bytes(Progress),
    Config,
    ConfigState,
    EndOfState,
}

impl Token {
    pub(super) fn item(self, raw: &[u8]) -> MultifdItem<'_> {
        match self {
            Self::Header { idstr, instance_id, payload_bytes } => {
                MultifdItem::DeviceState(DeviceStateHeader { idstr: text::at(raw, idstr), instance_id, payload_bytes })
            }
            Self::VfioPacket(header) => MultifdItem::VfioPacket(header),
            Self::Bytes(progress) => MultifdItem::DeviceBytes(progress.piece(raw)),
            Self::Config => MultifdItem::Config,
            Self::ConfigState => MultifdItem::ConfigState(ConfigState::parse(raw)),
            Self::EndOfState => MultifdItem::EndOfState,
        }
    }
}

/// Reads the header from behind the flags of a packet.
pub(super) fn read_header(cursor: &mut Cursor<'_>) -> Result<(Token, State), Stop> {
    let mut names = cursor.clone();
    let idstr = text::padded(cursor, "idstr")?;
    let name = text::at(names.take(idstr.len(), "idstr")?, 0..idstr.len());
    if name.is_empty() {
        return Err(Reason::Text { what: "idstr", fault: TextFault::Empty }.into());
    }
    let instance_id = cursor.u32_be("instance id")?;
    let payload_bytes = cursor.u32_be("length of device state")?;
    let is_vfio = Content::of(name) == Content::Vfio;
    let least = if is_vfio { VFIO_PACKET_HEADER_BYTES } else { 1 };
    if payload_bytes < least {
        let (what, value) = ("length of device state", payload_bytes.into());
        return Err(Reason::Value { what, value, expected: "at least that of its header" }.into());
    }
    let state =
        if is_vfio { State::VfioPacket { payload_bytes } } else { State::Bytes(Progress::new(payload_bytes.into())) };
    Ok((Token::Header { idstr, instance_id, payload_bytes }, state))
}

impl State {
    /// Reads what comes next. No state means that the packet has ended.
    pub(super) fn next(self, cursor: &mut Cursor<'_>, limits: &Limits) -> Result<(Token, Option<Self>), Stop> {
        Ok(match self {
            Self::VfioPacket { payload_bytes } => {
                let header = read_vfio_header(cursor)?;
                let left = u64::from(payload_bytes.saturating_sub(VFIO_PACKET_HEADER_BYTES));
                (Token::VfioPacket(header), after_header(header, left, limits)?)
            }
            Self::Bytes(mut progress) => {
                let count = some_bytes(cursor, progress.left(), "device state")?;
                let before = progress.advance(count);
                (Token::Bytes(before), (progress.left() > 0).then_some(Self::Bytes(progress)))
            }
            Self::Config { config_bytes } => {
                let value = cursor.u64_be("start of a config state")?;
                if value != VFIO_DEV_CONFIG_STATE {
                    let what = "start of a config state";
                    return Err(Reason::Value { what, value, expected: "DEV_CONFIG_STATE" }.into());
                }
                let next = if config_bytes == 0 { Self::End } else { Self::ConfigBytes { config_bytes } };
                (Token::Config, Some(next))
            }
            Self::ConfigBytes { config_bytes } => {
                cursor.take(usize::try_from(config_bytes).unwrap_or(usize::MAX), "config state")?;
                (Token::ConfigState, Some(Self::End))
            }
            Self::End => {
                read_end_of_state(cursor)?;
                (Token::EndOfState, None)
            }
        })
    }
}

fn read_vfio_header(cursor: &mut Cursor<'_>) -> Result<VfioPacketHeader, Stop> {
    let found = cursor.u32_be("version of a VFIO packet")?;
    if found != 0 {
        return Err(Reason::Version { what: "version of a VFIO packet", found, known: 0 }.into());
    }
    let index = cursor.u32_be("index of a VFIO packet")?;
    if index == u32::MAX {
        let value = index.into();
        return Err(Reason::Value { what: "index of a VFIO packet", value, expected: "below 0xffffffff" }.into());
    }
    let flags = cursor.u32_be("flags of a VFIO packet")?;
    if flags & !CONFIG_STATE != 0 {
        return Err(Reason::Unknown { what: "flags of a VFIO packet", value: flags.into() }.into());
    }
    Ok(VfioPacketHeader { index, is_config: flags == CONFIG_STATE })
}

fn after_header(header: VfioPacketHeader, left: u64, limits: &Limits) -> Result<Option<State>, Reason> {
    if !header.is_config {
        return Ok((left > 0).then_some(State::Bytes(Progress::new(left))));
    }
    let expected = "at least that of its flags";
    let short = Reason::Value { what: "length of a config packet", value: left, expected };
    let config_bytes = left.checked_sub(CONFIG_FLAGS_BYTES).ok_or(short)?;
    let limit = u64::try_from(limits.config_bytes).unwrap_or(u64::MAX);
    if config_bytes > limit {
        return Err(Reason::Limit { what: "bytes of config state", value: config_bytes, limit });
    }
    Ok(Some(State::Config { config_bytes }))
}
