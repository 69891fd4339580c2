// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whether a target takes what a source has, and every reason why not.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use super::{Attribute, Format, Identity, Namespace, ParseError, Version};

/// Whether a device of the target's type could take the source's state: namespace, driver, type, stream format and
/// features. No device is needed on the target.
///
/// Attributes belong to one device and are not compared. [`Verdict::undecided`] has those the source requires: what the
/// device on the target must be made with.
pub fn compatible_by_type(source: &Identity, target: &Identity) -> Verdict {
    let undecided = |wanted: &&Attribute| {
        wanted.required && target.get(&wanted.key).is_none_or(|there| there.value != wanted.value)
    };
    Verdict {
        reasons: compare_types(source, target),
        undecided: source.attributes().filter(undecided).cloned().collect(),
    }
}

/// Whether this device of the target can take the source's state: all that [`compatible_by_type`] compares, and the
/// attributes that either side requires.
pub fn compatible_by_instance(source: &Identity, target: &Identity) -> Verdict {
    let mut reasons = compare_types(source, target);
    for ours in source.attributes() {
        match target.get(&ours.key) {
            Some(theirs) if theirs.value == ours.value => {}
            Some(theirs) if ours.required || theirs.required => reasons.push(Reason::AttributeDiffers {
                key: ours.key.clone(),
                source: ours.value.clone(),
                target: theirs.value.clone(),
            }),
            None if ours.required => reasons.push(unknown(ours, Side::Source)),
            _ => {}
        }
    }
    let only_target = target.attributes().filter(|theirs| theirs.required && source.get(&theirs.key).is_none());
    reasons.extend(only_target.map(|theirs| unknown(theirs, Side::Target)));
    Verdict { reasons, undecided: Vec::new() }
}

/// The same for identities as they travel. Unless both follow the grammar this program knows, they must be equal, byte
/// by byte: so devices of a VMM that names them in its own way can be compared too.
pub fn compatible_texts(source: &str, target: &str, question: Question) -> Verdict {
    match (source.parse(), target.parse()) {
        (Ok(source), Ok(target)) => match question {
            Question::Type => compatible_by_type(&source, &target),
            Question::Instance => compatible_by_instance(&source, &target),
        },
        _ if source == target => Verdict::default(),
        (source_parsed, target_parsed) => {
            let opaque = Reason::Opaque {
                source: source.to_string(),
                target: target.to_string(),
                source_error: source_parsed.err(),
                target_error: target_parsed.err(),
            };
            Verdict { reasons: Vec::from([opaque]), undecided: Vec::new() }
        }
    }
}

/// What is asked of two identities.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "there is either a device on the target or none")]
pub enum Question {
    /// [`compatible_by_type`]
    Type,
    /// [`compatible_by_instance`]
    Instance,
}

/// The answer, with every reason.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[must_use]
pub struct Verdict {
    reasons: Vec<Reason>,
    undecided: Vec<Attribute>,
}

impl Verdict {
    /// Whether there is no reason against it.
    #[must_use]
    pub fn is_compatible(&self) -> bool {
        self.reasons.is_empty()
    }

    /// Every reason against it, from the device's vendor to its last attribute.
    #[must_use]
    pub fn reasons(&self) -> &[Reason] {
        &self.reasons
    }

    /// Attributes that the source requires and a type does not answer for. Empty if instances were compared.
    #[must_use]
    pub fn undecided(&self) -> &[Attribute] {
        &self.undecided
    }
}

impl fmt::Display for Verdict {
    /// `compatible`, or the reasons, separated by `; `.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_compatible() {
            return f.write_str("compatible");
        }
        for (index, reason) in self.reasons.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{reason}")?;
        }
        Ok(())
    }
}

/// One of the two ends.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "a migration has two ends")]
pub enum Side {
    /// Where the state comes from.
    Source,
    /// Where it goes.
    Target,
}

/// One reason why a target cannot take what a source has. As text: what it is on either side, and what to change.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Reason {
    /// The devices are of different vendors.
    Namespace {
        /// The source's.
        source: Namespace,
        /// The target's.
        target: Namespace,
    },
    /// The devices are bound to different drivers.
    Driver {
        /// The source's.
        source: String,
        /// The target's.
        target: String,
    },
    /// The devices are of different types.
    Type {
        /// The source's.
        source: String,
        /// The target's.
        target: String,
    },
    /// The source writes a format that the target does not read.
    FormatName {
        /// What the source writes.
        source: String,
        /// What the target reads.
        target: String,
    },
    /// The source writes a version of the format that the target does not read.
    FormatVersion {
        /// The format.
        format: String,
        /// What the source writes.
        source: Version,
        /// The oldest version the target reads.
        min: Version,
        /// The newest.
        max: Version,
    },
    /// The source's state needs a feature that the target does not offer.
    FeatureMissing {
        /// The feature.
        feature: String,
    },
    /// An attribute that must be equal is not.
    AttributeDiffers {
        /// The attribute.
        key: String,
        /// Its value on the source.
        source: String,
        /// Its value on the target.
        target: String,
    },
    /// One side requires an attribute that the other does not state.
    AttributeUnknown {
        /// The attribute.
        key: String,
        /// Its value on the side that requires it.
        value: String,
        /// The side that requires it.
        required_by: Side,
    },
    /// They differ, and cannot be compared by their parts.
    Opaque {
        /// The source's identity.
        source: String,
        /// The target's.
        target: String,
        /// Why the source's is none of this grammar, if it is none.
        source_error: Option<ParseError>,
        /// Why the target's is none of this grammar, if it is none.
        target_error: Option<ParseError>,
    },
}

impl Reason {
    /// A short name for programs, which does not change with the wording.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Namespace { .. } => "namespace",
            Self::Driver { .. } => "driver",
            Self::Type { .. } => "type",
            Self::FormatName { .. } => "format-name",
            Self::FormatVersion { .. } => "format-version",
            Self::FeatureMissing { .. } => "feature-missing",
            Self::AttributeDiffers { .. } => "attribute-differs",
            Self::AttributeUnknown { .. } => "attribute-unknown",
            Self::Opaque { .. } => "opaque",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace { source, target } => write!(
                f,
                "the source's device is of {source}, the target's of {target}: choose a target device of the same vendor"
            ),
            Self::Driver { source, target } => write!(
                f,
                "the source's driver is {source}, the target's {target}: bind the target's device to {source}"
            ),
            Self::Type { source, target } => write!(
                f,
                "the source's device is of type {source}, the target's of type {target}: choose a target device of type {source}"
            ),
            Self::FormatName { source, target } => write!(
                f,
                "the source writes the stream format {source}, the target reads {target}: choose a target whose driver reads {source}"
            ),
            Self::FormatVersion { format, source, min, max } => {
                write!(f, "the source writes {format} {source}, the target reads {min} to {max}: ")?;
                if source > max {
                    f.write_str("update the target's driver, or choose a target whose driver is as new as the source's")
                } else {
                    f.write_str("update the source's driver first, or choose a target that still reads the old version")
                }
            }
            Self::FeatureMissing { feature } => write!(
                f,
                "the source's state needs the feature {feature}, which the target does not offer: enable it on the target, \
                 or disable it on the source"
            ),
            Self::AttributeDiffers { key, source, target } => write!(
                f,
                "{key} is {source} on the source and {target} on the target: configure the target's device with {key}={source}"
            ),
            Self::AttributeUnknown { key, value, required_by: Side::Source } => write!(
                f,
                "the source requires {key}={value}, and the target does not state its {key}: choose a target whose \
                 software knows {key}"
            ),
            Self::AttributeUnknown { key, value, required_by: Side::Target } => write!(
                f,
                "the target requires {key}={value}, and the source does not state its {key}: update the source's \
                 software to one that knows {key}"
            ),
            Self::Opaque { source, target, source_error, target_error } => {
                write!(f, "it is '{source}' on the source and '{target}' on the target")?;
                match (source_error, target_error) {
                    (Some(error), None) => write!(f, ", and the source's is no migration identity ({error})")?,
                    (None, Some(error)) => write!(f, ", and the target's is no migration identity ({error})")?,
                    _ => {}
                }
                f.write_str(": choose a target device with the source's identity")
            }
        }
    }
}

fn compare_types(source: &Identity, target: &Identity) -> Vec<Reason> {
    let mut reasons = Vec::new();
    if source.namespace != target.namespace {
        reasons.push(Reason::Namespace { source: source.namespace.clone(), target: target.namespace.clone() });
    }
    if source.driver != target.driver {
        reasons.push(Reason::Driver { source: source.driver.clone(), target: target.driver.clone() });
    }
    if source.kind != target.kind {
        reasons.push(Reason::Type { source: source.kind.clone(), target: target.kind.clone() });
    }
    reasons.extend(compare_formats(&source.format, &target.format));
    let missing = source.needs.iter().filter(|need| !target.offers.contains(*need) && !target.needs.contains(*need));
    reasons.extend(missing.map(|feature| Reason::FeatureMissing { feature: feature.clone() }));
    reasons
}

fn compare_formats(source: &Format, target: &Format) -> Option<Reason> {
    let (min, max) = target.reads();
    if source.name != target.name {
        return Some(Reason::FormatName { source: source.name.clone(), target: target.name.clone() });
    }
    let is_read = (min..=max).contains(&source.version);
    (!is_read).then(|| Reason::FormatVersion { format: source.name.clone(), source: source.version, min, max })
}

fn unknown(attribute: &Attribute, required_by: Side) -> Reason {
    Reason::AttributeUnknown { key: attribute.key.clone(), value: attribute.value.clone(), required_by }
}
