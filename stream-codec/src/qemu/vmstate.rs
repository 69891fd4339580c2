// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The payload of a FULL section, field by field, as the vmdesc describes it.
//!
//! Fields follow each other without padding, big-endian; behind the fields of a vmstate stand its subsections, each
//! with a header: `05`, u8 length, name, u32 version.

mod walk;

use alloc::vec::Vec;
use core::fmt;

use self::walk::Frame;
pub(super) use self::walk::{Token, Walk};
use super::configuration::SUBSECTION;
use super::engine::Stop;
use super::error::{Error, Reason};
use super::event::{Event, Piece};
use super::text;
use super::vmdesc::Vmdesc;
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
#[derive(Clone, Copy)]
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

impl fmt::Debug for Path<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Path({self})")
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
        // A token's places count from where its item starts.
        self.cursor = Cursor::at(before, offset);
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
