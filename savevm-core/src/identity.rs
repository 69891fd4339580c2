// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The migration identity of a device: what must fit before a byte of state is moved.
//!
//! Most drivers check nothing of the kind themselves (mlx5, virtio and pds load what they are given), and the stream of
//! one cannot be told from that of another by its bytes. So the source states an identity with each device it offers,
//! and the target compares it with its own before it touches anything ([`compatible_by_instance`]). A management layer
//! can ask earlier, when there is no device on the target yet ([`compatible_by_type`]).
//!
//! # Grammar
//!
//! ```text
//! mig1:pci-15b3/mlx5_vfio_pci/101e/mlx5@2.1(2.0..2.1);needs=chunk;!queues=64;firmware=28.41.1000
//!      └──────┘ └───────────┘ └──┘ └───────────────┘  └───────────────────────────────────────┘
//!      vendor   driver        type stream format      attributes
//! ```
//!
//! In the ABNF of RFC 5234; literals are case-sensitive, and there is no white space:
//!
//! | rule | is | limit |
//! |---|---|---|
//! | `identity` | `"mig1:" namespace "/" driver "/" type "/" format *(";" attribute)` | 1024 bytes |
//! | `namespace` | `"pci-" 4lower-hex / "mdev-" token` | |
//! | `driver`, `type` | `token` | |
//! | `format` | `token "@" version ["(" version ".." version ")"]` | |
//! | `version` | `number "." number` | |
//! | `attribute` | `("needs=" / "offers=") token *("," token)`, or `["!"] key "=" value` | 32 of each kind |
//! | `token` | `1*(ALPHA / DIGIT / "_" / "-" / "." / "+")` | 64 characters |
//! | `key` | `lower *(lower / DIGIT / "_" / "-" / ".")`, not `needs` or `offers` | 32 characters |
//! | `value` | `1*(ALPHA / DIGIT / "_" / "-" / "." / "+" / ":")` | 128 characters |
//! | `number` | decimal, without leading zeros | 65535 |
//!
//! - `namespace` is the PCI vendor id, or the driver of a mediated device's parent, so that no two vendors' driver and
//!   type names can be taken for each other.
//! - `driver` is the VFIO driver the device is bound to; `type` is the PCI device id in four hexadecimal digits, or the
//!   mediated device's type.
//! - `format` is the stream format with the version this device writes and, in parentheses, the versions it reads. They
//!   include the one it writes; without parentheses they are only that.
//! - Every key occurs once, in any order. What is printed is sorted: `needs`, `offers`, then the others by name.
//!
//! # Versions
//!
//! A target takes a stream if the format's name is the one it declares and the version the source writes lies within the
//! versions the target reads, both ends included, compared by the first number and then by the second. Nothing is
//! concluded from the numbers otherwise: a driver that reads older or newer versions says so.
//!
//! # How it can grow
//!
//! - An attribute without `!` is information. Whoever does not know it keeps it and takes no notice of it.
//! - An attribute with `!` on either side must be stated by both, with the same value. A side that does not know it does
//!   not state it, and so refuses.
//! - A feature in `needs` must be in `offers` or `needs` of the target.
//! - What fits none of this takes a new `mig` number. A reader that does not know it can still compare for equality:
//!   [`compatible_texts`] does.

mod parse;
#[cfg(test)]
mod test;
mod verdict;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::{String, ToString};
use core::fmt;
use core::str::FromStr;

pub use parse::{ParseError, Problem};
pub use verdict::{Question, Reason, Side, Verdict, compatible_by_instance, compatible_by_type, compatible_texts};

/// Longest identity in bytes: what a frame of the native stream takes by default.
pub const IDENTITY_BYTES_MAX: usize = 1024;
/// Longest token (driver, type, format name, feature) in characters.
pub const TOKEN_CHARS_MAX: usize = 64;
/// Longest attribute key in characters.
pub const KEY_CHARS_MAX: usize = 32;
/// Longest attribute value in characters.
pub const VALUE_CHARS_MAX: usize = 128;
/// Most attributes, most features needed, and most features offered.
pub const ENTRIES_MAX: usize = 32;

/// Whose names `driver` and `type` are.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum Namespace {
    /// The PCI vendor id of the device: `pci-15b3`.
    Pci(u16),
    /// The driver of a mediated device's parent: `mdev-mtty`.
    Mdev(String),
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci(vendor) => write!(f, "pci-{vendor:04x}"),
            Self::Mdev(parent_driver) => write!(f, "mdev-{parent_driver}"),
        }
    }
}

/// A version of a stream format. Ordered by `major`, then by `minor`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[expect(clippy::exhaustive_structs, reason = "the grammar has two numbers")]
pub struct Version {
    /// The first number.
    pub major: u16,
    /// The second.
    pub minor: u16,
}

impl Version {
    /// `major.minor`
    #[must_use]
    pub const fn new(major: u16, minor: u16) -> Self {
        Self { major, minor }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A stream format: the version that is written, and those that are read.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Format {
    name: String,
    version: Version,
    min: Version,
    max: Version,
}

impl Format {
    /// A format of which only the version that is written is read.
    ///
    /// # Errors
    /// When `name` is no token; columns count in the name.
    pub fn new(name: &str, version: Version) -> Result<Self, ParseError> {
        parse::token_alone(name, "a format name")?;
        Ok(Self { name: name.to_string(), version, min: version, max: version })
    }

    /// The same, of which the versions `min` to `max` are read.
    ///
    /// # Errors
    /// [`Problem::Range`] if the version that is written is not among them.
    pub fn reading(self, min: Version, max: Version) -> Result<Self, ParseError> {
        if (min..=max).contains(&self.version) {
            Ok(Self { min, max, ..self })
        } else {
            Err(ParseError { column: 1, problem: Problem::Range { version: self.version, min, max } })
        }
    }

    /// The format's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The version a source writes.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// The oldest and the newest version a target reads.
    #[must_use]
    pub const fn reads(&self) -> (Version, Version) {
        (self.min, self.max)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.version)?;
        if (self.min, self.max) == (self.version, self.version) {
            Ok(())
        } else {
            write!(f, "({}..{})", self.min, self.max)
        }
    }
}

/// A property of one device.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub struct Attribute {
    /// What it is called.
    pub key: String,
    /// What it is.
    pub value: String,
    /// Whether the other side must state it too, with the same value.
    pub required: bool,
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}={}", if self.required { "!" } else { "" }, self.key, self.value)
    }
}

/// The migration identity of a device, or of a type of device. The [module](self) has the grammar.
///
/// ```
/// use savevm_core::identity::{Format, Identity, Namespace, Version, compatible_by_instance};
///
/// let format = Format::new("mtty", Version::new(1, 0))?;
/// let source = Identity::new(Namespace::Mdev("mtty".into()), "mtty", "mtty-2", format)?.require("ports", "2")?;
/// assert_eq!(source.to_string(), "mig1:mdev-mtty/mtty/mtty-2/mtty@1.0;!ports=2");
///
/// let target: Identity = "mig1:mdev-mtty/mtty/mtty-1/mtty@1.0;!ports=1".parse()?;
/// // Two reasons: the type, and the ports.
/// assert_eq!(compatible_by_instance(&source, &target).reasons().len(), 2);
/// # Ok::<(), savevm_core::identity::ParseError>(())
/// ```
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Identity {
    namespace: Namespace,
    driver: String,
    kind: String,
    format: Format,
    needs: BTreeSet<String>,
    offers: BTreeSet<String>,
    attributes: BTreeMap<String, Attribute>,
}

impl Identity {
    /// An identity without features and attributes. `kind` is the type.
    ///
    /// # Errors
    /// When one of the texts is no token; columns count in that text.
    pub fn new(namespace: Namespace, driver: &str, kind: &str, format: Format) -> Result<Self, ParseError> {
        if let Namespace::Mdev(parent_driver) = &namespace {
            parse::token_alone(parent_driver, "the parent's driver")?;
        }
        parse::token_alone(driver, "a driver")?;
        parse::token_alone(kind, "a type")?;
        Ok(Self {
            namespace,
            driver: driver.to_string(),
            kind: kind.to_string(),
            format,
            needs: BTreeSet::new(),
            offers: BTreeSet::new(),
            attributes: BTreeMap::new(),
        })
    }

    /// Adds a feature that the target must have for the state to be understood.
    ///
    /// # Errors
    /// When it is no token, is there already, or makes the identity too long.
    pub fn need(mut self, feature: &str) -> Result<Self, ParseError> {
        parse::token_alone(feature, "a feature")?;
        parse::insert_feature(&mut self.needs, feature, 1)?;
        self.within_limit()
    }

    /// Adds a feature that sources may need.
    ///
    /// # Errors
    /// As [`need`](Self::need).
    pub fn offer(mut self, feature: &str) -> Result<Self, ParseError> {
        parse::token_alone(feature, "a feature")?;
        parse::insert_feature(&mut self.offers, feature, 1)?;
        self.within_limit()
    }

    /// Adds an attribute that the other side must state too, with the same value.
    ///
    /// # Errors
    /// When key or value break the grammar, the key is there already, or the identity becomes too long.
    pub fn require(self, key: &str, value: &str) -> Result<Self, ParseError> {
        self.attribute(key, value, true)
    }

    /// Adds an attribute for information.
    ///
    /// # Errors
    /// As [`require`](Self::require).
    pub fn inform(self, key: &str, value: &str) -> Result<Self, ParseError> {
        self.attribute(key, value, false)
    }

    /// Whose names driver and type are.
    #[must_use]
    pub const fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The VFIO driver.
    #[must_use]
    pub fn driver(&self) -> &str {
        &self.driver
    }

    /// The type: a PCI device id, or a mediated device's type.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The stream format.
    #[must_use]
    pub const fn format(&self) -> &Format {
        &self.format
    }

    /// The features a target must have, sorted.
    pub fn needs(&self) -> impl Iterator<Item = &str> {
        self.needs.iter().map(String::as_str)
    }

    /// The features a source may need, sorted; the ones in [`needs`](Self::needs) count as offered too.
    pub fn offers(&self) -> impl Iterator<Item = &str> {
        self.offers.iter().map(String::as_str)
    }

    /// The attributes, by key.
    pub fn attributes(&self) -> impl Iterator<Item = &Attribute> {
        self.attributes.values()
    }

    /// The attribute of this key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Attribute> {
        self.attributes.get(key)
    }

    fn attribute(mut self, key: &str, value: &str, required: bool) -> Result<Self, ParseError> {
        parse::attribute_alone(key, value)?;
        parse::insert_attribute(&mut self.attributes, key, value, required, 1)?;
        self.within_limit()
    }

    fn within_limit(self) -> Result<Self, ParseError> {
        parse::check_length(&self.to_string())?;
        Ok(self)
    }
}

impl FromStr for Identity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        parse::identity(text)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mig1:{}/{}/{}/{}", self.namespace, self.driver, self.kind, self.format)?;
        for (key, features) in [("needs", &self.needs), ("offers", &self.offers)] {
            for (index, feature) in features.iter().enumerate() {
                if index == 0 { write!(f, ";{key}={feature}")? } else { write!(f, ",{feature}")? }
            }
        }
        self.attributes.values().try_for_each(|attribute| write!(f, ";{attribute}"))
    }
}
