// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The return path: what the target tells the source, on the main connection in the other direction.
//!
//! u16 type, u16 length (at most 512), data.
//!
//! | type | name | length | data |
//! |---|---|---|---|
//! | 1 | SHUT | 4 | u32, 0 if all went well |
//! | 2 | PONG | 4 | u32 from the PING; 0x42 says that a package is loaded |
//! | 3 | REQ_PAGES_ID | 13 + n | u64 start, u32 length, u8 n, name of a RAM block |
//! | 4 | REQ_PAGES | 12 | u64 start, u32 length, in the block of the request before |
//! | 5 | RECV_BITMAP | 1 + n | u8 n, name; outside the message: u64 size, that many bytes, u64 0123456789abcdef |
//! | 6 | RESUME_ACK | 4 | u32 1 |
//! | 7 | SWITCHOVER_ACK | 0 | |

use alloc::vec::Vec;
use core::ops::Range;

use super::engine::{Engine, Grammar, Stop, decoder, some_bytes};
use super::error::Reason;
use super::event::{Piece, Progress};
use super::text;
use crate::cursor::Cursor;

/// Longest data of a message, in bytes. A source ends the migration if it is longer.
pub const RETURN_PATH_DATA_BYTES_MAX: u16 = 512;

/// What ends a bitmap.
const BITMAP_END: u64 = 0x0123_4567_89ab_cdef;

/// A message of the target, or a part of a bitmap.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum ReturnPathItem<'a> {
    /// The target says no more. Zero only says that its main stream was read without error.
    Shut {
        /// 0, or what went wrong.
        status: u32,
    },
    /// The answer to a PING.
    Pong {
        /// The value of the PING.
        value: u32,
    },
    /// The target needs pages now.
    RequestPages {
        /// Where in the RAM block they start, in bytes.
        start: u64,
        /// How many bytes.
        length: u32,
        /// Name of the block; `None` means that of the request before.
        block: Option<&'a str>,
    },
    /// The bitmap of the pages received follows.
    RecvBitmap {
        /// Name of the RAM block.
        block: &'a str,
    },
    /// The length of the bitmap.
    BitmapSize {
        /// In bytes.
        bytes: u64,
    },
    /// Bytes of the bitmap.
    BitmapBytes(Piece<'a>),
    /// The bitmap has ended.
    BitmapEnd,
    /// The target can go on with a postcopy.
    ResumeAck {
        /// QEMU writes 1.
        value: u32,
    },
    /// A device of the target has loaded its initial bytes. Which one is not said.
    SwitchoverAck,
}

impl ReturnPathItem<'_> {
    /// Appends the message or the part of a bitmap.
    ///
    /// # Errors
    /// [`Reason::Text`] if a name has more than 255 bytes.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), Reason> {
        let mut data = Vec::new();
        let kind = match self {
            Self::Shut { status: value } => put32(1, *value, &mut data),
            Self::Pong { value } => put32(2, *value, &mut data),
            Self::ResumeAck { value } => put32(6, *value, &mut data),
            Self::SwitchoverAck => 7,
            Self::RequestPages { start, length, block } => {
                data.extend_from_slice(&start.to_be_bytes());
                data.extend_from_slice(&length.to_be_bytes());
                block.iter().try_for_each(|block| text::put(&mut data, block, "RAM block"))?;
                if block.is_some() { 3 } else { 4 }
            }
            Self::RecvBitmap { block } => {
                text::put(&mut data, block, "RAM block")?;
                5
            }
            Self::BitmapSize { bytes } => {
                out.extend_from_slice(&bytes.to_be_bytes());
                return Ok(());
            }
            Self::BitmapBytes(piece) => {
                out.extend_from_slice(piece.bytes);
                return Ok(());
            }
            Self::BitmapEnd => {
                out.extend_from_slice(&BITMAP_END.to_be_bytes());
                return Ok(());
            }
        };
        out.extend_from_slice(&u16::to_be_bytes(kind));
        out.extend_from_slice(&u16::try_from(data.len()).unwrap_or(u16::MAX).to_be_bytes());
        out.extend_from_slice(&data);
        Ok(())
    }
}

fn put32(kind: u16, value: u32, data: &mut Vec<u8>) -> u16 {
    data.extend_from_slice(&value.to_be_bytes());
    kind
}

decoder! {
    /// Reads the return path. It needs no limits: a message has at most 516 bytes, and a bitmap comes in pieces.
    ///
    /// ```
    /// use stream_codec::decode::Decoder;
    /// use stream_codec::qemu::{ReturnPathDecoder, ReturnPathItem};
    ///
    /// let mut decoder = ReturnPathDecoder::new();
    /// let event = decoder.decode(b"\0\x02\0\x04\0\0\0\x01").unwrap().event.unwrap();
    /// assert_eq!(event.item, ReturnPathItem::Pong { value: 1 });
    /// ```
    ReturnPathDecoder(ReturnPath) -> ReturnPathItem
}

impl ReturnPathDecoder {
    /// A decoder at the start of the return path.
    #[must_use]
    pub const fn new() -> Self {
        Self(Engine::new(ReturnPath { state: State::Message }, "type of a return path message"))
    }
}

impl Default for ReturnPathDecoder {
    fn default() -> Self {
        Self::new()
    }
}

#[derive(Clone, Debug)]
struct ReturnPath {
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Message,
    BitmapSize,
    BitmapBytes(Progress),
    BitmapEnd,
}

#[derive(Clone, Debug)]
enum Token {
    Shut { status: u32 },
    Pong { value: u32 },
    RequestPages { start: u64, length: u32, block: Option<Range<usize>> },
    RecvBitmap { block: Range<usize> },
    BitmapSize { bytes: u64 },
    BitmapBytes(Progress),
    BitmapEnd,
    ResumeAck { value: u32 },
    SwitchoverAck,
}

impl Grammar for ReturnPath {
    type Token = Token;
    type Item<'a> = ReturnPathItem<'a>;

    fn next(&mut self, cursor: &mut Cursor<'_>) -> Result<Token, Stop> {
        let (token, state) = match self.state {
            State::Message => {
                let token = read_message(cursor)?;
                let is_bitmap = matches!(token, Token::RecvBitmap { .. });
                (token, if is_bitmap { State::BitmapSize } else { State::Message })
            }
            State::BitmapSize => {
                let bytes = cursor.u64_be("size of a bitmap")?;
                let next = if bytes == 0 { State::BitmapEnd } else { State::BitmapBytes(Progress::new(bytes)) };
                (Token::BitmapSize { bytes }, next)
            }
            State::BitmapBytes(mut progress) => {
                let count = some_bytes(cursor, progress.left(), "bitmap")?;
                let before = progress.advance(count);
                let next = if progress.left() == 0 { State::BitmapEnd } else { State::BitmapBytes(progress) };
                (Token::BitmapBytes(before), next)
            }
            State::BitmapEnd => {
                let value = cursor.u64_be("end of a bitmap")?;
                if value != BITMAP_END {
                    let what = "end of a bitmap";
                    return Err(Reason::Value { what, value, expected: "0x123456789abcdef" }.into());
                }
                (Token::BitmapEnd, State::Message)
            }
        };
        self.state = state;
        Ok(token)
    }

    fn item<'a>(&'a self, token: Token, raw: &'a [u8]) -> ReturnPathItem<'a> {
        match token {
            Token::Shut { status } => ReturnPathItem::Shut { status },
            Token::Pong { value } => ReturnPathItem::Pong { value },
            Token::RequestPages { start, length, block } => {
                ReturnPathItem::RequestPages { start, length, block: block.map(|range| text::at(raw, range)) }
            }
            Token::RecvBitmap { block } => ReturnPathItem::RecvBitmap { block: text::at(raw, block) },
            Token::BitmapSize { bytes } => ReturnPathItem::BitmapSize { bytes },
            Token::BitmapBytes(progress) => ReturnPathItem::BitmapBytes(progress.piece(raw)),
            Token::BitmapEnd => ReturnPathItem::BitmapEnd,
            Token::ResumeAck { value } => ReturnPathItem::ResumeAck { value },
            Token::SwitchoverAck => ReturnPathItem::SwitchoverAck,
        }
    }

    fn may_end(&self) -> bool {
        matches!(self.state, State::Message)
    }

    fn held_bytes(&self) -> usize {
        0
    }
}

fn read_message(cursor: &mut Cursor<'_>) -> Result<Token, Stop> {
    let kind = cursor.u16_be("type of a return path message")?;
    let length = cursor.u16_be("length of a return path message")?;
    let fits = match kind {
        1 | 2 | 6 => length == 4,
        3 => length > 13,
        4 => length == 12,
        5 => length > 1,
        7 => length == 0,
        _ => return Err(Reason::Unknown { what: "return path message", value: kind.into() }.into()),
    };
    if !fits || length > RETURN_PATH_DATA_BYTES_MAX {
        return Err(wrong_length(length));
    }
    let end = cursor.position().saturating_add(length.into());
    let token = match kind {
        1 => Token::Shut { status: cursor.u32_be("status")? },
        2 => Token::Pong { value: cursor.u32_be("value")? },
        6 => Token::ResumeAck { value: cursor.u32_be("value")? },
        3 | 4 => Token::RequestPages {
            start: cursor.u64_be("start")?,
            length: cursor.u32_be("length")?,
            block: (kind == 3).then(|| named_to(cursor, end, length)).transpose()?,
        },
        5 => Token::RecvBitmap { block: named_to(cursor, end, length)? },
        _ => Token::SwitchoverAck,
    };
    Ok(token)
}

/// A name that must fill the rest of the message.
fn named_to(cursor: &mut Cursor<'_>, end: usize, length: u16) -> Result<Range<usize>, Stop> {
    let mut ahead = cursor.clone();
    let name_bytes = usize::from(ahead.u8("RAM block")?);
    if ahead.position().saturating_add(name_bytes) != end {
        return Err(wrong_length(length));
    }
    Ok(text::named(cursor, "RAM block")?.1)
}

fn wrong_length(length: u16) -> Stop {
    let value = length.into();
    Reason::Value { what: "length of a return path message", value, expected: "the length this message has" }.into()
}
