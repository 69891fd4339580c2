// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The streaming decoder of records, for any [`Format`].

use stream_codec::decode::{Accumulator, Decoder, Located, Step};

use super::error::{Error, Reason};
use super::header::{HEADER_BYTES, Header, Record};
use super::{Format, Limits};

/// What a [`RecordDecoder`] recognises.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum RecordEvent<'a> {
    /// The header of a record with a known tag is complete and acceptable.
    Start(Record),
    /// Some bytes of its payload, in place; at least one.
    Payload {
        /// The record.
        record: Record,
        /// Where in the payload these bytes stand.
        position: u64,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// The payload was complete.
    End(Record),
    /// An optional record with an unknown tag was skipped, whole.
    Skipped(Record),
}

/// Reads records in pieces of any size. Holds at most a header.
///
/// The stream may end on a record boundary, once a record with the format's `image_tag` that is not empty was complete.
/// An empty one counts for nothing: the kernel does not load it if it is the last.
#[derive(Clone, Debug)]
pub struct RecordDecoder {
    format: Format,
    limits: Limits,
    offset: u64,
    records: u64,
    has_image: bool,
    header: Accumulator<HEADER_BYTES>,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Header,
    /// A payload: how much of it has come, and whether it is passed on.
    Payload {
        record: Record,
        seen: u64,
        is_known: bool,
    },
    Failed(Error),
}

impl RecordDecoder {
    /// A decoder at the start of a stream.
    #[must_use]
    pub const fn new(format: Format, limits: Limits) -> Self {
        Self {
            format,
            limits,
            offset: 0,
            records: 0,
            has_image: false,
            header: Accumulator::new(),
            state: State::Header,
        }
    }

    /// How many records have started, skipped ones included.
    #[must_use]
    pub const fn records(&self) -> u64 {
        self.records
    }

    /// [`Decoder::decode`], with events that borrow from the input alone.
    ///
    /// # Errors
    /// Those of [`Decoder::decode`].
    pub fn step<'a>(&mut self, input: &'a [u8]) -> Result<Step<RecordEvent<'a>>, Error> {
        let mut consumed = 0usize;
        loop {
            let rest = input.get(consumed..).unwrap_or_default();
            let (used, event) = self.advance(rest)?;
            consumed = consumed.saturating_add(used);
            self.offset = self.offset.saturating_add(length(used));
            match event {
                Progress::Starved => return Ok(Step { consumed, event: None }),
                Progress::Go => {}
                Progress::Event(event) => return Ok(Step { consumed, event: Some(event) }),
            }
        }
    }

    /// Refuses the stream for a reason that a layer above has found.
    pub(crate) fn refuse(&mut self, error: Error) -> Error {
        self.state = State::Failed(error);
        error
    }

    fn advance<'a>(&mut self, input: &'a [u8]) -> Result<(usize, Progress<'a>), Error> {
        match self.state {
            State::Failed(error) => Err(error),
            State::Header => {
                let offset = self.offset.saturating_sub(length(self.header.filled()));
                let used = self.header.fill(input);
                let Some(header) = self.header.take() else {
                    return Ok((used, Progress::Starved));
                };
                let record = Record::new(offset, self.records, Header::decode(&header));
                let is_known = self.check(&record).map_err(|reason| self.refuse(Located::new(offset, reason)))?;
                self.records = self.records.saturating_add(1);
                self.state = State::Payload { record, seen: 0, is_known };
                Ok((used, if is_known { Progress::Event(RecordEvent::Start(record)) } else { Progress::Go }))
            }
            State::Payload { record, seen, is_known } => Ok(self.payload(record, seen, is_known, input)),
        }
    }

    fn payload<'a>(&mut self, record: Record, seen: u64, is_known: bool, input: &'a [u8]) -> (usize, Progress<'a>) {
        let missing = record.header.record_bytes.saturating_sub(seen);
        if missing == 0 {
            self.state = State::Header;
            self.has_image |= record.header.tag == self.format.image_tag && record.header.record_bytes > 0;
            let event = if is_known { RecordEvent::End(record) } else { RecordEvent::Skipped(record) };
            return (0, Progress::Event(event));
        }
        // More than fits into memory is more than the input has.
        let bytes = usize::try_from(missing).ok().and_then(|missing| input.get(..missing)).unwrap_or(input);
        if bytes.is_empty() {
            return (0, Progress::Starved);
        }
        self.state = State::Payload { record, seen: seen.saturating_add(length(bytes.len())), is_known };
        let progress = if is_known {
            Progress::Event(RecordEvent::Payload { record, position: seen, bytes })
        } else {
            Progress::Go
        };
        (bytes.len(), progress)
    }

    /// Whether a record may come, and whether its tag is known. The kernel's refusals first, in the kernel's order.
    fn check(&self, record: &Record) -> Result<bool, Reason> {
        let header = record.header;
        let Header { record_bytes, tag, .. } = header;
        let is_known = self.format.tag_name(tag).is_some();
        let limit = self.format.record_bytes_max;
        if record_bytes > limit {
            return Err(Reason::RecordTooLarge { format: self.format.name, header, limit });
        }
        if !is_known && !header.is_optional() {
            return Err(Reason::UnknownTag { header });
        }
        if record_bytes > self.limits.record_bytes {
            return Err(Reason::RecordLimit { tag, record_bytes, limit: self.limits.record_bytes });
        }
        let total_bytes = record.offset.saturating_add(length(HEADER_BYTES)).saturating_add(record_bytes);
        if total_bytes > self.limits.total_bytes {
            return Err(Reason::TotalLimit { total_bytes, limit: self.limits.total_bytes });
        }
        Ok(is_known)
    }
}

/// What the input was good for.
enum Progress<'a> {
    /// All of it is used.
    Starved,
    /// The next state may be able to go on.
    Go,
    Event(RecordEvent<'a>),
}

impl Decoder for RecordDecoder {
    type Event<'a> = RecordEvent<'a>;
    type Error = Error;

    fn decode<'a>(&'a mut self, input: &'a [u8]) -> Result<Step<RecordEvent<'a>>, Error> {
        self.step(input)
    }

    fn finish(&self) -> Result<(), Error> {
        let reason = match self.state {
            State::Failed(error) => return Err(error),
            State::Header if self.header.filled() > 0 => Reason::TruncatedHeader { have: self.header.filled() },
            State::Payload { record, seen, .. } if seen < record.header.record_bytes => {
                let Header { record_bytes, tag, .. } = record.header;
                Reason::TruncatedRecord { tag, have: seen, record_bytes }
            }
            _ if self.has_image => return Ok(()),
            _ => Reason::NoImage { name: self.format.tag_name(self.format.image_tag).unwrap_or("an image") },
        };
        Err(Located::new(self.offset, reason))
    }

    fn offset(&self) -> u64 {
        self.offset
    }

    fn buffered_bytes(&self) -> usize {
        self.header.filled()
    }
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
