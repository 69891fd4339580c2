// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The payload of a VFIO section (idstr `<PCI path>/vfio`, version 1).
//!
//! A payload is a row of records, each starting with a u64 whose upper half is all ones.
//!
//! | value | name | followed by | ends the payload |
//! |---|---|---|---|
//! | ffffffffef100001 | END_OF_STATE | | yes |
//! | ffffffffef100002 | DEV_CONFIG_STATE | the [config state](super::PciConfigState), END_OF_STATE | after that |
//! | ffffffffef100003 | DEV_SETUP_STATE | END_OF_STATE | after that |
//! | ffffffffef100004 | DEV_DATA_STATE | u64 length, that many bytes of device state | no |
//! | ffffffffef100005 | DEV_INIT_DATA_SENT | | yes |
//! | ffffffffef100006 | DEV_CONFIG_LOAD_READY | | yes |
//!
//! | section | without multifd transfer | with it |
//! |---|---|---|
//! | START | SETUP, END | the same |
//! | PART | at most one DATA, then END or INIT_DATA_SENT | the same: pre-copy always uses the main channel |
//! | END | DATA…, END | END |
//! | FULL | CONFIG, END | END, or CONFIG_LOAD_READY |

use alloc::vec::Vec;

use super::engine::{Stop, some_bytes};
use super::error::Reason;
use super::event::{Piece, Progress};
use super::pci_config::PciConfigState;
use crate::cursor::Cursor;

/// The version of a VFIO section that this reader knows.
pub const VFIO_VERSION: u32 = 1;

/// Ends a state: `END_OF_STATE`.
pub const VFIO_END_OF_STATE: u64 = 0xffff_ffff_ef10_0001;
/// The config state follows: `DEV_CONFIG_STATE`.
pub const VFIO_DEV_CONFIG_STATE: u64 = 0xffff_ffff_ef10_0002;
/// The device is set up: `DEV_SETUP_STATE`.
pub const VFIO_DEV_SETUP_STATE: u64 = 0xffff_ffff_ef10_0003;
/// Device state follows: `DEV_DATA_STATE`.
pub const VFIO_DEV_DATA_STATE: u64 = 0xffff_ffff_ef10_0004;
/// All initial bytes have been sent: `DEV_INIT_DATA_SENT`.
pub const VFIO_DEV_INIT_DATA_SENT: u64 = 0xffff_ffff_ef10_0005;
/// The config state that came on a multifd channel may be loaded: `DEV_CONFIG_LOAD_READY`, QEMU 10.1.
pub const VFIO_DEV_CONFIG_LOAD_READY: u64 = 0xffff_ffff_ef10_0006;

/// A record of a VFIO section, or a part of one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum VfioRecord<'a> {
    /// The device is set up.
    Setup,
    /// Device state follows.
    Data {
        /// Its length in bytes.
        length: u64,
    },
    /// Bytes of the device state just announced, as read from the device.
    DataBytes(Piece<'a>),
    /// The config state follows.
    Config,
    /// The config state.
    ConfigState(ConfigState<'a>),
    /// All initial bytes of the device have been sent; the payload ends.
    InitDataSent,
    /// The config state that came on a multifd channel may be loaded; the payload ends.
    ConfigLoadReady,
    /// The payload ends.
    EndOfState,
}

/// The config state of a VFIO device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum ConfigState<'a> {
    /// Of a PCI device.
    Pci(PciConfigState<'a>),
    /// In a layout that this reader does not know.
    Other(&'a [u8]),
}

impl<'a> ConfigState<'a> {
    /// Reads a config state that fills `bytes`.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Self {
        PciConfigState::parse(bytes).map_or(Self::Other(bytes), Self::Pci)
    }

    /// Appends the config state.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Pci(state) => state.encode(out),
            Self::Other(bytes) => out.extend_from_slice(bytes),
        }
    }
}

impl VfioRecord<'_> {
    /// Appends the record or the part of one.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let flag = match self {
            Self::DataBytes(piece) => return out.extend_from_slice(piece.bytes),
            Self::ConfigState(state) => return state.encode(out),
            Self::Setup => VFIO_DEV_SETUP_STATE,
            Self::Data { .. } => VFIO_DEV_DATA_STATE,
            Self::Config => VFIO_DEV_CONFIG_STATE,
            Self::InitDataSent => VFIO_DEV_INIT_DATA_SENT,
            Self::ConfigLoadReady => VFIO_DEV_CONFIG_LOAD_READY,
            Self::EndOfState => VFIO_END_OF_STATE,
        };
        out.extend_from_slice(&flag.to_be_bytes());
        if let Self::Data { length } = self {
            out.extend_from_slice(&length.to_be_bytes());
        }
    }
}

/// A record, as a token.
#[derive(Clone, Copy, Debug)]
pub(super) enum Token {
    Setup,
    Data { length: u64 },
    DataBytes(Progress),
    Config,
    ConfigState,
    InitDataSent,
    ConfigLoadReady,
    EndOfState,
}

impl Token {
    pub(super) fn item(self, raw: &[u8]) -> VfioRecord<'_> {
        match self {
            Self::Setup => VfioRecord::Setup,
            Self::Data { length } => VfioRecord::Data { length },
            Self::DataBytes(progress) => VfioRecord::DataBytes(progress.piece(raw)),
            Self::Config => VfioRecord::Config,
            Self::ConfigState => VfioRecord::ConfigState(ConfigState::parse(raw)),
            Self::InitDataSent => VfioRecord::InitDataSent,
            Self::ConfigLoadReady => VfioRecord::ConfigLoadReady,
            Self::EndOfState => VfioRecord::EndOfState,
        }
    }
}

/// The reader of the payload of one VFIO section.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vfio {
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Record,
    DataBytes(Progress),
    Config,
    /// Only END_OF_STATE may follow.
    End,
    Done,
}

impl Vfio {
    pub(super) const fn new() -> Self {
        Self { state: State::Record }
    }

    /// Whether the payload has ended.
    pub(super) const fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Reads a record. `config_length` finds out how long the config state at the cursor is.
    pub(super) fn next(
        &mut self,
        cursor: &mut Cursor<'_>,
        config_length: impl FnOnce(&Cursor<'_>) -> Result<usize, Stop>,
    ) -> Result<Token, Stop> {
        let (token, state) = match self.state {
            State::Record | State::Done => read_record(cursor)?,
            State::End => {
                read_end_of_state(cursor)?;
                (Token::EndOfState, State::Done)
            }
            State::Config => {
                // Without bytes it is no event of its own.
                let length = config_length(cursor)?;
                if length == 0 {
                    read_end_of_state(cursor)?;
                    (Token::EndOfState, State::Done)
                } else {
                    cursor.take(length, "config state")?;
                    (Token::ConfigState, State::End)
                }
            }
            State::DataBytes(mut progress) => {
                let count = some_bytes(cursor, progress.left(), "device state")?;
                let token = Token::DataBytes(progress.advance(count));
                (token, if progress.left() == 0 { State::Record } else { State::DataBytes(progress) })
            }
        };
        self.state = state;
        Ok(token)
    }
}

fn read_record(cursor: &mut Cursor<'_>) -> Result<(Token, State), Stop> {
    let flag = cursor.u64_be("VFIO record")?;
    Ok(match flag {
        VFIO_DEV_SETUP_STATE => (Token::Setup, State::End),
        VFIO_DEV_CONFIG_STATE => (Token::Config, State::Config),
        VFIO_DEV_INIT_DATA_SENT => (Token::InitDataSent, State::Done),
        VFIO_DEV_CONFIG_LOAD_READY => (Token::ConfigLoadReady, State::Done),
        VFIO_END_OF_STATE => (Token::EndOfState, State::Done),
        VFIO_DEV_DATA_STATE => {
            let length = cursor.u64_be("length of device state")?;
            let next = if length == 0 { State::Record } else { State::DataBytes(Progress::new(length)) };
            (Token::Data { length }, next)
        }
        value => return Err(Reason::Unknown { what: "VFIO record", value }.into()),
    })
}

/// Reads the END_OF_STATE that must stand here.
pub(super) fn read_end_of_state(cursor: &mut Cursor<'_>) -> Result<(), Stop> {
    let value = cursor.u64_be("end of a VFIO state")?;
    if value != VFIO_END_OF_STATE {
        return Err(Reason::Value { what: "end of a VFIO state", value, expected: "END_OF_STATE" }.into());
    }
    Ok(())
}
