// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Commands: what a source tells the target between sections.
//!
//! `08`, u16 number, u16 length, data.
//!
//! | number | name | length | data |
//! |---|---|---|---|
//! | 1 | OPEN_RETURN_PATH | 0 | |
//! | 2 | PING | 4 | u32, answered by PONG |
//! | 3 | POSTCOPY_ADVISE | 0 or 16 | u64 OR of the host's page sizes, u64 target page size |
//! | 4 | POSTCOPY_LISTEN | 0 | |
//! | 5 | POSTCOPY_RUN | 0 | |
//! | 6 | POSTCOPY_RAM_DISCARD | any | u8 0, u8 n, name, u8 0, pairs of u64 start and u64 length |
//! | 7 | PACKAGED | 4 | u32 length of a stream without header that follows the command |
//! | 8 | ENABLE_COLO | 0 | refused by QEMU since 11.0 or 11.1 |
//! | 9 | POSTCOPY_RESUME | 0 | |
//! | 10 | RECV_BITMAP | any | u8 n, name of a RAM block |
//! | 11 | SWITCHOVER_START | 0 | the VM is stopped; machine types from 10.0 |

use alloc::vec::Vec;
use core::ops::Range;

use super::engine::Stop;
use super::error::Reason;
use super::limits::Limits;
use super::text;
use crate::cursor::Cursor;

/// Type byte of a command.
pub(super) const COMMAND: u8 = 8;

/// The highest command there is.
pub(super) const COMMAND_MAX: u16 = 11;

/// A command of the source.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Command<'a> {
    /// The target may answer on the same connection from now on.
    OpenReturnPath,
    /// The target answers with this value.
    Ping(u32),
    /// Postcopy may come. The sizes are missing when only dirty bitmaps are sent that way.
    PostcopyAdvise(Option<PageSizes>),
    /// Listen for page requests.
    PostcopyListen,
    /// Run the guest.
    PostcopyRun,
    /// Forget these pages: they were sent and have changed.
    PostcopyRamDiscard(RamDiscard<'a>),
    /// A stream of this many bytes follows, to be loaded as a whole.
    Packaged {
        /// Length in bytes.
        length: u32,
    },
    /// Enter COLO mode.
    EnableColo,
    /// Resume an interrupted postcopy.
    PostcopyResume,
    /// Send the bitmap of the pages of this RAM block that have been received.
    RecvBitmap {
        /// Name of the block.
        block: &'a str,
    },
    /// The guest is stopped: what follows is the last of every device.
    SwitchoverStart,
}

/// The page sizes in a POSTCOPY_ADVISE.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PageSizes {
    /// The sizes of all RAM blocks' host pages, in bytes, OR-ed.
    pub host_bytes_mask: u64,
    /// The target's page size in bytes.
    pub target_bytes: u64,
}

/// The ranges in a POSTCOPY_RAM_DISCARD.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RamDiscard<'a> {
    /// Name of the RAM block.
    pub block: &'a str,
    /// The ranges as they are sent: u64 start and u64 length each, big-endian.
    pub encoded: &'a [u8],
}

impl<'a> RamDiscard<'a> {
    /// The ranges: start in the block and length, both in bytes.
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64)> + use<'a> {
        let mut cursor = Cursor::new(self.encoded);
        core::iter::from_fn(move || Some((cursor.u64_be("start").ok()?, cursor.u64_be("length").ok()?)))
    }
}

impl Command<'_> {
    /// The number.
    #[must_use]
    pub const fn number(&self) -> u16 {
        match self {
            Self::OpenReturnPath => 1,
            Self::Ping(_) => 2,
            Self::PostcopyAdvise(_) => 3,
            Self::PostcopyListen => 4,
            Self::PostcopyRun => 5,
            Self::PostcopyRamDiscard(_) => 6,
            Self::Packaged { .. } => 7,
            Self::EnableColo => 8,
            Self::PostcopyResume => 9,
            Self::RecvBitmap { .. } => 10,
            Self::SwitchoverStart => 11,
        }
    }

    /// QEMU's name, e.g. `PING`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::OpenReturnPath => "OPEN_RETURN_PATH",
            Self::Ping(_) => "PING",
            Self::PostcopyAdvise(_) => "POSTCOPY_ADVISE",
            Self::PostcopyListen => "POSTCOPY_LISTEN",
            Self::PostcopyRun => "POSTCOPY_RUN",
            Self::PostcopyRamDiscard(_) => "POSTCOPY_RAM_DISCARD",
            Self::Packaged { .. } => "PACKAGED",
            Self::EnableColo => "ENABLE_COLO",
            Self::PostcopyResume => "POSTCOPY_RESUME",
            Self::RecvBitmap { .. } => "RECV_BITMAP",
            Self::SwitchoverStart => "SWITCHOVER_START",
        }
    }

    /// Appends the command.
    ///
    /// # Errors
    /// [`Reason::Text`] if a name has more than 255 bytes, [`Reason::Limit`] if the data has more than 65 535.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), Reason> {
        let mut data = Vec::new();
        match self {
            Self::Ping(value) | Self::Packaged { length: value } => data.extend_from_slice(&value.to_be_bytes()),
            Self::PostcopyAdvise(Some(sizes)) => {
                data.extend_from_slice(&sizes.host_bytes_mask.to_be_bytes());
                data.extend_from_slice(&sizes.target_bytes.to_be_bytes());
            }
            Self::PostcopyRamDiscard(discard) => {
                data.push(0);
                text::put(&mut data, discard.block, "RAM block")?;
                data.push(0);
                data.extend_from_slice(discard.encoded);
            }
            Self::RecvBitmap { block } => text::put(&mut data, block, "RAM block")?,
            Self::PostcopyAdvise(None)
            | Self::OpenReturnPath
            | Self::PostcopyListen
            | Self::PostcopyRun
            | Self::EnableColo
            | Self::PostcopyResume
            | Self::SwitchoverStart => {}
        }
        let value = u64::try_from(data.len()).unwrap_or(u64::MAX);
        let too_long = |_| Reason::Limit { what: "data of a command", value, limit: u16::MAX.into() };
        let length = u16::try_from(data.len()).map_err(too_long)?;
        out.push(COMMAND);
        out.extend_from_slice(&self.number().to_be_bytes());
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&data);
        Ok(())
    }
}

/// Whether a command may have data of this length.
pub(super) const fn length_fits(number: u16, length: u16) -> bool {
    match number {
        1 | 4 | 5 | 8 | 9 | 11 => length == 0,
        2 | 7 => length == 4,
        3 => length == 0 || length == 16,
        6 => length >= 3,
        10 => length >= 1,
        _ => false,
    }
}

/// A command, as a token.
#[derive(Clone, Debug)]
pub(super) enum Token {
    Plain(u16),
    Ping(u32),
    Advise(Option<PageSizes>),
    Discard { block: Range<usize>, ranges: Range<usize> },
    Packaged { length: u32 },
    RecvBitmap { block: Range<usize> },
}

impl Token {
    pub(super) fn item<'a>(&self, raw: &'a [u8]) -> Command<'a> {
        match self {
            Self::Ping(value) => Command::Ping(*value),
            Self::Advise(sizes) => Command::PostcopyAdvise(*sizes),
            Self::Packaged { length } => Command::Packaged { length: *length },
            Self::RecvBitmap { block } => Command::RecvBitmap { block: text::at(raw, block.clone()) },
            Self::Discard { block, ranges } => Command::PostcopyRamDiscard(RamDiscard {
                block: text::at(raw, block.clone()),
                encoded: raw.get(ranges.clone()).unwrap_or_default(),
            }),
            Self::Plain(1) => Command::OpenReturnPath,
            Self::Plain(4) => Command::PostcopyListen,
            Self::Plain(5) => Command::PostcopyRun,
            Self::Plain(8) => Command::EnableColo,
            Self::Plain(9) => Command::PostcopyResume,
            Self::Plain(_) => Command::SwitchoverStart,
        }
    }
}

pub(super) fn read(cursor: &mut Cursor<'_>, limits: &Limits) -> Result<Token, Stop> {
    cursor.u8("command")?;
    let number = cursor.u16_be("command number")?;
    let length = cursor.u16_be("command length")?;
    if number == 0 || number > COMMAND_MAX {
        return Err(Reason::Unknown { what: "command", value: number.into() }.into());
    }
    if !length_fits(number, length) {
        let (what, value) = ("length of a command", length.into());
        return Err(Reason::Value { what, value, expected: "the length this command has" }.into());
    }
    if usize::from(length) > limits.command_bytes {
        let limit = u64::try_from(limits.command_bytes).unwrap_or(u64::MAX);
        return Err(Reason::Limit { what: "data of a command", value: length.into(), limit }.into());
    }
    let end = cursor.position().saturating_add(length.into());
    // All of it must be there before any of it is looked at, so that what is wrong does not depend on how it came.
    let mut ahead = cursor.clone();
    ahead.take(length.into(), "data of a command")?;
    let token = match number {
        2 => Token::Ping(cursor.u32_be("ping value")?),
        3 if length == 0 => Token::Advise(None),
        3 => Token::Advise(Some(PageSizes {
            host_bytes_mask: cursor.u64_be("host page sizes")?,
            target_bytes: cursor.u64_be("target page size")?,
        })),
        6 => read_discard(cursor, end)?,
        7 => Token::Packaged { length: cursor.u32_be("length of a package")? },
        10 => Token::RecvBitmap { block: named_until(cursor, end)? },
        _ => Token::Plain(number),
    };
    if cursor.position() != end {
        return Err(malformed(end, cursor.position()));
    }
    Ok(token)
}

fn malformed(end: usize, found: usize) -> Stop {
    let value = u64::try_from(found.abs_diff(end)).unwrap_or(u64::MAX);
    Reason::Value { what: "difference of a command's length and its fields", value, expected: "zero" }.into()
}

/// A name that must not reach beyond the command.
fn named_until(cursor: &mut Cursor<'_>, end: usize) -> Result<Range<usize>, Stop> {
    let length = usize::from(cursor.peek().first().copied().unwrap_or(0));
    let name_end = cursor.position().saturating_add(1).saturating_add(length);
    if name_end > end {
        return Err(malformed(end, name_end));
    }
    Ok(text::counted(cursor, "RAM block")?.1)
}

fn read_discard(cursor: &mut Cursor<'_>, end: usize) -> Result<Token, Stop> {
    let version = cursor.u8("version of a discard")?;
    if version != 0 {
        return Err(Reason::Version { what: "version of a discard", found: version.into(), known: 0 }.into());
    }
    let block = named_until(cursor, end)?;
    let ranges = end.checked_sub(cursor.position().saturating_add(1));
    let Some(length) = ranges.filter(|length| length % 16 == 0) else {
        return Err(malformed(end, cursor.position()));
    };
    let terminator = cursor.u8("end of a name")?;
    if terminator != 0 {
        let value = terminator.into();
        return Err(Reason::Value { what: "end of a name", value, expected: "zero" }.into());
    }
    let start = cursor.position();
    cursor.take(length, "ranges")?;
    Ok(Token::Discard { block, ranges: start..end })
}
