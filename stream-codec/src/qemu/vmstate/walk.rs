// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A walk through the description of one device, along its bytes.

use alloc::vec::Vec;
use core::ops::Range;

use super::{Path, PathStep, VmField, VmState, WHOLE_FIELD_BYTES_MAX};
use crate::cursor::Cursor;
use crate::qemu::configuration::SUBSECTION;
use crate::qemu::engine::{Stop, some_bytes};
use crate::qemu::error::Reason;
use crate::qemu::event::Progress;
use crate::qemu::text;
use crate::qemu::vmdesc::{Field, Vmdesc};

/// How far a struct has been read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
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

    pub(super) fn step(self, vmdesc: &Vmdesc) -> Option<PathStep<'_>> {
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
pub(in crate::qemu) enum Token {
    Field { number: usize, progress: Progress },
    Subsection { name: Range<usize>, version_id: u32 },
}

/// A walk through the description of one device.
#[derive(Clone, Debug)]
pub(in crate::qemu) struct Walk {
    stack: Vec<Frame>,
    /// The field that is being handed out, and whether it is done with the next call.
    field: Option<(usize, Progress)>,
    /// Whether the innermost frame has to step over its field before it goes on.
    is_behind: bool,
}

impl Walk {
    /// Nothing to walk.
    pub(in crate::qemu) const fn new() -> Self {
        Self { stack: Vec::new(), field: None, is_behind: false }
    }

    /// Starts at the struct of a device.
    pub(in crate::qemu) fn start(&mut self, structure: usize) {
        self.stack.clear();
        self.stack.push(Frame::new(structure));
        self.field = None;
        self.is_behind = false;
    }

    /// How much the stack holds. Its depth is that of the vmdesc.
    pub(in crate::qemu) fn held_bytes(&self) -> usize {
        self.stack.capacity().saturating_mul(size_of::<Frame>())
    }

    /// The next part, or `None` behind the last.
    pub(in crate::qemu) fn next(&mut self, vmdesc: &Vmdesc, cursor: &mut Cursor<'_>) -> Result<Option<Token>, Stop> {
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

    pub(in crate::qemu) fn item<'a>(&'a self, vmdesc: &'a Vmdesc, token: Token, raw: &'a [u8]) -> VmState<'a> {
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
