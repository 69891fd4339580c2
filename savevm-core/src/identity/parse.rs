// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reading identities, strictly: every character is accounted for.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::{String, ToString};
use core::fmt;

use super::{
    Attribute, ENTRIES_MAX, Format, IDENTITY_BYTES_MAX, Identity, KEY_CHARS_MAX, Namespace, TOKEN_CHARS_MAX,
    VALUE_CHARS_MAX, Version,
};

/// Why a text is no migration identity, or no part of one.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("column {column}: {problem}")]
#[non_exhaustive]
pub struct ParseError {
    /// Where, in characters from 1.
    pub column: usize,
    /// What.
    pub problem: Problem,
}

/// What is wrong at a column.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// Something else stands there.
    #[error("expected {what}, found {}", Found(*found))]
    Expected {
        /// What the grammar has there.
        what: &'static str,
        /// The character that is there; `None` at the end.
        found: Option<char>,
    },
    /// It begins as an identity of another grammar.
    #[error("this program knows identities that begin with 'mig1:'; a newer one may know this")]
    Grammar,
    /// Something is longer than it may be.
    #[error("{what} has at most {limit} characters; shorten it")]
    TooLong {
        /// What is too long.
        what: &'static str,
        /// How long it may be, in characters.
        limit: usize,
    },
    /// There are more of something than there may be.
    #[error("there are at most {limit} {what}; leave out what the target need not know")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many there may be.
        limit: usize,
    },
    /// Something occurs a second time.
    #[error("{what} was there before; state it once")]
    Repeated {
        /// What is there twice.
        what: &'static str,
    },
    /// A number is too large.
    #[error("a version's numbers are at most {}", u16::MAX)]
    Number,
    /// The version that is written is not among those that are read, or there are none.
    #[error("version {version}, which is written, is not among those that are read, {min} to {max}")]
    Range {
        /// The version that is written.
        version: Version,
        /// The oldest that is read.
        min: Version,
        /// The newest.
        max: Version,
    },
}

struct Found(Option<char>);

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(found) => write!(f, "{found:?}"),
            None => f.write_str("the end"),
        }
    }
}

pub(super) fn identity(text: &str) -> Result<Identity, ParseError> {
    check_length(text)?;
    let mut scanner = Scanner::new(text);
    if !scanner.accept("mig1:") {
        let digits = text.strip_prefix("mig").map(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()));
        let is_other_grammar = digits.is_some_and(|rest| rest.starts_with(':') && !text.starts_with("mig:"));
        return Err(if is_other_grammar { scanner.error(Problem::Grammar) } else { scanner.expected("'mig1:'") });
    }
    let namespace = scanner.namespace()?;
    scanner.literal("/", "'/' and the driver")?;
    let driver = scanner.token("the driver")?;
    scanner.literal("/", "more of the driver, or '/' and the type")?;
    let kind = scanner.token("the type")?;
    scanner.literal("/", "more of the type, or '/' and the stream format")?;
    let format = scanner.format()?;
    let mut identity = Identity::new(namespace, driver, kind, format)?;
    while !scanner.rest.is_empty() {
        scanner.literal(";", "';' and an attribute, or the end")?;
        scanner.attribute(&mut identity)?;
    }
    Ok(identity)
}

/// Checks a token that stands alone.
pub(super) fn token_alone(text: &str, what: &'static str) -> Result<(), ParseError> {
    let mut scanner = Scanner::new(text);
    scanner.token(what)?;
    scanner.end("a letter, a digit, '_', '-', '.' or '+'")
}

/// Checks an attribute's parts; columns count in the part that is wrong.
pub(super) fn attribute_alone(key: &str, value: &str) -> Result<(), ParseError> {
    let mut scanner = Scanner::new(key);
    scanner.key()?;
    scanner.end("a small letter, a digit, '_', '-' or '.'")?;
    if matches!(key, "needs" | "offers") {
        return Err(Scanner::new(key).expected("a key other than 'needs' and 'offers', which list features"));
    }
    let mut scanner = Scanner::new(value);
    scanner.value()?;
    scanner.end("a letter, a digit, '_', '-', '.', '+' or ':'")
}

pub(super) fn check_length(text: &str) -> Result<(), ParseError> {
    if text.len() <= IDENTITY_BYTES_MAX {
        return Ok(());
    }
    let problem = Problem::TooLong { what: "an identity", limit: IDENTITY_BYTES_MAX };
    Err(ParseError { column: IDENTITY_BYTES_MAX.saturating_add(1), problem })
}

pub(super) fn insert_feature(set: &mut BTreeSet<String>, feature: &str, column: usize) -> Result<(), ParseError> {
    if set.len() >= ENTRIES_MAX {
        return Err(ParseError { column, problem: Problem::TooMany { what: "features", limit: ENTRIES_MAX } });
    }
    if set.insert(feature.to_string()) {
        Ok(())
    } else {
        Err(ParseError { column, problem: Problem::Repeated { what: "the feature" } })
    }
}

pub(super) fn insert_attribute(
    map: &mut BTreeMap<String, Attribute>,
    key: &str,
    value: &str,
    required: bool,
    column: usize,
) -> Result<(), ParseError> {
    if map.len() >= ENTRIES_MAX {
        return Err(ParseError { column, problem: Problem::TooMany { what: "attributes", limit: ENTRIES_MAX } });
    }
    let attribute = Attribute { key: key.to_string(), value: value.to_string(), required };
    match map.insert(key.to_string(), attribute) {
        None => Ok(()),
        Some(_) => Err(ParseError { column, problem: Problem::Repeated { what: "the key" } }),
    }
}

/// A text and how far it has been read. All that is read is ASCII, so bytes are characters up to any error.
struct Scanner<'a> {
    text: &'a str,
    rest: &'a str,
}

impl<'a> Scanner<'a> {
    const fn new(text: &'a str) -> Self {
        Self { text, rest: text }
    }

    fn column(&self) -> usize {
        self.text.len().saturating_sub(self.rest.len()).saturating_add(1)
    }

    fn error(&self, problem: Problem) -> ParseError {
        ParseError { column: self.column(), problem }
    }

    fn expected(&self, what: &'static str) -> ParseError {
        self.error(Problem::Expected { what, found: self.rest.chars().next() })
    }

    fn accept(&mut self, literal: &str) -> bool {
        let rest = self.rest.strip_prefix(literal);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn literal(&mut self, literal: &str, what: &'static str) -> Result<(), ParseError> {
        if self.accept(literal) { Ok(()) } else { Err(self.expected(what)) }
    }

    fn end(&self, what: &'static str) -> Result<(), ParseError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.expected(what)) }
    }

    /// At least one, and at most `limit`, of the characters that are `allowed`.
    fn run(&mut self, what: &'static str, limit: usize, allowed: fn(char) -> bool) -> Result<&'a str, ParseError> {
        let end = self.rest.find(|c| !allowed(c)).unwrap_or(self.rest.len());
        let (run, rest) = self.rest.split_at_checked(end).unwrap_or((self.rest, ""));
        if run.is_empty() {
            return Err(self.expected(what));
        }
        if run.len() > limit {
            return Err(self.error(Problem::TooLong { what, limit }));
        }
        self.rest = rest;
        Ok(run)
    }

    fn token(&mut self, what: &'static str) -> Result<&'a str, ParseError> {
        self.run(what, TOKEN_CHARS_MAX, is_token)
    }

    fn key(&mut self) -> Result<&'a str, ParseError> {
        if !self.rest.starts_with(|c: char| c.is_ascii_lowercase()) {
            return Err(self.expected("a key, which begins with a small letter"));
        }
        self.run("a key", KEY_CHARS_MAX, |c| matches!(c, 'a'..='z' | '0'..='9' | '_' | '-' | '.'))
    }

    fn value(&mut self) -> Result<&'a str, ParseError> {
        self.run("a value", VALUE_CHARS_MAX, |c| is_token(c) || c == ':')
    }

    fn namespace(&mut self) -> Result<Namespace, ParseError> {
        if self.accept("mdev-") {
            return Ok(Namespace::Mdev(self.token("the driver of the mediated device's parent")?.to_string()));
        }
        let digits = "four small hexadecimal digits, the PCI vendor id";
        self.literal("pci-", "'pci-' and a vendor id, or 'mdev-' and a driver")?;
        let mut vendor = 0_u16;
        for _ in 0..4 {
            let digit = self.rest.chars().next().filter(|c| !c.is_ascii_uppercase()).and_then(|c| c.to_digit(16));
            let digit = digit.and_then(|digit| u16::try_from(digit).ok()).ok_or_else(|| self.expected(digits))?;
            vendor = (vendor << 4) | digit;
            self.rest = self.rest.get(1..).unwrap_or_default();
        }
        Ok(Namespace::Pci(vendor))
    }

    fn format(&mut self) -> Result<Format, ParseError> {
        let name = self.token("the stream format")?;
        self.literal("@", "more of the stream format, or '@' and its version")?;
        let version = self.version()?;
        let column = self.column();
        let format = Format::new(name, version)?;
        if !self.accept("(") {
            return Ok(format);
        }
        let min = self.version()?;
        self.literal("..", "'..' and the newest version that is read")?;
        let max = self.version()?;
        self.literal(")", "')'")?;
        format.reading(min, max).map_err(|error| ParseError { column, ..error })
    }

    fn version(&mut self) -> Result<Version, ParseError> {
        let major = self.number()?;
        self.literal(".", "'.' and the second number of the version")?;
        Ok(Version { major, minor: self.number()? })
    }

    fn number(&mut self) -> Result<u16, ParseError> {
        let what = "a number of the version, in digits";
        // `1.0..2.0` has no separator between digits and dots but the digits themselves.
        let digits = self.rest.trim_start_matches(|c: char| c.is_ascii_digit());
        let length = self.rest.len().saturating_sub(digits.len());
        let number = self.rest.get(..length).filter(|number| !number.is_empty()).ok_or_else(|| self.expected(what))?;
        if number.len() > 1 && number.starts_with('0') {
            return Err(self.expected("a number without leading zeros"));
        }
        let value = number.parse().map_err(|_| self.error(Problem::Number))?;
        self.rest = digits;
        Ok(value)
    }

    fn attribute(&mut self, identity: &mut Identity) -> Result<(), ParseError> {
        let column = self.column();
        let required = self.accept("!");
        let key_column = self.column();
        let key = self.key()?;
        let set = match key {
            "needs" => Some(&mut identity.needs),
            "offers" => Some(&mut identity.offers),
            _ => None,
        };
        let Some(set) = set else {
            self.literal("=", "more of the key, or '=' and its value")?;
            let value = self.value()?;
            return insert_attribute(&mut identity.attributes, key, value, required, key_column);
        };
        if required {
            let what = "'needs' and 'offers' without '!'";
            return Err(ParseError { column, problem: Problem::Expected { what, found: Some('!') } });
        }
        if !set.is_empty() {
            return Err(ParseError { column, problem: Problem::Repeated { what: "the list of features" } });
        }
        self.literal("=", "'=' and features")?;
        loop {
            let column = self.column();
            insert_feature(set, self.token("a feature")?, column)?;
            if !self.accept(",") {
                return Ok(());
            }
        }
    }
}

const fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '+')
}
