// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a main stream was, in numbers of constant size.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};
use stream_codec::qemu::{Extent, SectionKind};

use super::ram::RamTotals;

/// Most names that are counted on their own.
const NAMES_MAX: usize = 1024;

/// What the source was doing.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(in crate::inspect) enum Stage {
    #[default]
    Setup,
    PreCopy,
    StopCopy,
    Description,
}

impl Stage {
    pub(in crate::inspect) const ALL: [Self; 4] = [Self::Setup, Self::PreCopy, Self::StopCopy, Self::Description];

    pub(in crate::inspect) const fn name(self) -> &'static str {
        match self {
            Self::Setup => "setup",
            Self::PreCopy => "pre-copy",
            Self::StopCopy => "stop-copy",
            Self::Description => "vmdesc",
        }
    }
}

/// The sections of one name.
#[derive(Clone, Debug, Default, Serialize)]
pub(in crate::inspect) struct Tally {
    pub(in crate::inspect) sections: u64,
    pub(in crate::inspect) bytes: u64,
}

/// How many FULL sections ended where which method said.
#[derive(Clone, Debug, Default, Serialize)]
pub(in crate::inspect) struct Ends {
    pub(in crate::inspect) format: u64,
    pub(in crate::inspect) vmdesc: u64,
    pub(in crate::inspect) footer_search: u64,
}

/// What there is to say about a main stream as a whole.
#[derive(Clone, Debug, Default, Serialize)]
pub(in crate::inspect) struct MainFacts {
    pub(in crate::inspect) machine: String,
    pub(in crate::inspect) configuration: Map<String, Value>,
    pub(in crate::inspect) commands: BTreeMap<&'static str, u64>,
    pub(in crate::inspect) stage_bytes: BTreeMap<&'static str, u64>,
    pub(in crate::inspect) switchover_offset: Option<u64>,
    pub(in crate::inspect) ends: Ends,
    pub(in crate::inspect) footers: u64,
    pub(in crate::inspect) ram: RamTotals,
    pub(in crate::inspect) sections: BTreeMap<String, Tally>,
    pub(in crate::inspect) pings: Vec<u32>,
    pub(in crate::inspect) vmdesc_bytes: Option<u64>,
    pub(in crate::inspect) described_devices: Option<u64>,
    /// Whether the stream came to its end.
    pub(in crate::inspect) is_complete: bool,
    #[serde(skip)]
    pub(in crate::inspect) stage: Stage,
}

impl MainFacts {
    /// A section begins: the stage follows from its kind.
    pub(super) fn begin(&mut self, kind: SectionKind, extent: Extent) {
        match kind {
            SectionKind::Part => self.reach(Stage::PreCopy),
            SectionKind::End => self.reach(Stage::StopCopy),
            SectionKind::Full if self.stage == Stage::PreCopy => self.reach(Stage::StopCopy),
            _ => {}
        }
        if kind == SectionKind::Full {
            let ends = &mut self.ends;
            let count = match extent {
                Extent::Vmdesc => &mut ends.vmdesc,
                Extent::FooterSearch => &mut ends.footer_search,
                _ => &mut ends.format,
            };
            *count = count.saturating_add(1);
        }
    }

    /// There is no way back from a stage.
    pub(super) fn reach(&mut self, stage: Stage) {
        self.stage = self.stage.max(stage);
    }

    /// Counts bytes of the stage that is going on.
    pub(super) fn pass(&mut self, bytes: u64) {
        let count = self.stage_bytes.entry(self.stage.name()).or_default();
        *count = count.saturating_add(bytes);
    }

    pub(super) fn tally(&mut self, name: &str, bytes: u64) {
        let name = if self.sections.len() < NAMES_MAX || self.sections.contains_key(name) { name } else { "others" };
        let tally = match self.sections.get_mut(name) {
            Some(tally) => tally,
            None => self.sections.entry(name.to_owned()).or_default(),
        };
        tally.sections = tally.sections.saturating_add(1);
        tally.bytes = tally.bytes.saturating_add(bytes);
    }

    pub(super) fn command(&mut self, name: &'static str) {
        let count = self.commands.entry(name).or_default();
        *count = count.saturating_add(1);
    }
}
