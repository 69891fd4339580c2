// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The fields of a VMState, with their values.

use serde_json::Value as Json;
use serde_json::json;
use stream_codec::qemu::{Error, Value, VmField, VmState, VmStateReader, Vmdesc};

use crate::inspect::entry::Field;
use crate::inspect::words::{count, hex, shown, wide};

/// How much of a long field is kept.
const KEPT_BYTES: usize = 256;

/// Most elements of an array that are told one by one.
const ELEMENTS_MAX: usize = 16;

/// Most fields of one section that are kept.
const FIELDS_MAX: usize = 1 << 16;

/// The fields of the section that is open.
#[derive(Debug, Default)]
pub(super) struct Fields {
    pub(super) list: Vec<Field>,
    /// The first bytes of the field that is being read.
    start: Vec<u8>,
    /// Whether all of its bytes were zero so far.
    is_zero: bool,
    pub(super) lost: u64,
}

impl Fields {
    pub(super) fn part(&mut self, part: &VmState<'_>, offset: u64) {
        match part {
            VmState::Field(field) => self.field(field, offset),
            VmState::Subsection { path, name, version_id } => {
                let text = format!("subsection of version {version_id}");
                let value = json!({ "version": version_id });
                self.push(Field {
                    path: join(&path.to_string(), name),
                    name: String::new(),
                    type_name: "subsection".to_owned(),
                    offset,
                    bytes: 0,
                    value,
                    text,
                    is_zero: false,
                });
            }
            _ => {}
        }
    }

    fn push(&mut self, field: Field) {
        if self.list.len() < FIELDS_MAX {
            self.list.push(field);
        } else {
            self.lost = self.lost.saturating_add(1);
        }
    }

    fn field(&mut self, field: &VmField<'_>, offset: u64) {
        let piece = &field.piece;
        if piece.position == 0 {
            self.start.clear();
            self.is_zero = true;
        }
        let room = KEPT_BYTES.saturating_sub(self.start.len());
        self.start.extend_from_slice(piece.bytes.get(..room).unwrap_or(piece.bytes));
        self.is_zero &= piece.bytes.iter().all(|byte| *byte == 0);
        if !piece.is_last() {
            return;
        }
        let (text, value) = match field.value() {
            Some(value) => scalar(value, field.type_name),
            None => many(field, &self.start, self.is_zero),
        };
        let name = match field.index {
            Some(index) => format!("{}[{index}]", field.name),
            None => field.name.to_owned(),
        };
        self.push(Field {
            path: field.path.to_string(),
            name,
            type_name: field.type_name.to_owned(),
            offset: offset.saturating_sub(piece.position),
            bytes: piece.length,
            value,
            text,
            is_zero: self.is_zero,
        });
    }

    /// The fields of a payload that is there as a whole.
    pub(super) fn of_payload(
        vmdesc: &Vmdesc,
        name: &str,
        instance: u32,
        payload: &[u8],
        offset: u64,
    ) -> Option<(Self, Option<Error>)> {
        let mut fields = Self::default();
        let mut reader = VmStateReader::new(vmdesc, name, instance, payload)?;
        let error = loop {
            match reader.next_part() {
                Ok(Some(event)) => fields.part(&event.item, offset.saturating_add(event.offset)),
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        Some((fields, error))
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") }
}

/// Decimal where that is short, hexadecimal where numbers are masks and addresses.
fn number(value: u64) -> String {
    if value < 1024 { value.to_string() } else { format!("{value:#x}") }
}

fn scalar(value: Value, type_name: &str) -> (String, Json) {
    match value {
        Value::Bool(value) => (value.to_string(), value.into()),
        Value::Unsigned(value) => (number(value), value.into()),
        Value::Signed(value) => {
            let unit = if type_name == "timer" { " ns" } else { "" };
            // QEMU writes the highest number for a timer that is not running.
            let text = if type_name == "timer" && value == -1 { "off".to_owned() } else { format!("{value}{unit}") };
            (text, value.into())
        }
        _ => Default::default(),
    }
}

/// The size of an integer type in bytes.
fn integer_bytes(type_name: &str) -> Option<usize> {
    Some(match type_name.split(' ').next()? {
        "uint8" | "int8" => 1,
        "uint16" | "int16" => 2,
        "uint32" | "int32" => 4,
        "uint64" | "int64" => 8,
        _ => return None,
    })
}

/// An array or a buffer, of which the first bytes are `start`.
fn many(field: &VmField<'_>, start: &[u8], is_zero: bool) -> (String, Json) {
    let length = field.piece.length;
    let is_whole = wide(start.len()) == length;
    let elements = integer_bytes(field.type_name).filter(|_| is_whole && field.count > 1).map(|bytes| {
        let big_endian = |element: &[u8]| element.iter().fold(0_u64, |number, byte| (number << 8) | u64::from(*byte));
        start.chunks(bytes).map(big_endian).collect::<Vec<_>>()
    });
    if is_zero {
        let text = if field.count > 1 {
            format!("[0 ×{}]", field.count)
        } else {
            format!("<{}>", count(length, "zero byte"))
        };
        let value = match elements {
            Some(elements) => elements.into(),
            None => json!({ "zero_bytes": length }),
        };
        return (text, value);
    }
    if let Some(elements) = elements.filter(|elements| elements.len() <= ELEMENTS_MAX) {
        let shown = if elements.iter().any(|element| *element > 0xffff_ffff) { 4 } else { ELEMENTS_MAX };
        let text = elements.iter().take(shown).map(|element| number(*element)).collect::<Vec<_>>().join(" ");
        let more = if elements.len() > shown { format!(" … ×{}", elements.len()) } else { String::new() };
        return (format!("[{text}{more}]"), elements.into());
    }
    if field.type_name == "pci config" {
        if let [v0, v1, d0, d1, ..] = start {
            let (vendor, device) = (u16::from_le_bytes([*v0, *v1]), u16::from_le_bytes([*d0, *d1]));
            let text = format!("<{vendor:04x}:{device:04x}, {length} bytes>");
            return (text, json!({ "hex": hex(start, KEPT_BYTES) }));
        }
    }
    let value = json!({ "hex": hex(start, KEPT_BYTES), "bytes": length });
    match printable(start) {
        Some(text) => (format!("\"{}\"", shown(text)), value),
        None if length <= 16 => (format!("<{}>", hex(start, 16)), value),
        None => (format!("<{length} bytes: {}>", hex(start.get(..9).unwrap_or(start), 8)), value),
    }
}

/// A text padded with zeros, as QEMU stores names.
fn printable(bytes: &[u8]) -> Option<&str> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let (text, padding) = bytes.split_at_checked(end)?;
    let is_text = text.len() >= 3 && text.iter().all(|byte| (0x20..0x7f).contains(byte));
    let is_padded = padding.iter().all(|byte| *byte == 0);
    if is_text && is_padded { core::str::from_utf8(text).ok() } else { None }
}
