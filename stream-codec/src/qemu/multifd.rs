// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Multifd channels: RAM, and the state of devices, beside the main stream.
//!
//! A channel starts with an initial packet of 64 bytes:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | magic 11223344 |
//! | 4 | 4 | version, 1 |
//! | 8 | 16 | the VM's UUID, zero if it has none |
//! | 24 | 1 | channel id, below the number of channels |
//! | 25 | 39 | zero |
//!
//! Packets follow. Each starts with u32 magic, u32 version 1, u32 flags: bit 0 SYNC, bits 1 to 5 the compression, bit 6
//! DEVICE_STATE. A RAM packet goes on with
//!
//! | offset | size | field |
//! |---|---|---|
//! | 12 | 4 | how many pages were asked room for; 0 in a SYNC packet |
//! | 16 | 4 | normal pages |
//! | 20 | 4 | length of the payload in bytes |
//! | 24 | 8 | packet number |
//! | 32 | 4 | zero pages |
//! | 36 | 28 | zero |
//! | 64 | 256 | name of the RAM block, NUL-padded |
//! | 320 | 8·n | offsets of the normal pages, then of the zero pages; the rest is unused |
//!
//! where n is not in the packet: it is how many pages make 512 KiB, 128 of 4 KiB. Then comes the payload: the normal pages, in order, compressed or not. A SYNC packet has neither pages nor payload.
//! For a packet with device state see [`DeviceStateHeader`](super::DeviceStateHeader).

mod ram_packet;

use alloc::vec::Vec;

pub use self::ram_packet::{Compression, RamPacket, packet_pages};
use super::device_state::{self, DEVICE_STATE_BYTES, DeviceStateHeader, VfioPacketHeader};
use super::engine::{Engine, Grammar, Stop, decoder, some_bytes};
use super::error::Reason;
use super::event::{Piece, Progress};
use super::limits::Limits;
use super::vfio::ConfigState;
use crate::cursor::Cursor;

/// The first four bytes of a channel and of every packet.
pub const MULTIFD_MAGIC: u32 = 0x1122_3344;

/// The version of the initial packet and of every packet.
pub const MULTIFD_VERSION: u32 = 1;

/// Length of the initial packet in bytes.
pub const INITIAL_PACKET_BYTES: usize = 64;

const SYNC: u32 = 1;
const COMPRESSION: u32 = 0x3e;
const DEVICE_STATE: u32 = 0x40;

/// The first packet of a channel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct InitialPacket {
    /// The VM's UUID, zero if it has none.
    pub uuid: [u8; 16],
    /// Which channel this is.
    pub channel_id: u8,
}

impl InitialPacket {
    /// Appends the packet.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&MULTIFD_MAGIC.to_be_bytes());
        out.extend_from_slice(&MULTIFD_VERSION.to_be_bytes());
        out.extend_from_slice(&self.uuid);
        out.push(self.channel_id);
        out.extend_from_slice(&[0; 39]);
    }

    fn read(cursor: &mut Cursor<'_>) -> Result<Self, Stop> {
        read_magic(cursor)?;
        let uuid = cursor.take_array("UUID")?;
        let channel_id = cursor.u8("channel id")?;
        cursor.zeros(39, "rest of the initial packet")?;
        Ok(Self { uuid, channel_id })
    }
}

/// A packet of a multifd channel, or a part of one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum MultifdItem<'a> {
    /// The first packet.
    Initial(InitialPacket),
    /// A packet with pages, or with a synchronisation point. Its payload follows.
    Ram(RamPacket<'a>),
    /// Bytes of the payload of a RAM packet: the normal pages, compressed or not.
    RamBytes(Piece<'a>),
    /// A packet with device state. Its payload follows.
    DeviceState(DeviceStateHeader<'a>),
    /// The start of the payload, if the device is a VFIO device.
    VfioPacket(VfioPacketHeader),
    /// Bytes of device state, as read from the device. Of a device other than VFIO, the payload.
    DeviceBytes(Piece<'a>),
    /// The DEV_CONFIG_STATE in front of the config state.
    Config,
    /// The config state: the last packet of a VFIO device has it.
    ConfigState(ConfigState<'a>),
    /// The END_OF_STATE behind the config state.
    EndOfState,
}

impl MultifdItem<'_> {
    /// Appends the packet or the part of one.
    ///
    /// # Errors
    /// [`Reason::Text`] if an idstr has more than 255 bytes.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), Reason> {
        match self {
            Self::Initial(packet) => packet.encode(out),
            Self::Ram(packet) => packet.encode(out)?,
            Self::RamBytes(piece) | Self::DeviceBytes(piece) => out.extend_from_slice(piece.bytes),
            Self::DeviceState(header) => {
                put_header(DEVICE_STATE, out);
                header.encode(out)?;
            }
            Self::VfioPacket(header) => header.encode(out),
            Self::Config => out.extend_from_slice(&super::VFIO_DEV_CONFIG_STATE.to_be_bytes()),
            Self::ConfigState(state) => state.encode(out),
            Self::EndOfState => out.extend_from_slice(&super::VFIO_END_OF_STATE.to_be_bytes()),
        }
        Ok(())
    }
}

fn put_header(flags: u32, out: &mut Vec<u8>) {
    for value in [MULTIFD_MAGIC, MULTIFD_VERSION, flags] {
        out.extend_from_slice(&value.to_be_bytes());
    }
}

/// What a reader must know of a multifd channel beforehand, for the channel does not say it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MultifdOptions {
    /// Bounds of what is kept in memory.
    pub limits: Limits,
    /// Binary logarithm of the target's page size, 12 by default: it decides how long a RAM packet is.
    pub page_bits: u32,
}

impl Default for MultifdOptions {
    fn default() -> Self {
        Self { limits: Limits::DEFAULT, page_bits: 12 }
    }
}

decoder! {
    /// Reads a multifd channel, from its initial packet on.
    ///
    /// A channel may end between any two packets; whether a device is complete says its last packet, see
    /// [`VfioPacketHeader`]. No length in a packet makes the decoder allocate: payloads come in pieces, and a config
    /// state is buffered up to [`Limits::config_bytes`].
    MultifdDecoder(Multifd) -> MultifdItem
}

impl MultifdDecoder {
    /// A decoder at the start of a channel.
    #[must_use]
    pub const fn new(options: MultifdOptions) -> Self {
        let offset_count = packet_pages(options.page_bits);
        let grammar = Multifd { limits: options.limits, offset_count, state: State::Initial };
        Self(Engine::new(grammar, "magic of a packet"))
    }
}

#[derive(Clone, Debug)]
struct Multifd {
    limits: Limits,
    offset_count: u32,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Initial,
    Packet,
    RamBytes(Progress),
    Device(device_state::State),
}

#[derive(Clone, Debug)]
enum Token {
    Initial(InitialPacket),
    Ram(ram_packet::Token),
    RamBytes(Progress),
    Device(device_state::Token),
}

impl Grammar for Multifd {
    type Token = Token;
    type Item<'a> = MultifdItem<'a>;

    fn next(&mut self, cursor: &mut Cursor<'_>) -> Result<Token, Stop> {
        let (token, state) = match self.state {
            State::Initial => (Token::Initial(InitialPacket::read(cursor)?), State::Packet),
            State::Packet => self.packet(cursor)?,
            State::RamBytes(mut progress) => {
                let count = some_bytes(cursor, progress.left(), "pages")?;
                let before = progress.advance(count);
                let next = if progress.left() == 0 { State::Packet } else { State::RamBytes(progress) };
                (Token::RamBytes(before), next)
            }
            State::Device(state) => {
                let (token, state) = state.next(cursor, &self.limits)?;
                (Token::Device(token), state.map_or(State::Packet, State::Device))
            }
        };
        self.state = state;
        Ok(token)
    }

    fn item<'a>(&'a self, token: Token, raw: &'a [u8]) -> MultifdItem<'a> {
        match token {
            Token::Initial(packet) => MultifdItem::Initial(packet),
            Token::Ram(token) => MultifdItem::Ram(token.item(raw, self.offset_count)),
            Token::RamBytes(progress) => MultifdItem::RamBytes(progress.piece(raw)),
            Token::Device(token) => token.item(raw),
        }
    }

    fn may_end(&self) -> bool {
        matches!(self.state, State::Packet)
    }

    fn held_bytes(&self) -> usize {
        0
    }
}

impl Multifd {
    fn packet(&self, cursor: &mut Cursor<'_>) -> Result<(Token, State), Stop> {
        read_magic(cursor)?;
        let flags = cursor.u32_be("flags of a packet")?;
        let compression = Compression::from_flags(flags);
        let known = SYNC | COMPRESSION | DEVICE_STATE;
        let Some(compression) = compression.filter(|_| flags & !known == 0) else {
            return Err(Reason::Unknown { what: "flags of a packet", value: flags.into() }.into());
        };
        if flags & DEVICE_STATE != 0 {
            if flags != DEVICE_STATE {
                let what = "flags of a packet with device state";
                return Err(Reason::Value { what, value: flags.into(), expected: "0x40" }.into());
            }
            let (token, state) = device_state::read_header(cursor)?;
            return Ok((Token::Device(token), State::Device(state)));
        }
        let token = ram_packet::read(cursor, flags & SYNC != 0, compression, self.offset_count)?;
        let state = match token.payload_bytes {
            0 => State::Packet,
            length => State::RamBytes(Progress::new(length.into())),
        };
        Ok((Token::Ram(token), state))
    }
}

fn read_magic(cursor: &mut Cursor<'_>) -> Result<(), Stop> {
    let found = cursor.u32_be("magic of a packet")?;
    if found != MULTIFD_MAGIC {
        return Err(Reason::Magic { what: "multifd packet", found }.into());
    }
    let found = cursor.u32_be("version of a packet")?;
    if found != MULTIFD_VERSION {
        return Err(Reason::Version { what: "version of a packet", found, known: MULTIFD_VERSION }.into());
    }
    Ok(())
}

/// Length of a packet with device state in front of its payload, in bytes.
pub const DEVICE_STATE_PACKET_BYTES: usize = 12 + DEVICE_STATE_BYTES;
