// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A part of a stream, as it is shown.

use serde::Serialize;
use serde_json::{Map, Value};

/// A part of a stream, with what it is made of.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Entry {
    pub(super) kind: &'static str,
    /// What it belongs to: a device, a RAM block. As it was sent, not fit to be shown.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) name: String,
    pub(super) offset: u64,
    /// Length in bytes. Of something that was cut, what there is of it.
    pub(super) bytes: u64,
    #[serde(flatten)]
    pub(super) facts: Map<String, Value>,
    /// The facts in words, fit to be shown.
    #[serde(skip)]
    pub(super) text: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) fields: Vec<Field>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) items: Vec<Entry>,
}

/// A field of a VMState.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Field {
    /// The structs and subsections it stands in.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) path: String,
    pub(super) name: String,
    #[serde(rename = "type")]
    pub(super) type_name: String,
    pub(super) offset: u64,
    pub(super) bytes: u64,
    pub(super) value: Value,
    /// The value in words, fit to be shown.
    #[serde(skip)]
    pub(super) text: String,
    /// Whether it is zero, so that many such can be told in one line.
    #[serde(skip)]
    pub(super) is_zero: bool,
}

impl Entry {
    pub(super) fn new(kind: &'static str, offset: u64, bytes: u64) -> Self {
        Self {
            kind,
            name: String::new(),
            offset,
            bytes,
            facts: Map::new(),
            text: String::new(),
            fields: Vec::new(),
            items: Vec::new(),
        }
    }

    pub(super) fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    pub(super) fn text(mut self, text: impl Into<String>) -> Self {
        self.text = text.into();
        self
    }

    pub(super) fn fact(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.facts.insert(name.to_owned(), value.into());
        self
    }

    /// Makes the entry reach to `end`.
    pub(super) const fn reach(&mut self, end: u64) {
        self.bytes = end.saturating_sub(self.offset);
    }

    pub(super) const fn end(&self) -> u64 {
        self.offset.saturating_add(self.bytes)
    }
}
