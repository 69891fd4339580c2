// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What guest memory consists of, and whether two sides mean the same by it.

use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// A piece of guest memory that is migrated as a whole.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "what both sides compare, and nothing else")]
pub struct Region {
    /// What both sides call it.
    pub name: String,
    /// Its size, a multiple of `page_bytes`.
    pub bytes: u64,
    /// What one dirty bit stands for: a power of two of at least 4096.
    pub page_bytes: u64,
}

impl Region {
    /// How many pages.
    #[must_use]
    pub const fn pages(&self) -> u64 {
        match self.bytes.checked_div(self.page_bytes) {
            Some(pages) => pages,
            None => 0,
        }
    }

    pub(super) fn check(&self) -> Result<(), RegionError> {
        let (name, bytes, page_bytes) = (self.name.clone(), self.bytes, self.page_bytes);
        if !page_bytes.is_power_of_two() || page_bytes < PAGE_BYTES_MIN {
            return Err(RegionError::PageSize { name, page_bytes });
        }
        if bytes == 0 || bytes.checked_rem(page_bytes) != Some(0) {
            return Err(RegionError::Size { name, bytes, page_bytes });
        }
        Ok(())
    }
}

/// The smallest page the kernel reports (`vfio.h`).
pub(super) const PAGE_BYTES_MIN: u64 = 4096;

/// A region that cannot be one.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RegionError {
    /// Its page size is no page size.
    #[error("region {name}: a page size of {page_bytes} bytes is no power of two of at least 4096")]
    PageSize {
        /// Whose.
        name: String,
        /// In bytes.
        page_bytes: u64,
    },
    /// It is empty, or its last page is not whole.
    #[error("region {name}: {bytes} bytes are not a number of pages of {page_bytes} bytes; round its size")]
    Size {
        /// Whose.
        name: String,
        /// In bytes.
        bytes: u64,
        /// In bytes.
        page_bytes: u64,
    },
    /// Two regions have one name.
    #[error("two regions are called {name}")]
    Name {
        /// Theirs.
        name: String,
    },
    /// More regions than the caller allows.
    #[error("{regions} regions are more than the limit of {regions_max}")]
    TooMany {
        /// How many.
        regions: usize,
        /// The caller's limit.
        regions_max: usize,
    },
}

/// The regions of one side, in its order.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RegionTable(Vec<Region>);

impl RegionTable {
    /// A table of regions that each make sense and have a name of their own.
    ///
    /// # Errors
    /// When one does not, or there are more than `regions_max`.
    pub fn new(regions: Vec<Region>, regions_max: usize) -> Result<Self, RegionError> {
        if regions.len() > regions_max {
            return Err(RegionError::TooMany { regions: regions.len(), regions_max });
        }
        let mut names = BTreeSet::new();
        for region in &regions {
            region.check()?;
            if !names.insert(region.name.as_str()) {
                return Err(RegionError::Name { name: region.name.clone() });
            }
        }
        Ok(Self(regions))
    }

    /// The regions.
    #[must_use]
    pub fn regions(&self) -> &[Region] {
        &self.0
    }

    /// Checks that the target's memory is the source's: the same regions, sizes and page sizes, in the same order.
    ///
    /// # Errors
    /// Everything that differs, not the first of it.
    pub fn compare(&self, target: &Self) -> Result<(), RegionsDiffer> {
        let mut reasons = Vec::new();
        let mut common = (Vec::new(), Vec::new());
        for region in &self.0 {
            match target.0.iter().find(|other| other.name == region.name) {
                None => reasons.push(Difference::OnlySource { name: region.name.clone() }),
                Some(other) => {
                    common.0.push(region.name.as_str());
                    reasons.extend(differences(region, other));
                }
            }
        }
        for other in &target.0 {
            if self.0.iter().any(|region| region.name == other.name) {
                common.1.push(other.name.as_str());
            } else {
                reasons.push(Difference::OnlyTarget { name: other.name.clone() });
            }
        }
        if let Some((at, (source, target))) =
            common.0.iter().zip(&common.1).enumerate().find(|(_, (source, target))| source != target)
        {
            let (source_name, target_name) = (String::from(*source), String::from(*target));
            reasons.push(Difference::Order { at, source_name, target_name });
        }
        if reasons.is_empty() { Ok(()) } else { Err(RegionsDiffer { reasons }) }
    }
}

fn differences(source: &Region, target: &Region) -> impl Iterator<Item = Difference> {
    let name = || source.name.clone();
    let size = (source.bytes != target.bytes).then(|| Difference::Size {
        name: name(),
        source_bytes: source.bytes,
        target_bytes: target.bytes,
    });
    let page = (source.page_bytes != target.page_bytes).then(|| Difference::PageSize {
        name: name(),
        source_bytes: source.page_bytes,
        target_bytes: target.page_bytes,
    });
    size.into_iter().chain(page)
}

/// One thing in which two tables differ.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Difference {
    /// The target lacks it.
    #[error("{name} does not exist on the target")]
    OnlySource {
        /// Whose.
        name: String,
    },
    /// The source lacks it.
    #[error("{name} exists on the target only")]
    OnlyTarget {
        /// Whose.
        name: String,
    },
    /// Their sizes differ.
    #[error("{name} has {source_bytes} bytes on the source and {target_bytes} on the target")]
    Size {
        /// Whose.
        name: String,
        /// In bytes.
        source_bytes: u64,
        /// In bytes.
        target_bytes: u64,
    },
    /// Their page sizes differ.
    #[error("{name} has pages of {source_bytes} bytes on the source and of {target_bytes} on the target")]
    PageSize {
        /// Whose.
        name: String,
        /// In bytes.
        source_bytes: u64,
        /// In bytes.
        target_bytes: u64,
    },
    /// Those that both have come in another order.
    #[error("common region {at} is {source_name} on the source and {target_name} on the target")]
    Order {
        /// The place among the common ones, from 0.
        at: usize,
        /// The source's there.
        source_name: String,
        /// The target's.
        target_name: String,
    },
}

/// Two sides do not have the same memory.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub struct RegionsDiffer {
    /// Every reason.
    pub reasons: Vec<Difference>,
}

impl fmt::Display for RegionsDiffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the guest memory of the two sides differs")?;
        for (index, reason) in self.reasons.iter().enumerate() {
            write!(f, "{}{reason}", if index == 0 { ": " } else { "; " })?;
        }
        Ok(())
    }
}
