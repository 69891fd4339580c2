// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The payload of a Data frame of guest memory: records of pages, in the order of their addresses.
//!
//! A record says where its bytes go, so frames of memory mean the same in any order, as long as no two under way have the same
//! page. Bytes that are all zero are not sent. Offsets and lengths are in bytes, so that a page of 1 GiB can go in many frames.

use core::fmt;

use thiserror::Error;

use crate::decode::{Blame, Fault};

/// Size of what stands in front of a record's bytes.
pub const RECORD_BYTES: usize = 16;

/// Bytes among which zeros are looked for: the smallest page there is.
const BLOCK_BYTES: usize = 4096;

/// The record is of zeros, which are not sent.
const FLAG_ZEROS: u16 = 1;

/// What a record has for its bytes of memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "bytes are there or they are zeros")]
pub enum Content<'a> {
    /// These; at least one.
    Bytes(&'a [u8]),
    /// Zeros, this many; at least one.
    Zeros(u32),
}

impl Content<'_> {
    /// How many bytes of memory.
    #[must_use]
    pub fn length(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            Self::Zeros(count) => (*count).into(),
        }
    }
}

/// Some bytes of a region.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "the three fields of a record")]
pub struct Record<'a> {
    /// The region's number: its place among the Region frames of its device, from 0.
    pub region: u16,
    /// Where in the region the bytes begin.
    pub offset: u64,
    /// The bytes.
    pub content: Content<'a>,
}

/// Why a payload is no row of records. [`Fault::Sender`]: the frame's checksum was right.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("the record {at} bytes into a frame of guest memory {fault}")]
pub struct PagesError {
    /// Where in the payload the record begins.
    pub at: usize,
    /// What is wrong with it.
    pub fault: RecordFault,
}

impl Blame for PagesError {
    fn fault(&self) -> Fault {
        Fault::Sender
    }
}

/// What is wrong with a record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum RecordFault {
    /// The payload ends in it.
    Cut,
    /// It has no bytes.
    Empty,
    /// It has flags that mean nothing.
    Flags {
        /// All of its flags.
        flags: u16,
    },
    /// It is not behind the record before it: in a later region, or behind its last byte.
    Order,
    /// Its last byte has no offset in 64 bits.
    Overflow,
}

impl fmt::Display for RecordFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cut => formatter.write_str("is cut off by the end of the frame"),
            Self::Empty => formatter.write_str("has no bytes"),
            Self::Flags { flags } => write!(formatter, "has reserved flags in {flags:#06x}"),
            Self::Order => formatter.write_str("is not behind the one before it"),
            Self::Overflow => formatter.write_str("goes beyond 64 bits"),
        }
    }
}

/// The first byte that a record may begin with: its region, and the offset there.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
struct Place {
    region: u16,
    offset: u64,
}

/// The records of a payload, up to the first that is none.
///
/// ```
/// use stream_codec::frame::{Content, Pages, PagesWriter};
///
/// let mut payload = [0; 64];
/// let mut writer = PagesWriter::new(&mut payload);
/// writer.space(0, 4096, 3).expect("room for three bytes").copy_from_slice(b"abc");
/// assert!(writer.push(0, 4096, 3));
/// let length = writer.filled_len();
///
/// let record = Pages::new(&payload[..length]).next().expect("a record")?;
/// assert_eq!((record.region, record.offset, record.content), (0, 4096, Content::Bytes(b"abc")));
/// # Ok::<(), stream_codec::frame::PagesError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Pages<'a> {
    payload: &'a [u8],
    at: usize,
    least: Place,
}

impl<'a> Pages<'a> {
    /// The records of this payload.
    #[must_use]
    pub const fn new(payload: &'a [u8]) -> Self {
        Self { payload, at: 0, least: Place { region: 0, offset: 0 } }
    }

    fn record(&mut self) -> Result<Record<'a>, RecordFault> {
        let rest = self.payload.get(self.at..).unwrap_or_default();
        let (header, behind) = rest.split_first_chunk::<RECORD_BYTES>().ok_or(RecordFault::Cut)?;
        let [o0, o1, o2, o3, o4, o5, o6, o7, l0, l1, l2, l3, r0, r1, f0, f1] = *header;
        let offset = u64::from_le_bytes([o0, o1, o2, o3, o4, o5, o6, o7]);
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        let (region, flags) = (u16::from_le_bytes([r0, r1]), u16::from_le_bytes([f0, f1]));
        if flags & !FLAG_ZEROS != 0 {
            return Err(RecordFault::Flags { flags });
        }
        if length == 0 {
            return Err(RecordFault::Empty);
        }
        if (Place { region, offset }) < self.least {
            return Err(RecordFault::Order);
        }
        let end = offset.checked_add(length.into()).ok_or(RecordFault::Overflow)?;
        let mut used = RECORD_BYTES;
        let content = if flags == FLAG_ZEROS {
            Content::Zeros(length)
        } else {
            let size = usize::try_from(length).unwrap_or(usize::MAX);
            let bytes = behind.get(..size).ok_or(RecordFault::Cut)?;
            used = used.saturating_add(size);
            Content::Bytes(bytes)
        };
        self.at = self.at.saturating_add(used);
        self.least = Place { region, offset: end };
        Ok(Record { region, offset, content })
    }
}

impl<'a> Iterator for Pages<'a> {
    type Item = Result<Record<'a>, PagesError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.payload.len() {
            return None;
        }
        let at = self.at;
        Some(self.record().map_err(|fault| {
            self.at = usize::MAX;
            PagesError { at, fault }
        }))
    }
}

/// Fills a buffer with records. The bytes are read into the place where they are sent from.
#[derive(Debug)]
pub struct PagesWriter<'b> {
    buffer: &'b mut [u8],
    filled: usize,
    least: Place,
    /// Where the last record stands, and whether it is of zeros.
    last: Option<(usize, bool)>,
}

impl<'b> PagesWriter<'b> {
    /// Records into this buffer.
    #[must_use]
    pub const fn new(buffer: &'b mut [u8]) -> Self {
        Self { buffer, filled: 0, least: Place { region: 0, offset: 0 }, last: None }
    }

    /// How much of the buffer is filled.
    #[must_use]
    pub const fn filled_len(&self) -> usize {
        self.filled
    }

    /// How many bytes one more record may have.
    #[must_use]
    pub const fn room(&self) -> usize {
        self.buffer.len().saturating_sub(self.filled).saturating_sub(RECORD_BYTES)
    }

    /// Whether a record with this first byte may come next.
    #[must_use]
    pub fn takes(&self, region: u16, offset: u64) -> bool {
        Place { region, offset } >= self.least
    }

    /// Where the `length` bytes of a region from `offset` on go before [`push`](Self::push) makes records of them; `None` without the
    /// room.
    pub fn space(&mut self, region: u16, offset: u64, length: usize) -> Option<&mut [u8]> {
        let begin = self.begin(region, offset, length);
        self.buffer.get_mut(begin..begin.checked_add(length)?)
    }

    /// Makes records of the `length` bytes in [`space`](Self::space), which are those of a region from `offset` on: one of each
    /// stretch, without the blocks of 4096 bytes that are all zero. A stretch that goes on where the last record ends makes that longer.
    /// False if there is no room or the place is not behind the last record; nothing has changed then.
    #[must_use]
    pub fn push(&mut self, region: u16, offset: u64, length: usize) -> bool {
        let count = u64::try_from(length).unwrap_or(u64::MAX);
        let fits = length <= self.room() && u32::try_from(length).is_ok();
        let Some(end) = offset.checked_add(count).filter(|_| fits && length > 0 && self.takes(region, offset)) else {
            return false;
        };
        // Records move to the left over the zeros that are left out: each of them has more bytes than two records' headers.
        let mut source = self.begin(region, offset, length);
        let (mut at, mut left) = (offset, length);
        while left > 0 {
            let content = self.buffer.get(source..source.saturating_add(left)).unwrap_or_default();
            let (stretch, is_zero) = stretch(content);
            self.append(Place { region, offset: at }, source, stretch, is_zero);
            source = source.saturating_add(stretch);
            at = at.saturating_add(u64::try_from(stretch).unwrap_or(u64::MAX));
            left = left.saturating_sub(stretch);
            self.least = Place { region, offset: at };
        }
        self.least = Place { region, offset: end };
        true
    }

    /// Where bytes from there on begin in the buffer: behind those of the last record, if they go on where it ends, or behind a header
    /// of their own.
    fn begin(&self, region: u16, offset: u64, length: usize) -> usize {
        let goes_on = self.longer(Place { region, offset }, length, false).is_some();
        self.filled.saturating_add(if goes_on { 0 } else { RECORD_BYTES })
    }

    /// Where the last record stands, and the length it gets, if what comes next goes on in it.
    fn longer(&self, place: Place, length: usize, is_zero: bool) -> Option<(usize, u32)> {
        let (at, _) = self.last.filter(|(_, is_of_zeros)| *is_of_zeros == is_zero && self.least == place)?;
        Some((at, self.length_at(at).checked_add(u32::try_from(length).ok()?)?))
    }

    fn append(&mut self, place: Place, source: usize, length: usize, is_zero: bool) {
        let content = if is_zero { 0 } else { length };
        let longer = self.longer(place, length, is_zero);
        let begin = self.filled.saturating_add(if longer.is_some() { 0 } else { RECORD_BYTES });
        if begin != source {
            self.buffer.copy_within(source..source.saturating_add(content), begin);
        }
        match longer {
            Some((at, longer)) => {
                let field = self.buffer.get_mut(at.saturating_add(8)..at.saturating_add(12));
                field.into_iter().for_each(|field| field.copy_from_slice(&longer.to_le_bytes()));
            }
            None => {
                self.header(self.filled, place.region, place.offset, length, if is_zero { FLAG_ZEROS } else { 0 });
                self.last = Some((self.filled, is_zero));
            }
        }
        self.filled = begin.saturating_add(content);
    }

    fn length_at(&self, at: usize) -> u32 {
        let field = self.buffer.get(at.saturating_add(8)..).and_then(|rest| rest.first_chunk::<4>());
        field.map_or(u32::MAX, |bytes| u32::from_le_bytes(*bytes))
    }

    fn header(&mut self, at: usize, region: u16, offset: u64, length: usize, flags: u16) {
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        let fields = (offset.to_le_bytes().into_iter())
            .chain(length.to_le_bytes())
            .chain(region.to_le_bytes())
            .chain(flags.to_le_bytes());
        self.buffer.iter_mut().skip(at).zip(fields).for_each(|(slot, byte)| *slot = byte);
    }
}

/// The stretch that `content` begins with, of blocks that are all zero, or of others.
fn stretch(content: &[u8]) -> (usize, bool) {
    let is_zero = |block: &[u8]| block.len() == BLOCK_BYTES && is_zero(block);
    let mut blocks = content.chunks(BLOCK_BYTES);
    let first = blocks.next().is_some_and(is_zero);
    let more = blocks.take_while(|block| is_zero(block) == first);
    let length = more.map(<[u8]>::len).fold(BLOCK_BYTES, usize::saturating_add);
    (length.min(content.len()), first)
}

/// In pieces small enough to stop early and large enough for wide registers.
fn is_zero(block: &[u8]) -> bool {
    block.chunks(256).all(|piece| piece.iter().fold(0, |any, byte| any | byte) == 0)
}
