// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where an explanation is written, line by line while the stream is read: as a tree for a person, or as JSON.

mod fields;

use std::io::{self, BufWriter, ErrorKind, Write};

use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::Formatter;

use super::entry::{Entry, Field};
use super::words::{is_tricky, shown};

/// Room for the names in front of the texts of a tree.
const LABEL_CHARS: usize = 30;

/// What is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Shape {
    /// A tree.
    Tree {
        /// Nothing is folded.
        is_all: bool,
    },
    /// JSON, with or without the items of each file.
    Json { has_items: bool },
    /// Words, without a tree.
    Words,
}

/// Where the explanation goes, until its reader leaves.
pub(super) struct Paper {
    out: Option<BufWriter<Box<dyn Write>>>,
    shape: Shape,
    /// Whether a comma must come before the next element, by nesting.
    commas: Vec<bool>,
}

impl Paper {
    /// Standard output.
    pub(super) fn new(shape: Shape) -> Self {
        Self::on(Box::new(io::stdout()), shape)
    }

    /// Anything else.
    pub(super) fn on(out: Box<dyn Write>, shape: Shape) -> Self {
        Self { out: Some(BufWriter::with_capacity(64 << 10, out)), shape, commas: Vec::new() }
    }

    /// Whether the reader has left.
    pub(super) const fn is_closed(&self) -> bool {
        self.out.is_none()
    }

    pub(super) const fn is_json(&self) -> bool {
        matches!(self.shape, Shape::Json { .. })
    }

    /// Whether the items of a file are shown.
    pub(super) const fn has_items(&self) -> bool {
        matches!(self.shape, Shape::Tree { .. } | Shape::Json { has_items: true })
    }

    fn put(&mut self, text: &str) {
        if let Some(out) = &mut self.out {
            let result = out.write_all(text.as_bytes());
            self.note(result);
        }
    }

    /// When nobody reads any more that is no failure: the exit status still tells.
    fn note(&mut self, result: io::Result<()>) {
        if let Err(error) = result {
            if error.kind() != ErrorKind::BrokenPipe {
                eprintln!("cannot write to standard output: {error}");
            }
            // What is still buffered has no reader; dropping the writer would try it once more.
            if let Some(out) = self.out.take() {
                drop(out.into_parts());
            }
        }
    }

    /// Writes out what is buffered.
    pub(super) fn flush(&mut self) {
        if let Some(out) = &mut self.out {
            let result = out.flush();
            self.note(result);
        }
    }

    /// A line for a person.
    pub(super) fn line(&mut self, text: &str) {
        if !self.is_json() {
            self.put(text);
            self.put("\n");
        }
    }

    /// An item of the file that is being explained.
    pub(super) fn item(&mut self, entry: &Entry) {
        match self.shape {
            Shape::Json { has_items: true } => self.json_element(entry),
            Shape::Tree { is_all } => self.tree(entry, 0, is_all),
            Shape::Json { .. } | Shape::Words => {}
        }
    }

    fn tree(&mut self, entry: &Entry, depth: usize, is_all: bool) {
        let indent = depth.saturating_mul(2);
        let label = format!("{:<4} {}", entry.kind, shown(&entry.name));
        let width = LABEL_CHARS.saturating_sub(indent);
        let line = format!(
            "{:08x} {:>11}  {:indent$}{:<width$}  {}",
            entry.offset,
            entry.bytes,
            "",
            label.trim_end(),
            entry.text
        );
        self.line(line.trim_end());
        if is_all {
            entry.fields.iter().for_each(|field| self.field(field, indent));
        } else {
            fields::lines(&entry.fields, indent.saturating_add(24)).iter().for_each(|line| self.line(line));
        }
        entry.items.iter().for_each(|item| self.tree(item, depth.saturating_add(1), is_all));
    }

    /// A field on a line of its own.
    fn field(&mut self, field: &Field, indent: usize) {
        let dot = if field.path.is_empty() { "" } else { "/" };
        let name = shown(&format!("{}{dot}{}", field.path, field.name));
        let label = format!("{name} ({})", shown(&field.type_name));
        let width = LABEL_CHARS.saturating_add(12).saturating_sub(indent);
        self.line(&format!(
            "{:08x} {:>11}  {:indent$}  {label:<width$}  {}",
            field.offset, field.bytes, "", field.text
        ));
    }

    /// Opens an object or array, as a member of the one that is open.
    pub(super) fn json_open(&mut self, key: Option<&str>, bracket: &str) {
        if self.is_json() {
            self.json_separate(key);
            self.put(bracket);
            self.commas.push(false);
        }
    }

    pub(super) fn json_close(&mut self, bracket: &str) {
        if self.is_json() {
            self.commas.pop();
            self.put("\n");
            self.put(bracket);
        }
    }

    /// Ends the document.
    pub(super) fn end_json(&mut self) {
        self.put("\n");
    }

    fn json_separate(&mut self, key: Option<&str>) {
        if let Some(comma) = self.commas.last_mut() {
            let text = if core::mem::replace(comma, true) { ",\n" } else { "\n" };
            self.put(text);
        }
        if let Some(key) = key {
            self.put(&format!("\"{key}\": "));
        }
    }

    /// An element of the array that is open.
    pub(super) fn json_element(&mut self, value: &impl Serialize) {
        if self.is_json() {
            self.json_separate(None);
            self.put(&json(value));
        }
    }

    /// A member of the object that is open.
    pub(super) fn json_member(&mut self, key: &str, value: &impl Serialize) {
        if self.is_json() {
            self.json_separate(Some(key));
            self.put(&json(value));
        }
    }
}

/// JSON on one line that is safe on a terminal.
fn json(value: &impl Serialize) -> String {
    let mut bytes = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut bytes, Safe);
    match value.serialize(&mut serializer) {
        Ok(()) => String::from_utf8(bytes).unwrap_or_default(),
        // Only maps whose keys are no strings cannot be written, and there are none.
        Err(_) => "null".to_owned(),
    }
}

/// Escapes more than JSON demands: what a terminal would obey, and what makes text read differently than it is stored.
struct Safe;

impl Formatter for Safe {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        for character in fragment.chars() {
            let mut units = [0; 2];
            if is_tricky(character) {
                character.encode_utf16(&mut units).iter().try_for_each(|unit| write!(writer, "\\u{unit:04x}"))?;
            } else {
                write!(writer, "{character}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn json_is_what_was_meant_and_nothing_a_terminal_obeys() {
        let text = "a\u{9b}2J\u{202e}\"\\\n\u{e0001}ö";
        let written = json(&text);
        assert_eq!(written, r#""a\u009b2J\u202e\"\\\n\udb40\udc01ö""#);
        assert_eq!(serde_json::from_str::<String>(&written).unwrap(), text);
    }
}
