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

/// What stands in front of a record's bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "the fields of a record's header")]
pub struct RecordHead {
    /// The region's number.
    pub region: u16,
    /// Where in the region the bytes begin.
    pub offset: u64,
    /// How many bytes of memory; at least one.
    pub length: u32,
    /// They are zeros, and none of them follows.
    pub is_zeros: bool,
}

/// The heads of a payload's records, one by one, for a reader who has the bytes go elsewhere than behind them: [`Pages`] for one who
/// has all of the payload.
///
/// ```
/// use stream_codec::frame::RecordHeads;
///
/// // Three bytes for offset 4096 of the first region, and they end the payload.
/// let mut heads = RecordHeads::new(16 + 3);
/// assert!(heads.has_more()?);
/// let head = heads.next(&[0, 16, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0])?;
/// assert_eq!((head.region, head.offset, head.length, head.is_zeros), (0, 4096, 3, false));
/// assert!(!heads.has_more()?);
/// # Ok::<(), stream_codec::frame::PagesError>(())
/// ```
#[derive(Clone, Debug)]
pub struct RecordHeads {
    payload_len: usize,
    /// Where the next one begins.
    at: usize,
    least: Place,
}

impl RecordHeads {
    /// Those of a payload of this many bytes.
    #[must_use]
    pub const fn new(payload_len: usize) -> Self {
        Self { payload_len, at: 0, least: Place { region: 0, offset: 0 } }
    }

    /// Whether there is one more: 16 bytes, behind the bytes of the last.
    ///
    /// # Errors
    /// [`RecordFault::Cut`] where the payload has fewer bytes left.
    pub fn has_more(&self) -> Result<bool, PagesError> {
        match self.payload_len.saturating_sub(self.at) {
            0 => Ok(false),
            left if left < RECORD_BYTES => Err(self.wrong(RecordFault::Cut)),
            _ => Ok(true),
        }
    }

    /// The next head. Its bytes, unless they are zeros, follow in the payload.
    ///
    /// # Errors
    /// What is wrong with the record, which all of the payload must be refused for.
    pub fn next(&mut self, head: &[u8; RECORD_BYTES]) -> Result<RecordHead, PagesError> {
        let [o0, o1, o2, o3, o4, o5, o6, o7, l0, l1, l2, l3, r0, r1, f0, f1] = *head;
        let offset = u64::from_le_bytes([o0, o1, o2, o3, o4, o5, o6, o7]);
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        let (region, flags) = (u16::from_le_bytes([r0, r1]), u16::from_le_bytes([f0, f1]));
        if flags & !FLAG_ZEROS != 0 {
            return Err(self.wrong(RecordFault::Flags { flags }));
        }
        if length == 0 {
            return Err(self.wrong(RecordFault::Empty));
        }
        if (Place { region, offset }) < self.least {
            return Err(self.wrong(RecordFault::Order));
        }
        let end = offset.checked_add(length.into()).ok_or_else(|| self.wrong(RecordFault::Overflow))?;
        let is_zeros = flags == FLAG_ZEROS;
        let content = if is_zeros { 0 } else { size(length) };
        let next = self.at.saturating_add(RECORD_BYTES).saturating_add(content);
        if next > self.payload_len {
            return Err(self.wrong(RecordFault::Cut));
        }
        self.at = next;
        self.least = Place { region, offset: end };
        Ok(RecordHead { region, offset, length, is_zeros })
    }

    const fn wrong(&self, fault: RecordFault) -> PagesError {
        PagesError { at: self.at, fault }
    }
}

fn size(length: u32) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
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
    heads: RecordHeads,
}

impl<'a> Pages<'a> {
    /// The records of this payload.
    #[must_use]
    pub const fn new(payload: &'a [u8]) -> Self {
        Self { payload, heads: RecordHeads::new(payload.len()) }
    }

    fn record(&mut self) -> Result<Option<Record<'a>>, PagesError> {
        if !self.heads.has_more()? {
            return Ok(None);
        }
        let rest = self.payload.get(self.heads.at..).unwrap_or_default();
        let (head, behind) =
            rest.split_first_chunk::<RECORD_BYTES>().ok_or_else(|| self.heads.wrong(RecordFault::Cut))?;
        let RecordHead { region, offset, length, is_zeros } = self.heads.next(head)?;
        let content = if is_zeros {
            Content::Zeros(length)
        } else {
            Content::Bytes(behind.get(..size(length)).unwrap_or_default())
        };
        Ok(Some(Record { region, offset, content }))
    }
}

impl<'a> Iterator for Pages<'a> {
    type Item = Result<Record<'a>, PagesError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.record().inspect_err(|_| self.heads = RecordHeads::new(0)).transpose()
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
