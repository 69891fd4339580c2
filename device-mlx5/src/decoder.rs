// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The stream as images.

use stream_codec::decode::{Accumulator, Decoder, Located, Step};

use crate::form::Form;
use crate::image::{Image, Part, Phase};
use crate::record::{Error, Limits, Reason, Record, RecordDecoder, RecordEvent};
use crate::summary::Summary;
use crate::{FORMAT, STOP_COPY_SIZE_BYTES, TAG_FW_DATA};

/// What a [`StreamDecoder`] recognises.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The first record: how large a buffer the target will need.
    StopCopySize {
        /// The record.
        record: Record,
        /// Size of the source kernel's largest buffer in bytes. A hint: clamp it, never allocate from it.
        bytes: u64,
    },
    /// The header of an image.
    ImageStart(Image),
    /// Some bytes of an image, in place; at least one.
    ImagePiece {
        /// The image.
        image: Image,
        /// Where in the image these bytes stand.
        position: u64,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// An image was complete.
    ImageEnd(Image),
    /// An optional record with an unknown tag was skipped, whole. It may be left out of what is written to the target.
    Skipped(Record),
}

/// Reads a stream of `mlx5-vfio-pci` in pieces of any size, with every check that the kernel makes and those it leaves out.
/// Holds at most 24 bytes.
///
/// The stream may end on a record boundary, once an image that is not empty was complete. That is all that can be said
/// without an end mark: a stream cut between two images passes. The transport must say that nothing is missing.
///
/// ```
/// use device_mlx5::{Decoder, Encoder, Event, Limits, Part, Phase, StreamDecoder};
///
/// let mut encoder = Encoder::new();
/// let mut stream = encoder.stop_copy_size(8192)?.to_vec();
/// stream.extend_from_slice(&encoder.image(5)?);
/// encoder.payload(5)?;
/// stream.extend_from_slice(b"image");
/// encoder.finish()?;
///
/// let mut decoder = StreamDecoder::new(Limits::DEFAULT);
/// decoder.set_phase(Phase::PreCopy);
/// let (mut rest, mut loaded) = (&stream[..], Vec::new());
/// loop {
///     let step = decoder.decode(rest)?;
///     rest = &rest[step.consumed..];
///     match step.event {
///         Some(Event::StopCopySize { bytes, .. }) => assert_eq!(bytes, 8192),
///         Some(Event::ImagePiece { bytes, .. }) => loaded.extend_from_slice(bytes),
///         Some(Event::ImageEnd(image)) => assert_eq!(image.part, Part::Initial),
///         Some(_) => {}
///         None => break,
///     }
/// }
/// decoder.finish()?;
/// assert_eq!(loaded, b"image");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct StreamDecoder {
    records: RecordDecoder,
    phase: Phase,
    /// Where STOP_COPY began. No image before it is final.
    stop_copy_offset: u64,
    /// The image that is being read.
    image: Option<Image>,
    stop_copy_size: Accumulator<8>,
    summary: Summary,
}

impl StreamDecoder {
    /// A decoder at the start of a stream that is read in an unknown phase.
    #[must_use]
    pub const fn new(limits: Limits) -> Self {
        Self {
            records: RecordDecoder::new(FORMAT, limits),
            phase: Phase::Unknown,
            stop_copy_offset: 0,
            image: None,
            stop_copy_size: Accumulator::new(),
            summary: Summary::new(),
        }
    }

    /// Says in which phase the bytes are read that come next. An image belongs to the phase in which its header starts.
    pub fn set_phase(&mut self, phase: Phase) {
        if phase == Phase::StopCopy && self.phase != Phase::StopCopy {
            self.stop_copy_offset = self.records.offset();
        }
        self.phase = phase;
    }

    /// What has been read so far.
    #[must_use]
    pub const fn summary(&self) -> &Summary {
        &self.summary
    }

    fn part(&self, record: &Record) -> Part {
        let is_first = self.summary.images == 0;
        match self.phase {
            Phase::Unknown => Part::Unknown,
            Phase::StopCopy if record.offset >= self.stop_copy_offset => Part::Final,
            Phase::PreCopy | Phase::StopCopy if is_first => Part::Initial,
            Phase::PreCopy | Phase::StopCopy => Part::Incremental,
        }
    }

    /// The kernel allocates a buffer for the first image that has content, or as STOP_COPY_SIZE says.
    fn check_image(&self, record: &Record) -> Result<(), Reason> {
        let Summary { stop_copy_size, largest_image_bytes, .. } = self.summary;
        let has_buffer = largest_image_bytes > 0 || stop_copy_size.is_some_and(|bytes| bytes > 0);
        if record.header.record_bytes == 0 && !has_buffer { Err(Reason::EmptyImage) } else { Ok(()) }
    }

    /// What a record's event means, or `None` if nothing yet.
    fn interpret<'a>(&mut self, event: RecordEvent<'a>) -> Result<Option<Event<'a>>, Error> {
        Ok(match event {
            RecordEvent::Start(record) => {
                self.summary.start(&record);
                if record.header.tag == TAG_FW_DATA {
                    self.check_image(&record).map_err(|reason| Located::new(record.offset, reason))?;
                    let image = Image::new(record, self.summary.images, self.part(&record));
                    self.image = Some(image);
                    Some(Event::ImageStart(image))
                } else {
                    check_stop_copy_size(&record).map_err(|reason| Located::new(record.offset, reason))?;
                    None
                }
            }
            RecordEvent::Payload { position, bytes, .. } => match self.image {
                Some(image) => Some(Event::ImagePiece { image, position, bytes }),
                None => {
                    self.stop_copy_size.fill(bytes);
                    None
                }
            },
            RecordEvent::End(record) => match self.image.take() {
                Some(image) => {
                    self.summary.end_image(&image);
                    Some(Event::ImageEnd(image))
                }
                None => self.stop_copy_size.take().map(|bytes| {
                    let bytes = u64::from_le_bytes(bytes);
                    self.summary.stop_copy_size = Some(bytes);
                    Event::StopCopySize { record, bytes }
                }),
            },
            RecordEvent::Skipped(record) => {
                self.summary.start(&record);
                self.summary.skip(&record);
                Some(Event::Skipped(record))
            }
        })
    }
}

/// The kernel would take a shorter record too, and read what was there before it.
fn check_stop_copy_size(record: &Record) -> Result<(), Reason> {
    let record_bytes = record.header.record_bytes;
    if record_bytes != STOP_COPY_SIZE_BYTES {
        return Err(Reason::StopCopySizeLength { record_bytes });
    }
    if record.index != 0 {
        return Err(Reason::StopCopySizeNotFirst { index: record.index });
    }
    Ok(())
}

/// A first header that is refused may be no header at all.
fn explain(error: Error) -> Error {
    let header = match error.reason {
        Reason::UnknownTag { header, .. } | Reason::RecordTooLarge { header, .. } if error.offset == 0 => header,
        _ => return error,
    };
    match Form::of(&header.encode()) {
        Form::Bare => Located::new(0, Reason::Bare { header }),
        _ => error,
    }
}

impl Decoder for StreamDecoder {
    type Event<'a> = Event<'a>;
    type Error = Error;

    fn decode<'a>(&'a mut self, input: &'a [u8]) -> Result<Step<Event<'a>>, Error> {
        let mut consumed = 0usize;
        loop {
            let rest = input.get(consumed..).unwrap_or_default();
            let step = self.records.step(rest).map_err(|error| self.records.refuse(explain(error)))?;
            let Some(event) = step.event else {
                return Ok(Step { consumed: consumed.saturating_add(step.consumed), event: None });
            };
            consumed = consumed.saturating_add(step.consumed);
            if let Some(event) = self.interpret(event).map_err(|error| self.records.refuse(error))? {
                return Ok(Step { consumed, event: Some(event) });
            }
        }
    }

    fn finish(&self) -> Result<(), Error> {
        self.records.finish()
    }

    fn offset(&self) -> u64 {
        self.records.offset()
    }

    fn buffered_bytes(&self) -> usize {
        self.records.buffered_bytes().saturating_add(self.stop_copy_size.filled())
    }
}
