// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `key=value` pairs with their lines.

use core::time::Duration;
use std::borrow::ToOwned as _;
use std::string::String;
use std::vec::Vec;

use super::units;

/// What is wrong with a configuration, and where.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("line {line}: {key}: expected {expected}")]
#[non_exhaustive]
pub struct ConfigError {
    /// The line, from 1.
    pub line: u32,
    /// The key, or the whole word when it is not `key=value`, with the value found.
    pub key: String,
    /// What would have been right.
    pub expected: String,
}

impl ConfigError {
    /// An error in `key` (or `key=value`) on `line`, for a caller's own part of a configuration.
    #[must_use]
    pub fn new(line: u32, key: &str, expected: &str) -> Self {
        Self { line, key: key.to_owned(), expected: expected.to_owned() }
    }
}

/// One `key=value` of a configuration.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Entry {
    line: u32,
    key: String,
    value: String,
}

/// `key=value` pairs, to be taken one by one. What is left over at the end is an error, so no misspelt key is
/// silently ignored.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Options {
    entries: Vec<Entry>,
}

impl Options {
    /// Splits text into pairs: words without spaces, separated by spaces and line ends; `#` starts a comment.
    ///
    /// # Errors
    /// For a word that is not `key=value`.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        Self::parse_from(text, 1)
    }

    /// As [`parse`](Self::parse), for text whose first line is line `first_line` of its file.
    ///
    /// # Errors
    /// For a word that is not `key=value`.
    pub fn parse_from(text: &str, first_line: u32) -> Result<Self, ConfigError> {
        let mut entries = Vec::new();
        for (line, text) in (first_line..).zip(text.lines()) {
            let text = text.split_once('#').map_or(text, |(text, _)| text);
            for word in text.split_whitespace() {
                let (key, value) = word
                    .split_once('=')
                    .filter(|(key, _)| !key.is_empty())
                    .ok_or_else(|| ConfigError { line, key: word.to_owned(), expected: "key=value".to_owned() })?;
                entries.push(Entry { line, key: key.to_owned(), value: value.to_owned() });
            }
        }
        Ok(Self { entries })
    }

    /// Takes the value of `key` through `parse`; `None` when the key is absent.
    ///
    /// # Errors
    /// When `parse` has no value for it (`expected` says what it would take), or the key is given twice.
    pub fn take<T>(
        &mut self,
        key: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(at) = self.entries.iter().position(|entry| entry.key == key) else {
            return Ok(None);
        };
        let entry = self.entries.remove(at);
        if let Some(again) = self.entries.iter().find(|entry| entry.key == key) {
            return Err(again.error("only one"));
        }
        parse(&entry.value).map(Some).ok_or_else(|| entry.error(expected))
    }

    /// Takes all values of a key that may be repeated, in order.
    ///
    /// # Errors
    /// When `parse` refuses one; its error says what it would take.
    pub fn take_all<T>(
        &mut self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, &'static str>,
    ) -> Result<Vec<T>, ConfigError> {
        let (taken, left) = core::mem::take(&mut self.entries).into_iter().partition(|entry| entry.key == key);
        self.entries = left;
        let taken: Vec<Entry> = taken;
        taken.iter().map(|entry| parse(&entry.value).map_err(|expected| entry.error(expected))).collect()
    }

    /// [`take`](Self::take) of a size: `17`, `4KiB`, `1MiB`, `2GiB`.
    ///
    /// # Errors
    /// As `take`.
    pub fn take_bytes(&mut self, key: &str) -> Result<Option<u64>, ConfigError> {
        self.take(key, "a size, as in 4096 or 16MiB", units::bytes)
    }

    /// [`take`](Self::take) of a rate in bytes per second: `100MiB/s`, or a size.
    ///
    /// # Errors
    /// As `take`.
    pub fn take_rate(&mut self, key: &str) -> Result<Option<u64>, ConfigError> {
        self.take(key, "a rate, as in 100MiB/s", units::bytes_per_s)
    }

    /// [`take`](Self::take) of a time: `5`, `5ms`, `250us`, `2s`; without a unit, milliseconds.
    ///
    /// # Errors
    /// As `take`.
    pub fn take_duration(&mut self, key: &str) -> Result<Option<Duration>, ConfigError> {
        self.take(key, "a time, as in 5, 250us or 2s", units::duration)
    }

    /// [`take`](Self::take) of a whole number, decimal or `0x…`.
    ///
    /// # Errors
    /// As `take`.
    pub fn take_number(&mut self, key: &str) -> Result<Option<u64>, ConfigError> {
        self.take(key, "a whole number", units::number)
    }

    /// [`take`](Self::take) of `yes` or `no`.
    ///
    /// # Errors
    /// As `take`.
    pub fn take_bool(&mut self, key: &str) -> Result<Option<bool>, ConfigError> {
        self.take(key, "yes or no", |text| match text {
            "yes" => Some(true),
            "no" => Some(false),
            _ => None,
        })
    }

    /// The line of the first pair left, for errors about what is missing.
    pub(super) fn line(&self) -> u32 {
        self.entries.first().map_or(1, |entry| entry.line)
    }

    /// Refuses what has not been taken; `known` tells the reader which keys there are.
    ///
    /// # Errors
    /// For the first pair left.
    pub fn finish(&self, known: &str) -> Result<(), ConfigError> {
        self.entries.first().map_or(Ok(()), |entry| Err(entry.error(known)))
    }
}

impl Entry {
    fn error(&self, expected: &str) -> ConfigError {
        ConfigError { line: self.line, key: std::format!("{}={}", self.key, self.value), expected: expected.to_owned() }
    }
}
