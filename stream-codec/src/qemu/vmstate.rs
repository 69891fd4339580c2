// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The payload of a FULL section, field by field, as the vmdesc describes it.
//!
//! Fields follow each other without padding, big-endian; behind the fields of a vmstate stand its subsections, each
//! with a header: `05`, u8 length, name, u32 version.

use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use super::configuration::SUBSECTION;
use super::engine::{Stop, some_bytes};
use super::error::{Error, Reason};
use super::event::{Event, Piece, Progress};
use super::text;
use super::vmdesc::{Field, Vmdesc};
use crate::cursor::Cursor;
use crate::decode::Located;

/// Fields up to this length come whole, whatever the segmentation.
pub const WHOLE_FIELD_BYTES_MAX: u64 = 64;

/// A part of a FULL section.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum VmState<'a> {
    /// A field, or some bytes of one with more than [`WHOLE_FIELD_BYTES_MAX`].
    Field(VmField<'a>),
    /// The header of a subsection. What follows belongs to it as long as the path says so.
    Subsection {
        /// Where it stands.
        path: Path<'a>,
        /// Its name.
        name: &'a str,
        /// Its version.
        version_id: u32,
    },
}

impl VmState<'_> {
    /// Appends the field's bytes or the subsection's header.
    ///
    /// # Errors
    /// [`Reason::Text`] if the name of a subsection has more than 255 bytes.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), Reason> {
        match self {
            Self::Field(field) => out.extend_from_slice(field.piece.bytes),
            Self::Subsection { name, version_id, .. } => {
                out.push(SUBSECTION);
                text::put(out, name, "name of a subsection")?;
                out.extend_from_slice(&version_id.to_be_bytes());
            }
        }
        Ok(())
    }
}

/// A field of a vmstate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VmField<'a> {
    /// The structs and subsections it stands in.
    pub path: Path<'a>,
    /// Its name.
    pub name: &'a str,
    /// QEMU's name of its type, e.g. `uint32`. `int32 le` is not an order of bytes but a check: not above.
    pub type_name: &'a str,
    /// Which element of an array it is, if elements are described one by one.
    pub index: Option<u64>,
    /// How many elements it has.
    pub count: u64,
    /// Its bytes, all elements together.
    pub piece: Piece<'a>,
}

impl VmField<'_> {
    /// The value of a single number, boolean or timer, if all its bytes are here.
    #[must_use]
    pub fn value(&self) -> Option<Value> {
        if self.count != 1 || self.piece.length != u64::try_from(self.piece.bytes.len()).ok()? {
            return None;
        }
        const WHAT: &str = "value";
        let mut cursor = Cursor::new(self.piece.bytes);
        let kind = self.type_name.split(' ').next().unwrap_or_default();
        let value = match kind {
            "bool" => Value::Bool(cursor.u8(WHAT).ok()? != 0),
            "uint8" => Value::Unsigned(cursor.u8(WHAT).ok()?.into()),
            "uint16" => Value::Unsigned(cursor.u16_be(WHAT).ok()?.into()),
            "uint32" => Value::Unsigned(cursor.u32_be(WHAT).ok()?.into()),
            "uint64" => Value::Unsigned(cursor.u64_be(WHAT).ok()?),
            "int8" => Value::Signed(i8::from_be_bytes(cursor.take_array(WHAT).ok()?).into()),
            "int16" => Value::Signed(i16::from_be_bytes(cursor.take_array(WHAT).ok()?).into()),
            "int32" => Value::Signed(cursor.i32_be(WHAT).ok()?.into()),
            "int64" | "timer" => Value::Signed(cursor.i64_be(WHAT).ok()?),
            _ => return None,
        };
        cursor.is_empty().then_some(value)
    }
}

/// The value of a field.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// A boolean.
    Bool(bool),
    /// A number without sign.
    Unsigned(u64),
    /// A number with sign; of a timer, the time it fires in nanoseconds.
    Signed(i64),
}

/// Where in a vmstate something stands. Displayed like `apic/lvt[2]`.
#[derive(Clone, Copy, Debug)]
pub struct Path<'a> {
    vmdesc: &'a Vmdesc,
    stack: &'a [Frame],
}

/// One step of a [`Path`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PathStep<'a> {
    /// Name of the field that is a struct, or of the subsection.
    pub name: &'a str,
    /// Which element of an array of structs.
    pub index: Option<u64>,
}

impl<'a> Path<'a> {
    /// The steps from the device's vmstate down, without that itself.
    pub fn steps(&self) -> impl Iterator<Item = PathStep<'a>> + use<'a> {
        let (vmdesc, stack) = (self.vmdesc, self.stack);
        // Every frame but the innermost is at the field or subsection that the next one reads.
        stack.iter().take(stack.len().saturating_sub(1)).filter_map(move |frame| frame.step(vmdesc))
    }

    /// How many steps there are.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.stack.len().saturating_sub(1)
    }
}

impl PartialEq for Path<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.steps().eq(other.steps())
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, step) in self.steps().enumerate() {
            formatter.write_str(if number == 0 { "" } else { "/" })?;
            formatter.write_str(step.name)?;
            if let Some(index) = step.index {
                write!(formatter, "[{index}]")?;
            }
        }
        Ok(())
    }
}

/// How far a struct has been read.
#[derive(Clone, Copy, Debug)]
struct Frame {
    structure: usize,
    /// How many fields and then subsections are done.
    done: usize,
    /// How many elements of the field that comes next are done.
    element: u64,
}

impl Frame {
    const fn new(structure: usize) -> Self {
        Self { structure, done: 0, element: 0 }
    }

    fn step(self, vmdesc: &Vmdesc) -> Option<PathStep<'_>> {
        let structure = vmdesc.structs.get(self.structure)?;
        if let Some(field) = self.field(vmdesc) {
            let index = if field.count > 1 { Some(self.element) } else { field.index };
            return Some(PathStep { name: &field.name, index });
        }
        let number = self.done.checked_sub(structure.fields.len())?;
        let subsection = structure.subsections.start.checked_add(number)?;
        Some(PathStep { name: &vmdesc.structs.get(subsection)?.name, index: None })
    }

    fn field(self, vmdesc: &Vmdesc) -> Option<&Field> {
        let structure = vmdesc.structs.get(self.structure)?;
        let number = structure.fields.start.checked_add(self.done)?;
        vmdesc.fields.get(number).filter(|_| number < structure.fields.end)
    }

    /// The subsection that comes next.
    fn subsection(self, vmdesc: &Vmdesc) -> Option<usize> {
        let structure = vmdesc.structs.get(self.structure)?;
        let number = self.done.checked_sub(structure.fields.len())?;
        structure.subsections.start.checked_add(number).filter(|number| *number < structure.subsections.end)
    }

    /// Steps over an element of the field or over the subsection that came next.
    fn advance(&mut self, count: u64) {
        self.element = self.element.saturating_add(1);
        if self.element >= count {
            self.element = 0;
            self.done = self.done.saturating_add(1);
        }
    }
}

/// A part, as a token.
#[derive(Clone, Debug)]
pub(super) enum Token {
    Field { number: usize, progress: Progress },
    Subsection { name: Range<usize>, version_id: u32 },
}

/// A walk through the description of one device.
#[derive(Clone, Debug)]
pub(super) struct Walk {
    stack: Vec<Frame>,
    /// The field that is being handed out, and whether it is done with the next call.
    field: Option<(usize, Progress)>,
    /// Whether the innermost frame has to step over its field before it goes on.
    is_behind: bool,
}

impl Walk {
    /// Nothing to walk.
    pub(super) const fn new() -> Self {
        Self { stack: Vec::new(), field: None, is_behind: false }
    }

    /// Starts at the struct of a device.
    pub(super) fn start(&mut self, structure: usize) {
        self.stack.clear();
        self.stack.push(Frame::new(structure));
        self.field = None;
        self.is_behind = false;
    }

    /// How much the stack holds. Its depth is that of the vmdesc.
    pub(super) fn held_bytes(&self) -> usize {
        self.stack.capacity().saturating_mul(size_of::<Frame>())
    }

    /// The next part, or `None` behind the last.
    pub(super) fn next(&mut self, vmdesc: &Vmdesc, cursor: &mut Cursor<'_>) -> Result<Option<Token>, Stop> {
        if let Some((number, mut progress)) = self.field {
            let count = some_bytes(cursor, progress.left(), "field of a vmstate")?;
            let before = progress.advance(count);
            self.set_field(number, progress);
            return Ok(Some(Token::Field { number, progress: before }));
        }
        loop {
            self.catch_up();
            let Some(frame) = self.stack.last().copied() else {
                return Ok(None);
            };
            if let Some(field) = frame.field(vmdesc) {
                match field.structure {
                    Some(structure) => self.stack.push(Frame::new(structure)),
                    None => return self.leaf(vmdesc, frame, field, cursor).map(Some),
                }
            } else if let Some(subsection) = frame.subsection(vmdesc) {
                return self.subsection(vmdesc, subsection, cursor).map(Some);
            } else {
                self.stack.pop();
                // The frame above has been waiting for this one.
                let count = self.stack.last().and_then(|frame| frame.field(vmdesc)).map_or(1, |field| field.count);
                if let Some(frame) = self.stack.last_mut() {
                    frame.advance(count);
                }
            }
        }
    }

    /// Steps over the field that was handed out last. It stays in place until now so that its path can be told.
    fn catch_up(&mut self) {
        if self.is_behind {
            self.is_behind = false;
            if let Some(frame) = self.stack.last_mut() {
                frame.advance(1);
            }
        }
    }

    fn set_field(&mut self, number: usize, progress: Progress) {
        self.is_behind = progress.left() == 0;
        self.field = (!self.is_behind).then_some((number, progress));
    }

    fn leaf(&mut self, vmdesc: &Vmdesc, frame: Frame, field: &Field, cursor: &mut Cursor<'_>) -> Result<Token, Stop> {
        let fields = vmdesc.structs.get(frame.structure).map_or(0, |structure| structure.fields.start);
        let number = fields.saturating_add(frame.done);
        let mut progress = Progress::new(field.bytes.saturating_mul(field.count));
        let what = "field of a vmstate";
        let count = if progress.length <= WHOLE_FIELD_BYTES_MAX {
            let count = usize::try_from(progress.length).unwrap_or(usize::MAX);
            cursor.take(count, what)?;
            count
        } else {
            some_bytes(cursor, progress.left(), what)?
        };
        let before = progress.advance(count);
        self.set_field(number, progress);
        Ok(Token::Field { number, progress: before })
    }

    fn subsection(&mut self, vmdesc: &Vmdesc, number: usize, cursor: &mut Cursor<'_>) -> Result<Token, Stop> {
        let marker = cursor.u8("subsection")?;
        if marker != SUBSECTION {
            return Err(Reason::Description.into());
        }
        let (found, name) = text::named(cursor, "name of a subsection")?;
        let version_id = cursor.u32_be("version of a subsection")?;
        if vmdesc.structs.get(number).is_none_or(|described| &*described.name != found) {
            return Err(Reason::Description.into());
        }
        self.stack.push(Frame::new(number));
        Ok(Token::Subsection { name, version_id })
    }

    pub(super) fn item<'a>(&'a self, vmdesc: &'a Vmdesc, token: Token, raw: &'a [u8]) -> VmState<'a> {
        let path = Path { vmdesc, stack: &self.stack };
        match token {
            Token::Field { number, progress } => {
                let (name, type_name, index, count) = match vmdesc.fields.get(number) {
                    Some(field) => (&*field.name, &*field.type_name, field.index, field.count),
                    None => ("", "", None, 0),
                };
                VmState::Field(VmField { path, name, type_name, index, count, piece: progress.piece(raw) })
            }
            Token::Subsection { name, version_id } => {
                // The innermost frame is the subsection's own: it is where the frame above stands.
                let stack = self.stack.split_last().map_or(&[][..], |(_, above)| above);
                VmState::Subsection { path: Path { vmdesc, stack }, name: text::at(raw, name), version_id }
            }
        }
    }
}

/// Walks through a payload that is there as a whole, such as one whose end was found by search before the vmdesc came.
///
/// ```
/// use stream_codec::qemu::{VmState, VmStateReader, Vmdesc, VmdescLimits};
///
/// let json = br#"{"devices": [{"name": "port92", "instance_id": 0, "vmsd_name": "port92", "version": 1,
///     "fields": [{"name": "outport", "type": "uint8", "size": 1}]}]}"#;
/// let vmdesc = Vmdesc::parse(json, &VmdescLimits::DEFAULT).unwrap();
/// let mut reader = VmStateReader::new(&vmdesc, "port92", 0, &[0x0c]).unwrap();
/// let event = reader.next_part().unwrap().unwrap();
/// let VmState::Field(field) = event.item else { panic!() };
/// assert_eq!((field.name, field.piece.bytes), ("outport", &[0x0c][..]));
/// assert_eq!(reader.next_part(), Ok(None));
/// ```
#[derive(Clone, Debug)]
pub struct VmStateReader<'a> {
    vmdesc: &'a Vmdesc,
    walk: Walk,
    cursor: Cursor<'a>,
}

impl<'a> VmStateReader<'a> {
    /// A reader of the payload of a FULL section. `None` if the vmdesc does not describe the device.
    #[must_use]
    pub fn new(vmdesc: &'a Vmdesc, idstr: &str, instance_id: u32, payload: &'a [u8]) -> Option<Self> {
        let structure = vmdesc.structure(vmdesc.find(idstr, instance_id, 0)?)?;
        let mut walk = Walk::new();
        walk.start(structure);
        Some(Self { vmdesc, walk, cursor: Cursor::new(payload) })
    }

    /// The next field or subsection; offsets count from the start of the payload. `None` at the end of both the
    /// payload and its description.
    ///
    /// # Errors
    /// [`Error`] if the payload is not what the vmdesc describes: shorter, longer, or with another subsection.
    pub fn next_part(&mut self) -> Result<Option<Event<'_, VmState<'_>>>, Error> {
        let offset = self.cursor.offset();
        let before = self.cursor.peek();
        let token = self.walk.next(self.vmdesc, &mut self.cursor).map_err(|stop| {
            let have = before.len();
            Located::new(
                offset,
                match stop {
                    Stop::More { what, .. } => Reason::Truncated { what, have },
                    Stop::Refused(reason) => reason,
                },
            )
        })?;
        let Some(token) = token else {
            return if self.cursor.is_empty() { Ok(None) } else { Err(Located::new(offset, Reason::Trailing)) };
        };
        let length = before.len().saturating_sub(self.cursor.left());
        let raw = before.get(..length).unwrap_or_default();
        Ok(Some(Event { offset, raw, item: self.walk.item(self.vmdesc, token, raw) }))
    }
}
