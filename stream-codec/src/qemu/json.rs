// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A bounded reader of JSON (RFC 8259): enough for a vmdesc, and no more memory than its caller takes.

use alloc::string::String;

use thiserror::Error;

use crate::decode::{Blame, Fault, Located};

/// What is wrong with a JSON text, and where.
pub type JsonError = Located<JsonReason>;

/// What is wrong with a JSON text.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum JsonReason {
    /// Something else stands where this should.
    #[error("{wanted} expected")]
    Expected {
        /// What should stand there.
        wanted: &'static str,
    },
    /// The text is longer, or nested deeper, or has more parts, than the caller allows.
    #[error("{what}: the limit is {limit}")]
    Limit {
        /// Name of the limit.
        what: &'static str,
        /// The caller's limit.
        limit: usize,
    },
    /// A number is too large to be a size or a count of what it describes.
    #[error("{what} is out of range")]
    Range {
        /// Name of the number.
        what: &'static str,
    },
}

impl Blame for JsonReason {
    fn fault(&self) -> Fault {
        match self {
            Self::Limit { .. } => Fault::Limits,
            Self::Expected { .. } | Self::Range { .. } => Fault::Sender,
        }
    }
}

/// Nesting that needs no more stack than any program has.
const DEPTH_MAX: usize = 256;

/// A position in a JSON text. Values are read in order; those that are not wanted are skipped.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    text: &'a [u8],
    position: usize,
    depth_left: usize,
    depth_max: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a [u8], depth_max: usize) -> Self {
        let depth_max = depth_max.min(DEPTH_MAX);
        Self { text, position: 0, depth_left: depth_max, depth_max }
    }

    pub(super) fn error(&self, reason: JsonReason) -> JsonError {
        Located::new(u64::try_from(self.position).unwrap_or(u64::MAX), reason)
    }

    fn expected(&self, wanted: &'static str) -> JsonError {
        self.error(JsonReason::Expected { wanted })
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.position).copied()
    }

    fn bump(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.position = self.position.saturating_add(1);
        Some(byte)
    }

    /// The first byte of what comes next.
    fn start(&mut self) -> Option<u8> {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.bump();
        }
        self.peek()
    }

    fn token(&mut self, byte: u8, wanted: &'static str) -> Result<(), JsonError> {
        if self.start() != Some(byte) {
            return Err(self.expected(wanted));
        }
        self.bump();
        Ok(())
    }

    /// Rejects anything but white space after the one value of a text.
    pub(super) fn finish(mut self) -> Result<(), JsonError> {
        match self.start() {
            None => Ok(()),
            Some(_) => Err(self.expected("the end")),
        }
    }

    fn nested(&mut self, read: impl FnOnce(&mut Self) -> Result<(), JsonError>) -> Result<(), JsonError> {
        let Some(left) = self.depth_left.checked_sub(1) else {
            let limit = self.depth_max;
            return Err(self.error(JsonReason::Limit { what: "nesting", limit }));
        };
        self.depth_left = left;
        read(self)?;
        self.depth_left = left.saturating_add(1);
        Ok(())
    }

    /// Reads an object. `member` is called with each key and must read its value.
    pub(super) fn object(
        &mut self,
        mut member: impl FnMut(&mut Self, &str) -> Result<(), JsonError>,
    ) -> Result<(), JsonError> {
        self.nested(|reader| {
            reader.list(b'{', b'}', "an object", |reader| {
                let key = reader.string()?;
                reader.token(b':', "a colon")?;
                member(reader, &key)
            })
        })
    }

    /// Reads an array. `element` is called for each element and must read it.
    pub(super) fn array(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Result<(), JsonError>,
    ) -> Result<(), JsonError> {
        self.nested(|reader| reader.list(b'[', b']', "an array", &mut element))
    }

    fn list(
        &mut self,
        open: u8,
        close: u8,
        wanted: &'static str,
        mut entry: impl FnMut(&mut Self) -> Result<(), JsonError>,
    ) -> Result<(), JsonError> {
        self.token(open, wanted)?;
        if self.start() == Some(close) {
            self.bump();
            return Ok(());
        }
        loop {
            entry(self)?;
            match self.start() {
                Some(b',') => {
                    self.bump();
                }
                Some(byte) if byte == close => {
                    self.bump();
                    return Ok(());
                }
                _ => return Err(self.expected("a comma or the end of the list")),
            }
        }
    }

    /// Reads a string. It is never longer than the text.
    pub(super) fn string(&mut self) -> Result<String, JsonError> {
        self.token(b'"', "a string")?;
        let mut string = String::new();
        loop {
            let start = self.position;
            while self.peek().is_some_and(|byte| !matches!(byte, b'"' | b'\\' | 0..0x20)) {
                self.bump();
            }
            let plain = self.text.get(start..self.position).unwrap_or_default();
            let plain = core::str::from_utf8(plain).map_err(|_| self.expected("UTF-8"))?;
            string.push_str(plain);
            match self.bump() {
                Some(b'"') => return Ok(string),
                Some(b'\\') => string.push(self.escape()?),
                _ => return Err(self.expected("the rest of a string")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, JsonError> {
        Ok(match self.bump() {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => self.unicode()?,
            _ => return Err(self.expected("an escape")),
        })
    }

    /// The character of one escape or of a surrogate pair of two.
    fn unicode(&mut self) -> Result<char, JsonError> {
        let first = self.hex()?;
        let code = if (0xd800..0xdc00).contains(&first) {
            if (self.bump(), self.bump()) != (Some(b'\\'), Some(b'u')) {
                return Err(self.expected("the second half of a surrogate pair"));
            }
            let second = self.hex()?.wrapping_sub(0xdc00);
            if second >= 0x400 {
                return Err(self.expected("the second half of a surrogate pair"));
            }
            ((first & 0x3ff) << 10).saturating_add(second).saturating_add(0x1_0000)
        } else {
            first
        };
        char::from_u32(code).ok_or_else(|| self.expected("a character"))
    }

    fn hex(&mut self) -> Result<u32, JsonError> {
        let digits = self.text.get(self.position..self.position.saturating_add(4)).unwrap_or_default();
        let all_hex = digits.len() == 4 && digits.iter().all(u8::is_ascii_hexdigit);
        let code = core::str::from_utf8(digits).ok().and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let code = code.filter(|_| all_hex).ok_or_else(|| self.expected("four hexadecimal digits"))?;
        self.position = self.position.saturating_add(4);
        Ok(code)
    }

    /// Reads a number that must be a whole one from 0 to 2⁶⁴ − 1.
    pub(super) fn unsigned(&mut self, what: &'static str) -> Result<u64, JsonError> {
        self.start();
        let text = self.number()?;
        text.parse().map_err(|_| self.error(JsonReason::Range { what }))
    }

    fn number(&mut self) -> Result<&'a str, JsonError> {
        let start = self.position;
        while matches!(self.peek(), Some(b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')) {
            self.bump();
        }
        let number = self.text.get(start..self.position).unwrap_or_default();
        let number = core::str::from_utf8(number).unwrap_or_default();
        if is_number(number) { Ok(number) } else { Err(self.expected("a value")) }
    }

    /// Reads and forgets a value of any kind.
    pub(super) fn skip(&mut self) -> Result<(), JsonError> {
        match self.start() {
            Some(b'{') => self.object(|reader, _| reader.skip()),
            Some(b'[') => self.array(Self::skip),
            Some(b'"') => self.string().map(drop),
            Some(b't') => self.word("true"),
            Some(b'f') => self.word("false"),
            Some(b'n') => self.word("null"),
            _ => self.number().map(drop),
        }
    }

    fn word(&mut self, word: &'static str) -> Result<(), JsonError> {
        let end = self.position.saturating_add(word.len());
        if self.text.get(self.position..end) != Some(word.as_bytes()) {
            return Err(self.expected("a value"));
        }
        self.position = end;
        Ok(())
    }
}

/// RFC 8259, section 6: no sign but a minus, no needless zero, and digits on both sides of a point.
fn is_number(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let mantissa = mantissa.strip_prefix('-').unwrap_or(mantissa);
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let exponent = exponent.map(|exponent| exponent.strip_prefix(['+', '-']).unwrap_or(exponent));
    let has_needless_zero = whole.len() > 1 && whole.starts_with('0');
    digits(whole) && !has_needless_zero && fraction.is_none_or(digits) && exponent.is_none_or(digits)
}

#[cfg(test)]
mod test {
    use std::format;

    use super::*;

    fn skip(text: &str) -> Result<(), JsonError> {
        let mut reader = Reader::new(text.as_bytes(), 8);
        reader.skip()?;
        reader.finish()
    }

    #[test]
    fn every_kind_of_value_is_read() {
        for text in [
            "{}",
            " [ ] ",
            "[1, -2.5e+3, true, false, null, \"a\"]",
            r#"{"a": {"b": [{}]}, "c": "\"\\\/\b\f\n\r\t\u00e9"}"#,
        ] {
            assert_eq!(skip(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn errors_say_where() {
        for (text, offset) in [
            ("", 0),
            ("{", 1),
            ("[1,]", 3),
            ("[1 2]", 3),
            ("{\"a\" 1}", 5),
            ("{1: 2}", 1),
            ("tru", 0),
            ("\"a", 2),
            ("\"a\nb\"", 3),
            ("\"\\x\"", 3),
            ("\"\\u12g4\"", 3),
            ("1 1", 2),
            ("--1", 3),
            ("+1", 2),
            ("01", 2),
            ("1.", 2),
            (".5", 2),
            ("1e", 2),
        ] {
            let error = skip(text).unwrap_err();
            assert!(matches!(error.reason, JsonReason::Expected { .. }), "{text}: {error}");
            assert_eq!(error.offset, offset, "{text}: {error}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        assert_eq!(skip("[[[[[[[[1]]]]]]]]"), Ok(()));
        assert!(matches!(
            skip("[[[[[[[[[1]]]]]]]]]").unwrap_err().reason,
            JsonReason::Limit { what: "nesting", limit: 8 }
        ));
        let deep = "[".repeat(1 << 20);
        assert!(Reader::new(deep.as_bytes(), usize::MAX).skip().is_err(), "no caller can ask for a stack overflow");
    }

    #[test]
    fn escapes_are_characters() {
        let read = |text: &str| Reader::new(text.as_bytes(), 1).string();
        assert_eq!(read(r#""a\u00e9\n""#).unwrap(), "a\u{e9}\n");
        assert_eq!(read(r#""\ud83d\ude00""#).unwrap(), "\u{1f600}");
        assert_eq!(read(r#""\udbff\udfff""#).unwrap(), "\u{10ffff}");
        for text in [r#""\ud83d""#, r#""\ud83dxx""#, r#""\ud83d\u0041""#, r#""\ude00""#] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_are_whole_and_in_range() {
        let read = |text: &str| Reader::new(text.as_bytes(), 1).unsigned("size");
        assert_eq!(read("18446744073709551615"), Ok(u64::MAX));
        for text in ["18446744073709551616", "-1", "1.5", "1e3"] {
            assert_eq!(read(text).unwrap_err().reason, JsonReason::Range { what: "size" }, "{text}");
        }
        assert!(format!("{}", read("x").unwrap_err()).contains("offset 0"));
    }
}
